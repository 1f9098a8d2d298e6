"""robomimic's HDF5: a group `data/demo_i` for each demonstration, of N rows each.

The last `next_obs` is what followed the last row. Where it is absent, or was made up, what followed is not known.
robomimic makes it up when it converts D4RL: it calls the observation `flat`, and the last `next_obs` is the last `obs`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.d4rl import join_columns, keep_rows, load
from jaxreplay.datasets.joining import with_data
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

DEMO = re.compile(r"data/(demo_\d+)/(.+)")
PARTS = {"obs": "observations", "next_obs": "next_observations", "actions": "actions", "rewards": "rewards"}


def read(file: Any, found: Mapping[str, Any], missing_final: str) -> tuple[Store, Report]:
    """Read the demonstrations in order of their numbers.

    Each is an episode: it is terminated if `dones` is 1 in its last row, and else unfinished. `dones`, `states` and
    other columns become extras. The data of an episode are its `name`, the `masks` that list it, `env_args` and its
    attributes. Raises ValueError naming the demonstration that has other columns than the first, or other lengths.
    """
    demos: dict[str, dict[str, Any]] = {}
    for name, column in found.items():
        if matched := DEMO.fullmatch(name):
            demos.setdefault(matched[1], {})[matched[2]] = column
    names = sorted(demos, key=lambda name: int(name.removeprefix("demo_")))
    lengths, ignored = [], [name for name in found if not DEMO.fullmatch(name) and not name.startswith("mask/")]
    first: dict[str, Any] = {}
    for name in names:
        length = (*getattr(demos[name].get("actions"), "shape", ()), 0)[0]
        kept = keep_rows(demos[name], length, "data/demo_*/", ignored) if length else {}
        kinds = {path: (column.shape[1:], column.dtype.newbyteorder("=")) for path, column in kept.items()}
        first = first or kinds
        if "actions" not in kinds or kinds != first:
            there = ", ".join(f"{path} {trees.describe(*kind)}" for path, kind in kinds.items()) or "none"
            raise ValueError(
                f"data/{name}: expected rows of actions, and the columns of {names[0]}; there are: {there}"
            )
        lengths.append(length)
    columns = {path: np.empty((sum(lengths), *shape), dtype) for path, (shape, dtype) in first.items()}
    for path, column in columns.items():
        for rows, name in zip(np.split(column, np.cumsum(lengths)), names):
            rows[...] = load(demos[name][path])
    observed = [path for path in columns if path.startswith("obs/")]
    if not observed:
        raise ValueError("there is no data/demo_*/obs/...; robomimic's dataset_states_to_obs makes them of the states")
    last = np.cumsum(lengths) - 1
    made_up = observed == ["obs/flat"] and "next_obs/flat" in columns
    if made_up and columns["obs/flat"][last].tobytes() == columns["next_obs/flat"][last].tobytes():
        del columns["next_obs/flat"]
        ignored.append("data/demo_*/next_obs")
    terminals = np.zeros(sum(lengths), bool)
    if "dones" in columns:
        terminals[last] = (columns["dones"][last].reshape(len(last), -1) == 1).any(axis=1)
    joined: dict[str, Any] = {"terminals": terminals, "episode": np.repeat(np.arange(len(names)), lengths)}
    for path, column in columns.items():
        part, *rest = path.split("/")
        joined["/".join([PARTS.get(part, f"extras/{part}"), *rest])] = column
    store, report = join_columns(joined, missing_final)
    return with_data(store, lengths, _data(file, found, names, lengths)), report + Report(ignored=tuple(ignored))


def _data(file: Any, found: Mapping[str, Any], names: list[str], lengths: list[int]) -> list[dict[str, Any]]:
    """Give the data of each demonstration. Raises ValueError for one that has not as many rows as it says."""
    masks: dict[str, list[str]] = {name: [] for name in names}
    for path, column in found.items():
        if path.startswith("mask/"):
            for name in np.ravel(load(column)).tolist():
                masks.get(name.decode() if isinstance(name, bytes) else str(name), []).append(
                    path.removeprefix("mask/")
                )
    args = {name: value for name, value in _attributes(file["data"]).items() if name == "env_args"}
    data = []
    for name, length in zip(names, lengths):
        mine = _attributes(file["data"][name])
        count = mine.pop("num_samples", length)
        if count != length:
            raise ValueError(f"data/{name}: num_samples is {count}, and there are {length} rows of actions")
        data.append({**args, **mine, "name": name, "masks": masks[name]})
    return data


def _attributes(group: Any) -> dict[str, Any]:
    return {name: value for name, value in group.attrs.items() if isinstance(value, str | np.number | np.bool_)}
