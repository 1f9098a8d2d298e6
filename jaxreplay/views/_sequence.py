"""Consecutive steps, for recurrent agents (Kapturowski et al. 2019, "Recurrent experience replay", for burn-in)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxreplay._core import trees
from jaxreplay._core.clock import age, slot_of_age
from jaxreplay._core.layout import Layout
from jaxreplay._core.lookup import find, find_index, own_word
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree, Rows
from jaxreplay.views.base import At, Columns, View, need_episodes, need_parts
from jaxreplay.views.parts import HasParts


class Sequence(HasParts, struct.PyTreeNode):
    """L consecutive steps of an env, beginning with the row.

    data: the stored structure, leaves `[B, L, ...]`, zeros where `mask` is False; the parts that follow from others
        (`next_observation`) are `[B, ...]`, what came after the last step that is there, and so are those of `first`.
    mask: `[B, L]` bool, the step is there. learn: `[B, L]` bool, it is, and is not part of the burn-in.
    index: `[B, L]` int32, the step's position in its episode, from 0. reset: `[B, L]` bool, it is the episode's first:
        a recurrent state is to be reset before it.
    Parts of `data` can be read without its name, as `batch.data.observation`, or `batch.data["obs"]` of a dict; fields
    come first.
    """

    data: PyTree
    mask: jax.Array
    learn: jax.Array
    index: jax.Array
    reset: jax.Array


def sequence(
    length: int,
    complete: bool = True,
    burn_in: int = 0,
    *,
    every: int = 1,
    across: bool = False,
    first: str | Iterable[str] = (),
) -> SequenceView:
    """View each row as the `Sequence` that begins with it: `burn_in` steps to warm a state, then `length` to learn.

    complete: draw only rows from which the whole sequence is there, each with the same probability; False admits all,
        padded and masked.
    every: begin with every so many-th step of an episode alone, as 40 where sequences of 80 are to overlap by half;
        `across` episodes, with every so many-th slice. At most the whole length.
    across: go on where an episode ends with the env's next one, so that short episodes are learned from as well;
        `Sequence.reset` says where one begins. Such a sequence is complete, and none of its rows is void or removed.
    first: parts, by path, that are read at the first step alone, `[B, ...]`, as a recurrent state that was stored with
        every step. Name them in `create(..., apart=...)` as well, and they cost no reads at the other steps.

    Raises ValueError for lengths that are none, and, when sampling, longer than the ring.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 8, episode_end="end")
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(6), "end": jnp.arange(6) == 3})
    >>> rows = replay.Rows(time=jnp.array([1, 2]), env=jnp.array([0, 0]))
    >>> replay.take(buffer, rows, replay.views.sequence(3)).mask.tolist()
    [True, False]
    >>> replay.take(buffer, rows, replay.views.sequence(3, complete=False)).data["x"].tolist()
    [[1, 2, 3], [2, 3, 0]]
    >>> batch = replay.take(buffer, rows, replay.views.sequence(3, across=True)).data
    >>> batch["x"].tolist(), batch.reset[1].tolist()
    ([[1, 2, 3], [2, 3, 4]], [False, False, True])
    """
    length, burn_in = trees.check_count("length", length), trees.check_count("burn_in", burn_in, 0)
    every = trees.check_count("every", every)
    complete, across = trees.check_flag("complete", complete), trees.check_flag("across", across)
    if every > burn_in + length:
        raise ValueError(f"every: expected at most {burn_in + length}, what a sequence is long, got {every}")
    if across and not complete:
        raise ValueError("across: sequences across the ends of episodes are complete ones; leave complete=True")
    parts = (first,) if isinstance(first, str) else tuple(first)
    return SequenceView(burn_in + length, burn_in, complete, every, across, parts)


@dataclasses.dataclass(frozen=True)
class SequenceView(View):
    """See `sequence`; `length` includes the burn-in."""

    length: int
    burn_in: int
    complete: bool
    every: int = 1
    across: bool = False
    first: tuple[str, ...] = ()

    @property
    def reach(self) -> int:
        return self.length

    @functools.cached_property
    def refuses(self) -> bool:
        return self.complete or self.every > 1

    @property
    def completes(self) -> tuple[int, ...]:
        return (self.length - 1 if self.complete else 0,)

    @property
    def whole(self) -> bool:
        return self.across

    @property
    def grid(self) -> int:
        return self.every if self.across else 1

    @property
    def needs(self) -> str:
        steps = f"{self.length} consecutive steps of one {'env' if self.across else 'episode'}" if self.complete else ""
        start = f"to be at a multiple of {self.every} {'slices' if self.across else 'steps'}" if self.every > 1 else ""
        return " and ".join(filter(None, (steps, start)))

    def columns(self, layout: Layout) -> Columns:
        need_episodes(layout, f"sequence({self.length - self.burn_in})")
        steps = tuple(At(step, "edge" if self.complete else "zero") for step in range(self.length))
        after = {leaf.path: self._last_step for leaf in layout.leaves if leaf.next_of is not None}
        columns = {"": steps} | after | dict.fromkeys(self.first, 0)
        return need_parts(columns, layout, "sequence: first") if self.first else columns

    def usable(self, span: Span) -> jax.Array:
        position = span.time if self.across else span.index
        at_start = position % self.every == 0
        return (span.after >= self.length - 1) & at_start if self.complete else at_start

    def widen(self, rings: Rings, span: Span) -> Span:
        """Let the span of a row reach over ends of episodes, if every step is there.

        The record of the last step's episode takes the place of the row's own: what follows the last step is there.
        """
        if not self.across:
            return span
        rest = self.length - 1
        last = find(rings, Rows(span.time + rest, span.env))
        # Ordinals rise by one after each row that is neither void nor removed.
        risen = own_word(rings, last.slot, span.env, 1) - own_word(rings, span.slot, span.env, 1)
        whole = span.valid & last.valid & (risen == rest)
        return span.replace(
            after=jnp.where(whole, rest, 0),
            newest=jnp.where(whole, rest + last.newest, 0),
            record=jnp.where(whole, last.record, rings.num_slots),
        )

    def narrow(self, rings: Rings, span: Span) -> Span:
        """Find which steps begin an episode: those of another one than the step before."""
        if not self.across:
            return span
        clock = rings.clock.of(span.env[:, None])
        ages = age(clock, span.time[:, None]) - jnp.arange(self.length, dtype=jnp.int32)[None]
        slot = jnp.where(span.valid[:, None], slot_of_age(clock, ages, rings.num_slots), rings.num_slots)
        number = own_word(rings, slot, jnp.broadcast_to(span.env[:, None], slot.shape), 0)
        begins = jnp.concatenate([(span.index == 0)[:, None], number[:, 1:] != number[:, :-1]], axis=1)
        return span.replace(begins=begins)

    def to_start(self, rings: Rings, rows: Rows) -> Rows:
        """Move each row back to the start before it, of which there is one in every `every` steps."""
        if self.every == 1 or not self.complete:
            return rows
        if self.across:
            return rows.replace(time=rows.time - rows.time % self.every)
        return rows.replace(time=rows.time - find_index(rings, rows) % self.every)

    def batch(self, step: PyTree, span: Span) -> Sequence:
        position = jnp.arange(self.length, dtype=jnp.int32)[None]
        mask = (position <= span.after[:, None]) & span.valid[:, None]
        index = span.index[:, None] + position
        begins = index == 0
        if span.begins is not None:
            begins = span.begins
            begun = lax.cummax(jnp.where(begins, position, -1), axis=1)
            index = jnp.where(begun >= 0, position - begun, index)
        return Sequence(
            data=step,
            mask=mask,
            learn=mask & (position >= self.burn_in),
            index=jnp.where(mask, index, 0),
            reset=mask & begins,
        )

    def _last_step(self, span: Span) -> jax.Array:
        return jnp.minimum(self.length - 1, span.after)
