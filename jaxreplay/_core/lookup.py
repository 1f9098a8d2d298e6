"""Every question about rows, in O(1) of the capacity: where they are, which can be read, and how many there are."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.clock import age, all_times, oldest, slot_of_age, slot_of_time, slots_in_order, time_of_slot
from jaxreplay._core.episode_numbers import VOID, number_limit, removed_word
from jaxreplay._core.layout import OWN_WORDS
from jaxreplay._core.loops import bisect_between, vary_as
from jaxreplay._core.plain import Ring
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import Rows


def flat_index(rings: Rings, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Return the index of a slot and env once both are one axis: `[T + 1 + K, E]` as `[(T + 1 + K) * E]`."""
    return slot * rings.num_envs + env


def has_record(newest: jax.Array, number: jax.Array, num_records: int) -> jax.Array:
    """Tell whether the record of an episode is still kept, given its env's newest number (both at least 0)."""
    behind = newest - number
    behind = jnp.where(behind < 0, behind + number_limit(num_records), behind)
    return (number >= 0) & (behind < num_records)


def oldest_number(newest: jax.Array, num_records: int) -> tuple[jax.Array, jax.Array]:
    """Return the number of an env's oldest episode that has a record, and whether an older one has lost its own.

    (While the first K numbers after a wrap are the newest, none is taken as lost, and `size` may count lost rows.)
    """
    first = newest - (num_records - 1)
    return jnp.maximum(first, 0), first > 0


def record_slot(rings: Rings, number: jax.Array) -> jax.Array:
    """Return the slot of an episode's record, given its number in its env, at least 0."""
    return rings.num_slots + 1 + number % rings.num_records


def own_word(rings: Rings, slot: jax.Array, env: jax.Array, word: int, ring: Ring = "steps") -> jax.Array:
    """Read one of the library's own words of records, int32, in the shape of `slot` and `env`."""
    words = rings.memory.read_words(rings.arrays, rings.layout, slot, env, ring, word, 1)
    return lax.bitcast_convert_type(words[..., 0], jnp.int32)


def own_words(rings: Rings, slot: jax.Array, env: jax.Array, ring: Ring = "steps") -> tuple[jax.Array, jax.Array]:
    """Read both of the library's own words of records, int32, each in the shape of `slot` and `env`."""
    words = lax.bitcast_convert_type(
        rings.memory.read_words(rings.arrays, rings.layout, slot, env, ring, 0, OWN_WORDS), jnp.int32
    )
    return words[..., 0], words[..., 1]


