"""Uniform sampling: every row with the same probability, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxreplay._core import rings as rings_
from jaxreplay._core.clock import is_last_of_equals
from jaxreplay._core.loops import find_interval
from jaxreplay._core.random import bounded
from jaxreplay._core.rings import Rings, Span
from jaxreplay.samplers.base import Find
from jaxreplay.samplers.redraw import FEW_ROUNDS, first_found, redraw, redraw_after, rounds
from jaxreplay.types import Rows

TRIES = 4  # a row and round, under a view that refuses rows: a round costs more than they do
RANKED_TRIES = 16  # none of them is fair one time in 2**32 at most, for up to 2**30 rows

D = TypeVar("D")


def uniform(replacement: bool = True) -> Uniform:
    """Give every row that can be read, and that the view can start from, the same probability.

    Rows are drawn from the whole ring, and drawn again where they are void, removed or refused by the view; one round
    is the common case. What a few rounds leave open is drawn by rank among the rows that can be read, so a batch is
    always filled where the view takes any row. For a view that refuses most rows, up to 256 are tried for each, and the
    sample's `mask` says what could not be filled.

    replacement: False draws no row twice in a batch: every set of B rows has the same probability. Where fewer than B
    rows can be drawn, each comes once, and the rest has `mask` False; a batch that is not small against the rows there
    are costs a pass over the ring.
    """
    return Uniform(bool(replacement))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """See `uniform`."""

    replacement: bool = True

    def init(self, num_slots: int, num_envs: int) -> tuple[()]:
        return ()

    def on_write(self, state: tuple[()], rings: Rings, slots: jax.Array, valid: jax.Array) -> tuple[()]:
        return state

    def on_remove(self, state: tuple[()], rings: Rings, rows: Rows) -> tuple[()]:
        return state

    def draw(
        self, state: tuple[()], rings: Rings, key: jax.Array, batch_size: int, find: Find, narrowed: bool
    ) -> tuple[Span, jax.Array]:
        proposed, ranked = held_rows(rings), readable_rows(rings)
        if self.replacement:
            span, found = draw_uniform(key, batch_size, proposed, ranked, find, _is_valid, narrowed)
        else:
            span, found = draw_distinct(key, batch_size, proposed, rings, find)
        return span.replace(valid=found), self.probability(state, rings, span)

    def probability(self, state: tuple[()], rings: Rings, span: Span) -> jax.Array:
        return jnp.broadcast_to(one_over(readable_rows(rings).total), span.time.shape)


def _is_valid(span: Span) -> jax.Array:
    return span.valid


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
        env = jnp.minimum(find_interval(ends, number), rings.num_envs - 1)
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

    tries = TRIES if narrowed else 1

    def propose(key: jax.Array) -> tuple[D, jax.Array]:
        number, fair = bounded(key, (tries * batch_size,), proposed.total)
        drawn = find(proposed.at(number))
        return first_found(tries, drawn, fair & found(drawn))

    def propose_ranked(key: jax.Array) -> tuple[D, jax.Array]:
        numbers, fairs = bounded(key, (RANKED_TRIES, batch_size), ranked.total)
        number = jnp.take_along_axis(numbers, jnp.argmax(fairs, axis=0)[None], axis=0)[0]
        drawn = find(ranked.at(number))
        return drawn, jnp.any(fairs, axis=0) & found(drawn)

    return redraw(key, propose, (rounds(narrowed) // tries - 1, propose), (1, propose_ranked))


def draw_distinct(
    key: jax.Array, batch_size: int, proposed: Numbered, rings: Rings, find: Find
) -> tuple[Span, jax.Array]:
    """Draw rows uniformly, none twice: those that were drawn before are drawn again, which is fair; then by a shuffle.

    In a stream of fair draws, the first B different ones are a uniform set; a few rounds make the stream long enough
    where B is small against the rows there are. Else all rows are shuffled, and what is open takes the first of them
    that can be drawn and are not in the batch yet.
    """
    num_rows = rings.num_slots * rings.num_envs
    places = jnp.arange(batch_size, dtype=jnp.int32)

    def place(span: Span, valid: jax.Array) -> jax.Array:
        return jnp.where(valid, rings_.flat_index(rings, span.slot, span.env), num_rows + rings.num_envs + places)

    def propose(key: jax.Array) -> tuple[Span, jax.Array]:
        number, fair = bounded(key, (batch_size,), proposed.total)
        span = find(proposed.at(number))
        return span, fair & span.valid

    def propose_new(key: jax.Array, before: Span, found: jax.Array) -> tuple[Span, jax.Array]:
        span, valid = propose(key)
        both = jnp.concatenate([place(before, found), place(span, valid) + jnp.where(valid, 0, batch_size)])
        first = is_last_of_equals(both[::-1])[::-1]
        return span, valid & first[batch_size:]

    def shuffle(key: jax.Array, before: Span, found: jax.Array) -> tuple[Span, jax.Array]:
        every = rings_.all_rows(rings)
        order = jax.random.permutation(key, num_rows)
        every = jax.tree.map(lambda x: x[order], every)
        spans = find(every)
        taken = jnp.zeros((num_rows + rings.num_envs,), jnp.bool_).at[place(before, found)].set(True, mode="drop")
        free = spans.valid & ~taken[rings_.flat_index(rings, spans.slot, spans.env)]
        order = jnp.argsort(~free, stable=True)
        nth = jnp.cumsum(~found, dtype=jnp.int32) - 1
        chosen = order[jnp.clip(nth, 0, num_rows - 1)]
        rows = jax.tree.map(lambda x: x[chosen], every)
        return find(rows), (nth < jnp.sum(free, dtype=jnp.int32)) & ~found

    none = find(Rows(time=jnp.zeros_like(places), env=jnp.full_like(places, -1)))
    nothing = jnp.zeros((batch_size,), jnp.bool_)
    first = propose_new(key, none, nothing)
    return redraw_after(key, first, (FEW_ROUNDS - 1, propose_new), (1, shuffle))


def one_over(count: jax.Array) -> jax.Array:
    """The probability of each of `count` rows, a float32 scalar."""
    return 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
