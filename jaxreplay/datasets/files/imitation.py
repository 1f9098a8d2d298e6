"""Trajectories that the `imitation` package saved: a folder of Hugging Face's Arrow files. Nothing in it is run.

`imitation` keeps each info as a string of jsonpickle, which can make any object. These are read as JSON, and what
stands for an object stays what it is there: a dict with a `py/...` name.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.files.inside import check_folder
from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, make_store
from jaxreplay.datasets.trajectory import Trajectory

COLUMNS = {"obs", "acts", "terminal"}
TIME_LIMIT = "TimeLimit.truncated"  # how Gym's and Stable-Baselines3's infos say that an episode was truncated


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is what Hugging Face's `save_to_disk` writes."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def read(path: pathlib.Path) -> tuple[Store, Report]:
    """Read a folder. Raises ValueError for columns that are not `imitation`'s, and for links out of the folder."""
    check_folder(path)
    return make_store(trajectory_of(row) for row in _rows(path)), Report()


def trajectory_of(fields: Mapping[str, Any], unknown_end: str = "terminated") -> Trajectory:
    """Make a trajectory of `imitation`'s fields: `obs`, `acts`, `terminal`, and `infos`, `rews` where there are some.

    `terminal` says only that the episode ended; `is_truncated` says how. Infos that are all empty are None: `imitation`
    writes these for none.
    """
    infos = fields.get("infos")
    infos = None if infos is None or not any(infos) else list(infos)
    ended = bool(fields["terminal"])
    truncated = ended and is_truncated(infos[-1] if infos else {}, unknown_end)
    return Trajectory(
        observations=fields["obs"],
        actions=fields["acts"],
        rewards=fields.get("rews"),
        terminated=ended and not truncated,
        truncated=truncated,
        infos=infos,
    )


def is_truncated(info: Mapping[str, Any], unknown_end: str) -> bool:
    """Tell by the infos of its last step whether an episode that ended was truncated, not terminated."""
    return unknown_end == "truncated" or bool(info.get(TIME_LIMIT, False))


def _rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    pyarrow = need("pyarrow", "pyarrow", "datasets", f"{path}: reading it")
    for name in _data_files(path):
        with pyarrow.memory_map(str(path / name)) as source, pyarrow.ipc.open_stream(source) as stream:
            missing = COLUMNS - set(stream.schema.names)
            if missing:
                raise ValueError(f"{name}: there is no column {', '.join(sorted(missing))}: not what imitation saves")
            for batch in stream:
                batch.validate(full=True)
                columns = {name: batch.column(name) for name in batch.schema.names}
                for i in range(batch.num_rows):
                    yield {name: _value(name, column[i]) for name, column in columns.items()}


def _data_files(path: pathlib.Path) -> Sequence[str]:
    state = json.loads((path / "state.json").read_bytes())
    names = [entry["filename"] for entry in state["_data_files"]]
    if state.get("_indices_data_files"):
        raise ValueError("state.json: the rows are in another order than on disk; call flatten_indices() before saving")
    for name in names:
        if pathlib.Path(name).name != name or name == "..":
            raise ValueError(f"state.json: {name!r} is not in this folder")
    return names


def _value(name: str, scalar: Any) -> Any:
    if name == "terminal":
        return scalar.as_py()
    if name != "infos":
        with naming(name):
            return read_array(scalar.values) if scalar.is_valid else None
    infos = [json.loads(text) for text in scalar.as_py() or []]
    for i, info in enumerate(infos):
        if not isinstance(info, dict):
            raise ValueError(f"infos.{i}: expected a dict, got {str(info)[:40]!r}")
    return infos


def read_array(values: Any) -> np.ndarray:
    """Read Arrow's nested lists of one length on each level as one array; nothing is made a Python object."""
    import pyarrow

    shape = [len(values)]
    while (extended := isinstance(values, pyarrow.ExtensionArray)) or values.type.num_fields:
        if extended:
            values = values.storage
            continue
        # It is nested: `types.is_nested` of older versions knows no lists of fixed size.
        if not hasattr(values, "flatten") or not hasattr(values.type, "value_type") or values.null_count:
            raise ValueError(f"expected lists of numbers, got {values.type}")
        inner = values.flatten()
        width = len(inner) // max(len(values), 1)
        fixed = pyarrow.types.is_fixed_size_list(values.type)
        lengths = np.array(width) if fixed else values.value_lengths().to_numpy(zero_copy_only=False)
        if len(values) == 0 or len(inner) % len(values) or (lengths != width).any():
            raise ValueError("its lists have different lengths")
        shape.append(width)
        values = inner
    if values.null_count:
        raise ValueError("a number is missing")
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)
