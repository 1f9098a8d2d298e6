"""Buffers that are made of several: how functions of one buffer become functions of a stack, and of a mesh's parts.

A stack is A buffers with a leading axis in front of every array. Its envs count over all of them: env `e` is env
`e % E` of buffer `e // E`. Over a mesh the axis is split, so that each device has a stack of its own, or one buffer.
Where each has one because only `sharding` was asked for, their arrays are joined instead; see `joining`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreplay._core.layout import from_bits, to_bits
from jaxreplay._core.memory import Memory
from jaxreplay._core.rings import MAX_INDEX
from jaxreplay.joining import join_part, part_of
from jaxreplay.samplers import Sampler
from jaxreplay.state import Buffer, Stack
from jaxreplay.types import PyTree, Rows, SourceRows

KEY = "key"  # an argument that is a key: every device draws with one of its own
BUFFER = "buffer"  # a result that is a buffer


def on_parts(
    function: Callable[..., Any], whole: PyTree, args: Sequence[Any], axes: Sequence[Any], out: Any, each: bool = False
) -> Any:
    """Call `function(part, *args)` on what each device has of a stack, or of a source made of stacks.

    axes: for each argument which axis is split as the envs are, None for an argument that all get whole, or `KEY`.
    out: a tuple of the same for the results, or one; `BUFFER` for a buffer. each: call the function on each buffer of a
    part rather than on the part. The numbers of envs in rows are those of the whole outside, and of the part inside.
    """
    run = functools.partial(_on_each, function, axes=axes, out=out) if each else function
    stack = stack_of(whole)
    assert stack is not None
    if stack.sharding is None:
        return _restacked(run(_parts(whole), *args), stack)
    names, mesh = stack.sharding.spec[0], stack.sharding.mesh
    sizes = [x.stack.envs_per_device for x in _buffers(whole)]
    in_specs = tuple(_spec(axis, names) for axis in axes)

    def on_device(whole: PyTree, *args: Any) -> Any:
        device, parts = lax.axis_index(names), _parts(whole)
        args = tuple(
            _own_key(arg, device) if axis == KEY else _to_own_envs(arg, device, sizes)
            for arg, axis in zip(args, axes, strict=True)
        )
        return _restacked(_to_all_envs(run(parts, *args), device, sizes), stack)

    placed = [_laid(arg, spec, mesh) for arg, spec in zip(args, in_specs, strict=True)]
    out_specs = tuple(_spec(axis, names) for axis in out) if isinstance(out, tuple) else _spec(out, names)
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=(PartitionSpec(names), *in_specs), out_specs=out_specs)
    return _marked(mapped(whole, *placed), out)


def make_stack(make: Callable[[], Buffer], stack: Stack) -> Buffer:
    """Allocate a stack of empty buffers such as `make` gives, on each device its part alone."""

    def part() -> Buffer:
        count, one = stack.num_buffers // stack.num_devices, make()
        if stack.joined:
            return join_part(one, stack)
        return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), one).replace(stack=stack)

    _check_reads_stacks(jax.eval_shape(make), stack)
    if stack.sharding is None:
        return jax.jit(part)()
    spec = PartitionSpec(stack.sharding.spec[0])
    return jax.jit(jax.shard_map(part, mesh=stack.sharding.mesh, in_specs=(), out_specs=spec))()


def sampler_for(sampler: Any, memory: Memory, num_slots: int, stack: Stack | None) -> Sampler:
    """Return a sampler as it is for buffers that lie so, and are read one by one or as one."""
    made_for: Any = getattr(sampler, "made_for", None)
    if made_for is None:
        return sampler
    return made_for(memory, num_slots, True) if is_read_as_one(stack) else made_for(memory, num_slots)


def _check_reads_stacks(one: Buffer, stack: Stack) -> None:
    """Raise where a stack of several buffers on one device cannot be: its sampler reads one, or numbers end."""
    count = stack.num_buffers // stack.num_devices
    if not is_read_as_one(stack):
        return
    if not hasattr(one.sampler, "on_write_member"):
        raise TypeError(
            f"num_buffers: {one.sampler} draws from a single buffer; a sampler of a stack has `on_write_member`, and "
            "reads a state with an axis of buffers"
        )
    rows = count * (one.rings.num_slots + 1 + one.rings.num_records) * one.rings.num_envs
    if rows > MAX_INDEX:
        raise ValueError(f"capacity: {rows} rows on a device, those of episodes included, do not fit in 31-bit indices")


def stack_of(whole: PyTree) -> Stack | None:
    """Return how the buffers in a pytree are stacked, None if they are not. Raises ValueError where they differ."""
    stacks = [x.stack for x in _buffers(whole)]
    shardings = {stack.sharding if stack is not None else None for stack in stacks}
    if len(shardings) > 1:
        raise ValueError(
            f"the buffers of one source must lie on one mesh, got {', '.join(map(str, shardings))}; "
            "create them with the same sharding"
        )
    sharded = [stack for stack in stacks if stack is not None and stack.sharding is not None]
    return sharded[0] if sharded else stacks[0] if len(stacks) == 1 else None


def is_read_as_one(stack: Stack | None) -> bool:
    """Tell whether the buffers on a device are a stack, if only of one, which is read as one."""
    return stack is not None and (stack.sharding is None or stack.num_buffers > stack.num_devices)


def is_sharded(whole: PyTree) -> bool:
    """Tell whether the buffers in a pytree are split over a mesh."""
    stack = stack_of(whole)
    return stack is not None and stack.sharding is not None


def num_parts(whole: PyTree) -> int:
    """Count the devices that buffers are split over."""
    stack = stack_of(whole)
    return 1 if stack is None else stack.num_devices


def rows_axis(whole: PyTree, rows: Rows | SourceRows) -> int | None:
    """Return the axis along which rows lie with the devices that they are of, None where that is not known."""
    return rows.time.ndim + rows.axis if rows.axis is not None and is_sharded(whole) else None


def check_divides(name: str, count: int, whole: PyTree) -> int:
    """Return what each device has of a count, or raise ValueError naming the nearest counts that can be parted."""
    devices = num_parts(whole)
    if count % devices:
        raise ValueError(
            f"{name}: {count} is not a multiple of the {devices} devices that the buffer is split over; the nearest "
            f"that are: {nearest(count, devices)}"
        )
    return count // devices


def nearest(count: int, of: int) -> str:
    """Name the multiples of a number that are nearest to a count."""
    below, above = count // of * of, -(-count // of) * of
    return f"{below} or {above}" if below else str(above)


def lay_envs(buffer: Buffer, tree: PyTree) -> PyTree:
    """Lay arrays `[E, ...]` in a program as a buffer's envs lie, so that each device computes for its own."""
    if not is_sharded(buffer):
        return tree
    assert buffer.stack is not None
    assert buffer.stack.sharding is not None
    sharding = buffer.stack.sharding
    to = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    lay = jax.sharding.reshard if AxisType.Explicit in sharding.mesh.axis_types else lax.with_sharding_constraint
    return jax.tree.map(lambda x: lay(x, to), tree)


