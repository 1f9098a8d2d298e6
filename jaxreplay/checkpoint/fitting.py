"""What was saved, and where it is to be: the same, or buffers of another capacity, or that lie in another way."""

import pathlib
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxreplay import resizing
from jaxreplay._core import trees
from jaxreplay._core.memory import make_memory
from jaxreplay._core.records import make_data
from jaxreplay._core.rings import make_rings
from jaxreplay.checkpoint import facts
from jaxreplay.checkpoint.manifest import Manifest
from jaxreplay.checkpoint.pieces import committed_sharding
from jaxreplay.datasets.files.opening import naming
from jaxreplay.joining import together
from jaxreplay.restacking import restack, stack_of_devices
from jaxreplay.stacks import sampler_for
from jaxreplay.state import Buffer
from jaxreplay.types import PyTree

WAY_OUT = "Make what it is loaded to as that which was saved was made"


def as_saved(path: pathlib.Path, saved: Manifest, like: PyTree) -> PyTree:
    """Return `like` with the sizes that were saved, as shapes where they differ; raise ValueError naming the rest."""
    buffers = facts.buffers_of(like)
    here = {name: facts.describe_buffer(buffer) for name, buffer in buffers.items()}
    differences, resized = facts.compare_buffers(saved.buffers, here)
    if not differences:
        if resized:
            like = facts.map_buffers(lambda name, buffer: _of_sizes(path, saved, name, buffer), like)
        described = [(name, facts.describe_leaf(leaf)) for name, leaf in trees.paths(like)]
        differences = facts.compare_leaves([(leaf.path, leaf.kind) for leaf in saved.leaves], described)
    if differences:
        raise ValueError(f"{path}: what was saved does not fit: {'; '.join(differences)}. {WAY_OUT}")
    return like


def _of_sizes(path: pathlib.Path, saved: Manifest, name: str, like: Buffer) -> Buffer:
    """Describe a buffer like this one, with the sizes of that which was saved."""
    options, mine = saved.buffers[name]["options"], facts.describe_buffer(like)["options"]
    if all(options.get(size) == mine[size] for size in facts.SIZES):
        return like
    num_envs, sizes = mine["num_envs"], []
    for size in ("capacity", "max_episodes"):
        count = options.get(size)
        if type(count) is not int or count < 0 or count % num_envs:
            raise ValueError(f"{path}: {name}: {size}: expected a multiple of {num_envs}, got {count!r}")
        sizes.append(count // num_envs)
    platform = {"Plain": "cpu", "Tiled": "tpu"}.get(str(options.get("platform's layout")))
    num_slots, num_records = sizes
    devices = options.get("devices")
    if devices is not None and (type(devices) is not int or devices < 1 or num_envs % devices):
        raise ValueError(f"{path}: {name}: devices: expected a number that divides {num_envs}, got {devices!r}")
    own_clocks = like.stack is not None and like.stack.own_clocks
    stack = like.stack if own_clocks else stack_of_devices(devices, num_envs)
    lead = () if stack is None else (stack.num_buffers,)
    num_envs //= 1 if stack is None else stack.num_buffers
    layout = like.rings.layout
    if platform is None or not num_slots or bool(num_records) != bool(like.rings.num_records):
        raise ValueError(f"{path}: {name}: expected sizes of a buffer, got {options}")

    def make() -> Buffer:
        memory = make_memory(platform, layout, num_slots, num_envs, num_records)
        kept = like.episode_data
        data = None if kept is None else make_data(kept.layout.one_step(), num_records, num_envs)
        sampler = sampler_for(like.sampler, memory, num_slots, stack if own_clocks else None)
        rings = make_rings(layout, num_slots, num_envs, memory, data)
        state = sampler.init(num_slots, num_envs)
        return like.replace(rings=rings, sampler_state=state, sampler=sampler, stack=None)

    time = like.rings.clock.time
    batch = (*time.shape[: time.ndim - (like.stack is not None)], *lead)
    where = _automatic(committed_sharding(time))  # which has the axes of the batch alone
    if like.stack is not None and where is not None and (not lead or lead[0] % like.stack.num_devices):
        where = None  # it cannot be split over these devices as it was saved
    shape = lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype, sharding=where)  # noqa: E731
    with naming(f"{path}: {name}"):
        return together(jax.tree.map(shape, jax.eval_shape(make)), stack)


def fit(read: PyTree, like: PyTree) -> PyTree:
    """Copy buffers that were read in other sizes to those of `like`."""

    def one(buffer: Any, mine: Any) -> Any:
        if not facts.is_buffer(mine) or (_shapes(buffer) == _shapes(mine)):
            return buffer
        if _count(buffer) != _count(mine):
            buffer = restack(buffer, mine)
        return jax.tree.map(_put_like, resizing.resize_like(buffer, mine), mine)

    return jax.tree.map(one, read, like, is_leaf=facts.is_buffer)


def _count(buffer: Buffer) -> int | None:
    """Count the buffers of a stack; None if it is none."""
    return None if buffer.stack is None else buffer.stack.num_buffers


def _automatic(where: Any) -> Any:
    """Give the same places on a mesh that leaves it to the compiler how arrays lie while they are copied."""
    if not isinstance(where, NamedSharding):
        return where
    mesh: Any = where.mesh
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), where.spec)


def _shapes(buffer: Buffer) -> Any:
    return jax.tree.structure(buffer), [x.shape for x in jax.tree.leaves(buffer)]


def _put_like(array: jax.Array, like: Any) -> jax.Array:
    where = committed_sharding(like)
    return array if where is None else jax.device_put(array, where)
