"""From episodes on the host to a buffer on the device, and back, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay.buffer as core
from jaxreplay._core import trees
from jaxreplay._episodes import set_episode_data
from jaxreplay.buffer import Buffer
from jaxreplay.datasets.columns import gather
from jaxreplay.datasets.narrow import narrow_tree
from jaxreplay.datasets.store import Store
from jaxreplay.samplers import Sampler
from jaxreplay.types import Transition

BLOCK_BYTES = 128 * 2**20  # of transitions moved at a time; what a larger data set needs beside the buffer


def make_buffer(
    store: Store,
    num_envs: int | None,
    sampler: Sampler,
    capacity: int | None,
    max_episodes: int | None,
    narrow: bool,
    episode_data: bool | None,
) -> Buffer:
    """Make a buffer that holds all episodes; see `Dataset.to_buffer`."""
    if not store.num_episodes:
        raise ValueError("to_buffer: the data set is empty")
    envs = 1 if num_envs is None else trees.check_count("num_envs", num_envs)
    slots = _place_episodes(store, envs)
    num_slots = max(int(first[-1]) for _, first in slots)
    needed = num_slots * envs
    capacity = needed if capacity is None else trees.check_count("capacity", capacity)
    if capacity < needed:
        raise ValueError(
            f"capacity: the data set needs {needed} rows, one more for each unfinished episode; got {capacity}"
        )
    most = max(len(mine) for mine, _ in slots) * envs
    if max_episodes is not None and trees.check_count("max_episodes", max_episodes) < most:
        raise ValueError(f"max_episodes: the data set needs {most}, got {max_episodes}")
    kept = None if episode_data is False else _stack_episode_data(store, narrow, required=bool(episode_data))
    example, first = jax.tree.map(lambda x: x[0], (_read(store, np.zeros(1, np.int64), narrow), kept))
    if max_episodes is None:
        default = jax.eval_shape(lambda: core.create(example, capacity, num_envs, episode_data=first)).rings.num_records
        max_episodes = most if capacity == needed else max(most, default * envs)
    buffer = core.create(example, capacity, num_envs, sampler=sampler, max_episodes=max_episodes, episode_data=first)

    row_bytes = sum(x.nbytes for x in jax.tree.leaves(example)) * envs
    length = max(1, min(num_slots, BLOCK_BYTES // max(row_bytes, 1)))
    for begin in range(0, num_slots, length):
        slot = np.arange(begin, min(begin + length, num_slots))
        rows = np.stack([_steps_in(store, place, slot) for place in slots], axis=1)
        rows = rows[:, 0] if buffer.single else rows
        buffer = _extend(buffer, *jax.device_put((_read(store, np.maximum(rows, 0), narrow), rows >= 0)))
        jax.block_until_ready(buffer.rings.clock.time)  # so that blocks do not pile up
    for env, (mine, _) in enumerate(slots):
        if kept is not None and len(mine):
            number = jnp.arange(len(mine), dtype=jnp.int32)
            data = jax.tree.map(lambda x, mine=mine: x[mine], kept)
            buffer = set_episode_data(buffer, jnp.full(len(mine), env, jnp.int32), data, number)
    return buffer


@functools.partial(jax.jit, donate_argnums=0)
def _extend(buffer: Buffer, block: Transition, mask: jax.Array) -> Buffer:
    return core.extend(buffer, block, mask)


def _read(store: Store, rows: np.ndarray, narrow: bool) -> Transition:
    """Read steps by number, in types that JAX can hold."""
    return narrow_tree(gather(store, rows), narrow)


def _place_episodes(store: Store, num_envs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give each env `(episodes, first)`: which are its own, in order, in which slot each begins, and where all end.

    An episode that did not end is followed by a void row, which closes it. The longest go first, each to the env with
    the fewest rows, so that all have about as many.
    """
    table = store.table
    rows = table.length + ~(table.terminated | table.truncated)
    owner = np.zeros(len(rows), np.int64)
    if num_envs > 1:
        filled = np.zeros(num_envs, np.int64)
        for i in np.argsort(-rows, kind="stable"):
            owner[i] = np.argmin(filled)
            filled[owner[i]] += rows[i]
    mine = [np.flatnonzero(owner == env) for env in range(num_envs)]
    return [(each, np.concatenate([[0], np.cumsum(rows[each])])) for each in mine]


def _steps_in(store: Store, place: tuple[np.ndarray, np.ndarray], slot: np.ndarray) -> np.ndarray:
    """Number the step in each slot of an env, -1 for a void row, `[L]`."""
    mine, first = place
    if not len(mine):
        return np.full(len(slot), -1)
    nth = np.minimum(np.searchsorted(first, slot, side="right") - 1, len(mine) - 1)
    episode, at = mine[nth], slot - first[nth]
    start = store.ends[episode] - store.table.length[episode]
    return np.where(at < store.table.length[episode], start + at, -1)


def _stack_episode_data(store: Store, narrow: bool, required: bool) -> Any:
    """Stack the data of all episodes, leaves `[N, ...]`: numbers of one structure, or None, or ValueError."""
    each = list(store.table.episode_data)
    try:
        if any(data is None for data in each):
            raise ValueError("not every episode has data")
        if len({jax.tree.structure(data) for data in each}) > 1:
            raise ValueError("their structures differ")
        columns = []
        for named in zip(*map(trees.paths, each)):
            path = named[0][0]
            kinds = {trees.shape_dtype(path, leaf) for _, leaf in named}
            if len(kinds) > 1:
                raise ValueError(f"{path}: {' and '.join(sorted(trees.describe(*kind) for kind in kinds))}")
            columns.append(np.array([leaf for _, leaf in named], kinds.pop()[1]))
        return narrow_tree(jax.tree.unflatten(jax.tree.structure(each[0]), columns), narrow) if columns else None
    except (ValueError, TypeError, OverflowError) as error:
        if required:
            raise ValueError(f"episode_data: a buffer holds numbers of one structure for each: {error}") from error
        return None
