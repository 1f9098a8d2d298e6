"""Pictures in data sets: images of which a column has the bytes, and the frames of videos."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

MISSING = "pip install 'jaxreplay[lerobot]'"


def decode_images(name: str, values: Any) -> np.ndarray:
    """Decode the images of an Arrow column `struct{bytes, path}`, as Hugging Face has them: `[N, height, width, ...]`.

    Raises ValueError for images of several sizes, and for one without bytes: its path is not followed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name}: reading images needs Pillow: {MISSING}") from error
    frames = []
    for value in values:
        row = value.as_py() or {}
        if row.get("bytes") is None:
            raise ValueError(
                f"{name}: expected the bytes of an image, got path {row.get('path')!r}, which is not followed"
            )
        with Image.open(io.BytesIO(row["bytes"])) as image:
            frames.append(np.asarray(image.convert("RGB") if image.mode == "P" else image))
    if len({(frame.shape, frame.dtype) for frame in frames}) != 1:
        raise ValueError(f"{name}: expected images of one size, got {sorted({frame.shape for frame in frames})}")
    return np.stack(frames)


def decode_video(path: pathlib.Path, seconds: Sequence[float] | np.ndarray, rate: float) -> np.ndarray:
    """Decode the frames of a video at some times, in any order, uint8 `[N, height, width, 3]`; `rate` a second.

    Times are rounded to whole frames. Raises ValueError if the video has no frame at one of them.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: reading videos needs PyAV: {MISSING}") from error
    wanted = np.rint(np.asarray(seconds, np.float64) * rate).astype(np.int64)
    order = np.argsort(wanted, kind="stable")
    frames: np.ndarray | None = None
    at = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            number = round(float(frame.time or 0.0) * rate)
            first = at
            while at < len(order) and wanted[order[at]] == number:
                at += 1
            if at == first:
                if at == len(order):
                    break
                continue
            pixels = frame.to_ndarray(format="rgb24")
            if frames is None:
                frames = np.empty((len(order), *pixels.shape), np.uint8)
            frames[order[first:at]] = pixels
    if frames is None or at < len(order):
        missing = wanted[order[at]] if len(order) else 0
        raise ValueError(f"{path}: there is no frame {missing}, at {missing / rate:g} seconds")
    return frames
