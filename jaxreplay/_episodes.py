"""The episode ring and what it answers: which episodes there are, how each went, and the user's data for each."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core import clock as ring
from jaxreplay._core import episode_numbers as numbering
from jaxreplay._core import layout, rings, trees
from jaxreplay._core.layout import Layout
from jaxreplay._core.rings import Rings
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Episodes, PyTree


class EpisodeData(struct.PyTreeNode):
    """The user's data for each recorded episode: `leaves` `[K, E, ...]`; `number` `[K, E]` int32 says whose they are.

    Data are told by number rather than cleared when an episode begins, so an append need not touch them.
    """

    number: jax.Array
    leaves: tuple[jax.Array, ...]
    layout: Layout = struct.field(pytree_node=False)


def make_data(example: PyTree, num_records: int, num_envs: int) -> EpisodeData | None:
    """Allocate room for data like `example` for each episode, or None for none."""
    if example is None:
        return None
    described = layout.make_layout(example, {}, episodic=False)
    return EpisodeData(
        number=jnp.full((num_records, num_envs), -1, jnp.int32),
        leaves=tuple(jnp.zeros((num_records, num_envs, *x.raw_shape), x.raw_dtype) for x in described.leaves),
        layout=described,
    )


def live_records(stored: Rings) -> Episodes:
    """The episodes that have a record and a step in the ring, oldest first, `[K, E]`; `final_observation` left out."""
    count, num_envs = stored.num_records, stored.num_envs
    order = jnp.arange(count, dtype=jnp.int32)[:, None]
    number = stored.envs.number[None] - (count - 1) + order
    slot = stored.num_slots + 1 + jnp.maximum(number, 0) % max(count, 1)
    env = jnp.broadcast_to(jnp.arange(num_envs, dtype=jnp.int32), slot.shape)
    start, newest = rings.own_word(stored, slot, env, 0), rings.own_word(stored, slot, env, 1)
    mask = (number >= 0) & ring.is_held(stored.clock, newest)
    keep = lambda x: jnp.where(mask, x, 0)  # noqa: E731
    return Episodes(
        number=jnp.where(mask, number, -1),
        start=keep(start),
        length=keep(newest - start + 1),
        ended=mask & ~((order == count - 1) & stored.envs.open[None]),
        final_observation=None,
        mask=mask,
    )


def episodes(buffer: Buffer) -> Episodes:
    """List the episodes that have steps in the ring, oldest first: `Episodes`, `[K, E]` each.

    For a single stream the leaves are `[K]`. Raises ValueError for a buffer of independent items.
    """
    check_buffer("episodes", buffer)
    need_episodes(buffer, "episodes")
    return _episodes(buffer)


@functools.partial(jax.jit, inline=True)
def _episodes(buffer: Buffer) -> Episodes:
    stored = buffer.rings
    found = live_records(stored)
    slot = stored.num_slots + jnp.where(found.mask, 1 + found.number % stored.num_records, 0)
    env = jnp.broadcast_to(jnp.arange(stored.num_envs, dtype=jnp.int32), slot.shape)
    followed = stored.layout.followed
    step = jax.tree.unflatten(
        stored.layout.treedef,
        [rings.gather_leaf(stored, i, slot, env) if i in followed else None for i in range(len(stored.layout.leaves))],
    )
    parts = {source: trees.get_part(step, source) for source in stored.layout.sources}
    found = found.replace(final_observation=next(iter(parts.values())) if len(parts) == 1 else parts)
    return jax.tree.map(lambda x: x[:, 0], found) if buffer.single else found


def num_episodes(buffer: Buffer) -> jax.Array:
    """Count the episodes that have a record and steps in the ring, open ones included; an int32 scalar."""
    check_buffer("num_episodes", buffer)
    if not buffer.rings.num_records:
        return jnp.zeros((), jnp.int32)
    return _num_episodes(buffer.rings)


@functools.partial(jax.jit, inline=True)
def _num_episodes(stored: Rings) -> jax.Array:
    return jnp.sum(live_records(stored).mask, dtype=jnp.int32)


def episode_data(buffer: Buffer) -> PyTree:
    """Return the data kept for each episode, leaves `[K, E, ...]` (`[K, ...]`), in the order of `episodes(buffer)`.

    Zeros where none were set. Raises ValueError if the buffer was created without `episode_data`.
    """
    _need_data("episode_data", buffer)
    return _episode_data(buffer)


@functools.partial(jax.jit, inline=True)
def _episode_data(buffer: Buffer) -> PyTree:
    found, data = live_records(buffer.rings), buffer.episode_data
    slot = jnp.maximum(found.number, 0) % buffer.rings.num_records
    env = jnp.arange(buffer.rings.num_envs, dtype=jnp.int32)
    known = found.mask & (data.number[slot, env] == found.number)
    leaves = [_where(known, x[slot, env]) for x in data.leaves]
    leaves = [layout.from_raw(x, leaf.dtype) for x, leaf in zip(leaves, data.layout.leaves, strict=True)]
    leaves = [x[:, 0] if buffer.single else x for x in leaves]
    return jax.tree.unflatten(data.layout.treedef, leaves)


def set_episode_data(buffer: Buffer, env: Any, data: PyTree, number: Any = None) -> Buffer:
    """Set data of an episode of each given env.

    env: int32 `[...]`; 0 for a single stream. data: leaves `[..., *shape]`, the structure given to `create`, or a part
    of it (`{"return": r}`); the rest keeps its value, and is zero for an episode that had none.
    number: `[...]` int32, which episode; by default each env's newest, open or ended. An env without that episode, or
    whose record of it was overwritten, is left alone; of an env given twice, the last wins.
    Raises ValueError or TypeError for data that do not fit.
    """
    _need_data("set_episode_data", buffer)
    _, dtype = trees.shape_dtype("env", env)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"env: expected int32, got {dtype}")
    env = jnp.asarray(env).astype(jnp.int32)
    values = layout.check_part(buffer.episode_data.layout, data, env.shape, "set_episode_data", "the shape of env")
    if number is not None:
        number = jnp.broadcast_to(jnp.asarray(number, jnp.int32), env.shape)
    return _set_episode_data(buffer, env, values, number)


@functools.partial(jax.jit, inline=True)
def _set_episode_data(buffer: Buffer, env: jax.Array, values: dict[int, Any], number: jax.Array | None) -> Buffer:
    stored, data, lead = buffer.rings, buffer.episode_data, env.ndim
    env = env.ravel()
    known = (env >= 0) & (env < stored.num_envs)
    env = jnp.where(known, env, 0)
    newest = stored.envs.number[env]
    number = newest if number is None else number.ravel()
    known &= numbering.has_record(newest, number, stored.num_records)
    slot = jnp.maximum(number, 0) % stored.num_records
    known &= ring.is_last_of_equals(jnp.where(known, rings.flat_index(stored, slot, env), -1))
    fresh = data.number[slot, env] != number
    to = jnp.where(known, slot, stored.num_records + jnp.arange(env.shape[0], dtype=jnp.int32))
    leaves = []
    for i, x in enumerate(data.leaves):
        if i in values:
            value = jnp.asarray(values[i])
            new = layout.to_raw(value.reshape(*env.shape, *value.shape[lead:]))
        else:
            new = _where(~fresh, x[slot, env])
        leaves.append(x.at[to, env].set(new, mode="drop", unique_indices=True))
    numbers = data.number.at[to, env].set(number, mode="drop", unique_indices=True)
    return buffer.replace(episode_data=data.replace(number=numbers, leaves=tuple(leaves)))


def need_episodes(buffer: Buffer, what: str) -> None:
    """Raise ValueError for a buffer of independent items."""
    if not buffer.rings.num_records:
        raise ValueError(f"{what}: this buffer holds independent items; create it with episode_end to have episodes")


def _need_data(what: str, buffer: Buffer) -> None:
    check_buffer(what, buffer)
    if buffer.episode_data is None:
        raise ValueError("this buffer keeps no episode data; create it with episode_data=<an example of them>")


def _where(mask: jax.Array, x: jax.Array) -> jax.Array:
    """`x` where `mask`, else zeros; `mask` has the leading axes of `x`."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, 0)
