"""Columns of which each row is compressed, and any row is read without the others, or with few of them."""

from typing import Any

import numpy as np

from jaxreplay.storage import pictures, video, zarr3
from jaxreplay.storage.manifest import MOST_RATIO, Kind
from jaxreplay.storage.places import Rows

_FORMATS: dict[str, Any] = {
    "png": pictures,
    "jpeg": pictures,
    "video": video,
    "video-lossless": video,
    "zarr3": zarr3,
}


def check(kind: Kind) -> None:
    """Raise ValueError unless a column is stored in a way that holds its rows."""
    _FORMATS[kind.stored].check(kind)


def compress_rows(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    """Compress rows `[B, ...]`, each to an array of bytes."""
    return _FORMATS[kind.stored].compress_rows(kind, rows)


def read_rows(kind: Kind, blobs: np.ndarray | Rows, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read rows `[B]`: `[B, ...]`. blobs: the bytes of all rows. ends: where each ends. ValueError for damaged ones."""
    check(kind)
    if not len(rows):
        return np.empty((0, *kind.shape), kind.dtype)
    begin = lambda rows: np.where(rows > 0, ends[rows - 1], 0)  # noqa: E731
    if kind.row_bytes > MOST_RATIO * int((ends[rows] - begin(rows)).min()):
        raise ValueError("a row is too short for one of this size")

    def fetch(rows: np.ndarray) -> list[bytes]:
        slices = begin(rows).tolist(), ends[rows].tolist()
        return blobs.slices(*slices) if isinstance(blobs, Rows) else [blobs[a:b].tobytes() for a, b in zip(*slices)]

    if _FORMATS[kind.stored] is video:
        return video.read_rows(kind, fetch, rows)
    return _FORMATS[kind.stored].read_rows(kind, fetch(rows))
