"""What a buffer says of itself: its size and capacity, its rows, and counts of all it holds."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from jaxreplay import ring, rings
from jaxreplay.buffer import Buffer
from jaxreplay.episodes import live_records
from jaxreplay.numbering import VOID
from jaxreplay.rings import Rings
from jaxreplay.types import Rows, Stats


def size(buffer: Buffer) -> jax.Array:
    """Count the rows that can be read, an int32 scalar: not void, not removed, with their episode's record kept."""
    return _size(buffer.rings)


@functools.partial(jax.jit, inline=True)
def _size(stored: Rings) -> jax.Array:
    return jnp.sum(rings.counts(stored), dtype=jnp.int32)


def capacity(buffer: Buffer) -> int:
    """Return how many steps the buffer keeps, over all envs."""
    return buffer.rings.num_slots * buffer.rings.num_envs


def can_sample(buffer: Buffer, n: int = 1) -> jax.Array:
    """Tell whether at least `n` rows can be read, a bool scalar."""
    return size(buffer) >= n


def rows(buffer: Buffer) -> tuple[Rows, jax.Array]:
    """List every slot in order of time, then env: `(Rows, mask)`, `[T*E]` each; `mask` says which can be read."""
    return _rows(buffer.rings)


@functools.partial(jax.jit, inline=True)
def _rows(stored: Rings) -> tuple[Rows, jax.Array]:
    shape = (stored.num_slots, stored.num_envs)
    time = jnp.broadcast_to(ring.all_times(stored.clock, stored.num_slots)[:, None], shape).ravel()
    env = jnp.broadcast_to(jnp.arange(stored.num_envs, dtype=jnp.int32), shape).ravel()
    every = Rows(time=time, env=env)
    return every, rings.is_valid(stored, every)


def stats(buffer: Buffer) -> Stats:
    """Count what the ring holds, in one pass over it; see `Stats`."""
    return _stats(buffer.rings)


@functools.partial(jax.jit, inline=True)
def _stats(stored: Rings) -> Stats:
    def count(x: jax.Array) -> jax.Array:
        return jnp.sum(x, dtype=jnp.int32)

    every, valid = _rows(stored)
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
