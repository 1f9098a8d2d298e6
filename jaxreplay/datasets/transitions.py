"""Transitions in a row back to episodes: `flatten` undone."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.pieces import follows
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Chunk, Store, consecutive, to_host
from jaxreplay.types import PyTree, Transition


def read_transitions(transitions: Any) -> tuple[Store, Report]:
    """Join steps `[N, ...]` to episodes; see `Dataset.from_transitions`."""
    if not isinstance(transitions, Transition):
        raise TypeError(f"from_transitions: expected a Transition, got {type(transitions).__name__}")
    steps = _check(jax.tree.map(to_host, transitions))
    same = follows(steps.observation, steps.next_observation)
    ended = steps.terminated | steps.truncated
    last = np.flatnonzero(np.append(ended[:-1] | ~same, True))
    observations = jax.tree.map(
        lambda x, after: np.insert(x, last + 1, after[last], axis=0), steps.observation, steps.next_observation
    )
    table = consecutive(np.diff(last, prepend=-1), steps.terminated[last], steps.truncated[last])
    extras = steps.extras if jax.tree.leaves(steps.extras) else None
    store = Store((Chunk(observations, steps.action, steps.reward, extras),), table)
    store.trajectory(0)  # makes the checks of a trajectory
    return store, summarise(store) + Report(discontinuities=int((~ended[:-1] & ~same).sum()))


def _check(steps: Transition) -> Transition:
    """Raise TypeError or ValueError naming what is missing, or has not N steps."""
    for part in ("observation", "action", "next_observation"):
        if not jax.tree.leaves(getattr(steps, part)):
            raise ValueError(f"from_transitions: {part}: expected arrays [N, ...], got none")
    first = np.shape(jax.tree.leaves(steps.observation)[0])
    if not first or not first[0]:
        raise ValueError(f"from_transitions: observation: expected at least one step [N, ...], got shape {first}")
    count = first[0]
    for path, leaf in trees.paths(steps):
        if leaf.shape[:1] != (count,):
            came = trees.describe(leaf.shape, leaf.dtype)
            raise ValueError(f"from_transitions: {path}: expected N = {count} steps as in observation, got {came}")
    for part in ("terminated", "truncated"):
        _check_flags(part, getattr(steps, part), count)
    if steps.reward is not None and np.shape(steps.reward) != (count,):
        raise ValueError(f"from_transitions: reward: expected one array [N] = [{count}], or None")
    return steps


def _check_flags(part: str, flags: PyTree, count: int) -> None:
    if not isinstance(flags, np.ndarray) or flags.shape != (count,) or flags.dtype != np.bool_:
        came = trees.describe(flags.shape, flags.dtype) if isinstance(flags, np.ndarray) else type(flags).__name__
        raise TypeError(f"from_transitions: {part}: expected bool[{count}], got {came}")
