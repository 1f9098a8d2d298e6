"""Columns of pictures, each row of which is compressed by itself: as PNG, without loss, or JPEG, with loss."""

import io
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import need
from jaxreplay.storage.manifest import Kind

MOST_RATIO = 2**12  # times as many bytes as it takes may a row have: more is a file that was made up
FAST = 3  # of zlib's levels 0 to 9: higher ones take several times as long for a few percent
QUALITY = 95


def check(kind: Kind) -> None:
    """Raise ValueError unless the rows of a column are pictures that its format holds."""
    channels = kind.shape[2:] or (1,)
    wanted = "uint8 [H, W] or [H, W, C] with C of 1 or 3" + (
        ", or of 4, or uint16 [H, W]" if kind.stored == "png" else ""
    )
    fits = len(kind.shape) in (2, 3) and min(kind.shape) > 0 and max(kind.shape[:2]) <= 2**16 - 1
    if kind.dtype == np.uint16 and kind.stored == "png":
        fits &= len(kind.shape) == 2
    else:
        fits &= kind.dtype == np.uint8 and channels in ((1,), (3,), *([(4,)] if kind.stored == "png" else []))
    if not fits:
        raise ValueError(f"{kind.name}: {kind.stored} holds {wanted}; it is {kind.dtype}{list(kind.shape)}")


def compress_rows(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    """Compress rows `[B, ...]`, each to an array of bytes."""
    image = need("PIL.Image", "Pillow", "lerobot", f"{kind.name} as {kind.stored}: writing it")
    options: Any = {"compress_level": FAST} if kind.stored == "png" else {"quality": QUALITY, "subsampling": 0}
    out = []
    for row in rows:
        file = io.BytesIO()
        image.fromarray(row[..., 0] if row.shape[2:] == (1,) else row).save(file, kind.stored, **options)
        out.append(np.frombuffer(file.getvalue(), np.uint8))
    return out


def read_rows(kind: Kind, blobs: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read rows `[B]`: `[B, ...]`. blobs: the bytes of all rows. ends: where each ends. ValueError for damaged ones."""
    image = need("PIL.Image", "Pillow", "lerobot", f"{kind.name} as {kind.stored}: reading it")
    check(kind)
    begins = np.where(rows > 0, ends[rows - 1], 0)
    if kind.row_bytes > MOST_RATIO * int((ends[rows] - begins).min()):
        raise ValueError("a row is too short for a picture of this size")
    out = np.empty((len(rows), *kind.shape), kind.dtype)
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends[rows].tolist())):
        with image.open(io.BytesIO(blobs[begin:end].tobytes()), formats=[kind.stored.upper()]) as picture:
            if picture.size != (kind.shape[1], kind.shape[0]):
                raise ValueError(f"a picture is of size {picture.size}")
            out[i] = np.asarray(picture).reshape(kind.shape)
    return out