def find_slots(rings: Rings, rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `(slot, env, held)` of rows; where a row is not held (stale, or out of range) it is the zero slot's."""
    num_slots, num_envs = rings.num_slots, rings.num_envs
    slot, held = slot_of_time(rings.clock.of(rows.env), rows.time, num_slots)
    held &= (rows.env >= 0) & (rows.env < num_envs)
    return jnp.where(held, slot, num_slots), jnp.where(held, rows.env, 0), held


def find_readable(rings: Rings, rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return `(slot, env, number, valid)` of rows: their episode's number, and which can be read.

    It is the one place that decides that. Where a row is not held, slot and env are the zero slot's.
    """
    chex.assert_equal_shape([rows.time, rows.env])
    slot, env, held = find_slots(rings, rows)
    number = own_word(rings, slot, env, 0)
    if not rings.num_records:
        return slot, env, number, held & (number >= 0)
    return slot, env, number, held & has_record(rings.envs.number[env], number, rings.num_records)


def is_valid(rings: Rings, rows: Rows) -> jax.Array:
    """Tell which rows can be read."""
    return find_readable(rings, rows)[-1]


@functools.partial(jax.jit, inline=True)  # a draw asks several times, and is traced once
def find(rings: Rings, rows: Rows) -> Span:
    """Say where rows are and what surrounds them."""
    slot, env, number, valid = find_readable(rings, rows)
    zero_slot, none = rings.num_slots, jnp.zeros_like(slot)
    slot = jnp.where(valid, slot, zero_slot)
    if not rings.num_records:
        return Span(
            valid=valid,
            time=rows.time,
            env=env,
            slot=slot,
            before=none,
            after=none,
            newest=none,
            index=none,
            open=none > 0,
            record=none + zero_slot,
            number=number,
        )
    record = jnp.where(valid, record_slot(rings, number), zero_slot)
    start, newest = own_words(rings, record, env, "episodes")
    index = jnp.where(valid, rows.time - start, 0)
    after = jnp.where(valid, newest - rows.time, 0)
    return Span(
        valid=valid,
        time=rows.time,
        env=env,
        slot=slot,
        before=jnp.where(valid, jnp.minimum(index, rows.time - oldest(rings.clock.of(env))), 0),
        after=after,
        newest=after,
        index=index,
        open=valid & (number == rings.envs.number[env]) & rings.envs.open[env],
        record=record,
        number=number,
    )


def find_index(rings: Rings, rows: Rows) -> jax.Array:
    """Return the position of rows `[B]` in their episodes, of removed ones too; 0 where there is none."""
    slot, env, held = find_slots(rings, rows)
    word = own_word(rings, slot, env, 0)
    number = jnp.where(word < VOID, removed_word(word), word)
    known = held & has_record(rings.envs.number[env], number, rings.num_records)
    start = own_word(rings, jnp.where(known, record_slot(rings, number), rings.num_slots), env, 0, "episodes")
    return jnp.where(known, rows.time - start, 0)


def all_rows(rings: Rings) -> Rows:
    """List every slot's row in order of time, then env, `[T*E]` each."""
    shape = (rings.num_slots, rings.num_envs)
    time = all_times(rings.clock, rings.num_slots)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    return Rows(*(jnp.broadcast_to(x, shape).ravel() for x in (time, env)))


def all_numbers(rings: Rings) -> jax.Array:
    """List the episode words of all rows in the order of `all_rows`, `[T*E]`, those not held included: one pass."""
    words = rings.memory.own_words(rings.arrays, rings.layout)[..., 0]
    slot = jnp.arange(rings.num_slots, dtype=jnp.int32)
    if rings.clock.head.ndim:
        in_order = (rings.clock.head[None] + slot[:, None]) % rings.num_slots
        words = jnp.take_along_axis(words, in_order, axis=0)
    else:
        words = words[(rings.clock.head + slot) % rings.num_slots]
    return lax.bitcast_convert_type(words, jnp.int32).ravel()


def all_valid(rings: Rings) -> jax.Array:
    """Tell which of all rows can be read, in the order of `all_rows`, `[T*E]`: one pass."""
    number = all_numbers(rings).reshape(rings.num_slots, rings.num_envs)
    valid = number >= 0
    if rings.num_records:
        valid = has_record(rings.envs.number[None], number, rings.num_records)
    first_held = rings.num_slots - jnp.atleast_1d(rings.clock.held)[None]
    held = jnp.arange(rings.num_slots, dtype=jnp.int32)[:, None] >= first_held
    return (valid & held).ravel()


def oldest_recorded(rings: Rings, asked: jax.Array | None = None) -> jax.Array:
    """Return the age of each env's oldest row that has not lost its episode's record, `[E]`; at most `held`.

    asked: `[E]` bool, the others get `held`, and cost no read from far away.
    """
    held = jnp.broadcast_to(rings.clock.held, (rings.num_envs,))
    if not rings.num_records:
        return held
    number, some_lost = oldest_number(rings.envs.number, rings.num_records)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    some_lost = some_lost if asked is None else some_lost & asked
    slot = jnp.where(some_lost, record_slot(rings, number), rings.num_slots)
    start = own_word(rings, slot, env, 0, "episodes")
    return jnp.where(some_lost, jnp.clip(age(rings.clock, start), 0, held), held)


def counts(rings: Rings) -> jax.Array:
    """Count the rows of each env that can be read, `[E]` int32. It costs two reads an env, whatever the capacity."""
    ages = oldest_recorded(rings)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    slot = slot_of_age(rings.clock, jnp.maximum(ages, 1), rings.num_slots)
    return jnp.where(ages > 0, rings.envs.recorded - own_word(rings, slot, env, 1), 0)


def rank(rings: Rings, span: Span) -> jax.Array:
    """Number each valid row of a span among the rows of its env that can be read, oldest first, from 0: `[B]`."""
    return own_word(rings, span.slot, span.env, 1) - (rings.envs.recorded - counts(rings))[span.env]


def nth_rows(rings: Rings, nth: jax.Array, env: jax.Array, count: jax.Array | None = None) -> Rows:
    """Find the rows that have number `nth`, see `rank`, in their env, `[B]`; by bisection over slots.

    count: `counts(rings)`, if it is known. Ordinals rise by one after each row that can be read, so the n-th is the
    newest whose ordinal is at most the oldest's plus n.
    """
    target = (rings.envs.recorded - (counts(rings) if count is None else count))[env] + nth
    clock = rings.clock.of(env)

    def comes_before(slot: jax.Array) -> jax.Array:
        return own_word(rings, slot, env, 1) - target <= 0

    first, last = slots_in_order(clock, comes_before(jnp.zeros_like(env)), rings.num_slots)
    slot = bisect_between(vary_as(first, target), last, rings.num_slots - 1, comes_before, rings.memory.at_once)
    return Rows(time=time_of_slot(clock, slot, rings.num_slots), env=env)
