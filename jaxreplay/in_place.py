"""A check that a compiled step writes to its buffers in place."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax

from jaxreplay.buffer import Buffer


@dataclasses.dataclass(frozen=True)
class InPlace:
    """What the compiled step needs; true where it writes in place.

    temporary_bytes: temporary memory of the program.
    growth: by how much that memory grows when the buffers are made twice as large, as a part of what the rings grow by
        (or a sampler's state, if that is less): 0 in place, at least 1 where any is copied.
    returned_in_place: whether the memory of the buffers that came in is that of those that go out.
    """

    temporary_bytes: int
    growth: float
    returned_in_place: bool

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
        if not self.returned_in_place:
            lines.append("a buffer's memory is not reused: return the new buffer from the step.")
        return "\n".join(lines)


def check_in_place(step: Callable[..., Any], *args: Any) -> InPlace:
    """Compile `step(*args)` with its buffers donated, and tell whether it writes to them in place.

    Nothing runs, and `args` are not consumed; they may be `jax.ShapeDtypeStruct`. Compiles twice, the second time with
    rings of twice the slots, since memory that grows with the ring is the sign of a copy. Buffers are
    arguments, anywhere in `args`, batched by vmap or not; ValueError where there is none.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"reward": jnp.float32(0)}, capacity=1000)
    >>> bool(replay.check_in_place(replay.append, buffer, {"reward": jnp.float32(1)}))
    True
    """
    donated = tuple(i for i, arg in enumerate(args) if _buffers(arg))
    if not donated:
        raise ValueError("check_in_place: no argument holds a Buffer; pass it as an argument of the step")
    small = jax.tree.map(_abstract, args)
    large = jax.tree.map(_double, small, is_leaf=_is_buffer)
    (temporary, returned), (more, _) = (_memory(step, a, donated) for a in (small, large))
    parts = [_part_bytes(buffer) for buffer in _buffers(small)]
    grown = [b - a for old, new in zip(parts, map(_part_bytes, _buffers(large))) for a, b in zip(old, new)]
    growth = max(more - temporary, 0) / min(size for size in grown if size)
    return InPlace(temporary, growth, returned >= sum(map(sum, parts)))


def _memory(step: Callable[..., Any], args: Any, donated: tuple[int, ...]) -> tuple[int, int]:
    """The temporary and the reused bytes of the compiled program."""
    wrapped = lambda *args: step(*args)  # noqa: E731  (donation is asked for here, whatever the caller's jit asked)
    with warnings.catch_warnings():  # JAX's own words on a donation that is of no use: the report says it
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        analysis = jax.jit(wrapped, donate_argnums=donated).lower(*args).compile().memory_analysis()
    if analysis is None:
        raise NotImplementedError("this backend does not tell the memory of a compiled program")
    return int(analysis.temp_size_in_bytes), int(analysis.alias_size_in_bytes)


def _is_buffer(x: Any) -> bool:
    return isinstance(x, Buffer)


def _buffers(tree: Any) -> list[Buffer]:
    return [x for x in jax.tree.leaves(tree, is_leaf=_is_buffer) if _is_buffer(x)]


def _part_bytes(buffer: Buffer) -> tuple[int, int]:
    """What the rings take, and the sampler's state."""
    rings, state = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part)) for part in _parts(buffer))
    return rings, state


def _parts(buffer: Buffer) -> tuple[Any, Any]:
    return buffer.rings.arrays, buffer.sampler_state


def _abstract(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x


def _double(x: Any) -> Any:
    """Give an abstract buffer twice the slots; the axis of slots follows those of vmap."""
    if not _is_buffer(x):
        return x
    lead = x.rings.clock.time.shape
    batch = len(lead)
    all_slots, num_envs, _ = x.rings.arrays[0].shape[batch:]
    slots = all_slots - 1 - x.rings.num_records

    def grow(leaf: Any, more: int) -> Any:
        return jax.ShapeDtypeStruct(
            (*leaf.shape[:batch], leaf.shape[batch] + more, *leaf.shape[batch + 1 :]), leaf.dtype
        )

    state = jax.eval_shape(lambda: x.sampler.init(2 * slots, num_envs))
    return x.replace(
        rings=x.rings.replace(arrays=tuple(grow(a, slots) for a in x.rings.arrays)),
        sampler_state=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), state),
    )
