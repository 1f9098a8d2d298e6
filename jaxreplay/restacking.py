"""A buffer whose envs are split over so many devices, copied to one that is split over others."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core.plain import Plain
from jaxreplay.joining import apart, together
from jaxreplay.resizing import resize_like
from jaxreplay.stacks import sampler_for
from jaxreplay.state import Buffer, Stack
from jaxreplay.types import PyTree


def restack(buffer: Buffer, like: Buffer) -> Buffer:
    """Copy a buffer, or a batch of them, to as many buffers as `like` is made of; rows keep their addresses.

    like: made as the buffer was, but for its sharding, and all of one clock; its arrays may be shapes. Takes memory for
    both. Raises ValueError for a sampler whose state cannot be split.
    """
    batch = like.rings.clock.time.ndim - (like.stack is not None)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[batch:], x.dtype), like)
    split = functools.partial(_restack, like=one)
    for _ in range(batch):
        split = jax.vmap(split)
    return jax.jit(split)(buffer)


def _restack(buffer: Buffer, like: Buffer) -> Buffer:
    apart = _members(buffer)
    plain = resize_like(apart, _lying(apart, Plain(apart.rings.num_records, like.rings.memory.at_once)))
    weights = _weights(plain)
    num_buffers = 1 if like.stack is None else like.stack.num_buffers
    rings, counts = plain.rings, (plain.rings.clock.time.shape[0], num_buffers)
    slots_first, envs_alone = functools.partial(_regroup, counts, 1), functools.partial(_regroup, counts, 0)
    rings = rings.replace(
        arrays=tuple(map(slots_first, rings.arrays)),
        clock=jax.tree.map(lambda x: jnp.broadcast_to(x[:1], (num_buffers,)), rings.clock),
        envs=jax.tree.map(envs_alone, rings.envs),
        episode_data=jax.tree.map(slots_first, rings.episode_data),
    )
    state: Any = ()
    if weights is not None:
        of_rows, largest = weights
        sampler: Any = plain.sampler
        largest = jnp.full((num_buffers,), jnp.max(largest))
        state = jax.vmap(sampler.from_weights)(rings, jax.tree.map(slots_first, of_rows), largest)
    regrouped = plain.replace(rings=rings, sampler_state=state)
    there = _members(like)
    made = resize_like(regrouped, there)
    return jax.tree.map(lambda x: x[0], made) if like.stack is None else together(made, like.stack)


def _members(buffer: Buffer) -> Buffer:
    """See a buffer as a batch of buffers, of a single one if it is no stack."""
    if buffer.stack is not None:
        return apart(buffer)
    lead = lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x[None]  # noqa: E731
    return jax.tree.map(lead, buffer)


def _lying(batch: Buffer, memory: Plain) -> Buffer:
    """Describe a batch of buffers like this one that lies in another way."""
    rings = batch.rings
    count, num_slots, num_envs = rings.memory.sizes(rings.arrays)
    sampler = sampler_for(batch.sampler, memory, num_slots, None)

    def make() -> tuple[Any, Any]:
        return memory.allocate(rings.layout, num_slots, num_envs), sampler.init(num_slots, num_envs)

    arrays, state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), jax.eval_shape(make))
    return batch.replace(rings=rings.replace(arrays=arrays, memory=memory), sampler_state=state, sampler=sampler)


def _weights(batch: Buffer) -> tuple[PyTree, jax.Array] | None:
    """Read what the sampler's states say of rows, leaves `[A, T, E]`, and beside; None where they say nothing."""
    sampler: Any = batch.sampler
    if hasattr(sampler, "to_weights"):
        return jax.vmap(sampler.to_weights)(batch.sampler_state, batch.rings)
    if jax.tree.leaves(batch.sampler_state):
        raise ValueError(f"the state of {sampler} cannot be split over another number of devices")
    return None


def _regroup(counts: tuple[int, int], axis: int, x: jax.Array) -> jax.Array:
    """Give `[A, ..., E, ...]`, the envs at `axis` after A, the form `[A', ..., E', ...]` with as many envs in all."""
    old, new = counts
    together = jnp.moveaxis(x, 0, axis).reshape(*x.shape[1 : 1 + axis], old * x.shape[1 + axis], *x.shape[2 + axis :])
    split = together.reshape(*together.shape[:axis], new, -1, *together.shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)


def stack_of_devices(count: int | None, num_envs: int) -> Stack | None:
    """Say how a buffer is split over a mesh of `count` devices; None for no mesh."""
    return None if count is None else Stack(count, num_envs // count, False, own_clocks=False)
