"""A buffer copied into a larger or a smaller one: `resize`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup, resizing, trees
from jaxreplay._core.memory import Memory
from jaxreplay.buffer import default_records, slots_of
from jaxreplay.joining import apart, together
from jaxreplay.samplers import Sampler
from jaxreplay.stacks import BUFFER, on_parts, sampler_for
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Rows


def resize(buffer: Buffer, capacity: int, max_episodes: int | None = None) -> Buffer:
    """Copy a buffer into one of another capacity, which keeps the newest rows, as many as it has room for.

    Rows keep their times, so rows that were drawn before are still addressed right. Episodes keep their numbers and
    data, and open ones go on; removed rows stay removed, and priorities are those before. Rows whose episode's record
    was overwritten become void rows.

    capacity, max_episodes: as for `create`; by default no episode loses its record. Inside jit they shape the program.
    Costs a copy of all that is kept, and memory for both. Raises ValueError or TypeError as `create` does.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(12)})
    >>> small, large = replay.resize(buffer, 4), replay.resize(buffer, 100)
    >>> rows = replay.Rows(time=jnp.array([3, 4, 11]), env=jnp.array([0, 0, 0]))
    >>> replay.take(small, rows).data["x"].tolist(), replay.take(large, rows).data["x"].tolist()
    ([0, 0, 11], [0, 4, 11])
    """
    check_buffer("resize", buffer)
    old = buffer.rings
    num_envs = buffer.num_envs
    num_slots = slots_of(capacity, num_envs)
    if not old.num_records:
        if max_episodes is not None:
            raise ValueError("max_episodes: this buffer holds independent items, which have no episodes")
        return _resize_to(buffer, num_slots, 0)
    if max_episodes is None:
        data = None if buffer.episode_data is None else buffer.episode_data.layout.one_step()
        together = num_envs if buffer.stack is None else buffer.stack.envs_per_device
        wished = max(default_records(old.layout, num_slots, together, data), min(old.num_records, num_slots))
    else:
        wished = -(-trees.check_count("max_episodes", max_episodes) // num_envs)
    return _resize_to(buffer, num_slots, max(2, wished))


def _resize_to(buffer: Buffer, num_slots: int, num_records: int) -> Buffer:
    memory = buffer.rings.memory.resized(num_slots, num_records)
    return _resize(buffer, num_slots, memory, sampler_for(buffer.sampler, memory, num_slots, buffer.stack))


def resize_like(buffer: Buffer, like: Buffer) -> Buffer:
    """Copy a buffer, or a batch of them, into one of the sizes of `like`, which may also lie as another platform wants.

    like: made as the buffer was, but for sizes and platform; its arrays may be shapes.
    """
    stored, batch, num_slots = like.rings, like.rings.clock.time.ndim, like.num_slots
    resized = functools.partial(_resize, num_slots=num_slots, memory=stored.memory, sampler=like.sampler)
    for _ in range(batch):
        resized = jax.vmap(resized)
    return jax.jit(lambda whole: together(resized(apart(whole)), like.stack))(buffer)


@functools.partial(jax.jit, static_argnames=("num_slots", "memory", "sampler"), inline=True)
def _resize(buffer: Buffer, num_slots: int, memory: Memory, sampler: Sampler) -> Buffer:
    if buffer.stack is not None:
        resize_one = functools.partial(_resize, num_slots=num_slots, memory=memory, sampler=sampler)
        return on_parts(resize_one, buffer, (), (), BUFFER, each=True)
    rings = resizing.resize(buffer.rings, num_slots, memory)
    on_resize: Any = getattr(sampler, "on_resize", None)
    time = rings.clock.time - resizing.kept_ages(buffer.rings.num_slots, num_slots)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    rows = Rows(*jnp.broadcast_arrays(time[:, None], env[None]))
    if on_resize:
        state = on_resize(buffer.sampler_state, buffer.rings, rings, jax.tree.map(jnp.ravel, rows))
    else:
        state, slots = sampler.init(num_slots, rings.num_envs), jnp.arange(time.shape[0], dtype=jnp.int32)
        state = sampler.on_write(state, rings, slots, lookup.is_valid(rings, rows))
    return buffer.replace(rings=rings, sampler_state=state, sampler=sampler)
