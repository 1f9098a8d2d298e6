"""Reading the columns of a store: some steps of all episodes, in types that JAX can hold, or a column whole."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.comparing import compare
from jaxreplay.datasets.store import Chunk, Store, consecutive
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.types import PyTree, Transition

TOGETHER = 1024  # steps of short episodes that are compared at once
STORED_BYTES = 2**26  # of a column in a file that are read at a time

Reads: TypeAlias = list[tuple[Sequence[Any], np.ndarray, np.ndarray]]
"""Columns to read rows of: of each, the arrays of all chunks, and for each row `[B]` its chunk and its place there."""


def gather(store: Store, rows: np.ndarray) -> Transition:
    """Read steps by their number in the store, int64 of any shape `[...]`: a `Transition` of NumPy arrays `[..., ...]`.

    Of a store that never had an episode, what has no known structure is None.
    """
    if not store.chunks:
        flags = np.zeros(rows.shape, bool)
        return Transition(None, None, None, flags, flags.copy(), None)
    if rows.ndim != 1:
        return jax.tree.map(lambda x: x.reshape(*rows.shape, *x.shape[1:]), gather(store, rows.reshape(-1)))
    table = store.table
    episode, last, step, observation = _find_rows(store, rows)
    read = _reader(store, episode)
    extras = read("extras", step)
    both = _read_pairs(store, observation)
    own, following = both or (read("observations", index) for index in (observation, observation + 1))
    return Transition(
        observation=own,
        action=read("actions", step),
        reward=read("rewards", step),
        terminated=table.terminated[episode] & last,
        truncated=table.truncated[episode] & last,
        next_observation=following,
        extras={} if extras is None else extras,
    )


def _read_pairs(store: Store, index: np.ndarray) -> list[PyTree] | None:
    """Read observations and the ones after them at once, where the columns can."""
    leaves, treedef = store.chunks[0].flat["observations"]
    if len(store.chunks) > 1 or not all(hasattr(leaf, "take_pairs") for leaf in leaves):
        return None
    return [treedef.unflatten(each) for each in zip(*(leaf.take_pairs(index) for leaf in leaves))]


def place(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say in which episode each step is, and how many of the episode's steps are before it."""
    episode = store.ends.searchsorted(rows, side="right")
    return episode, rows - (store.ends[episode] - store.table.length[episode])