def refuse_stack(what: str, whole: PyTree, way_out: str) -> None:
    """Raise TypeError for what only a single buffer can do."""
    for buffer in _buffers(whole):
        if buffer.stack is not None:
            kind = "split over a mesh" if buffer.stack.sharding is not None else "a stack of buffers"
            raise TypeError(f"{what}: not for a buffer that is {kind}; {way_out}")


def gathered(whole: PyTree, x: PyTree) -> PyTree:
    """Have all of an array on every device, where a mesh's axes ask for that to be said; else the compiler decides."""
    stack = stack_of(whole)
    assert stack is not None
    assert stack.sharding is not None
    return _laid(x, PartitionSpec(), stack.sharding.mesh)


def from_owner(whole: PyTree, rows: Rows | SourceRows, each: PyTree) -> PyTree:
    """Take what rows `[...]` are from the devices that hold them, of what each device gave, `[n, ..., *shape]`."""
    size = _size_of(rows, [x.stack.envs_per_device for x in _buffers(whole)])
    owner = gathered(whole, jnp.clip(rows.env // size, 0, num_parts(whole) - 1))
    index = jnp.indices(owner.shape, jnp.int32, sparse=True)
    bits = gathered(whole, jax.tree.map(to_bits, each))  # which the compiler may add up with zeros to move them
    return jax.tree.map(lambda x, like: from_bits(x[(owner, *index)], like.dtype), bits, each)


def _on_each(function: Callable[..., Any], part: Buffer, *args: Any, axes: Sequence[Any], out: Any) -> Any:
    """Call a function on every buffer of a part."""
    stack = part.stack
    if stack is None:
        return function(part, *args)
    count, envs = part.rings.envs.number.shape
    plain = part.replace(stack=None)

    def split(arg: Any, axis: Any) -> Any:
        if axis is None or axis == KEY:
            return arg
        return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], count, envs, *x.shape[axis + 1 :]), arg)

    def one(buffer: Buffer, member: jax.Array, *args: Any) -> Any:
        return _to_all_envs(function(buffer, *(_to_own_envs(arg, member, [envs]) for arg in args)), member, [envs])

    outs = out if isinstance(out, tuple) else (out,)
    mapped = jax.vmap(
        one,
        in_axes=(0, 0, *(None if axis == KEY else axis for axis in axes)),
        out_axes=tuple(0 if axis == BUFFER else axis for axis in outs) if isinstance(out, tuple) else _axis(out),
    )
    results = mapped(plain, jnp.arange(count, dtype=jnp.int32), *map(split, args, axes))
    merged = [
        x if axis == BUFFER else jax.tree.map(lambda x: lax.collapse(x, axis, axis + 2), x)  # noqa: B023
        for x, axis in zip(results if isinstance(out, tuple) else (results,), outs, strict=True)
    ]
    return tuple(merged) if isinstance(out, tuple) else merged[0]


