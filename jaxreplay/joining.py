"""Buffers over a mesh, one a device: their arrays are joined along the first axis, so that each device has a plain one.

A device's part of an array is then what a buffer by itself has, and only its scalars have an axis, of the devices. With
an axis of size 1 in front of every array XLA would lay the ring otherwise in a loop or under vmap, and copy it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxreplay.samplers import Sampler
from jaxreplay.state import Buffer, Stack


def part_of(joined: Buffer) -> Buffer:
    """Give what a device has of a joined buffer, inside shard_map: a buffer by itself."""
    rings = joined.rings
    num_slots = rings.memory.sizes(rings.arrays)[-2]
    return _map(lambda x, scalar: x.reshape(()) if scalar else x, joined, num_slots).replace(stack=None)


def join_part(part: Buffer, stack: Stack) -> Buffer:
    """Undo `part_of`."""
    return jax.tree.map(lambda x: x if x.ndim else x[None], part).replace(stack=stack)


def apart(buffer: Buffer) -> Buffer:
    """See a buffer as the batch of those that it is made of, `[..., A, *shape]`; one that is no stack as it is.

    The arrays may be shapes.
    """
    stack = buffer.stack
    if stack is None or not stack.joined:
        return buffer.replace(stack=None)
    axis, count = buffer.rings.clock.time.ndim - 1, stack.num_buffers

    def split(x: Any, scalar: bool) -> Any:
        return x if scalar else _reshaped(x, (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :]))

    return _map(split, buffer, buffer.num_slots).replace(stack=None)


def together(batch: Buffer, stack: Stack | None) -> Buffer:
    """Undo `apart`."""
    if stack is None or not stack.joined:
        return batch.replace(stack=stack)
    axis = batch.rings.clock.time.ndim - 1

    def merge(x: Any) -> Any:
        if x.ndim == axis + 1:  # a scalar
            return x
        return _reshaped(x, (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]))

    return jax.tree.map(merge, batch).replace(stack=stack)


def _map(function: Callable[[Any, bool], Any], joined: Buffer, num_slots: int) -> Buffer:
    """Map the arrays of a joined buffer, and say of each whether it is a scalar in a buffer by itself."""
    assert joined.stack is not None
    rings, state = joined.rings, joined.sampler_state
    scalars = _scalars(joined.sampler, num_slots, joined.stack.num_envs)
    leaves, treedef = jax.tree.flatten(state)
    state = jax.tree.unflatten(treedef, [function(x, scalar) for x, scalar in zip(leaves, scalars, strict=True)])
    clock = jax.tree.map(lambda x: function(x, True), rings.clock)
    rings = jax.tree.map(lambda x: function(x, False), rings.replace(clock=None)).replace(clock=clock)
    return joined.replace(rings=rings, sampler_state=state)


@functools.lru_cache(maxsize=1024)
def _scalars(sampler: Sampler, num_slots: int, num_envs: int) -> tuple[bool, ...]:
    """Say which leaves of a sampler's state are scalars in a buffer by itself."""
    return tuple(x.ndim == 0 for x in jax.tree.leaves(jax.eval_shape(lambda: sampler.init(num_slots, num_envs))))


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):  # the axis that is split over a mesh stays where it is
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)
    return x.reshape(shape)
