"""Changing what is stored: other values for some leaves of a row, and rows taken out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.clock import is_last_of_equals
from jaxreplay._core.episode_numbers import removed_word
from jaxreplay._core.layout import to_raw
from jaxreplay._core.lookup import find_slots, flat_index, has_record
from jaxreplay._core.rings import Rings, nowhere
from jaxreplay._core.words import to_words
from jaxreplay.types import Rows


def overwrite(rings: Rings, rows: Rows, values: Mapping[int, jax.Array]) -> Rings:
    """Overwrite leaves `[..., *shape]`, by their index, of the rows `[...]` that are held."""
    lead = rows.time.ndim
    rows = jax.tree.map(jnp.ravel, rows)
    slot, env, held = find_slots(rings, rows)
    held &= is_last_of_equals(flat_index(rings, slot, env))
    slot = jnp.where(held, slot, nowhere(rings.num_slots + 1 + rings.num_records, slot.shape[0]))
    arrays = rings.arrays
    for index, value in values.items():
        leaf = rings.layout.leaves[index]
        value = jnp.asarray(value)
        value = value.reshape(*slot.shape, *value.shape[lead:])
        raw = to_raw(value) if leaf.array else to_words(leaf, value, rings.memory.at_once)
        arrays = rings.memory.put(arrays, rings.layout, index, slot, env, raw)
    return rings.replace(arrays=arrays)


def remove(rings: Rings, rows: Rows) -> Rings:
    """Mark rows `[B]` as removed, and count the ordinals of those after them anew: one pass over the own words."""
    slot, env, _ = find_slots(rings, rows)
    chosen = jnp.zeros((rings.num_slots + 1, rings.num_envs), jnp.bool_).at[slot, env].set(True)[:-1]
    own = lax.bitcast_convert_type(rings.memory.own_words(rings.arrays, rings.layout), jnp.int32)
    number, ordinal = own[..., 0], own[..., 1]
    gone = chosen & (number >= 0)
    if rings.num_records:
        gone &= has_record(rings.envs.number[None], number, rings.num_records)
    order = (jnp.arange(rings.num_slots, dtype=jnp.int32) + rings.clock.head) % rings.num_slots  # oldest slot first
    gone_before = jnp.cumsum(gone[order], axis=0, dtype=jnp.int32)
    before = jnp.zeros_like(ordinal).at[order].set(gone_before) - gone.astype(jnp.int32)
    own = jnp.stack([jnp.where(gone, removed_word(number), number), ordinal - before], axis=-1)
    own = lax.bitcast_convert_type(own, jnp.uint32)
    arrays = rings.memory.set_own_words(rings.arrays, rings.layout, own)
    envs = rings.envs.replace(recorded=rings.envs.recorded - jnp.sum(gone, axis=0, dtype=jnp.int32))
    return rings.replace(arrays=arrays, envs=envs)
