"""The layout of D4RL, as arrays and in HDF5 files: one row a step, `terminals` and `timeouts` where episodes end.

Where there are `next_observations`, they are what followed each step, and a row whose next observation is not the
next row's observation ends its part of the episode: a discontinuity. Where there are none, what followed an episode's
last row is not known. It is not invented: that row is dropped, and its observation is the final one of the rows before.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.opening import naming
from jaxreplay.datasets.files.values import is_number
from jaxreplay.datasets.joining import check_rows, join, ranges
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Chunk, Store

PARTS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts", "episode", "extras")
MOST_COMPRESSED = 1100  # no filter of HDF5 makes data smaller by more; what claims to be was never written


def read_by_name(
    names: Sequence[Any],
    read: Callable[[Any], Any],
    columns: Mapping[str, Any],
    missing_final: str,
    known: Mapping[str, Any] | None = None,
) -> tuple[Store, Report]:
    """Join the rows of columns of any names to episodes.

    names, read: the columns that there are, and what reads one. columns: for each of the `PARTS` that there is the name
    of its column, or any nesting of names. known: parts that are known without. The report's `ignored` has the columns
    that are not read. Raises ValueError for a name that is none, listing those there are.
    """
    if not isinstance(columns, Mapping) or not {"observations", "actions"} <= columns.keys() <= set(PARTS):
        raise ValueError(
            f"columns: expected names for observations, actions, and others of {', '.join(PARTS)}; got {columns!r}"
        )
    chosen = dict(columns)
    for path, name in trees.paths(chosen):
        if not isinstance(name, Hashable) or name not in names:
            raise ValueError(
                f"columns: {path}: there is no column {name!r}; there are: {', '.join(map(str, names))[:500] or 'none'}"
            )

    def read_named(name: Any) -> Any:
        with naming(name):
            return read(name)

    store, report = join_columns({**(known or {}), **jax.tree.map(read_named, chosen)}, missing_final)
    return store, report + Report(ignored=tuple(str(name) for name in names if name not in jax.tree.leaves(chosen)))


def join_columns(found: Mapping[str, Any], missing_final: str) -> tuple[Store, Report]:
    """Join the rows of columns to episodes; see `convert.from_numpy`.

    found: NumPy arrays, or data sets of an HDF5 file, nested or named by their path, as `infos/qpos`. Raises ValueError
    or TypeError naming the column that is missing or does not fit.
    """
    tree = _nest(found)
    for name in ("observations", "actions"):
        if not jax.tree.leaves(tree.get(name)):
            names = ", ".join(found)[:200] or "none"
            raise ValueError(f"there is no {name}: not D4RL's layout; expected arrays [N, ...], there are: {names}")
    parts = {name: tree.pop(name, None) for name in PARTS}
    count = (*jax.tree.leaves(parts["observations"])[0].shape, 0)[0]
    if not count:
        raise ValueError("observations: expected at least one row [N, ...]")
    for name in ("rewards", "terminals", "timeouts", "episode"):
        if parts[name] is not None and not hasattr(parts[name], "dtype"):
            raise ValueError(f"{name}: expected one column, got {type(parts[name]).__name__}")
    check_rows(parts, count)
    for path, leaf in trees.paths(parts):
        if not is_number(leaf.dtype):
            raise ValueError(f"{path}: expected numbers, got {trees.describe(leaf.shape, leaf.dtype)}")
    ignored: list[str] = []
    extras, more = parts["extras"], keep_rows(tree, count, "", ignored)
    if more:
        extras = more if extras is None else {**(extras if isinstance(extras, dict) else {"extras": extras}), **more}
    steps = Chunk(*(jax.tree.map(load, part) for part in (*(parts[name] for name in PARTS[:3]), extras)))
    if steps.rewards is not None:  # some are `[N, 1]`
        rewards = steps.rewards.reshape(count, *[n for n in steps.rewards.shape[1:] if n != 1])
        steps = dataclasses.replace(steps, rewards=rewards)
    terminated, truncated = (read_flags(name, parts[name], count) for name in ("terminals", "timeouts"))
    parted: Any = False
    if parts["episode"] is not None:
        number = load(parts["episode"]).reshape(count, -1)
        if (number != number).any():
            raise ValueError("episode: expected the number of each row's, got NaN")
        parted = (number[1:] != number[:-1]).any(axis=1)
    following = parts["next_observations"]
    store, report = join(steps, following, terminated, truncated, parted=parted, missing_final=missing_final)
    return store, report + Report(ignored=tuple(ignored))


def _nest(found: Mapping[str, Any]) -> dict[str, Any]:
    """Put columns named by paths in dicts: `infos/qpos` in the dict `infos`."""
    tree: dict[str, Any] = {}
    for name, column in found.items():
        *groups, last = name.split("/")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{name}: {group} is an array as well")
        inner[last] = inner[last] | column if isinstance(inner.get(last), dict) else column
    return tree


def keep_rows(tree: Mapping[str, Any], count: int, path: str, ignored: list[str]) -> dict[str, Any]:
    """Keep the columns of numbers, one row a step, and list the paths of all others."""
    kept = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            kept[name] = keep_rows(value, count, f"{path}{name}/", ignored)
        elif all(leaf.shape[:1] == (count,) and is_number(leaf.dtype) for leaf in jax.tree.leaves(value)):
            kept[name] = value
        else:
            ignored.append(f"{path}{name}")
    return {name: value for name, value in kept.items() if jax.tree.leaves(value)}


def load(column: Any) -> np.ndarray:
    """Return a column, an array or a data set of HDF5, in memory, in the machine's byte order."""
    dtype = column.dtype.newbyteorder("=")
    if isinstance(column, np.ndarray):
        return column.astype(dtype, copy=False)
    size = dtype.itemsize * math.prod(column.shape)
    if size > MOST_COMPRESSED * (min(column.id.get_storage_size(), column.file.id.get_filesize()) + 64):
        raise ValueError(f"{column.name.lstrip('/')}: {column.shape} is more than the file can hold")
    out = np.empty(column.shape, dtype)
    for begin, end in ranges(column):
        out[begin:end] = column[begin:end]
    return out


def read_flags(name: str, column: Any, count: int) -> np.ndarray:
    """Return one bool a row; False where there is no such column."""
    values = np.zeros(count, bool) if column is None else load(column)
    if values.size != count or not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name}: expected one flag a row, got {trees.describe(values.shape, values.dtype)}")
    return values.reshape(count).astype(bool)
