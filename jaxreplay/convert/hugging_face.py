"""Hugging Face's data sets, both ways: a row is an episode; and from those whose rows are steps."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import joined, read_dataset, reported
from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.datasets.files import values
from jaxreplay.datasets.files.arrays import arrow_column
from jaxreplay.datasets.files.d4rl import read_by_name
from jaxreplay.datasets.files.imitation import read_array
from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.datasets.store import make_store
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.types import PyTree

FLAGS = ("terminated", "truncated")
TEXTS = ("infos", "episode_data")  # anything that is data: kept as JSON
MOST_AXES = 5  # of Hugging Face's arrays, that over steps included
MOST_NUMBERS = 2**30  # of one array in one piece, because Arrow counts them with 31 bits


def to_hugging_face(source: Any) -> Any:
    """Give the episodes of a source as a `datasets.Dataset` of Hugging Face, one row an episode.

    source: a buffer, or a `Dataset`. Each array has a column of its own, named by its path: `observations.camera`,
    `actions`, `extras[0]`. Features say its dtype and shape, with as many entries as the episode has observations or
    steps. `terminated` and `truncated` are bools; `infos` and `episode_data` are JSON texts, null where there are none.

    Raises ValueError naming the path of what such a data set cannot hold: dtypes that Arrow lacks (bfloat16,
    complex), arrays without entries, more than 4 axes a step, lists, names with brackets or dots; TypeError for infos
    that are no data. Raises ImportError without `datasets`.
    """
    library = need("datasets", "Hugging Face's datasets", "huggingface", "to_hugging_face")
    episodes = list(read_dataset("to_hugging_face", source))
    rows: list[dict[str, Any]] = [{} for _ in episodes]
    for row, episode in zip(rows, episodes):
        for part in PARTS:
            _flatten(part, getattr(episode, part), row)
    features = {name: _feature(library, name, value) for name, value in rows[0].items()}
    features |= {name: library.Value("bool") for name in FLAGS} | {name: library.Value("string") for name in TEXTS}
    schema = library.Features(features).arrow_schema
    for i, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
        row |= {name: getattr(episode, name) for name in FLAGS}
        for name in TEXTS:
            value = values.copy_value(f"to_hugging_face: episode {i}: {name}", getattr(episode, name))
            row[name] = None if value is None else json.dumps(values.describe(value, values.write_leaf))
    return library.Dataset(_table(schema, rows))


def from_hugging_face(dataset: Any, columns: Mapping[str, Any] | None = None, missing_final: str = "drop") -> Dataset:
    """Read a data set that `to_hugging_face` made, or one whose rows are steps, into a `Dataset`.

    A data set of `to_hugging_face` may have been selected from, or shuffled. Columns that are no part of an episode
    raise ValueError: remove them first, with `dataset.remove_columns`.

    columns: for rows that are steps, in order, the names of the columns that are the parts of `from_numpy`, nested or
        not: `{"observations": {"arm": "state", "camera": "image"}, "actions": "action", "episode": "episode_index"}`.
        Columns are numbers, lists of one length, or images. missing_final: as in `from_numpy`.

    The `report` of the result says how the episodes end, and which columns and rows were left out. Raises ValueError
    naming the column that is missing or does not fit.
    """
    library = need("datasets", "Hugging Face's datasets", "huggingface", "from_hugging_face")
    if not isinstance(dataset, library.Dataset):
        kind = type(dataset).__name__
        raise TypeError(f"from_hugging_face: expected a datasets.Dataset, one split that is no stream, got {kind}")
    trees.check_choice("missing_final", missing_final, ("drop", "repeat"))
    if columns is not None:
        there, table = dataset.column_names, dataset.with_format("arrow")
        read = lambda name: arrow_column(table.select_columns([name])[:][name].chunks, len(table))  # noqa: E731
        return joined("from_hugging_face", lambda: read_by_name(there, read, columns, missing_final))
    names = set(dataset.column_names)
    for name in FLAGS:
        if name not in names:
            raise ValueError(f"from_hugging_face: expected a column {name}, got: {', '.join(sorted(names))}")
    arrays = names - {*FLAGS, *TEXTS}
    for name in sorted(arrays):
        if re.split(r"[.\[]", name)[0] not in PARTS:
            raise ValueError(f"from_hugging_face: {name} is no part of an episode; remove the column first")
    table = dataset.with_format("arrow")[:]
    columns = {}
    for name in sorted(arrays):
        chunks = [getattr(chunk, "storage", chunk) for chunk in table[name].chunks]
        with naming(f"from_hugging_face: {name}"):
            columns[name] = [read_array(episode.values) for chunk in chunks for episode in chunk]
    flags = {name: table[name].to_pylist() for name in FLAGS}
    texts = {
        name: [values.build(json.loads(text or "null"), values.read_leaf) for text in table[name].to_pylist()]
        for name in TEXTS
        if name in names
    }
    episodes = []
    for i in range(len(table)):
        parts = {part: _unflatten(part, {name: columns[name][i] for name in arrays}) for part in PARTS}
        others = {name: values[i] for name, values in (flags | texts).items()}
        episodes.append(Trajectory(**parts, **others))
    return reported(make_store(episodes))


def _flatten(path: str, node: PyTree, flat: dict[str, np.ndarray]) -> None:
    """Name arrays by where they are: `.name` in a dict, `[0]` in a tuple."""
    if isinstance(node, np.ndarray):
        flat[path] = node
    elif type(node) is tuple and node:
        for i, inner in enumerate(node):
            _flatten(f"{path}[{i}]", inner, flat)
    elif isinstance(node, Mapping) and node:
        for name, inner in node.items():
            if not isinstance(name, str) or not name or re.search(r"[.\[\]]", name):
                raise ValueError(f"to_hugging_face: {path}: {name!r} cannot be part of a column's name")
            _flatten(f"{path}.{name}", inner, flat)
    elif node is not None:
        raise ValueError(
            f"to_hugging_face: {path}: expected arrays in dicts and tuples, got {type(node).__name__}"
            f"{'' if isinstance(node, list) else ' without any'}"
        )


def _unflatten(part: str, columns: Mapping[str, np.ndarray]) -> PyTree:
    """Undo `_flatten`: what stands at a path, None where there is nothing."""
    if part in columns:
        return columns[part]
    inner: dict[str, None] = {}
    for name in columns:
        if found := re.match(r"\.[^.\[]+|\[\d+\]", name[len(part) :]) if name.startswith(part) else None:
            inner[found[0]] = None
    children = {step: _unflatten(part + step, columns) for step in inner}
    if not children:
        return None
    if all(step.startswith("[") for step in children):
        return tuple(children[f"[{i}]"] for i in range(len(children)))
    return {step[1:]: child for step, child in children.items()}


def _feature(library: Any, name: str, value: np.ndarray) -> Any:
    if value.dtype.kind not in "biuf" or value.dtype.isbuiltin != 1:
        raise ValueError(f"to_hugging_face: {name}: Arrow has no arrays of {value.dtype}; convert it, or leave it out")
    if value.ndim > MOST_AXES or 0 in value.shape:
        raise ValueError(
            f"to_hugging_face: {name}: expected at most {MOST_AXES - 1} axes a step, none empty, got {value.shape[1:]}"
        )
    kind = value.dtype.name
    if value.ndim == 1:
        return library.List(library.Value(kind))
    return getattr(library, f"Array{value.ndim}D")((None, *value.shape[1:]), kind)


def _table(schema: Any, rows: list[dict[str, Any]]) -> Any:
    """Make an Arrow table of the arrays' memory, in pieces of bounded size: Python's numbers lose bits of NaN."""
    import pyarrow

    def column(kind: Any, values: list[Any]) -> Any:
        if not isinstance(values[0], np.ndarray):
            return pyarrow.array(values, kind)
        nested = pyarrow.array(np.concatenate([value.ravel() for value in values]))
        for size in reversed(values[0].shape[1:]):
            nested = pyarrow.ListArray.from_arrays(np.arange(0, len(nested) + 1, size, dtype=np.int32), nested)
        ends = np.cumsum([0] + [len(value) for value in values], dtype=np.int32)
        nested = pyarrow.ListArray.from_arrays(ends, nested)
        return pyarrow.ExtensionArray.from_storage(kind, nested) if hasattr(kind, "storage_type") else nested

    largest = [max(x.size for x in row.values() if isinstance(x, np.ndarray)) for row in rows]
    piece = np.cumsum(largest, dtype=np.int64) // MOST_NUMBERS
    tables = []
    for number in np.unique(piece):
        mine = [rows[i] for i in np.flatnonzero(piece == number)]
        columns = [column(field.type, [row[field.name] for row in mine]) for field in schema]
        tables.append(pyarrow.Table.from_arrays(columns, schema=schema))
    return pyarrow.concat_tables(tables)
