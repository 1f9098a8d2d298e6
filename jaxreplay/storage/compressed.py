"""Columns of which each row is compressed by itself, so that any row is read without those beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreplay.storage import pictures, zarr3
from jaxreplay.storage.manifest import Kind

MOST_RATIO = 2**12  # times as many bytes as it takes may a row have: more is a file that was made up

_COMPRESS: dict[str, Callable[[Kind, np.ndarray], list[np.ndarray]]] = {
    "png": pictures.compress_rows,
    "jpeg": pictures.compress_rows,
    "zarr3": zarr3.compress_rows,
}
_READ: dict[str, Callable[[Kind, Sequence[Any]], np.ndarray]] = {
    "png": pictures.read_rows,
    "jpeg": pictures.read_rows,
    "zarr3": zarr3.read_rows,
}


def check(kind: Kind) -> None:
    """Raise ValueError unless a column is stored in a way that holds its rows."""
    (zarr3 if kind.stored == "zarr3" else pictures).check(kind)


def compress_rows(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    """Compress rows `[B, ...]`, each to an array of bytes."""
    return _COMPRESS[kind.stored](kind, rows)


def read_rows(kind: Kind, blobs: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read rows `[B]`: `[B, ...]`. blobs: the bytes of all rows. ends: where each ends. ValueError for damaged ones."""
    check(kind)
    if not len(rows):
        return np.empty((0, *kind.shape), kind.dtype)
    begins = np.where(rows > 0, ends[rows - 1], 0)
    if kind.row_bytes > MOST_RATIO * int((ends[rows] - begins).min()):
        raise ValueError("a row is too short for one of this size")
    chosen = [blobs[begin:end].tobytes() for begin, end in zip(begins.tolist(), ends[rows].tolist())]
    return _READ[kind.stored](kind, chosen)
