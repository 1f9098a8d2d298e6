"""What is written of rows: their bytes, texts beside them, and the rows of the index."""

import json
from typing import Any

import numpy as np

from jaxreplay.datasets.files import values
from jaxreplay.storage import compressed
from jaxreplay.storage.manifest import SIZES
from jaxreplay.storage.structure import Structure


def text_of(value: Any) -> np.ndarray:
    """Write a value that was copied, see `values`, as the bytes of a JSON text."""
    return np.frombuffer(json.dumps(values.describe(value, values.write_leaf)).encode(), np.uint8)


def encode(path: str, value: Any) -> np.ndarray | None:
    """Write a value as text, None for None. Raises TypeError naming what is no plain data."""
    return None if value is None else text_of(values.copy_value(path, value))


def index_of(episode: Any, steps: Any, flags: Any, infos: Any, data: Any) -> np.ndarray:
    """Make the rows of the index of P pieces, `[P, 5]` int64; infos, data: the bytes of their texts."""
    return np.stack(np.broadcast_arrays(*(np.asarray(x, np.int64) for x in (episode, steps, flags, infos, data))), 1)


def store_rows(structure: Structure, columns: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Give what is added to the files of columns for these rows."""
    files = {}
    for name, rows in columns.items():
        kind = structure.kinds[name]
        files[name] = [rows]
        if kind.stored != "npy":
            files[name] = compressed.compress_rows(kind, rows)
            files[name + SIZES] = [np.array([len(row) for row in files[name]], np.int64)]
    return files
