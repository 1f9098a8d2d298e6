"""From episodes on the host to a buffer on the device, and back, bit for bit."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay.buffer as core
from jaxreplay import inspection as contents
from jaxreplay import sampling
from jaxreplay._core import trees
from jaxreplay._episodes import episode_data, episodes, set_episode_data
from jaxreplay.buffer import Buffer
from jaxreplay.datasets.columns import gather, narrow_tree
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Chunk, Store, consecutive
from jaxreplay.samplers import Sampler
from jaxreplay.state import check_buffer
from jaxreplay.types import PyTree, Rows, Transition

BLOCK_BYTES = 128 * 2**20  # of transitions written at a time; what a larger data set needs beside the buffer
READ_BYTES = 64 * 2**20  # of steps read at a time
FAR = 2**32  # more than any two times that a ring holds differ

_extend = jax.jit(core.extend, donate_argnums=0)


def make_buffer(
    store: Store,
    num_envs: int | None,
    sampler: Sampler,
    capacity: int | None,
    max_episodes: int | None,
    narrow: bool,
    keep_data: bool | None,
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
    kept = None if keep_data is False else _stack_episode_data(store, narrow, required=bool(keep_data))
    one_step = narrow_tree(gather(store, np.zeros(1, np.int64)), narrow)
    example, first = jax.tree.map(lambda x: x[0], (one_step, kept))
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
        block = narrow_tree(gather(store, np.maximum(rows, 0)), narrow)
        buffer = _extend(buffer, *jax.device_put((block, rows >= 0)))
        jax.block_until_ready(buffer.rings.clock.time)  # so that blocks do not pile up
    for env, (mine, _) in enumerate(slots):
        if kept is not None and len(mine):
            number = jnp.arange(len(mine), dtype=jnp.int32)
            data = jax.tree.map(lambda x, mine=mine: x[mine], kept)
            buffer = set_episode_data(buffer, jnp.full(len(mine), env, jnp.int32), data, number)
    return buffer


def step_numbers(buffer: Buffer, time: np.ndarray) -> np.ndarray:
    """Say which steps of a data set the rows of these times are, in the buffer of one stream that `to_buffer` made."""
    rows, mask = contents.rows(buffer)
    return np.searchsorted(np.asarray(rows.time)[np.asarray(mask)], time)  # there are void rows between episodes


def _place_episodes(store: Store, num_envs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give each env `(episodes, first)`: which are its own, in order, in which slot each begins, and where all end."""
    table = store.table
    rows = table.length + ~(table.terminated | table.truncated)  # a void row closes an episode that did not end
    owner, filled = np.zeros(len(rows), np.int64), np.zeros(num_envs, np.int64)
    for i in np.argsort(-rows, kind="stable") if num_envs > 1 else ():  # the longest first, to the emptiest env
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


def read_buffer(buffer: Buffer, what: str = "from_buffer") -> tuple[Store, Report]:
    """Read all rows that can be read, as episodes; see `Dataset.from_buffer`. what: the function that was called."""
    _check_steps(buffer, what)
    stats, clock = contents.stats(buffer), buffer.rings.clock
    oldest = np.asarray(clock.time - clock.held).reshape(-1)  # of each buffer of a stack
    oldest = np.repeat(oldest, buffer.num_envs // len(oldest))

    def since_oldest(time: np.ndarray, env: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (time - oldest[env]).astype(np.int64)  # negative for a step that was overwritten

    found = episodes(buffer)  # each begins at a place, a number that orders rows by env, then time
    held, start = (np.asarray(x).reshape(len(x), -1) for x in (found.mask, found.start))
    at = np.flatnonzero(held)
    begin = since_oldest(start.ravel()[at], at % held.shape[1])
    overwritten = int(np.maximum(-begin, 0).sum())
    missing = Report(dropped_rows=int(stats.lost + stats.removed) + overwritten)
    rows, mask = contents.rows(buffer)
    time, env = np.asarray(rows.time)[mask], np.asarray(rows.env)[mask]
    if not len(time):
        return Store((), consecutive([], [], [])), missing
    order = np.argsort(env, kind="stable")
    time, env = time[order], env[order]
    since = since_oldest(time, env)
    begin += (at % held.shape[1]) * (2 * FAR)
    order = np.argsort(begin)
    record = np.searchsorted(begin[order], env.astype(np.int64) * (2 * FAR) + since, side="right") - 1
    goes_on = (np.diff(record) == 0) & (np.diff(since) == 1)
    first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    length = np.diff(np.append(first, len(time)))
    steps = _read_steps(buffer, time, env, first, length)
    last = first + length - 1
    data = None
    if buffer.episode_data is not None:
        lead = 1 if buffer.single else 2
        each = jax.tree.map(np.asarray, episode_data(buffer))
        flat = jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:]), each)
        data = [jax.tree.map(lambda x, i=i: x[i], flat) for i in at[order[record[first]]]]
    table = consecutive(length, steps.terminated[last], steps.truncated[last], episode_data=data)
    extras = steps.extras if jax.tree.leaves(steps.extras) else None
    store = Store((Chunk(steps.observation, steps.action, steps.reward, extras),), table)
    holes = len(first) - len(np.unique(record))
    return store, summarise(store) + missing + Report(discontinuities=holes)


