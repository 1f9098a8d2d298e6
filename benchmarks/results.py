"""What a workload yields, the table that is printed, and the files that are kept."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from typing import Any

from benchmarks.timing import quartiles, ratio


@dataclasses.dataclass(frozen=True)
class Goal:
    """At least `times` as fast as `against` (below 1: at most that much slower)."""

    against: str
    times: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One workload in one mode: microseconds an operation, a number a round, for every contestant and floor.

    The first contestant is the one that the others are compared with. raw: the same before the consumer's own time was
    taken away, the consumer's included; empty where nothing was. unit: what `micros` counts where it is no time.
    """

    workload: str
    mode: str
    micros: dict[str, list[float]]
    goal: Goal | None = None
    unit: str = "us"
    raw: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def speedup(self, other: str) -> float | None:
        """How many times faster than another the first contestant is: the median of the ratios within a round."""
        first = next(iter(self.micros))
        if other not in self.micros or other == first:
            return None
        return ratio(self.micros[first], self.micros[other])

    def ratio_of_medians(self, other: str) -> float | None:
        """The same by the ratio of the two medians; where it is far from `speedup`, the machine was restless."""
        first = next(iter(self.micros))
        if other not in self.micros or other == first:
            return None
        ours = statistics.median(self.micros[first])
        return statistics.median(self.micros[other]) / ours if ours > 0 else float("inf")

    def verdict(self) -> str:
        """Whether the goal was reached, in words."""
        if self.goal is None or (reached := self.speedup(self.goal.against)) is None:
            return ""
        return f"{'reached' if reached >= self.goal.times else 'SHORT'} (goal {self.goal.times:g}x)"


def micros(seconds: dict[str, list[float]], operations: int) -> dict[str, list[float]]:
    """Microseconds an operation, of runs of so many operations."""
    return {name: [1e6 * s / operations for s in values] for name, values in seconds.items()}


HEAD = ("workload", "mode", "contestant", "median (quartiles)", "with the consumer", "over the first", "by medians", "")


def table(results: list[Result]) -> str:
    """A Markdown table: medians with quartiles, and how many times as long as the first each other takes."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for result in results:
        for name, values in result.micros.items():
            low, middle, high = quartiles(values)
            figures = f"{_number(middle)} {result.unit} ({_number(low)} to {_number(high)})"
            raw = _number(statistics.median(result.raw[name])) if name in result.raw else ""
            times = (result.speedup(name), result.ratio_of_medians(name))
            over, by_medians = ("" if x is None else f"{x:.2f}x" for x in times)
            goal = result.verdict() if result.goal and result.goal.against == name else ""
            cells = (result.workload, result.mode, name, figures, raw, over, by_medians, goal)
            lines.append("| " + " | ".join(cells) + " |")
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
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    head = f"{machine['processor']}, {cores}, {machine['device']}; {about}; {machine['date']}\n\n"
    path.with_suffix(".md").write_text(head + table(results) + "\n")


def compare(old: list[Result], new: list[Result]) -> str:
    """A Markdown table of two runs: the medians of what both have, and how they and their ratios changed.

    Times drift between machines and runs; the last column is steadier: the change of "over the first".
    """
    head = ("workload", "mode", "contestant", "before", "after", "after over before", "over the first: before, after")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    before = {(r.workload, r.mode): r for r in old}
    for result in new:
        other = before.get((result.workload, result.mode))
        for name in result.micros:
            if other is None or name not in other.micros:
                continue
            a, b = (statistics.median(r.micros[name]) for r in (other, result))
            ratios = [r.speedup(name) for r in (other, result)]
            over = "" if None in ratios else ", ".join(f"{x:.2f}x" for x in ratios if x is not None)
            change = f"{b / a:.2f}x" if a > 0 else ""
            figures = (f"{_number(a)} {result.unit}", f"{_number(b)} {result.unit}", change, over)
            lines.append("| " + " | ".join((result.workload, result.mode, name, *figures)) + " |")
    return "\n".join(lines)


def load_machine(path: pathlib.Path) -> dict[str, Any]:
    """Read what a file that `save` wrote says of the machine."""
    return json.loads(path.read_text())["machine"]


def load(path: pathlib.Path) -> list[Result]:
    """Read the results of a file that `save` wrote."""
    out = []
    for result in json.loads(path.read_text())["results"]:
        goal = Goal(**result.pop("goal")) if result["goal"] else result.pop("goal")
        out.append(Result(**result, goal=goal))
    return out
