"""Transitions over n steps, for n-step returns (Sutton 1988; Sutton & Barto 2018, equation 7.1)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay._core.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import Columns, View, need_episodes, need_leaves, need_parts

CHANGING = "; for a discount that changes, sum the rewards of sequence(n, complete=False), with map or after sampling"


class NStepTransition(struct.PyTreeNode):
    """k steps as one, `[B, ...]`; the target of the return is `reward + discount * value(next_observation)`.

    observation, action: of the row. reward: the discounted sum of the k rewards. next_observation: the one k steps on.
    discount: float32, what to multiply the bootstrap with: 0 if the episode terminated within the k steps, else
    `discount**k`; `[B, A]` where there is a flag for each of A agents. extras: of the row.
    """

    observation: PyTree
    action: PyTree
    reward: jax.Array
    discount: jax.Array
    next_observation: PyTree
    extras: PyTree = struct.field(default_factory=dict)


def n_step(
    n: int,
    discount: float,
    *,
    complete: bool = False,
    observation: str = "observation",
    action: str = "action",
    reward: str = "reward",
    terminated: str = "terminated",
    next_observation: str = "next_observation",
    extras: str | Sequence[str] = "extras",
) -> NStepView:
    """View each row as the transition over the k <= n steps that begin with it, an `NStepTransition`.

    k is n, or fewer where the episode ends or its newest step comes first. At a truncation, and at the newest step of
    an open episode, the bootstrap is kept; only termination within the k steps sets `discount` to 0. `reward` is
    summed in float32 at least, and given in its own dtype (float32 for whole numbers).

    complete: draw only rows whose n steps are there, or whose episode ended before: none that is cut at the newest step
    of an open episode.

    A reward may have axes of its own, `[A]` for A agents or objectives, and `terminated` the first of these: then
    `discount` is `[B, A]`, and an agent's rewards after its own termination do not count (its own truncation is not
    looked at: k ends with the episode). Of a structure of agents, pick one by path: `reward="reward.agent_0",
    terminated="terminated.agent_0"`.

    The names say which parts of a structure of the user's own to read, by path. extras: what else of the row's own step
    comes along; of several names, a dict by name; `()` for nothing, as where no part is called "extras".
    Raises ValueError for n < 1 or a discount outside [0, 1], TypeError for a traced one, and when sampling, ValueError
    for parts that are not stored, rewards and flags that are not one array each, and independent items.
    """
    n = trees.check_count("n", n)
    discount = trees.check_number("discount", discount, most=1.0, way_out=CHANGING)
    names = extras if isinstance(extras, str) else tuple(extras)
    complete = trees.check_flag("complete", complete)
    return NStepView(n, discount, complete, observation, action, reward, terminated, next_observation, names)


@dataclasses.dataclass(frozen=True)
class NStepView(View):
    """See `n_step`."""

    n: int
    discount: float
    complete: bool
    observation: str
    action: str
    reward: str
    terminated: str
    next_observation: str
    extras: str | tuple[str, ...]

    def columns(self, layout: Layout) -> Columns:
        steps = tuple(range(self.n))
        columns = {
            self.observation: 0,
            self.action: 0,
            self.reward: steps,
            self.terminated: steps,
            self.next_observation: self._last_step,
        }
        name = f"n_step({self.n}, {self.discount})"
        named = self._named_extras(jax.tree.unflatten(layout.treedef, layout.paths))
        extras = dict.fromkeys(named, 0)
        need_episodes(layout, name)
        need_parts(extras | columns, layout, name)
        self._check_axes(layout, name)
        for part in extras:
            if trees.is_below(part, self.next_observation) or trees.is_below(self.next_observation, part):
                raise ValueError(f"{name}: extras: {part!r} is read k steps on; name others, or extras=() for none")
        return extras | columns

    def _named_extras(self, step: PyTree) -> tuple[str, ...]:
        """Name the parts that come along; "extras" need not be there."""
        if self.extras == "extras" and not trees.has_part(step, "extras"):
            return ()
        return (self.extras,) if isinstance(self.extras, str) else self.extras

    def _check_axes(self, layout: Layout, name: str) -> None:
        """Raise ValueError unless there is a reward, and a flag for all of it or for each of its first axes."""
        reward, flag = need_leaves(layout, {"reward": self.reward, "terminated": self.terminated}, name)
        if flag.shape != reward.shape[: len(flag.shape)]:
            raise ValueError(
                f"{name}: {flag.path} is {trees.describe(flag.shape, flag.dtype)} and {reward.path} is "
                f"{trees.describe(reward.shape, reward.dtype)}: flags are scalars, or have the reward's first axes; "
                "store a reward for each flag, or name another part with terminated="
            )

    @functools.cached_property
    def refuses(self) -> bool:
        return self.complete

    @property
    def completes(self) -> tuple[int, ...]:
        return tuple(range(self.n))

    @property
    def needs(self) -> str:
        return f"{self.n} steps of an episode, or its end"

    def usable(self, span: Span) -> jax.Array:
        return (span.after >= self.n - 1) | ~span.open

    def batch(self, step: PyTree, span: Span) -> NStepTransition:
        taken = jnp.arange(self.n, dtype=jnp.int32)[None] <= span.after[:, None]  # [B, n]: within the k steps
        powers = np.power(self.discount, np.arange(self.n + 1))  # [n + 1], in float64 and so rounded once
        bootstrap = jnp.asarray(powers[1:], jnp.float32)[self._last_step(span)]
        rewards = trees.get_part(step, self.reward)
        dtype = rewards.dtype if jnp.issubdtype(rewards.dtype, jnp.inexact) else jnp.float32
        wide = np.promote_types(dtype, np.float32)
        flags = trees.get_part(step, self.terminated).astype(jnp.bool_)
        flags &= trees.to_rank(taken, flags.ndim)
        counts = trees.to_rank(taken, rewards.ndim)
        if flags.ndim > 2:  # one for each agent: its rewards end, and the episode may go on
            ended_before = jnp.cumsum(flags, axis=1, dtype=jnp.int32) > flags.astype(jnp.int32)
            counts &= ~trees.to_rank(ended_before, rewards.ndim)
        weights = trees.to_rank(jnp.asarray(powers[None, :-1], wide), rewards.ndim)
        terms = jnp.where(counts, rewards.astype(wide) * weights, 0)
        terminated = jnp.any(flags, axis=1)
        going_on = trees.to_rank(span.valid, terminated.ndim) & ~terminated
        return NStepTransition(
            observation=trees.get_part(step, self.observation),
            action=trees.get_part(step, self.action),
            reward=jnp.sum(terms, axis=1).astype(dtype),
            discount=jnp.where(going_on, trees.to_rank(bootstrap, terminated.ndim), 0.0),
            next_observation=trees.get_part(step, self.next_observation),
            extras=self._get_extras(step),
        )

    def _get_extras(self, step: PyTree) -> PyTree:
        named = {part: self._first(step, part) for part in self._named_extras(step)}
        return named.get(self.extras, named) if isinstance(self.extras, str) else named

    def _first(self, step: PyTree, part: str) -> PyTree:
        """Return a part of the row's own step. Rewards and flags are those of n steps, and the first is taken."""
        both = (self.reward, self.terminated)
        found = [(path, leaf) for path, leaf in trees.paths(step) if trees.is_below(path, part)]
        leaves = [x[:, 0] if any(trees.is_below(path, name) for name in both) else x for path, x in found]
        return jax.tree.unflatten(jax.tree.structure(trees.get_part(step, part)), leaves)

    def _last_step(self, span: Span) -> jax.Array:
        """Return the offset of the k-th step, `[B]`: its next observation is the one k steps on."""
        return jnp.minimum(self.n - 1, span.after)
