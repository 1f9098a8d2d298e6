"""Consecutive steps, for recurrent agents (Kapturowski et al. 2019, "Recurrent experience replay", for burn-in)."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay._core.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import At, Columns, View, need_episodes
from jaxreplay.views.parts import HasParts


class Sequence(HasParts, struct.PyTreeNode):
    """L consecutive steps of one episode, beginning with the row.

    data: the stored structure, leaves `[B, L, ...]`, zeros where `mask` is False; the parts that follow from others
        (`next_observation`) are `[B, ...]`, what came after the last step that is there.
    mask: `[B, L]` bool, the step is there. learn: `[B, L]` bool, it is, and is not part of the burn-in.
    index: `[B, L]` int32, the step's position in its episode, from 0.
    Parts of `data` can be read without its name, as `batch.data.observation`, or `batch.data["obs"]` of a dict; fields
    come first.
    """

    data: PyTree
    mask: jax.Array
    learn: jax.Array
    index: jax.Array


def sequence(length: int, complete: bool = True, burn_in: int = 0) -> SequenceView:
    """View each row as the `Sequence` that begins with it: `burn_in` steps to warm a state, then `length` to learn.

    complete: draw only rows from which the whole sequence is there, each with the same probability; False admits all,
    padded and masked. Raises ValueError for lengths that are none, and, when sampling, longer than the ring.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 8, episode_end="end")
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(6), "end": jnp.arange(6) == 3})
    >>> rows = replay.Rows(time=jnp.array([1, 2]), env=jnp.array([0, 0]))
    >>> replay.take(buffer, rows, replay.views.sequence(3)).mask.tolist()
    [True, False]
    >>> replay.take(buffer, rows, replay.views.sequence(3, complete=False)).data["x"].tolist()
    [[1, 2, 3], [2, 3, 0]]
    """
    length, burn_in = trees.check_count("length", length), trees.check_count("burn_in", burn_in, 0)
    return SequenceView(burn_in + length, burn_in, bool(complete))


@dataclasses.dataclass(frozen=True)
class SequenceView(View):
    """See `sequence`; `length` includes the burn-in."""

    length: int
    burn_in: int
    complete: bool

    @property
    def reach(self) -> int:
        return self.length

    @functools.cached_property
    def refuses(self) -> bool:
        return self.complete

    @property
    def completes(self) -> tuple[int, ...]:
        return (self.length - 1,)

    @property
    def needs(self) -> str:
        return f"{self.length} consecutive steps of one episode"

    def columns(self, layout: Layout) -> Columns:
        need_episodes(layout, f"sequence({self.length - self.burn_in})")
        steps = tuple(At(step, "edge" if self.complete else "zero") for step in range(self.length))
        after = {leaf.path: self._last_step for leaf in layout.leaves if leaf.next_of is not None}
        return {"": steps} | after

    def usable(self, span: Span) -> jax.Array:
        return span.after >= self.length - 1

    def batch(self, step: PyTree, span: Span) -> Sequence:
        position = jnp.arange(self.length, dtype=jnp.int32)[None]
        mask = (position <= span.after[:, None]) & span.valid[:, None]
        return Sequence(
            data=step,
            mask=mask,
            learn=mask & (position >= self.burn_in),
            index=jnp.where(mask, span.index[:, None] + position, 0),
        )

    def _last_step(self, span: Span) -> jax.Array:
        return jnp.minimum(self.length - 1, span.after)
