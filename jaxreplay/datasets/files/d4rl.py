"""HDF5 files in the layout of D4RL: one row a step, `terminals` and `timeouts` where episodes end.

Where the file has `next_observations`, they are what followed each step, and a row whose next observation is not the
next row's observation ends its part of the episode: a discontinuity. Where it has none, what followed an episode's last
row is not known. It is not invented: that row is dropped, and its observation is the final one of the rows before.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxreplay.datasets.files.inside import open_hdf5
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Chunk, Store, Table, consecutive

NEEDED = ("observations", "actions")
KNOWN = (*NEEDED, "rewards", "terminals", "timeouts", "next_observations")
PIECE = 16 * 2**20
MOST_COMPRESSED = 1100  # no filter of HDF5 makes data smaller by more; what claims to be was never written


def read(path: pathlib.Path, missing_final: str) -> tuple[Store, Report]:
    """Read a file. missing_final: "drop", or "repeat" the last observation as the final one. Raises ValueError."""
    try:
        import h5py  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: reading it needs h5py: pip install 'jaxreplay[datasets]'") from error
    with open_hdf5(path) as (_, found):
        columns, ignored = _list_columns(found)
        count = len(columns["observations"])
        if not count:
            raise ValueError("observations: there are no steps")
        terminated, truncated = (_flags(columns.pop(name, None), count) for name in ("terminals", "timeouts"))
        nexts = columns.pop("next_observations", None)
        observations = _load(columns.pop("observations"))
        parts: dict[str, Any] = {"actions": _load(columns.pop("actions"))}
        parts["rewards"] = _load(columns.pop("rewards")) if "rewards" in columns else None
        extras = _nested({name: _load(column) for name, column in columns.items()})
        ended = terminated | truncated
        if nexts is None:
            store, report = _without_nexts(observations, ended, terminated, truncated, missing_final)
        else:
            store, report = _with_nexts(observations, nexts, ended, terminated, truncated)
        chunk = Chunk(store.chunks[0].observations, parts["actions"], parts["rewards"], extras or None)
    store = Store((chunk,), store.table)
    if store.num_episodes:
        store.trajectory(0)
    return store, report + Report(ignored=tuple(ignored))


def _list_columns(found: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arrays of one row a step by name, and the names of all others, which are not read."""
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise ValueError(f"there is no {' and no '.join(missing)}: not D4RL's layout (it has {', '.join(found)[:200]})")
    count = found["observations"].shape[:1]
    columns, ignored = {}, []
    for name, item in found.items():
        if item.shape[:1] == count and item.shape and item.dtype.kind in "biuf":
            size = item.dtype.itemsize * int(np.prod([float(n) for n in item.shape]))
            if size > MOST_COMPRESSED * (item.id.get_storage_size() + 64):
                raise ValueError(f"{name}: {item.shape} is more than the file can hold")
            columns[name] = item
        elif name in KNOWN:
            raise ValueError(
                f"{name}: expected numbers, {count} rows as observations has, got {item.dtype}{item.shape}"
            )
        else:
            ignored.append(name)
    return columns, ignored


def _load(column: Any) -> np.ndarray:
    """A column in the machine's byte order."""
    out = np.empty(column.shape, column.dtype.newbyteorder("="))
    for begin, end in _pieces(column):
        out[begin:end] = column[begin:end]
    return out


def _pieces(column: Any) -> list[tuple[int, int]]:
    row = column.dtype.itemsize * int(np.prod(column.shape[1:]))
    step = max(1, PIECE // max(row, 1))
    return [(begin, min(begin + step, len(column))) for begin in range(0, len(column), step)]


def _flags(column: Any, count: int) -> np.ndarray:
    """One bool a row; False where there is no such column."""
    if column is None:
        return np.zeros(count, bool)
    values = np.asarray(column)
    if values.size != count or not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{column.name.lstrip('/')}: expected one flag a row, got {values.dtype}{values.shape}")
    return values.reshape(count).astype(bool)


def _nested(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Columns by path as dicts: `infos/qpos` is in the dict `infos`."""
    tree: dict[str, Any] = {}
    for name, column in columns.items():
        *groups, last = name.split("/")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = column
    return tree


def _without_nexts(
    observations: np.ndarray, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, missing_final: str
) -> tuple[Store, Report]:
    """Episodes whose last row serves as the final observation, or, if asked, is repeated as it."""
    count = len(ended)
    last = np.union1d(np.flatnonzero(ended), [count - 1])
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if missing_final == "repeat":
        table = consecutive(length, terminated[last], truncated[last])
        return Store((Chunk(_with_finals(observations, last, observations[last]), None),), table), Report()
    none = np.zeros(len(last), bool)
    table = consecutive(length, none, none)
    table = Table(**{**vars(table), "observation": first, "step": first, "length": length - 1})
    store = Store((Chunk(observations, None),), table)
    report = Report(dropped_rows=len(last), dropped_episodes=int((length == 1).sum()))
    return Store(store.chunks, table.map(lambda x: x[length > 1])), report


def _with_nexts(
    observations: np.ndarray, nexts: Any, ended: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
) -> tuple[Store, Report]:
    if nexts.shape != observations.shape or nexts.dtype != observations.dtype:
        raise ValueError(f"next_observations: expected {observations.shape}, got {nexts.dtype}{nexts.shape}")
    count = len(ended)
    goes_on = np.zeros(count, bool)
    for begin, end in _pieces(nexts):
        after = nexts[begin:end]
        following = observations[begin + 1 : end + 1]
        same = after[: len(following)] == following
        if after.dtype.kind == "f":
            same |= np.isnan(after[: len(following)]) & np.isnan(following)
        goes_on[begin : begin + len(following)] = same.reshape(len(following), -1).all(axis=1)
    last = np.flatnonzero(ended | ~goes_on)
    length = np.diff(np.concatenate([[-1], last]))
    finals = np.empty((len(last), *observations.shape[1:]), observations.dtype)
    for begin, end in _pieces(nexts):
        inside = (last >= begin) & (last < end)
        finals[inside] = nexts[begin:end][last[inside] - begin]
    table = consecutive(length, terminated[last], truncated[last])
    cuts = int((~ended[last[last < count - 1]]).sum())
    return Store((Chunk(_with_finals(observations, last, finals), None),), table), Report(discontinuities=cuts)


def _with_finals(observations: np.ndarray, last: np.ndarray, finals: np.ndarray) -> np.ndarray:
    """Put each episode's final observation after that of its last row."""
    out = np.empty((len(observations) + len(last), *observations.shape[1:]), observations.dtype)
    begin = 0
    for i, end in enumerate(last + 1):
        out[begin + i : end + i] = observations[begin:end]
        out[end + i] = finals[i]
        begin = end
    return out
