"""Several processes: what each has of a buffer, and the global step of what each recorded of its own envs."""

import dataclasses
from typing import Any

import jax
import jax.core
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxreplay._core import trees
from jaxreplay.stacks import is_sharded
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import PyTree


def local_step(step: PyTree, buffer: Buffer, mask: Any = None) -> Any:
    """Make the global step, or block, of what each process recorded of its own envs, to append to a buffer over a mesh.

    Every process calls it, and then the same functions of the global arrays that it returns.

    step: leaves `[E_p, ...]`, or a block `[L, E_p, ...]`, of the envs whose part of the buffer lies on this process's
        devices, in the order of the devices. Arrays of NumPy or of JAX; L is the same in every process.
    mask: `[E_p]`, or `[L, E_p]`, see `append`.

    Returns the step with leaves `[E, ...]` or `[L, E, ...]`, split over E as the buffer is; `(step, mask)` where a mask
    is given. Nothing is sent between processes. In a single process all envs are its own, and the step is laid over the
    mesh. For a buffer without `sharding` it comes back as it is, so that one loop serves both.

    Raises ValueError or TypeError where the step does not fit, and for traced arrays: call it outside jit.

    >>> import jax, jax.numpy as jnp, numpy as np, jaxreplay as replay
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> sharding = NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), P("data"))
    >>> buffer = replay.create({"x": jnp.float32(0)}, 8, num_envs=2, sharding=sharding)
    >>> buffer = replay.append(buffer, replay.local_step({"x": np.ones(2, np.float32)}, buffer))
    >>> replay.size(buffer).item()
    2
    """
    check_buffer("local_step", buffer)
    layout = buffer.rings.layout
    leaves = trees.check_structure("step", step, layout.treedef, layout.paths)
    first = trees.shape_dtype(layout.leaves[0].path, leaves[0])[0]
    envs = () if buffer.single else (envs_here(buffer),)
    block = len(first) > len(envs) + len(layout.leaves[0].shape)
    lead = (*first[:1], *envs) if block else envs
    hint = f"({'Of a block [L, E_p, ...]' if block else 'Of a step [E_p, ...]'}, this process has {envs_here(buffer)} "
    hint += f"of the {buffer.num_envs} envs.)"
    for leaf, value in zip(layout.leaves, leaves, strict=True):
        _check_own(leaf.path, value)
        trees.check_leaf(leaf.path, value, (*lead, *leaf.shape), leaf.dtype, hint)
    if mask is not None:
        _check_own("mask", mask)
        trees.check_leaf("mask", mask, lead, np.dtype(bool), hint)
    made = jax.tree.unflatten(layout.treedef, leaves), mask
    if is_sharded(buffer):
        made = over_mesh(buffer, made, 1 if block else 0)
    return made[0] if mask is None else made


def over_mesh(buffer: Buffer, tree: PyTree, axis: int) -> PyTree:
    """Make global arrays of what each process has of them, split along an axis as the buffer's envs are."""
    assert buffer.stack is not None
    assert buffer.stack.sharding is not None
    spec = PartitionSpec(*[None] * axis, buffer.stack.sharding.spec[0])
    sharding = NamedSharding(buffer.stack.sharding.mesh, spec)

    def laid(x: Any) -> jax.Array:
        if trees.is_key_dtype(x.dtype):
            return jax.random.wrap_key_data(laid(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        shape = (*x.shape[:axis], buffer.num_envs, *x.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map(laid, tree)


def envs_here(buffer: Buffer) -> int:
    """Count the envs whose part of a buffer lies on devices of this process: all of them in a single process."""
    stack = buffer.stack
    if stack is None or stack.sharding is None:
        return buffer.num_envs
    parts = NamedSharding(stack.sharding.mesh, PartitionSpec(stack.sharding.spec[0]))
    indices: Any = parts.addressable_devices_indices_map((stack.num_devices,)).values()
    found = {index[0].start for index in indices}
    return len(found) * stack.envs_per_device


def own_part(buffer: Buffer) -> Buffer:
    """Give what this process has of a buffer over the devices of several, as a buffer over its own: the same arrays.

    What is done to it needs no other process. The numbers of envs are those of the part.
    """
    stack = buffer.stack
    if stack is None or stack.sharding is None or not _is_elsewhere(buffer):
        return buffer
    mesh: Any = stack.sharding.mesh
    sharding = NamedSharding(mesh.local_mesh, PartitionSpec(stack.sharding.spec[0]))
    num_buffers = envs_here(buffer) // stack.num_envs
    part = jax.tree.map(lambda x: _of_shards(x, _times(x.shape, num_buffers, stack.num_buffers), sharding), buffer)
    return part.replace(stack=dataclasses.replace(stack, num_buffers=num_buffers, sharding=sharding))


def whole_of(part: Buffer, like: Buffer) -> Buffer:
    """Undo `own_part`, for a buffer like the one that the part is of."""
    if part.stack == like.stack:
        return part
    stack = like.stack
    assert stack is not None
    assert stack.sharding is not None
    assert part.stack is not None
    here = part.stack.num_buffers
    sharding = NamedSharding(stack.sharding.mesh, PartitionSpec(stack.sharding.spec[0]))
    whole = jax.tree.map(lambda x: _of_shards(x, _times(x.shape, stack.num_buffers, here), sharding), part)
    return whole.replace(stack=stack)


def _is_elsewhere(buffer: Buffer) -> bool:
    """Tell whether a part of a buffer lies with other processes."""
    return any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(buffer))


def _times(shape: tuple[int, ...], count: int, of: int) -> tuple[int, ...]:
    """Return the shape of an array of `count` buffers, given that of one of `of` buffers."""
    return (shape[0] // of * count, *shape[1:])


def _of_shards(x: jax.Array, shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """Make an array of the same data on the devices of this process, of another shape over another mesh."""
    return jax.make_array_from_single_device_arrays(shape, sharding, [shard.data for shard in x.addressable_shards])


def _check_own(path: str, value: Any) -> None:
    """Raise for arrays that cannot be made global: those under a trace, and those that are already."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{path}: local_step makes arrays, and got a traced value; call it outside jit")
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise ValueError(f"{path}: it is a global array already; append it as it is")
