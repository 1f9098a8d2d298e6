"""Sets of rows by number, and uniform draws from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.loops import find_interval
from jaxreplay._core.random import bounded
from jaxreplay._core.rings import Rings
from jaxreplay.samplers.redraw import first_found, redraw, rounds
from jaxreplay.types import Rows
from jaxreplay.views import View

TRIES = 4  # a row and round, under a view that refuses rows: a round costs more than they do
RANKED_TRIES = 16  # none of them is fair one time in 2**32 at most, for up to 2**30 rows


class Found(Protocol):
    """What says of rows whether they can be read, as a `Span`: any pytree with leaves `[B, ...]`."""

    @property
    def valid(self) -> jax.Array: ...


D = TypeVar("D", bound=Found)


class Numbered(NamedTuple):
    """A set of rows in some order: how many, an int32 scalar, and which are those of given numbers `[B]` from 0."""

    total: jax.Array
    at: Callable[[jax.Array], Any]


def held_rows(rings: Rings) -> Numbered:
    """Number all rows in the ring, void and removed ones included: the newest slice first."""

    def at(number: jax.Array) -> Rows:
        age = 1 + number // rings.num_envs
        return Rows(time=rings.clock.time - age, env=number % rings.num_envs)

    return Numbered(rings.clock.held * rings.num_envs, at)


def readable_rows(rings: Rings) -> Numbered:
    """Number the rows that can be read, env by env."""
    counts = lookup.counts(rings)
    ends = jnp.cumsum(counts, dtype=jnp.int32)

    def at(number: jax.Array) -> Rows:
        env = jnp.minimum(find_interval(ends, number), rings.num_envs - 1)
        return lookup.nth_rows(rings, number - (ends - counts)[env], env)

    return Numbered(ends[-1], at)


def draw_uniform(
    key: jax.Array,
    batch_size: int,
    proposed: Numbered,
    ranked: Numbered,
    find: Callable[[Any], D],
    view: View,
) -> tuple[D, jax.Array]:
    """Draw rows uniformly among those that `find` finds; return what it says of them, and which were found `[B]`.

    proposed: rows that are cheap to name, drawn until found. ranked: a smaller set with all that can be found, whose
    rows cost more to name; used for what a few rounds leave open.
    """
    tries = TRIES if view.refuses else 1

    def propose(key: jax.Array) -> tuple[D, jax.Array]:
        number, fair = bounded(key, (tries * batch_size,), proposed.total)
        drawn = find(proposed.at(number))
        return first_found(tries, drawn, fair & drawn.valid)

    def propose_ranked(key: jax.Array) -> tuple[D, jax.Array]:
        numbers, fairs = bounded(key, (RANKED_TRIES, batch_size), ranked.total)
        number = jnp.take_along_axis(numbers, jnp.argmax(fairs, axis=0)[None], axis=0)[0]
        drawn = find(ranked.at(number))
        return drawn, jnp.any(fairs, axis=0) & drawn.valid

    return redraw(key, propose, (rounds(view) // tries - 1, propose), (1, propose_ranked))


def one_over(count: jax.Array) -> jax.Array:
    """Return the probability of each of `count` rows, a float32 scalar."""
    return 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
