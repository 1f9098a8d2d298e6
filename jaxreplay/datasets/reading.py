"""The episodes that a buffer holds, back on the host."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay import inspection as contents
from jaxreplay import sampling
from jaxreplay._core import trees
from jaxreplay._episodes import episode_data, episodes
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Chunk, Store, consecutive
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import PyTree, Rows, Transition

BLOCK_BYTES = 64 * 2**20  # of steps moved at a time
FAR = 2**32  # more than any two times that a ring holds differ


class _Records(NamedTuple):
    """The episodes with rows in the ring, ordered by env, then time, `[N]` each; `at` is the place in `episodes`."""

    env: np.ndarray
    start: np.ndarray  # slices after the oldest in the ring, negative if that step was overwritten
    at: np.ndarray


def read_buffer(buffer: Buffer, what: str = "from_buffer") -> tuple[Store, Report]:
    """Read all rows that can be read, as episodes; see `Dataset.from_buffer`. what: the function that was called."""
    _check(buffer, what)
    stats = contents.stats(buffer)
    oldest = np.asarray(stats.time - stats.held // buffer.rings.num_envs)
    records = _read_records(buffer, oldest)
    missing = Report(dropped_rows=int(stats.lost + stats.removed) + int(np.maximum(-records.start, 0).sum()))
    rows, mask = contents.rows(buffer)
    time, env = np.asarray(rows.time)[mask], np.asarray(rows.env)[mask]
    if not len(time):
        return Store((), consecutive([], [], [])), missing
    order = np.argsort(env, kind="stable")
    time, env = time[order], env[order]
    with np.errstate(over="ignore"):
        since = (time - oldest).astype(np.int64)
    record = np.searchsorted(_place(records.env, records.start), _place(env, since), side="right") - 1
    goes_on = (np.diff(record) == 0) & (np.diff(since) == 1)
    first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    length = np.diff(np.append(first, len(time)))
    chunk, terminated, truncated = _read_columns(buffer, time, env, first, length)
    table = consecutive(length, terminated, truncated, episode_data=_read_data(buffer, records.at[record[first]]))
    store = Store((chunk,), table)
    holes = len(first) - len(np.unique(record))
    return store, summarise(store) + missing + Report(discontinuities=holes)


def _check(buffer: Any, what: str) -> None:
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
                raise ValueError(
                    f"{what}: {path}: expected {name} for a trajectory, got {trees.describe(leaf.shape, leaf.dtype)}"
                )


def _place(env: np.ndarray, since: np.ndarray) -> np.ndarray:
    """Return a number that orders rows by env, then time."""
    return env.astype(np.int64) * (2 * FAR) + since


def _read_records(buffer: Buffer, oldest: np.ndarray) -> _Records:
    found = episodes(buffer)
    mask, start = (np.asarray(x).reshape(len(x), -1) for x in (found.mask, found.start))
    at = np.flatnonzero(mask)
    env = at % mask.shape[1]
    with np.errstate(over="ignore"):
        since = (start.ravel()[at] - oldest).astype(np.int64)
    order = np.lexsort((since, env))
    return _Records(env[order], since[order], at[order])


@jax.jit
def _take_steps(buffer: Buffer, rows: Rows) -> Transition:
    return sampling.take(buffer, rows).data.replace(next_observation=None)


@jax.jit
def _take_ends(buffer: Buffer, rows: Rows) -> tuple[PyTree, jax.Array, jax.Array]:
    end = sampling.take(buffer, rows).data
    return end.next_observation, end.terminated, end.truncated


def _read_columns(
    buffer: Buffer, time: np.ndarray, env: np.ndarray, first: np.ndarray, length: np.ndarray
) -> tuple[Chunk, np.ndarray, np.ndarray]:
    """Read the columns of pieces that begin at rows `first` `[N]`, and the flags of their last steps, `[N]` each."""
    count, pieces = len(time), len(first)
    row_bytes = sum(leaf.num_bytes for leaf in buffer.rings.layout.leaves)
    block = max(1, min(count, BLOCK_BYTES // max(row_bytes, 1)))
    steps: PyTree = None
    shifted = np.arange(count) + np.repeat(np.arange(pieces), length)  # each piece has one observation more than steps
    for begin in range(0, count, block):
        chosen = np.arange(begin, min(begin + block, count))
        got = jax.tree.map(np.asarray, _take_steps(buffer, _rows(time, env, chosen, block)))
        if steps is None:
            steps = jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), got)
            longer = jax.tree.map(lambda x: np.empty((count + pieces, *x.shape[1:]), x.dtype), got.observation)
            steps = steps.replace(observation=longer)
        _write(steps.observation, shifted[chosen], got.observation)
        for part in ("action", "reward", "extras"):
            _write(getattr(steps, part), chosen, getattr(got, part))
    last, terminated, truncated = first + length - 1, np.empty(pieces, bool), np.empty(pieces, bool)
    for begin in range(0, pieces, block):
        chosen = np.arange(begin, min(begin + block, pieces))
        final, terminal, cut = jax.tree.map(np.asarray, _take_ends(buffer, _rows(time, env, last[chosen], block)))
        _write(steps.observation, shifted[last[chosen]] + 1, final)
        terminated[chosen], truncated[chosen] = terminal[: len(chosen)], cut[: len(chosen)]
    extras = steps.extras if jax.tree.leaves(steps.extras) else None
    return Chunk(steps.observation, steps.action, steps.reward, extras), terminated, truncated


def _rows(time: np.ndarray, env: np.ndarray, chosen: np.ndarray, block: int) -> Rows:
    """Pad rows to `[block]` with ones that nothing can read, so that one compiled program reads all blocks."""
    missing = block - len(chosen)
    return Rows(
        time=jnp.asarray(np.pad(time[chosen], (0, missing))),
        env=jnp.asarray(np.pad(env[chosen], (0, missing), constant_values=-1)),
    )


def _write(columns: PyTree, rows: np.ndarray, values: PyTree) -> None:
    for column, value in zip(jax.tree.leaves(columns), jax.tree.leaves(values), strict=True):
        column[rows] = value[: len(rows)]


def _read_data(buffer: Buffer, at: np.ndarray) -> list[PyTree] | None:
    """Read the data of each episode, where the buffer keeps some."""
    if buffer.episode_data is None:
        return None
    data = jax.tree.map(np.asarray, episode_data(buffer))
    lead = 1 if buffer.single else 2
    flat = jax.tree.map(lambda x: x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:]), data)
    return [jax.tree.map(lambda x, i=i: x[i], flat) for i in at.tolist()]