def _check_steps(buffer: Any, what: str) -> None:
    check_buffer(what, buffer)
    stored = buffer.rings.layout
    step = jax.tree.unflatten(stored.treedef, list(stored.leaves))
    if not isinstance(step, Transition) or stored.sources != ("observation",):
        kind = "Transition without next_observation" if isinstance(step, Transition) else type(step).__name__
        raise TypeError(
            f"{what}: expected a buffer of Transitions, whose episodes it knows, got one of {kind} steps; rows of any "
            "structure are read by replay.take(buffer, replay.rows(buffer)[0]), and by convert.to_torch_dataset"
        )
    for part, kind, name in (
        ("reward", jnp.floating, "a floating scalar, or None"),
        ("terminated", jnp.bool_, "a bool scalar"),
        ("truncated", jnp.bool_, "a bool scalar"),
    ):
        for path, leaf in trees.paths({part: getattr(step, part)}):
            if path != part or leaf.shape or not jnp.issubdtype(leaf.dtype, kind):
                came = trees.describe(leaf.shape, leaf.dtype)
                raise ValueError(f"{what}: {path}: expected {name} for a trajectory, got {came}")


@jax.jit
def _take_steps(buffer: Buffer, time: jax.Array, env: jax.Array) -> Transition:
    return sampling.take(buffer, Rows(time, env)).data.replace(next_observation=None)


@jax.jit
def _take_next(buffer: Buffer, time: jax.Array, env: jax.Array) -> PyTree:
    return sampling.take(buffer, Rows(time, env)).data.next_observation


def _read_steps(buffer: Buffer, time: np.ndarray, env: np.ndarray, first: np.ndarray, length: np.ndarray) -> Transition:
    """Read pieces that begin at rows `first` `[N]`, each with one observation more than steps: after its last one."""
    count, pieces = len(time), len(first)
    row_bytes = sum(leaf.num_bytes for leaf in buffer.rings.layout.leaves)
    block = max(1, min(count, READ_BYTES // max(row_bytes, 1)))
    steps: PyTree = None
    shifted = np.arange(count) + np.repeat(np.arange(pieces), length)
    last = first + length - 1

    def write(columns: PyTree, at: np.ndarray, values: PyTree) -> None:
        for column, value in zip(jax.tree.leaves(columns), jax.tree.leaves(values), strict=True):
            column[at] = value

    # One compiled program reads all blocks: where the last one is not full, its last row is read again.
    for begin in range(0, count, block):
        at = np.minimum(np.arange(begin, begin + block), count - 1)
        got = jax.tree.map(np.asarray, _take_steps(buffer, time[at], env[at]))
        if steps is None:
            steps = jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), got)
            longer = jax.tree.map(lambda x: np.empty((count + pieces, *x.shape[1:]), x.dtype), got.observation)
            steps = steps.replace(observation=longer)
        write(steps.observation, shifted[at], got.observation)
        write(steps.replace(observation=None), at, got.replace(observation=None))
    for begin in range(0, pieces, block):
        at = last[np.minimum(np.arange(begin, begin + block), pieces - 1)]
        write(steps.observation, shifted[at] + 1, jax.tree.map(np.asarray, _take_next(buffer, time[at], env[at])))
    return steps
