"""What a buffer says of itself: its size and capacity, its rows, and counts of all it holds."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from jaxreplay._core import rings
from jaxreplay._core.episode_numbers import VOID
from jaxreplay._episodes import live_records
from jaxreplay.buffer import Buffer
from jaxreplay.sources.combined import (
    Concat,
    Mixture,
    Source,
    Subset,
    any_valid,
    buffers,
    check_source,
    every_row,
    readable,
    usable,
)
from jaxreplay.state import check_buffer
from jaxreplay.types import Rows, SourceRows, Stats
from jaxreplay.views import View, transition
from jaxreplay.views.base import check_view, refuses


def size(source: Source) -> jax.Array:
    """Count the rows that can be read, an int32 scalar: not void, not removed, with their episode's record kept.

    Of a mixture it is the size of all its sources together.
    """
    check_source("size", source)
    if isinstance(source, Mixture):
        return jnp.sum(jnp.stack([size(part) for part in source.sources]), dtype=jnp.int32)
    return _size(source)


@functools.partial(jax.jit, inline=True)
def _size(source: Buffer | Subset | Concat) -> jax.Array:
    return readable(source).total


def capacity(source: Source) -> int:
    """Return how many steps the buffer keeps, over all envs; of a source, its buffers together."""
    return sum(buffer.rings.num_slots * buffer.rings.num_envs for buffer in buffers(check_source("capacity", source)))


def can_sample(source: Source, n: int = 1, view: View = transition()) -> jax.Array:  # noqa: B008
    """Tell whether a view can start from at least `n` rows, a bool scalar; of a mixture, from those of each source.

    For a view that refuses rows, as `sequence(80)`, it costs one pass over the ring's own words.
    """
    check_source("can_sample", source)
    check_view(view)
    if isinstance(source, Mixture):
        return jnp.all(jnp.stack([can_sample(part, n, view) for part in source.sources]))
    return (_count_usable(source, view) if refuses(view) else size(source)) >= n


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _count_usable(source: Buffer | Subset | Concat, view: View) -> jax.Array:
    every, mask = every_row(source)
    return jnp.sum(mask & any_valid(usable(source, every, view)), dtype=jnp.int32)


def rows(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    """List every slot in order of time, then env: `(Rows, mask)`, `[T*E]` each; `mask` says which can be read.

    Of several buffers, one after the other: `(SourceRows, mask)`. Of a subset, its rows.
    """
    return _rows(check_source("rows", source))


@functools.partial(jax.jit, inline=True)
def _rows(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    return every_row(source)


def stats(buffer: Buffer) -> Stats:
    """Count what the ring holds, in one pass over it; see `Stats`."""
    check_buffer("stats", buffer)
    return _stats(buffer)


@functools.partial(jax.jit, inline=True)
def _stats(buffer: Buffer) -> Stats:
    stored = buffer.rings

    def count(x: jax.Array) -> jax.Array:
        return jnp.sum(x, dtype=jnp.int32)

    every = rings.all_rows(stored)
    valid = rings.is_valid(stored, every)
    slot, env, held = rings.place(stored, every)
    number = rings.own_word(stored, slot, env, 0)
    numbers = live_records(stored)
    return Stats(
        capacity=jnp.int32(math.prod(slot.shape)),
        time=stored.clock.time,
        held=stored.clock.held * stored.num_envs,
        size=count(valid),
        void=count(held & (number == VOID)),
        removed=count(held & (number < VOID)),
        lost=count(held & (number >= 0) & ~valid),
        num_episodes=count(numbers.mask),
        open_episodes=count(numbers.mask & ~numbers.ended),
    )
