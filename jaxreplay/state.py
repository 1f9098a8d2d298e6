"""The buffer as a pytree, how it shows itself, and the check that what a function was given is one."""

from typing import Any

from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.rings import Rings
from jaxreplay._display.arrays import show
from jaxreplay._display.buffers import buffer_panel, sizes_of
from jaxreplay.ends import EpisodeEnd
from jaxreplay.samplers import Sampler
from jaxreplay.types import PyTree


class Buffer(struct.PyTreeNode):
    """An immutable replay buffer, made by `create`; a pytree, so it passes through jit, scan, vmap and grad as it is.

    rings: the stored steps and episodes. sampler_state: what the sampler keeps.
    """

    rings: Rings
    sampler_state: PyTree
    sampler: Sampler = struct.field(pytree_node=False)
    episode_end: EpisodeEnd | None = struct.field(pytree_node=False)
    single: bool = struct.field(pytree_node=False)

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
    found = sizes_of(buffer.rings)
    if found is None:
        return {}
    *batch, num_slots, num_envs = found
    sizes = {"capacity": num_slots * num_envs, "num_envs": None if buffer.single else num_envs}
    if buffer.rings.num_records:
        sizes["max_episodes"] = buffer.rings.num_records * num_envs
    return {"batch": tuple(batch), **sizes} if batch else sizes


def _name(episode_end: EpisodeEnd | None) -> Any:
    """Name a function by its name: its address would change with every run."""
    return getattr(episode_end, "__qualname__", episode_end) if callable(episode_end) else episode_end


def check_buffer(what: str, came: Any) -> None:
    """Raise TypeError unless what a function was given is a buffer, and ValueError for a batch of buffers."""
    if not isinstance(came, Buffer):
        hint = way_out(came) or "; replay.create makes one"
        raise TypeError(f"{what}: expected a Buffer, got {type(came).__name__}{hint}")
    _ = came.rings.num_envs


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
