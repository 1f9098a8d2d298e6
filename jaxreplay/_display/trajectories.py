"""How a trajectory shows itself: its length, its return and how it ended, its rewards, and its arrays by shape."""

from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay._display import charts
from jaxreplay._display.arrays import fetch, leaves_table, leaves_text, show, total_bytes
from jaxreplay._display.panel import Panel

PARTS = ("observations", "actions", "rewards", "extras")


def end_of(terminated: bool, truncated: bool) -> str:
    """Say how an episode ended."""
    return " and ".join(["terminated"] * terminated + ["truncated"] * truncated) or "unfinished"


def trajectory_repr(trajectory: Any) -> str:
    """Write a trajectory by its length, its end, and the shapes of its arrays; no array is read."""
    end = end_of(trajectory.terminated, trajectory.truncated)
    return f"Trajectory({len(trajectory)} steps, {end}; {leaves_text(_named(trajectory))})"


def show_trajectory(trajectory: Any) -> str:
    return show(lambda: trajectory_panel(trajectory), "Trajectory")


def trajectory_panel(trajectory: Any) -> Panel:
    """Show a trajectory; of its arrays only the rewards are read."""
    named, parts = _named(trajectory), []
    facts = [("steps", f"{len(trajectory):,}"), ("end", end_of(trajectory.terminated, trajectory.truncated))]
    rewards = None if trajectory.rewards is None else fetch(trajectory.rewards)
    if rewards is not None:
        facts.append(("return", f"{rewards.sum(dtype=np.float64):.6g}"))
        parts.append(charts.curve("rewards", rewards, "steps"))
    if trajectory.infos is not None:
        keys = list(dict.fromkeys(str(key) for info in trajectory.infos[:100] for key in info))
        facts.append(("infos", ", ".join(keys) or "empty"))
    if trajectory.episode_data is not None:
        facts.append(("episode data", leaves_text(trees.paths(trajectory.episode_data))))
    facts.append(("bytes", total_bytes(named)))
    return Panel("Trajectory", facts, [*parts, leaves_table("arrays", named)])


def _named(trajectory: Any) -> list[tuple[str, Any]]:
    return [pair for part in PARTS for pair in trees.paths({part: getattr(trajectory, part)})]
