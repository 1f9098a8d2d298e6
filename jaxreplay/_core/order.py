"""The order of all rows that can be read, by time, then env: which has which number, without a pass over the ring."""

import jax
import jax.numpy as jnp

from jaxreplay._core.clock import age, slot_of_age
from jaxreplay._core.lookup import counts, flat_index, nth_rows, own_word
from jaxreplay._core.loops import bisect, find_interval, vary_as
from jaxreplay._core.rings import Rings
from jaxreplay.types import Rows, out_of_range_unless


def nth_in_order(rings: Rings, nth: jax.Array) -> Rows:
    """Find the rows that have number `nth` `[B]`, from 0, among all that can be read, by bisection over time.

    A step of it reads a word of each env. Other numbers than there are give any rows.
    """
    count = counts(rings)
    every = jnp.arange(rings.num_envs, dtype=jnp.int32)[None]

    def before(ages: jax.Array) -> jax.Array:
        ages, env = jnp.broadcast_arrays(ages[:, None], every)
        return _count_before(rings, ages, env, count)

    def is_newer(ages: jax.Array) -> jax.Array:
        return (ages < rings.clock.held) & (jnp.sum(before(ages), axis=1, dtype=jnp.int32) > nth)

    ages = 1 + bisect(rings.num_slots, is_newer, vary_as(nth, count[:1]), unroll=rings.memory.at_once)
    rest = nth - jnp.sum(before(ages), axis=1, dtype=jnp.int32)
    passed = jnp.cumsum(before(ages - 1) - before(ages), axis=1, dtype=jnp.int32)
    env = jnp.sum(passed <= rest[:, None], axis=1, dtype=jnp.int32)
    return Rows(time=rings.clock.time - ages, env=jnp.minimum(env, rings.num_envs - 1))


def newest_in_order(rings: Rings, n: int) -> Rows:
    """List the newest n rows that can be read, oldest first, `[n]`; if there are fewer, the first are out of range."""
    count = counts(rings)
    total = jnp.sum(count, dtype=jnp.int32)
    number = jnp.arange(n, dtype=jnp.int32) + jnp.minimum(total - n, 0)  # among those listed; negative for none
    first = nth_in_order(rings, jnp.maximum(total - n, 0)[None])
    every = jnp.arange(rings.num_envs, dtype=jnp.int32)
    since = age(rings.clock, first.time) - (every < first.env).astype(jnp.int32)
    earlier = _count_before(rings, since, every, count)
    ends = jnp.cumsum(count - earlier, dtype=jnp.int32)
    env = jnp.minimum(find_interval(ends, number), rings.num_envs - 1)
    rows = nth_rows(rings, number - ends[env] + count[env], env, count)
    place = flat_index(rings, rings.num_slots - age(rings.clock, rows.time), env)
    order = jnp.argsort(jnp.where(number >= 0, place, -1))
    return out_of_range_unless(number >= 0, jax.tree.map(lambda x: x[order], rows))


def _count_before(rings: Rings, ages: jax.Array, env: jax.Array, count: jax.Array) -> jax.Array:
    """Count the rows of each env that can be read and are older than the slice of an age, 0 for the next: `[...]`.

    count: `counts(rings)`.
    """
    slot = slot_of_age(rings.clock, jnp.maximum(ages, 1), rings.num_slots)
    rank = own_word(rings, slot, env, 1) - (rings.envs.recorded - count)[env]
    return jnp.where(ages > 0, jnp.clip(rank, 0, count[env]), count[env])
