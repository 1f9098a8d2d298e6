"""Transitions over n steps, for n-step returns (Sutton 1988; Sutton & Barto 2018, equation 7.1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay import trees
from jaxreplay.layout import Layout
from jaxreplay.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import Columns, need_episodes, need_parts


class NStepTransition(struct.PyTreeNode):
    """k steps as one, `[B, ...]`; the target of the return is `reward + discount * value(next_observation)`.

    observation, action: of the row. reward: the discounted sum of the k rewards. next_observation: the one k steps on.
    discount: float32, what to multiply the bootstrap with: 0 if the episode terminated within the k steps, else
    `discount**k`.
    """

    observation: PyTree
    action: PyTree
    reward: jax.Array
    discount: jax.Array
    next_observation: PyTree


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
) -> NStepView:
    """View each row as the transition over the k <= n steps that begin with it, an `NStepTransition`.

    k is n, or fewer where the episode ends or its newest step comes first. At a truncation, and at the newest step of
    an open episode, the bootstrap is kept; only termination within the k steps sets `discount` to 0. `reward` is
    summed in float32 at least, and given in its own dtype (float32 for whole numbers).

    complete: draw only rows whose n steps are there, or whose episode ended before: none that is cut at the newest step
    of an open episode.

    The names say which parts of a structure of the user's own to read. Raises ValueError for n < 1 or a discount
    outside [0, 1], and when sampling, for parts that are not stored and for independent items.
    """
    trees.check_count("n", n)
    if not 0.0 <= float(discount) <= 1.0:
        raise ValueError(f"discount: expected a number from 0 to 1, got {discount}")
    return NStepView(int(n), float(discount), bool(complete), observation, action, reward, terminated, next_observation)


@dataclasses.dataclass(frozen=True)
class NStepView:
    """See `n_step`."""

    n: int
    discount: float
    complete: bool
    observation: str
    action: str
    reward: str
    terminated: str
    next_observation: str

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
        need_episodes(layout, name)
        return need_parts(columns, layout, name)

    @property
    def completes(self) -> tuple[int, ...]:
        return tuple(range(self.n))

    @property
    def needs(self) -> str:
        return f"{self.n} steps of an episode, or its end"

    def usable(self, span: Span) -> jax.Array | None:
        return (span.after >= self.n - 1) | ~span.open if self.complete else None

    def batch(self, step: PyTree, span: Span) -> NStepTransition:
        taken = jnp.arange(self.n, dtype=jnp.int32) <= span.after[:, None]  # [B, n]: within the k steps
        rewards = trees.get_part(step, self.reward)
        dtype = rewards.dtype if jnp.issubdtype(rewards.dtype, jnp.inexact) else jnp.float32
        wide = jnp.promote_types(dtype, jnp.float32)
        powers = np.power(self.discount, np.arange(self.n + 1))  # [n + 1], in float64 and so rounded once
        parts = (..., *[None] * (rewards.ndim - 2))  # a reward may have axes of its own, one for each agent, say
        terms = jnp.where(taken[parts], rewards.astype(wide) * jnp.asarray(powers[:-1], wide)[parts], 0)
        terminated = jnp.any(taken & (trees.get_part(step, self.terminated) != 0), axis=1)
        bootstrap = jnp.asarray(powers[1:], jnp.float32)[self._last_step(span)]
        return NStepTransition(
            observation=trees.get_part(step, self.observation),
            action=trees.get_part(step, self.action),
            reward=jnp.sum(terms, axis=1).astype(dtype),
            discount=jnp.where(span.valid & ~terminated, bootstrap, 0.0),
            next_observation=trees.get_part(step, self.next_observation),
        )

    def _last_step(self, span: Span) -> jax.Array:
        """The offset of the k-th step, `[B]`: its next observation is the one k steps on."""
        return jnp.minimum(self.n - 1, span.after)
