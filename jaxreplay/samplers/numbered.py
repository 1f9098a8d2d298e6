"""Sets of rows by number, and uniform draws from them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.loops import find_interval
from jaxreplay._core.random import bounded, nearly_bounded
from jaxreplay._core.rings import Rings
from jaxreplay.samplers.redraw import redraw
from jaxreplay.types import Rows
from jaxreplay.views import View

D = TypeVar("D")


class Numbered(NamedTuple):
    """A set of rows in some order: how many, an int32 scalar, and which are those of given numbers `[B]` from 0."""

    total: jax.Array
    at: Callable[[jax.Array], Any]


def held_rows(rings: Rings) -> Numbered:
    """Number all rows in the ring, void and removed ones included: the newest slice first."""

    if rings.clock.time.ndim:
        return _held_of_each(rings)

    def at(number: jax.Array) -> Rows:
        age = 1 + number // rings.num_envs
        return Rows(time=rings.clock.time - age, env=number % rings.num_envs)

    return Numbered(rings.clock.held * rings.num_envs, at)


def _held_of_each(rings: Rings) -> Numbered:
    """Number the rows of envs that have a clock each, env by env."""
    ends = jnp.cumsum(rings.clock.held, dtype=jnp.int32)

    def at(number: jax.Array) -> Rows:
        env = jnp.minimum(find_interval(ends, number), rings.num_envs - 1)
        clock = rings.clock.of(env)
        return Rows(time=clock.time - 1 - (number - (ends[env] - clock.held)), env=env)

    return Numbered(ends[-1], at)


def readable_rows(rings: Rings) -> Numbered:
    """Number the rows that can be read, env by env."""
    counts = lookup.counts(rings)
    ends = jnp.cumsum(counts, dtype=jnp.int32)

    def at(number: jax.Array) -> Rows:
        env = jnp.minimum(find_interval(ends, number), rings.num_envs - 1)
        return lookup.nth_rows(rings, number - (ends - counts)[env], env, counts)

    return Numbered(ends[-1], at)


def draw_uniform(
    key: jax.Array,
    batch_size: int,
    proposed: Numbered,
    ranked: Numbered,
    look_up: Callable[[Any], tuple[D, jax.Array]],
    view: View,
    at_once: bool,
) -> tuple[D, jax.Array]:
    """Draw rows `[B]` uniformly among those that the view can start from, and say which were found, `[B]`.

    proposed: rows that are cheap to name, drawn until found. ranked: a smaller set with all that can be found, whose
    rows cost more to name; used for what a few candidates leave open. look_up: gives what is known of rows, which is
    returned of those that are drawn, and from which of them the view can start, `[B]`.
    """

    def propose(key: jax.Array) -> tuple[D, jax.Array]:
        number, fair = bounded(key, (batch_size,), proposed.total)
        found, startable = look_up(proposed.at(number))
        return found, fair & startable

    def propose_ranked(key: jax.Array) -> tuple[D, jax.Array]:
        found, startable = look_up(ranked.at(nearly_bounded(key, batch_size, ranked.total)))
        return found, startable & (ranked.total > 0)

    return redraw(key, propose, view, at_once, propose_ranked)


def one_over(count: jax.Array) -> jax.Array:
    """Return the probability of each of `count` rows, a float32 scalar."""
    return 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
