"""Drawing without replacement."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core import lookup
from jaxreplay._core.clock import is_last_of_equals
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.random import bounded
from jaxreplay._core.rings import Rings
from jaxreplay.samplers.numbered import Numbered, held_rows
from jaxreplay.types import Rows
from jaxreplay.views import View

SPARSE = 4  # a batch of B is drawn from a stream of numbers where there are at least 4 B


def draw_distinct(
    key: jax.Array, batch_size: int, rings: Rings, view: View, readable: Numbered
) -> tuple[Rows, jax.Array]:
    """Draw rows uniformly, none twice: every set of B rows that the view can start from has the same probability.

    Returns which were found, `[B]`, as well.
    """
    if view.refuses:
        return _draw_refusing(key, batch_size, rings, view)
    number, found = distinct_numbers(key, batch_size, readable.total)
    return readable.at(jnp.where(found, number, 0)), found


def distinct_numbers(key: jax.Array, count: int, below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw whole numbers `[count]` in `[0, below)`, none twice, and say which there are: all, if `below` is enough.

    In a stream of fair draws, the first different ones are a uniform set. The stream is long enough where numbers are
    many (its chance to be too short is below 1e-20); else all of them are shuffled.
    """
    stream_key, shuffle_key = jax.random.split(key)
    number, fair = bounded(stream_key, (2 * count + 64,), below)
    stream, enough = _first_different(number, fair, count)
    shuffled = jax.random.permutation(shuffle_key, SPARSE * count).astype(jnp.int32)
    shuffled = shuffled[jnp.argsort(shuffled >= below, stable=True)][:count]
    is_many = below >= SPARSE * count
    return jnp.where(is_many, stream, shuffled), jnp.where(is_many, enough, jnp.arange(count) < below)


def _first_different(number: jax.Array, usable: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Take the first `count` different ones of the usable numbers `[N]`, and say which of them there are."""
    others = -1 - jnp.arange(number.shape[0], dtype=jnp.int32)
    first = usable & is_last_of_equals(jnp.where(usable, number, others)[::-1])[::-1]
    order = jnp.argsort(~first, stable=True)[:count]
    return number[order], first[order]


def _draw_refusing(key: jax.Array, batch_size: int, rings: Rings, view: View) -> tuple[Rows, jax.Array]:
    """Draw by a stream of rows; where it is too short, shuffle all rows once, a pass over the ring."""
    num_rows, proposed = rings.num_slots * rings.num_envs, held_rows(rings)
    stream_key, shuffle_key = jax.random.split(key)
    number, fair = bounded(stream_key, (SPARSE * batch_size + 64,), proposed.total)
    usable = fair & view.find(rings, proposed.at(number)).valid
    number, found = _first_different(number, usable, batch_size)
    rows = proposed.at(number)

    def shuffle(carry: tuple[Rows, jax.Array, jax.Array]) -> tuple[Rows, jax.Array, jax.Array]:
        rows, found, _ = carry
        every = lookup.all_rows(rings)
        order = jax.random.permutation(shuffle_key, num_rows)
        every = jax.tree.map(lambda x: x[order], every)
        span, mine = view.find(rings, every), view.find(rings, rows)
        place = jnp.where(found, flat_index(rings, mine.slot, mine.env), num_rows + rings.num_envs)
        taken = jnp.zeros((num_rows + rings.num_envs,), jnp.bool_).at[place].set(True, mode="drop")
        free = span.valid & ~taken[flat_index(rings, span.slot, span.env)]
        order = jnp.argsort(~free, stable=True)
        nth = jnp.cumsum(~found, dtype=jnp.int32) - 1
        chosen = order[jnp.clip(nth, 0, num_rows - 1)]
        rows = jax.tree.map(lambda new, old: jnp.where(found, old, new[chosen]), every, rows)
        return rows, found | (nth < jnp.sum(free, dtype=jnp.int32)), jnp.ones_like(found)

    once = (rows, found, jnp.zeros_like(found) & found)
    rows, found, _ = lax.while_loop(lambda carry: ~jnp.all(carry[1] | carry[2]), shuffle, once)
    return rows, found
