"""What a workload yields, the table that is printed, and the files that are kept."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from benchmarks.timing import quartiles, ratio

OURS = "jaxreplay"


@dataclasses.dataclass(frozen=True)
class Goal:
    """At least `times` as fast as `against` (below 1: at most that much slower)."""

    against: str
    times: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One workload in one mode: microseconds an operation, a number a round, for every contestant and floor."""

    workload: str
    mode: str
    micros: dict[str, list[float]]
    goal: Goal | None = None
    unit: str = "us"

    def speedup(self, other: str) -> float | None:
        """How many times faster than another contestant we are."""
        if OURS not in self.micros or other not in self.micros or other == OURS:
            return None
        return ratio(self.micros[OURS], self.micros[other])

    def verdict(self) -> str:
        """Whether the goal was reached, in words."""
        if self.goal is None or (reached := self.speedup(self.goal.against)) is None:
            return ""
        return f"{'reached' if reached >= self.goal.times else 'SHORT'} (goal {self.goal.times:g}x)"


def table(results: list[Result]) -> str:
    """A Markdown table: medians with quartiles, and how many times faster we are than each other."""
    lines = ["| workload | mode | contestant | median (quartiles) | jaxreplay is faster by | |", "|" + " --- |" * 6]
    for result in results:
        for name, values in result.micros.items():
            low, middle, high = quartiles(values)
            speedup = result.speedup(name)
            figures = f"{_number(middle)} {result.unit} ({_number(low)} to {_number(high)})"
            goal = result.verdict() if result.goal and result.goal.against == name else ""
            times = "" if speedup is None else f"{speedup:.2f}x"
            lines.append(f"| {result.workload} | {result.mode} | {name} | {figures} | {times} | {goal} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def save(path: pathlib.Path, machine: dict[str, Any], results: list[Result]) -> None:
    """Write `path` as JSON, with every round's figure, and the table beside it as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine, "results": [dataclasses.asdict(result) for result in results]}
    path.write_text(json.dumps(data, indent=1, default=lambda x: round(x, 4)) + "\n")
    about = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    head = f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; {about}; {machine['date']}\n\n"
    path.with_suffix(".md").write_text(head + table(results) + "\n")


def load(path: pathlib.Path) -> list[Result]:
    """Read the results of a file that `save` wrote."""
    out = []
    for result in json.loads(path.read_text())["results"]:
        goal = Goal(**result.pop("goal")) if result["goal"] else result.pop("goal")
        out.append(Result(**result, goal=goal))
    return out
