"""Columns of pictures, each row of which is a file of PNG, without loss, or of JPEG, with loss."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import need
from jaxreplay.storage.manifest import Kind

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
        raise ValueError(
            f"{kind.name}: {kind.stored} holds {wanted}; it is {kind.dtype}{list(kind.shape)}. zarr3 holds any array."
        )


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


def read_rows(kind: Kind, blobs: Sequence[bytes]) -> np.ndarray:
    """Read rows `[B, ...]` of what each was compressed to. Raises an error of the library for damaged ones."""
    image = need("PIL.Image", "Pillow", "lerobot", f"{kind.name} as {kind.stored}: reading it")
    out = np.empty((len(blobs), *kind.shape), kind.dtype)
    for i, blob in enumerate(blobs):
        with image.open(io.BytesIO(blob), formats=[kind.stored.upper()]) as picture:
            if picture.size != (kind.shape[1], kind.shape[0]):
                raise ValueError(f"a picture is of size {picture.size}")
            out[i] = np.asarray(picture).reshape(kind.shape)
    return out
