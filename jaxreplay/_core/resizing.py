"""Copying rings to rings of other sizes: the newest slices as they are, and the records that they need.

A row keeps its time and its episode's number, so it has the same address. Only what the sizes decide is made anew: its
slot, and the slot of its episode's record.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.clock import Clock, oldest, slot_of_age
from jaxreplay._core.episode_numbers import VOID, number_limit, removed_word
from jaxreplay._core.layout import OWN_WORDS
from jaxreplay._core.lookup import counts, has_record
from jaxreplay._core.loops import vary_as
from jaxreplay._core.memory import Memory
from jaxreplay._core.rings import Rings, make_rings


def kept_ages(num_slots: int, other_slots: int) -> jax.Array:
    """List the ages of the slices that two rings have room for, oldest first, `[L]`."""
    return jnp.arange(min(num_slots, other_slots), 0, -1, dtype=jnp.int32)


def resize(old: Rings, num_slots: int, memory: Memory) -> Rings:
    """Copy the newest slices to rings of other sizes, or that lie in another way, as `memory` says.

    Rows whose episode's record was overwritten become void rows.
    """
    num_records = memory.num_records
    rings = make_rings(old.layout, num_slots, old.num_envs, memory, old.episode_data)
    empty = vary_as(rings.arrays, (old.clock.head,) * len(rings.arrays))
    ages = kept_ages(old.num_slots, num_slots)
    count = ages.shape[0]
    came = slot_of_age(old.clock, ages, old.num_slots)
    # Where the number of slots stays, so does each slice, and the same key draws the same rows.
    stays = num_slots == old.num_slots
    clock = Clock(
        time=old.clock.time,
        head=old.clock.head if stays else vary_as(jnp.int32(count % num_slots), old.clock.head),
        held=jnp.minimum(old.clock.held, count),
    )
    slot, env = jnp.broadcast_arrays(came[:, None], jnp.arange(old.num_envs, dtype=jnp.int32)[None])
    records = old.memory.read_words(old.arrays, old.layout, slot, env, "steps", 0, old.layout.num_words)
    number, ordinal = (_signed(records[..., i]) for i in range(OWN_WORDS))
    # What was lost stays unreadable, however many records there are now, and no count includes it.
    before = (old.envs.recorded - counts(old))[None]
    ordinal = before + jnp.maximum(ordinal - before, 0)
    if num_records:
        lost = (number >= 0) & ~has_record(old.envs.number[None], number, old.num_records)
        number = _renumber(old, jnp.where(lost, VOID, number), num_records)
    blocks = [_with_own_words(records, number, ordinal)]
    for _, leaf in old.layout.large:
        blocks.append(old.memory.read_leaf(old.arrays, old.layout, leaf.array, slot, env))
    to = came if stays else jnp.arange(count, dtype=jnp.int32)
    arrays = memory.write_slots(empty, old.layout, to, blocks)
    rings = rings.replace(arrays=arrays, clock=clock, envs=old.envs)
    return _copy_records(old, rings) if num_records else rings


def _copy_records(old: Rings, rings: Rings) -> Rings:
    """Copy the records of each env's newest episodes, and what the user keeps for them."""
    place = jnp.arange(rings.num_records, dtype=jnp.int32)[:, None]
    behind = (old.envs.number[None] - place) % rings.num_records  # by how many episodes the one in a place is older
    known = behind < old.num_records
    source = jnp.where(known, (old.envs.number[None] - behind) % old.num_records, 0)
    place, env = jnp.broadcast_arrays(place, jnp.arange(old.num_envs, dtype=jnp.int32)[None])
    slot = old.num_slots + 1 + source
    records = old.memory.read_words(old.arrays, old.layout, slot, env, "episodes", 0, old.layout.num_words)
    # An episode whose record is no longer there has no row: it ended just before the ring begins.
    gone = oldest(rings.clock)
    start, newest = (jnp.where(known, _signed(records[..., i]), gone - i) for i in range(OWN_WORDS))
    blocks = {0: _with_own_words(records, start, newest)}
    for index in sorted(old.layout.followed):
        if array := old.layout.leaves[index].array:
            blocks[array] = old.memory.read_leaf(old.arrays, old.layout, array, slot, env)
    blocks = {array: lax.collapse(block, 0, 2) for array, block in blocks.items()}
    to = (rings.num_slots + 1 + place).ravel()
    arrays = rings.memory.write_records(rings.arrays, old.layout, to, env.ravel(), blocks)
    data = old.episode_data
    if data is not None:
        number = jnp.where(known, _renumber(old, data.number[source, env], rings.num_records), VOID)
        data = data.replace(number=number, leaves=tuple(x[source, env] for x in data.leaves))
    return rings.replace(arrays=arrays, episode_data=data)


def _renumber(old: Rings, number: jax.Array, num_records: int) -> jax.Array:
    """Give episode words `[N, E]` the numbers they have where numbers start again elsewhere, as K decides."""
    shift = number_limit(num_records) - number_limit(old.num_records)
    plain = jnp.where(number < VOID, removed_word(number), number)
    moved = jnp.where(plain > old.envs.number[None], plain + shift, plain)  # from before they last started again
    return jnp.where(number < VOID, removed_word(moved), moved)


def _signed(words: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(words, jnp.int32)


def _with_own_words(records: jax.Array, *own: jax.Array) -> jax.Array:
    return records.at[..., :OWN_WORDS].set(lax.bitcast_convert_type(jnp.stack(own, axis=-1), jnp.uint32))
