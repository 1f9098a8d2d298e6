"""Uniform sampling: every row with the same probability, exactly."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay import rings as rings_
from jaxreplay import trees
from jaxreplay.random_integers import bounded
from jaxreplay.rings import Rings, Span
from jaxreplay.samplers.base import Find
from jaxreplay.types import Rows

FEW_ROUNDS = 8
MANY_ROUNDS = 256
RANKED_TRIES = 16  # none of them is fair one time in 2**32 at most, for up to 2**30 rows

D = TypeVar("D")


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

    def draw(self, state: tuple[()], rings: Rings, key: jax.Array, batch_size: int, find: Find, narrowed: bool) -> Span:
        def found(span: Span) -> jax.Array:
            return span.valid

        proposed, ranked = held_rows(rings), readable_rows(rings)
        span, done = draw_uniform(key, batch_size, proposed, ranked, find, found, narrowed)
        return span.replace(valid=done)

    def probability(self, state: tuple[()], rings: Rings, rows: Rows) -> jax.Array:
        return jnp.broadcast_to(one_over(readable_rows(rings).total), rows.time.shape)


class Numbered(NamedTuple):
    """A set of rows in some order: how many, an int32 scalar, and which are those of given numbers `[B]` from 0."""

    total: jax.Array
    at: Callable[[jax.Array], Any]


def held_rows(rings: Rings) -> Numbered:
    """All rows in the ring, void and removed ones included: the newest slice first."""

    def at(number: jax.Array) -> Rows:
        age = 1 + number // rings.num_envs
        return Rows(time=rings.clock.time - age, env=number % rings.num_envs)

    return Numbered(rings.clock.held * rings.num_envs, at)


def readable_rows(rings: Rings) -> Numbered:
    """The rows that can be read, env by env."""
    counts = rings_.counts(rings)
    ends = jnp.cumsum(counts, dtype=jnp.int32)

    def at(number: jax.Array) -> Rows:
        env = jnp.minimum(jnp.searchsorted(ends, number, side="right").astype(jnp.int32), rings.num_envs - 1)
        return rings_.nth_rows(rings, number - (ends - counts)[env], env)

    return Numbered(ends[-1], at)


def draw_uniform(
    key: jax.Array,
    batch_size: int,
    proposed: Numbered,
    ranked: Numbered,
    find: Callable[[Any], D],
    found: Callable[[D], jax.Array],
    narrowed: bool,
) -> tuple[D, jax.Array]:
    """Draw rows uniformly among those that `find` finds; return what it says of them, and which were found `[B]`.

    proposed: rows that are cheap to name, drawn until found. ranked: a smaller set with all that can be found, whose
    rows cost more to name; used for what a few rounds leave open. found: `[B]` bool, of what `find` returned, which
    is any pytree with leaves `[B, ...]`.
    """
    max_rounds = MANY_ROUNDS if narrowed else FEW_ROUNDS

    def propose(key: jax.Array) -> tuple[D, jax.Array]:
        number, fair = bounded(key, (batch_size,), proposed.total)
        drawn = find(proposed.at(number))
        return drawn, fair & found(drawn)

    def propose_ranked(key: jax.Array) -> tuple[D, jax.Array]:
        numbers, fairs = bounded(key, (RANKED_TRIES, batch_size), ranked.total)
        number = jnp.take_along_axis(numbers, jnp.argmax(fairs, axis=0)[None], axis=0)[0]
        drawn = find(ranked.at(number))
        return drawn, jnp.any(fairs, axis=0) & found(drawn)

    def again(by: Callable[[jax.Array], tuple[D, jax.Array]], carry: tuple[jax.Array, D, jax.Array]):
        round_, drawn, done = carry
        other, other_done = by(jax.random.fold_in(key, round_))
        return round_ + 1, trees.choose(done, drawn, other), done | other_done

    def unfinished(rounds: int, carry: tuple[jax.Array, D, jax.Array]) -> jax.Array:
        return (carry[0] < rounds) & ~jnp.all(carry[2])

    # Loops rather than branches: under vmap a branch is always taken, a loop only while some batch needs it.
    carry = (jnp.int32(1), *propose(key))
    for rounds, by in ((max_rounds, propose), (max_rounds + 1, propose_ranked)):
        carry = lax.while_loop(functools.partial(unfinished, rounds), functools.partial(again, by), carry)
    return carry[1], carry[2]


def one_over(count: jax.Array) -> jax.Array:
    """The probability of each of `count` rows, a float32 scalar."""
    return 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