def _parts(whole: PyTree) -> PyTree:
    """Give what a device has of every buffer: one buffer as it is, several as a stack of their own."""

    def part(x: Any) -> Any:
        if not _is_buffer(x) or x.stack is None:
            return x
        if x.stack.joined:
            return part_of(x)
        count = x.rings.envs.number.shape[0]
        if count == 1:
            return jax.tree.map(lambda x: x[0], x).replace(stack=None)
        return x.replace(stack=x.stack.part(count))

    return jax.tree.map(part, whole, is_leaf=_is_buffer)


def _restacked(out: Any, stack: Stack) -> Any:
    """Undo `_parts` for the buffers in a result."""

    def restack(x: Any) -> Any:
        if not _is_buffer(x):
            return x
        if stack.joined:
            return join_part(x, stack)
        if x.rings.envs.number.ndim == 1:
            x = jax.tree.map(lambda x: x[None], x)
        return x.replace(stack=stack)

    return jax.tree.map(restack, out, is_leaf=_is_buffer)


def _own_key(key: jax.Array | None, device: jax.Array) -> jax.Array | None:
    """Return the key that a device draws with."""
    return None if key is None else jax.random.fold_in(key, device)


def _to_own_envs(tree: PyTree, part: jax.Array, sizes: list[int]) -> PyTree:
    """Number the envs of rows within a part, which has so many of each source; those of other parts are none."""

    def shift(x: Any) -> Any:
        if not _is_rows(x):
            return x
        size = _size_of(x, sizes)
        env = x.env - part * size
        return x.replace(env=jnp.where((env >= 0) & (env < size), env, -1))

    return jax.tree.map(shift, tree, is_leaf=_is_rows)


def _to_all_envs(tree: PyTree, part: jax.Array, sizes: list[int]) -> PyTree:
    """Undo `_to_own_envs`."""

    def shift(x: Any) -> Any:
        return x.replace(env=jnp.where(x.env >= 0, x.env + part * _size_of(x, sizes), -1)) if _is_rows(x) else x

    return jax.tree.map(shift, tree, is_leaf=_is_rows)


def _size_of(rows: Rows | SourceRows, sizes: list[int]) -> Any:
    """Return how many envs a part has of the buffer that each row is of."""
    if isinstance(rows, Rows) or len(sizes) == 1:
        return sizes[0]
    return jnp.asarray(sizes, jnp.int32).at[rows.source].get(mode="clip")


def _marked(out: Any, axes: Any) -> Any:
    """Say of rows in results that they lie with the devices they are of."""

    def mark(x: Any, axis: Any) -> Any:
        return x.replace(axis=axis - x.time.ndim) if _is_rows(x) and isinstance(axis, int) else x

    if not isinstance(axes, tuple):
        out, axes = (out,), (axes,)
        return jax.tree.map(lambda x: mark(x, axes[0]), out, is_leaf=_is_rows)[0]
    return tuple(jax.tree.map(lambda x: mark(x, axis), x, is_leaf=_is_rows) for x, axis in zip(out, axes))  # noqa: B023


def _laid(arg: Any, spec: PartitionSpec, mesh: Any) -> Any:
    """Lay an argument over a mesh as a spec says, where the types of its axes ask for that to be said."""
    if AxisType.Explicit not in mesh.axis_types:
        return arg
    return jax.tree.map(lambda x: jax.sharding.reshard(jnp.asarray(x), NamedSharding(mesh, spec)), arg)


def _spec(axis: Any, names: Any) -> PartitionSpec:
    if axis is None or axis == KEY:
        return PartitionSpec()
    return PartitionSpec(*[None] * _axis(axis), names)


def _axis(axis: Any) -> int:
    return 0 if axis == BUFFER else axis


def _buffers(tree: PyTree) -> list[Any]:
    return [x for x in jax.tree.leaves(tree, is_leaf=_is_buffer) if _is_buffer(x)]


def _is_buffer(x: Any) -> bool:
    return isinstance(x, Buffer)


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows | SourceRows)
