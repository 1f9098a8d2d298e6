"""The buffer as a pytree, how it shows itself, and the check that what a function was given is one."""

import dataclasses
import math
from typing import Any

from flax import struct
from jax.sharding import NamedSharding

from jaxreplay._core import trees
from jaxreplay._core.rings import Rings, as_one
from jaxreplay._display.arrays import show
from jaxreplay._display.buffers import buffer_panel, sizes_of
from jaxreplay.ends import EpisodeEnd
from jaxreplay.samplers import Sampler
from jaxreplay.types import PyTree


@dataclasses.dataclass(frozen=True)
class Stack:
    """How a buffer is made of several; see `num_buffers` and `sharding` of `create`.

    num_buffers: A, over all devices. num_envs: E of each. single: each is a single stream, whose blocks have no env
    axis. sharding: over which axes of a mesh they are split, if they are. own_clocks: they may be written one by one.
    """

    num_buffers: int
    num_envs: int
    single: bool
    sharding: NamedSharding | None = None
    own_clocks: bool = True

    @property
    def num_devices(self) -> int:
        """How many devices they are split over."""
        if self.sharding is None:
            return 1
        names, shape = self.sharding.spec[0], self.sharding.mesh.shape
        return math.prod(shape[name] for name in (names if isinstance(names, tuple) else (names,)))

    @property
    def joined(self) -> bool:
        """Whether they lie one a device, their arrays joined along the first axis, not stacked; see `joining`."""
        return not self.own_clocks

    @property
    def envs_per_device(self) -> int:
        return self.num_buffers * self.num_envs // self.num_devices

    def part(self, num_buffers: int) -> "Stack":
        """Return how some of them lie together on one device."""
        return dataclasses.replace(self, num_buffers=num_buffers, sharding=None)


class Buffer(struct.PyTreeNode):
    """An immutable replay buffer, made by `create`; a pytree, so it passes through jit, scan, vmap and grad as it is.

    rings: the stored steps and episodes. sampler_state: what the sampler keeps. stack: how it is made of several.
    """

    rings: Rings
    sampler_state: PyTree
    sampler: Sampler = struct.field(pytree_node=False)
    episode_end: EpisodeEnd | None = struct.field(pytree_node=False)
    single: bool = struct.field(pytree_node=False)
    stack: Stack | None = struct.field(pytree_node=False, default=None)

    @property
    def num_envs(self) -> int:
        """E, over all buffers of a stack. Raises ValueError for a batch of buffers, which only vmap can take apart."""
        shape = self.rings.envs.number.shape
        if batch := shape[: len(shape) - (1 if self.stack is None or self.stack.joined else 2)]:
            raise ValueError(f"a batch of buffers {batch} came where one is expected; use jax.vmap over them")
        return math.prod(shape)

    @property
    def num_slots(self) -> int:
        """T, of each buffer of a stack."""
        return self.sizes[2]

    @property
    def sizes(self) -> tuple[tuple[int, ...], int, int, int]:
        """The axes of a batch of buffers, how many buffers each is made of, and T and E of one of those."""
        rings, stack = self.rings, self.stack
        if stack is not None and stack.joined:
            *batch, num_slots, num_envs = rings.memory.sizes(rings.arrays, stack.num_buffers)
            return tuple(batch), stack.num_buffers, num_slots, num_envs
        *batch, num_slots, num_envs = rings.memory.sizes(rings.arrays)
        count = batch.pop() if stack is not None and batch else 1
        return tuple(batch), count, num_slots, num_envs

    @property
    def as_one(self) -> Rings:
        """The rings to read from: those of a stack as if they were one buffer's."""
        return self.rings if self.stack is None else as_one(self.rings)

    @property
    def episode_data(self) -> PyTree:
        """The user's data for each recorded episode, `EpisodeData`, or None."""
        return self.rings.episode_data

    def __repr__(self) -> str:
        """Say what it is made for, without reading any array: also of a donated, traced or abstract buffer."""
        rings = self.rings
        if not isinstance(rings, Rings):  # JAX puts other things in the place of the parts of a pytree
            return f"Buffer({rings!r})"
        leaves = ", ".join(f"{x.path}: {trees.describe(x.shape, x.dtype)}" for x in rings.layout.leaves)
        shown = {**_sizes(self), "sampler": self.sampler, "episode_end": _name(self.episode_end)}
        return f"Buffer({', '.join(f'{name}={value}' for name, value in shown.items())}, leaves={{{leaves}}})"

    def _repr_html_(self) -> str:
        """Show in a notebook how full it is, of what; it reads a few numbers an env, and no ring."""
        return show(lambda: buffer_panel(self), "Buffer")


def _sizes(buffer: Buffer) -> dict[str, Any]:
    """Read sizes off the shapes of the arrays: those of each buffer, if they are a batch."""
    found = sizes_of(buffer)
    if found is None:
        return {}
    batch, num_buffers, num_slots, num_envs = found
    if buffer.stack is not None:
        return {**_stack_sizes(buffer, num_buffers, num_slots), **({"batch": batch} if batch else {})}
    sizes = {"capacity": num_slots * num_envs, "num_envs": None if buffer.single else num_envs}
    if buffer.rings.num_records:
        sizes["max_episodes"] = buffer.rings.num_records * num_envs
    return {"batch": batch, **sizes} if batch else sizes


def _stack_sizes(buffer: Buffer, num_buffers: int, num_slots: int) -> dict[str, Any]:
    assert buffer.stack is not None
    num_envs = num_buffers * buffer.stack.num_envs
    sizes: dict[str, Any] = {"capacity": num_slots * num_envs, "num_envs": num_envs}
    if buffer.stack.own_clocks:
        sizes["num_buffers"] = num_buffers
    if buffer.rings.num_records:
        sizes["max_episodes"] = buffer.rings.num_records * num_envs
    if buffer.stack.sharding is not None:
        sizes["sharding"] = f"{buffer.stack.sharding.spec} over {dict(buffer.stack.sharding.mesh.shape)}"
    return sizes


def _name(episode_end: EpisodeEnd | None) -> Any:
    """Name a function by its name: its address would change with every run."""
    return getattr(episode_end, "__qualname__", episode_end) if callable(episode_end) else episode_end


def check_buffer(what: str, came: Any) -> None:
    """Raise TypeError unless what a function was given is a buffer, and ValueError for a batch of buffers."""
    if not isinstance(came, Buffer):
        hint = way_out(came) or "; replay.create makes one"
        raise TypeError(f"{what}: expected a Buffer, got {type(came).__name__}{hint}")
    _ = came.num_envs


def way_out(came: Any) -> str:
    """Say how to come from what is no buffer to the one in it, if that is known."""
    for name in ("get_value", "value"):  # a variable of flax.nnx, which is told by what it can do
        held = getattr(came, name, None)
        if isinstance(held() if name == "get_value" and callable(held) else held, Buffer):
            call = f"{name}()" if callable(held) else name
            return f"; it holds one: pass variable.{call}, and put back what is returned, as variable.set_value(buffer)"
    if isinstance(getattr(came, "sources", None), tuple):
        return "; pass one of the buffers that it was made of; of a batch, batch.rows.of(i) are the rows of buffer i"
    if isinstance(getattr(came, "buffer", None), Buffer):
        return "; pass the buffer that it was made of, or that it holds: .buffer"
    if isinstance(came, tuple) and any(isinstance(part, Buffer) for part in came):
        return "; unpack it, as buffer, batch = replay.pop(buffer, n)"
    return ""
