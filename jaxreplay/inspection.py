"""What a buffer says of itself: its size and capacity, its rows, and counts of all it holds."""

import functools

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.episode_numbers import VOID
from jaxreplay._core.records import live_records
from jaxreplay.sources.base import Source
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.whole import as_source
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Rows, SourceRows, Stats
from jaxreplay.views import View, transition
from jaxreplay.views.base import check_view


def size(source: Buffer | Source) -> jax.Array:
    """Count the rows that can be read, an int32 scalar: not void, not removed, with their episode's record kept.

    Of a mixture it is the size of all its sources together.
    """
    return _size(as_source("size", source))


@functools.partial(jax.jit, inline=True)
def _size(source: Source) -> jax.Array:
    return source.size()


def capacity(source: Buffer | Source) -> int:
    """Return how many steps the buffer keeps, over all envs; of a source, its buffers together."""
    return sum(buffer.rings.num_slots * buffer.rings.num_envs for buffer in as_source("capacity", source).buffers)


def can_sample(source: Buffer | Source, n: int = 1, view: View = transition()) -> jax.Array:  # noqa: B008
    """Tell whether a view can start from at least `n` rows, a bool scalar; of a mixture, from those of each source.

    For a view that refuses rows, as `sequence(80)`, it costs one pass over the ring's own words.
    """
    check_view(view)
    made = as_source("can_sample", source)
    if isinstance(made, Mixture):
        return jnp.all(jnp.stack([can_sample(part, n, view) for part in made.sources]))
    return (_count_starts(made, view) if view.refuses else _size(made)) >= n


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _count_starts(source: Source, view: View) -> jax.Array:
    every, mask = source.every_row()
    return jnp.sum(mask & source.starts(every, view), dtype=jnp.int32)


def rows(source: Buffer | Source) -> tuple[Rows | SourceRows, jax.Array]:
    """List every slot in order of time, then env: `(Rows, mask)`, `[T*E]` each; `mask` says which can be read.

    Of several buffers, one after the other: `(SourceRows, mask)`. Of a subset, its rows.
    """
    return _rows(as_source("rows", source))


@functools.partial(jax.jit, inline=True)
def _rows(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    return source.every_row()


def stats(buffer: Buffer) -> Stats:
    """Count what the ring holds, in one pass over it; see `Stats`."""
    check_buffer("stats", buffer)
    return _stats(buffer)


@functools.partial(jax.jit, inline=True)
def _stats(buffer: Buffer) -> Stats:
    rings = buffer.rings

    def count(x: jax.Array) -> jax.Array:
        return jnp.sum(x, dtype=jnp.int32)

    valid, number = lookup.all_valid(rings), lookup.all_numbers(rings)
    newest_first = jnp.arange(number.shape[0] - 1, -1, -1, dtype=jnp.int32)
    held = newest_first < rings.clock.held * rings.num_envs
    numbers = live_records(rings)
    return Stats(
        capacity=jnp.int32(number.shape[0]),
        time=rings.clock.time,
        held=rings.clock.held * rings.num_envs,
        size=count(valid),
        void=count(held & (number == VOID)),
        removed=count(held & (number < VOID)),
        lost=count(held & (number >= 0) & ~valid),
        num_episodes=count(numbers.mask),
        open_episodes=count(numbers.mask & ~numbers.ended),
    )
