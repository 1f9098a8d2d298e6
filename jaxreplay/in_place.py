"""A check that a compiled step writes to its buffers in place."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxreplay.buffer import Buffer
from jaxreplay.joining import apart, together


@dataclasses.dataclass(frozen=True)
class InPlace:
    """What the compiled step needs; true where it writes in place.

    temporary_bytes: temporary memory of the program.
    growth: by how much that memory grows when the buffers are made twice as large, as a part of what the rings grow by
        (or a sampler's state, if that is less): 0 in place, at least 1 where any is copied.
    returned_in_place: whether the memory of the buffers that came in is that of those that go out.
    donated: whether the step was given the buffers to write to: False only for a step that is jitted without it.
    """

    temporary_bytes: int
    growth: float
    returned_in_place: bool
    donated: bool = True

    def __bool__(self) -> bool:
        return self.growth < 0.01 and self.returned_in_place

    def __str__(self) -> str:
        if self:
            return f"in place: {self.temporary_bytes:,} bytes of temporary memory, whatever the capacity"
        lines = [f"not in place: {self.temporary_bytes:,} bytes of temporary memory"]
        if self.growth >= 0.01:
            lines.append(
                f"temporary memory grows by {self.growth:.2f} of what the buffer grows by: it is copied. "
                "Append before you sample, and write with a mask rather than in a branch (under vmap, lax.cond selects "
                "between whole rings)."
            )
        if not self.donated:
            lines.append(
                "a buffer is not donated, so every call copies it whole: jit the step with donate_argnums (or "
                "donate_argnames), naming the arguments that hold buffers."
            )
        elif not self.returned_in_place:
            lines.append("a buffer's memory is not reused: return the new buffer from the step.")
        return "\n".join(lines)


def check_in_place(step: Callable[..., Any], *args: Any) -> InPlace:
    """Compile `step(*args)`, and tell whether it writes to its buffers in place.

    step: a plain function, compiled here with its buffers donated; or one that is jitted already (by `jax`, `nnx`,
        Equinox), judged as you call it, with the donation it asks for itself. What a plain function writes to
        variables of a `flax.nnx` module counts as returned, as `nnx.jit` does; `jax.jit` loses it.
    args: they hold the buffers, anywhere, batched by vmap or not; ValueError where there is none. They may be
        `jax.ShapeDtypeStruct`. Nothing runs, and they are not consumed.

    Compiles twice, the second time with rings of twice the slots, since memory that grows with the ring is the sign of
    a copy.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"reward": jnp.float32(0)}, capacity=1000)
    >>> bool(replay.check_in_place(replay.append, buffer, {"reward": jnp.float32(1)}))
    True
    """
    if isinstance(step, functools.partial) and hasattr(step.func, "lower") and not step.keywords:
        step, args = step.func, (*step.args, *args)  # a jitted method holds its module in a partial function
    if not _buffers(args):
        raise ValueError("check_in_place: no argument holds a Buffer; pass it as an argument of the step")
    small = jax.tree.map(lambda x: _abstract(x) if hasattr(x, "shape") else x, args)
    large = jax.tree.map(lambda x: _double(x) if isinstance(x, Buffer) else x, small, is_leaf=_is_buffer)
    (temporary, reused, donated), (later, reused_later, _) = _compile(step, small), _compile(step, large)
    sizes, larger = _part_bytes(small), _part_bytes(large)
    grown = [b - a for a, b in zip(sizes, larger, strict=True)]
    needed = sum(sizes)
    return InPlace(
        temporary_bytes=temporary,
        growth=max(later - temporary, 0) / min(size for size in grown if size),
        returned_in_place=reused >= needed and reused_later - reused >= sum(grown),
        donated=donated >= sum(_part_bytes(small, whole=True)),
    )


def _compile(step: Callable[..., Any], args: tuple[Any, ...]) -> tuple[int, int, int]:
    """Count a compiled program's bytes: temporary ones, those that outputs share with arguments, and donated ones."""
    if not hasattr(step, "lower"):
        donated = tuple(i for i, arg in enumerate(args) if _buffers(arg))
        step = jax.jit(_with_what_is_written(step), donate_argnums=donated)
    with warnings.catch_warnings():  # JAX's own words on a donation that is of no use: the report says it
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        lowered = _lower(step, args)
        compiled = lowered.compile()
        # flax and Equinox wrap what JAX gives
        lowered, compiled = getattr(lowered, "lowered", lowered), getattr(compiled, "compiled", compiled)
        analysis = compiled.memory_analysis()
    if analysis is None:
        raise NotImplementedError("this backend does not tell the memory of a compiled program")
    inputs = [x for x in jax.tree.leaves(lowered.args_info) if getattr(x, "donated", False)]
    donated_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in inputs)
    return int(analysis.temp_size_in_bytes), int(analysis.alias_size_in_bytes), donated_bytes


