"""Hindsight experience replay: goals replaced by ones that the episode achieved (Andrychowicz et al. 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay._core.random import below
from jaxreplay._core.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import Columns, View, need_episodes, need_leaves, need_parts

STRATEGIES = ("future", "final", "episode")


def hindsight(
    strategy: str = "future",
    fraction: float = 0.8,
    *,
    compute_reward: Callable[[Any, Any], Any],
    observation: str = "observation",
    next_observation: str = "next_observation",
    desired_goal: str = "desired_goal",
    achieved_goal: str = "achieved_goal",
    reward: str = "reward",
) -> HindsightView:
    """View each row as its transition, for a `fraction` of rows with a goal that its episode achieved.

    strategy: which achieved goal, of section 4.5 of the paper: "future", of the row's own or a later step of its
        episode; "episode", of any step of it; "final", of its newest step. A step achieves the goal in its next
        observation. Only held steps are drawn from, each with the same probability (to 2**-32).
    fraction: of rows that are relabelled; 0.8 is the paper's k = 4, four relabelled ones for each that is not.
    compute_reward: a pure function of one step's achieved goal (of its next observation) and desired goal, its reward;
        give the same function each time.
    The other names say where goals and rewards are, by path; goals below both observations, as in Gymnasium's GoalEnv.

    Goals are replaced in both observations, and the reward is recomputed for relabelled rows alone; flags stay as they
    are. Sampling draws with its key; `take` needs one: `take(buffer, rows, view, key=key)`. Put `map` over it, and
    nothing under it. Raises ValueError for another strategy or fraction, and, when sampling, for parts that are not
    there.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(map(repr, STRATEGIES))}, got {strategy!r}")
    share = trees.check_number("fraction", fraction, most=1.0)
    if not callable(compute_reward):
        raise TypeError(f"compute_reward: expected a function, got {type(compute_reward).__name__}")
    goals = (f"{observation}.{desired_goal}", f"{next_observation}.{desired_goal}")
    return HindsightView(strategy, share, compute_reward, goals, f"{next_observation}.{achieved_goal}", reward)


@dataclasses.dataclass(frozen=True)
class HindsightView(View):
    """See `hindsight`; parts by path."""

    strategy: str
    fraction: float
    compute_reward: Callable[[Any, Any], Any]
    goals: tuple[str, str]
    achieved: str
    reward: str

    @property
    def num_bits(self) -> int:
        return 2

    def columns(self, layout: Layout) -> Columns:
        name = f"hindsight({self.strategy!r}, {self.fraction})"
        need_episodes(layout, name)
        need_parts(dict.fromkeys((*self.goals, self.achieved, self.reward), 0), layout, name)
        need_leaves(layout, {"reward": self.reward}, name)
        return {"": 0, self.achieved: (0, self._goal_step)}

    def batch(self, step: PyTree, span: Span) -> PyTree:
        both = trees.get_part(step, self.achieved)
        achieved, other = (jax.tree.map(lambda x: x[:, i], both) for i in range(2))  # noqa: B023
        step = trees.set_part(step, self.achieved, achieved)
        assert span.bits is not None
        chosen = span.bits[:, 0] <= jnp.uint32(max(round(self.fraction * 2**32) - 1, 0))
        relabel = span.valid & chosen & (self.fraction > 0)
        for part in self.goals:
            desired = trees.get_part(step, part)
            self._check_goals(desired, other)
            step = trees.set_part(step, part, trees.choose(relabel, other, desired))
        old, new = trees.get_part(step, self.reward), jax.vmap(self.compute_reward)(achieved, other)
        if not isinstance(new, jax.Array) or new.shape != old.shape:
            came = trees.describe(new.shape[1:], new.dtype) if isinstance(new, jax.Array) else type(new).__name__
            raise ValueError(f"compute_reward: expected {trees.describe(old.shape[1:], old.dtype)}, got {came}")
        return trees.set_part(step, self.reward, trees.choose(relabel, new.astype(old.dtype), old))

    def _check_goals(self, desired: PyTree, achieved: PyTree) -> None:
        """Raise ValueError unless an achieved goal can stand for a desired one."""
        described = [[(path, x.shape, x.dtype) for path, x in trees.paths(goal)] for goal in (desired, achieved)]
        if described[0] != described[1]:
            want, came = ([f"{path} {trees.describe(s[1:], d)}" for path, s, d in goal] for goal in described)
            raise ValueError(f"hindsight: {self.achieved} is {came}, and must be as {self.goals[0]}, {want}")

    def _goal_step(self, span: Span) -> jax.Array:
        """Draw how many steps after the row the goal is achieved, `[B]`."""
        if self.strategy == "final":
            return span.after
        first = -span.before if self.strategy == "episode" else jnp.zeros_like(span.after)
        assert span.bits is not None
        return first + below(span.bits[:, 1], span.after - first + 1)
