"""Writing a block of slices to both rings: one contiguous write for a slice, one scatter for the episodes' records."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core import layout
from jaxreplay._core.clock import advance, slot_of_age
from jaxreplay._core.episode_numbers import VOID, Envs, Numbering, number_steps
from jaxreplay._core.lookup import has_record, record_slot
from jaxreplay._core.rings import Rings, nowhere
from jaxreplay._core.words import pack


def write(
    rings: Rings, leaves: list[jax.Array], valid: jax.Array, ended: jax.Array, member: jax.Array | None = None
) -> tuple[Rings, jax.Array]:
    """Append a block of slices; return the slots it went to as well, `[min(L, T)]`.

    leaves: of the whole step, those that follow from others included, `[L, E, ...]`.
    valid, ended: `[L, E]` bool, see `episode_numbers.number_steps`.
    member: which buffer, where the arrays are those of a stack; clock and envs are its own.
    """
    chex.assert_shape([valid, ended], (None, rings.num_envs))
    length, num_slots = valid.shape[0], rings.num_slots
    counted = valid.astype(jnp.int32)
    ordinal = rings.envs.recorded[None] + jnp.cumsum(counted, axis=0, dtype=jnp.int32) - counted
    if rings.num_records:
        envs, steps = number_steps(rings.envs, rings.clock.time, valid, ended, rings.num_records)
        number = jnp.where(valid, steps.number, VOID)
    else:
        envs, steps = rings.envs.replace(recorded=rings.envs.recorded + jnp.sum(valid, axis=0, dtype=jnp.int32)), None
        number = jnp.where(valid, 0, VOID)
    kept = min(length, num_slots)
    clock = advance(rings.clock, length, num_slots)
    slots = slot_of_age(clock, kept - jnp.arange(kept, dtype=jnp.int32), num_slots)
    arrays = _write_slots(rings, leaves, jnp.stack([number, ordinal], axis=-1), slots, member)
    if steps is not None:
        arrays = _write_records(rings, arrays, leaves, steps, envs, member)
    return rings.replace(arrays=arrays, clock=clock, envs=envs), slots


def _write_slots(
    rings: Rings, leaves: list[jax.Array], own: jax.Array, slots: jax.Array, member: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Write the last slices of a block to slots of the ring of steps, `[min(L, T)]`."""
    kept, described = slots.shape[0], rings.layout
    values = {i: x[-kept:] for i, x in enumerate(leaves) if described.leaves[i].next_of is None}
    blocks = [pack(described, own[-kept:], values, rings.memory.at_once)]
    blocks += [layout.to_raw(values[index]) for index, _ in described.large]
    return rings.memory.write_slots(rings.arrays, described, slots, blocks, member)


def _write_records(
    rings: Rings,
    arrays: tuple[jax.Array, ...],
    leaves: list[jax.Array],
    steps: Numbering,
    envs: Envs,
    member: jax.Array | None,
) -> tuple[jax.Array, ...]:
    """Write the record of every episode with steps in the block, as its newest step there leaves it."""
    length, num_envs = steps.number.shape
    step = jnp.arange(length, dtype=jnp.int32)[:, None]
    keep = steps.newest & has_record(envs.number[None], steps.number, rings.num_records)
    # What is not kept goes past the end, each to a place of its own, so that indices are unique as promised.
    dropped = nowhere(rings.num_slots + 1 + rings.num_records, length)[:, None]
    slot = jnp.where(keep, record_slot(rings, steps.number), dropped)
    env = jnp.arange(num_envs, dtype=jnp.int32)
    env = env if member is None else member * num_envs + env  # those of a stack count over all its buffers
    env = jnp.broadcast_to(env, (length, num_envs))
    own = jnp.stack([steps.start, jnp.broadcast_to(rings.clock.time + step, steps.start.shape)], axis=-1)
    finals = {leaf.next_of: x for x, leaf in zip(leaves, rings.layout.leaves, strict=True) if leaf.next_of is not None}
    # One axis for steps and envs before anything is packed: XLA would pack anew, and slowly, to bring two in its order.
    slot, env, own, finals = jax.tree.map(lambda x: lax.collapse(x, 0, 2), (slot, env, own, finals))
    packed = {i: x for i, x in finals.items() if rings.layout.leaves[i].array == 0}
    blocks = {0: pack(rings.layout, own, packed, rings.memory.at_once)}
    for index in finals.keys() - packed.keys():
        blocks[rings.layout.leaves[index].array] = layout.to_raw(finals[index])
    return rings.memory.write_records(arrays, rings.layout, slot, env, blocks)
