"""Files of columns: compressed `.npz`, as OGBench's, and Parquet."""

import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.d4rl import MOST_COMPRESSED, join_columns, read_by_name, read_flags
from jaxreplay.datasets.files.frames import decode_images
from jaxreplay.datasets.files.imitation import read_array
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

OGBENCH = {"observations", "actions", "terminals"}


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz`, none of objects. Raises ValueError for one larger than its file can hold."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                read = getattr(np.lib.format, "read_array_header_{}_{}".format(*np.lib.format.read_magic(member)))
                shape, _, dtype = read(member)
            if max(info.file_size, math.prod(shape) * dtype.itemsize) > MOST_COMPRESSED * (info.compress_size + 64):
                raise ValueError(f"{info.filename}: {trees.describe(shape, dtype)} is more than the file can hold")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def join_ogbench(arrays: Mapping[str, np.ndarray]) -> tuple[Store, Report]:
    """Join the rows of OGBench's data sets to episodes.

    An episode of L steps has L + 1 rows: the last one, where `terminals` is 1, is the final observation, and the other
    columns say nothing there. The recording of an episode ended so, not the task: it was truncated. There are no
    rewards. Other columns become extras.
    """
    ends = read_flags("terminals", arrays["terminals"], arrays["terminals"].size)
    columns = {name: column for name, column in arrays.items() if name != "terminals"}
    store, report = join_columns(columns | {"timeouts": ends}, "drop")
    ended = ends[store.table.step + store.table.length]
    store = Store(store.chunks, dataclasses.replace(store.table, truncated=ended))
    return store, report + Report(dropped_rows=-int(ended.sum()))


def read_parquet(path: pathlib.Path, columns: Mapping[str, Any], missing_final: str) -> tuple[Store, Report]:
    """Read a Parquet file by the names of its columns; those that are not named are not read."""
    with open_parquet(path) as file:
        return read_by_name(file.schema_arrow.names, lambda name: parquet_column(file, name), columns, missing_final)


def open_parquet(path: pathlib.Path) -> Any:
    """Open a Parquet file to read."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: reading it needs pyarrow: pip install 'jaxreplay[datasets]'") from error
    return pyarrow.parquet.ParquetFile(path)


def parquet_column(file: Any, name: str) -> np.ndarray:
    """Read a column of an open Parquet file as an array `[N, ...]`."""
    return arrow_column(name, file.read(columns=[name])[name].chunks)


def arrow_column(name: str, chunks: Iterable[Any]) -> np.ndarray:
    """Read the chunks of an Arrow column as one array `[N, ...]`: of numbers, lists of one length, or images.

    Raises ValueError naming the column for anything else, and where a value is missing.
    """
    import pyarrow

    pieces = []
    for chunk in chunks:
        if pyarrow.types.is_struct(chunk.type):
            pieces.append(decode_images(name, chunk))
        elif len(chunk):
            pieces.append(read_array(name, chunk))
    if not pieces or len({piece.shape[1:] for piece in pieces}) > 1:
        raise ValueError(f"{name}: expected rows of one shape, got {sorted({x.shape[1:] for x in pieces}) or 'no row'}")
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