def _lower(step: Any, args: tuple[Any, ...]) -> Any:
    """Lower a jitted step. Equinox tells arrays from settings by their type, so it gets tracers in place of shapes."""
    if not type(step).__module__.startswith("equinox."):
        return step.lower(*args)
    leaves, treedef = jax.tree.flatten(args)
    lowered = []

    def trace(arrays: dict[int, jax.Array]) -> None:
        lowered.append(step.lower(*jax.tree.unflatten(treedef, [arrays.get(i, x) for i, x in enumerate(leaves)])))

    jax.eval_shape(trace, {i: x for i, x in enumerate(leaves) if isinstance(x, jax.ShapeDtypeStruct)})
    return lowered[0]


def _with_what_is_written(step: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that returns as well what a step wrote to variables in its arguments, each array once."""

    def pure(*args: Any) -> Any:
        known = {id(x) for x in jax.tree.leaves(args)}
        out = step(*args)
        returned = {id(x) for x in jax.tree.leaves(out)}
        written = [jax.tree.leaves(x) for x in jax.tree.leaves(args, is_leaf=_is_variable) if _is_variable(x)]
        written = [leaves for leaves in written if any(id(x) not in known for x in leaves)]
        return out, [x for leaves in written for x in leaves if id(x) not in returned]

    return pure


def _is_variable(x: Any) -> bool:
    """Tell whether it is a variable of flax.nnx by what it can do: flax.nnx is not imported."""
    return hasattr(x, "get_value") and hasattr(x, "set_value")


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    """Describe an array; one over a mesh with how it lies there."""
    sharding = getattr(x, "sharding", None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding if isinstance(sharding, NamedSharding) else None)


def _is_buffer(x: Any) -> bool:
    return isinstance(x, Buffer)


def _buffers(tree: Any) -> list[Buffer]:
    return [x for x in jax.tree.leaves(tree, is_leaf=_is_buffer) if _is_buffer(x)]


def _part_bytes(tree: Any, whole: bool = False) -> list[int]:
    """Count what the rings of each buffer take on a device, or as a whole, and what its sampler's state takes."""
    parts = []
    for buffer in _buffers(tree):
        devices = 1 if whole or buffer.stack is None else buffer.stack.num_devices
        parts += [(buffer.rings.arrays, devices), (buffer.sampler_state, devices)]
    return [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part)) // devices for part, devices in parts]


def _double(buffer: Buffer) -> Buffer:
    """Give an abstract buffer twice the slots and records; their axis follows those of vmap."""
    stack, buffer = buffer.stack, apart(buffer)
    rings, lead = buffer.rings, buffer.rings.clock.time.shape
    slots, num_envs = rings.memory.sizes(rings.arrays)[len(lead) :]
    memory, axis = rings.memory.resized(2 * slots, 2 * rings.num_records), len(lead)
    made = lambda: (memory.allocate(rings.layout, 2 * slots, num_envs), buffer.sampler.init(2 * slots, num_envs))  # noqa: E731
    shape = lambda x, shape: jax.ShapeDtypeStruct(shape, x.dtype, sharding=buffer.rings.clock.time.sharding)  # noqa: E731
    arrays, state = jax.tree.map(lambda x: shape(x, (*lead, *x.shape)), jax.eval_shape(made))
    longer = lambda x: (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])  # noqa: E731
    data = jax.tree.map(lambda x: shape(x, longer(x)), rings.episode_data)
    rings = rings.replace(arrays=arrays, memory=memory, episode_data=data)
    return together(buffer.replace(rings=rings, sampler_state=state), stack)