def _find_rows(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Say in which episode each step is, whether it is its last, and its rows among its chunk's steps and observations.

    A batch of a few hundred rows is read in the time of some ten calls of NumPy, so none is made without need.
    """
    if store.in_order:
        episode = store.ends.searchsorted(rows, side="right")
        last, step, observation = rows + 1 == store.ends[episode], rows.view(), rows + episode
    else:
        episode, at = place(store, rows)
        last = at + 1 == store.table.length[episode]
        step, observation = store.table.step[episode] + at, store.table.observation[episode] + at
    step.flags.writeable = observation.flags.writeable = False  # see `storage.columns.Runs.find`
    return episode, last, step, observation


def read_infos(store: Store, rows: np.ndarray) -> list[dict[str, Any]]:
    """List the infos of some steps `[B]`, empty where an episode has none."""
    episode, at = (x.tolist() for x in place(store, rows))
    infos: Any = {i: store.table.infos[i] for i in dict.fromkeys(episode)}
    return [{} if infos[i] is None else infos[i][j] for i, j in zip(episode, at, strict=True)]


def reads_of(store: Store, rows: np.ndarray) -> tuple[Reads, Callable[[list[np.ndarray]], Transition]]:
    """Say what is to be read for steps `[B]`, and how the transitions are made of it: `gather` in two."""
    table = store.table
    episode, last, step, observation = _find_rows(store, rows)
    chunk, reads, structure = table.chunk[episode], Reads(), []
    for part, index in (
        ("observations", observation),
        ("actions", step),
        ("rewards", step),
        ("observations", observation + 1),
        ("extras", step),
    ):
        leaves, treedef = zip(*(jax.tree.flatten(getattr(each, part)) for each in store.chunks))
        structure.append((treedef[0], len(reads), len(reads) + len(leaves[0])))
        reads += [(columns, chunk, index) for columns in zip(*leaves)]

    def make(values: list[np.ndarray]) -> Transition:
        parts = [jax.tree.unflatten(treedef, values[first:end]) for treedef, first, end in structure]
        return Transition(
            observation=parts[0],
            action=parts[1],
            reward=parts[2],
            terminated=table.terminated[episode] & last,
            truncated=table.truncated[episode] & last,
            next_observation=parts[3],
            extras={} if parts[4] is None else parts[4],
        )

    return reads, make


def read_column(columns: Sequence[Any], chunk: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Read rows `[B]` of a column: of each its chunk, and its place there."""
    if len(columns) == 1:
        return np.take(columns[0], index, axis=0)
    out = np.empty((len(index), *columns[0].shape[1:]), columns[0].dtype)
    for number in np.unique(chunk).tolist():
        mine = chunk == number
        out[mine] = columns[number][index[mine]]
    return out


def is_stored(store: Store) -> bool:
    """Tell whether columns are in files, and what is not asked for stays there."""
    return any(not isinstance(column, np.ndarray) for chunk in store.chunks for _, column in chunk.columns())


def _reader(store: Store, episode: np.ndarray) -> Callable[[str, np.ndarray], PyTree]:
    """Return a function that reads one part of rows of these episodes, at an index into each row's chunk."""
    if len(store.chunks) == 1:
        flat = store.chunks[0].flat

        def read_only(part: str, index: np.ndarray) -> PyTree:
            leaves, treedef = flat[part]
            return treedef.unflatten([leaf.take(index, axis=0) for leaf in leaves])

        return read_only
    chunk = store.table.chunk[episode]
    order = np.argsort(chunk, kind="stable")
    used, first = np.unique(chunk[order], return_index=True)
    groups = list(zip(used.tolist(), np.split(order, first[1:])))

    def read(part: str, index: np.ndarray) -> PyTree:
        def column(*leaves: np.ndarray) -> np.ndarray:
            out = np.empty((len(index), *leaves[0].shape[1:]), leaves[0].dtype)
            for leaf, (_, rows) in zip(leaves, groups):
                out[rows] = leaf[index[rows]]
            return out

        trees_ = [getattr(store.chunks[c], part) for c, _ in groups] or [
            jax.tree.map(lambda x: x[:0], getattr(store.chunks[0], part))
        ]
        return jax.tree.map(column, *trees_)

    return read


def compact(store: Store) -> Store:
    """Copy the episodes to one chunk."""
    if not store.num_episodes:
        return store
    table = store.table
    parts = {}
    for part in PARTS:
        leaves, treedef = jax.tree.flatten(getattr(store.chunks[0], part))
        columns = [np.concatenate(list(pieces(store, part, i))) for i in range(len(leaves))]
        parts[part] = jax.tree.unflatten(treedef, columns)
    lengths = consecutive(table.length, table.terminated, table.truncated, table.infos, table.episode_data)
    return Store((Chunk(**parts),), lengths)


def compare_episodes(one: Store, other: Store, rtol: float, atol: float) -> str | None:
    """Say where two stores first differ, episode by episode; short ones are compared many at once."""
    count = min(one.num_episodes, other.num_episodes)
    first = np.flatnonzero(np.diff(one.ends[:count] // TOGETHER, prepend=-1)).tolist()
    for begin, end in zip(first, [*first[1:], count]):
        if end - begin > 1:
            mine, theirs = (_as_tree(compact(store.take(slice(begin, end)))) for store in (one, other))
            if compare("", mine, theirs, rtol, atol) is None:
                continue
        for i in range(begin, end):
            if not (found := one.trajectory(i).equals(other.trajectory(i), rtol=rtol, atol=atol)):
                return f"episode {i}: {found}"
    counts = one.num_episodes, other.num_episodes
    return None if counts[0] == counts[1] else f"there are {counts[0]} episodes and {counts[1]}"


def _as_tree(store: Store) -> PyTree:
    table = store.table
    columns = [getattr(store.chunks[0], part) for part in PARTS]
    return columns, table.length, table.terminated, table.truncated, table.infos.tolist(), table.episode_data.tolist()


def pieces(store: Store, part: str, leaf: int) -> Iterator[np.ndarray]:
    """Give the rows of one leaf of a part, as views; episodes that lie one after the other come in one piece."""
    table = store.table
    first = table.observation if part == "observations" else table.step
    last = first + table.length + (part == "observations")
    joins = (table.chunk[1:] == table.chunk[:-1]) & (first[1:] == last[:-1])
    begins = np.flatnonzero(np.concatenate([[True], ~joins]))
    ends = np.append(begins[1:], len(first)) - 1
    columns = [jax.tree.leaves(getattr(chunk, part))[leaf] for chunk in store.chunks]
    for begin, end in zip(begins, ends):
        column = columns[table.chunk[begin]]
        size = last[end] - first[begin]
        if not isinstance(column, np.ndarray):  # it need not fit in memory
            size = max(1, STORED_BYTES * len(column) // max(column.nbytes, 1))
        for at in range(first[begin], last[end], size):
            yield column[at : min(at + size, last[end])]


def narrow_tree(tree: PyTree, narrow: bool) -> PyTree:
    """Give the tree with every leaf of a dtype that JAX, which holds 32-bit types unless told otherwise, can hold.

    With `narrow`, 64-bit leaves become their 32-bit kin: floats are rounded; a value that does not fit raises
    ValueError. Without, a 64-bit leaf raises TypeError. Both name the leaf.
    """
    leaves, treedef = jax.tree.flatten(tree)
    for i, (path, leaf) in enumerate(trees.paths(tree)):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if dtype == leaf.dtype:
            continue
        if not narrow:
            raise TypeError(
                f"{path}: {leaf.dtype} does not fit JAX's 32-bit types. Nothing is cast silently: pass narrow=True for "
                f"{dtype}, or set jax_enable_x64."
            )
        with np.errstate(over="ignore"):
            leaves[i] = out = leaf.astype(dtype)
        lost = (out != leaf) if leaf.dtype.kind in "iu" else (np.isfinite(leaf) & ~np.isfinite(out))
        if lost.any():
            raise ValueError(f"{path}: {leaf[lost].flat[0]} does not fit {dtype}")
    return jax.tree.unflatten(treedef, leaves)
