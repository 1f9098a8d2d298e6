"""Uniform sampling: every row with the same probability, exactly."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay import rings as rings_
from jaxreplay.rings import Rings
from jaxreplay.samplers.base import Usable
from jaxreplay.types import Rows

FEW_ROUNDS = 8
MANY_ROUNDS = 256
RANKED_TRIES = 16  # none of them is fair one time in 2**32 at most, for up to 2**30 rows


def uniform() -> Uniform:
    """Give every row that can be read, and that the view can start from, the same probability; with replacement.

    Rows are drawn from the whole ring, and drawn again where they are void, removed or refused by the view; one round
    is the common case. What a few rounds leave open is drawn by rank among the rows that can be read, so a batch is
    always filled where the view takes any row. For a view that refuses most rows, up to 256 rounds are tried, and the
    sample's `mask` says what could not be filled.
    """
    return Uniform()


@dataclasses.dataclass(frozen=True)
class Uniform:
    """See `uniform`."""

    def init(self, num_slots: int, num_envs: int) -> tuple[()]:
        return ()

    def on_write(self, state: tuple[()], slots: jax.Array, valid: jax.Array) -> tuple[()]:
        return state

    def on_remove(self, state: tuple[()], slot: jax.Array, env: jax.Array, removed: jax.Array) -> tuple[()]:
        return state

    def draw(
        self, state: tuple[()], rings: Rings, key: jax.Array, batch_size: int, usable: Usable, narrowed: bool
    ) -> tuple[Rows, jax.Array]:
        num_held = rings.clock.held.astype(jnp.uint32) * jnp.uint32(rings.num_envs)
        max_rounds = MANY_ROUNDS if narrowed else FEW_ROUNDS

        def propose(key: jax.Array) -> tuple[Rows, jax.Array]:
            position, fair = bounded(key, (batch_size,), num_held)
            age = 1 + position // rings.num_envs
            rows = Rows(time=rings.clock.time - age, env=position % rings.num_envs)
            return rows, fair & usable(rows)

        def again(carry: tuple[jax.Array, Rows, jax.Array]) -> tuple[jax.Array, Rows, jax.Array]:
            round_, rows, found = carry
            other, other_found = propose(jax.random.fold_in(key, round_))
            return round_ + 1, _choose(found, rows, other), found | other_found

        def by_rank(carry: tuple[jax.Array, Rows, jax.Array]) -> tuple[jax.Array, Rows, jax.Array]:
            round_, rows, found = carry
            other, fair = _draw_ranked(rings, jax.random.fold_in(key, round_), batch_size)
            return round_ + 1, _choose(found, rows, other), found | (fair & usable(other))

        def unfinished(carry: tuple[jax.Array, Rows, jax.Array], rounds: int) -> jax.Array:
            return (carry[0] < rounds) & ~jnp.all(carry[2])

        # Loops rather than branches: under vmap a branch is always taken, a loop only while some batch needs it.
        carry = (jnp.int32(1), *propose(key))
        carry = lax.while_loop(functools.partial(unfinished, rounds=max_rounds), again, carry)
        _, rows, found = lax.while_loop(functools.partial(unfinished, rounds=max_rounds + 1), by_rank, carry)
        return rows, found

    def probability(self, state: tuple[()], rings: Rings, rows: Rows) -> jax.Array:
        size = jnp.sum(rings_.counts(rings), dtype=jnp.int32)
        return jnp.broadcast_to(1.0 / jnp.maximum(size, 1).astype(jnp.float32), rows.time.shape)


def _draw_ranked(rings: Rings, key: jax.Array, batch_size: int) -> tuple[Rows, jax.Array]:
    """Draw uniformly among the rows that can be read, by their rank, and say which draws are fair: all but never."""
    counts = rings_.counts(rings)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    ranks, fairs = bounded(key, (RANKED_TRIES, batch_size), ends[-1].astype(jnp.uint32))
    rank = jnp.take_along_axis(ranks, jnp.argmax(fairs, axis=0)[None], axis=0)[0]
    env = jnp.minimum(jnp.searchsorted(ends, rank, side="right").astype(jnp.int32), rings.num_envs - 1)
    return rings_.nth_rows(rings, rank - (ends - counts)[env], env), jnp.any(fairs, axis=0)


def bounded(key: jax.Array, shape: tuple[int, ...], below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw whole numbers in `[0, below)`, int32, and say which are fair: those that are not must be drawn again.

    The high word of bits times `below` is exactly uniform once the few products that would favour some numbers are
    refused (Lemire 2019, "Fast random integer generation in an interval", algorithm 5); no number needs a division.
    """
    bits = jax.random.bits(key, shape, jnp.uint32)
    high, low = _multiply(bits, below)
    threshold = (jnp.uint32(0) - below) % jnp.maximum(below, 1)
    return high.astype(jnp.int32), (low >= threshold) & (below > 0)


def _multiply(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The high and low words of the 64-bit product of two uint32 arrays, by halves of words."""
    half, mask = jnp.uint32(16), jnp.uint32(0xFFFF)
    low_low = (a & mask) * (b & mask)
    middle = (a >> half) * (b & mask) + (low_low >> half)
    other = (a & mask) * (b >> half) + (middle & mask)
    return (a >> half) * (b >> half) + (middle >> half) + (other >> half), a * b


def _choose(first: jax.Array, a: Rows, b: Rows) -> Rows:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)
