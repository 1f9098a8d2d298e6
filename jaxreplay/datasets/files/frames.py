"""Pictures in data sets: images of which a column has the bytes, and the frames of videos."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import naming, need


def decode_images(values: Any, most: float) -> np.ndarray:
    """Decode the images of an Arrow column `struct{bytes, path}`, as Hugging Face has them: `[N, height, width, ...]`.

    Raises ValueError for images of several sizes, for more than `most` bytes of them, and for an image without bytes:
    its path is not followed.
    """
    library = need("PIL.Image", "Pillow", "lerobot", "reading images")
    frames: np.ndarray | None = None
    for i, value in enumerate(values):
        row = value.as_py() or {}
        if not isinstance(row.get("bytes"), bytes):
            raise ValueError(f"expected the bytes of an image, got path {row.get('path')!r}, which is not followed")
        with naming(f"image {i}"), library.open(io.BytesIO(row["bytes"])) as image:
            if len(values) * image.width * image.height > most:
                raise ValueError(f"{len(values)} images of {image.size} are more than the file can hold")
            frame = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        if frames is None:
            frames = np.empty((len(values), *frame.shape), frame.dtype)
        if (frame.shape, frame.dtype) != (frames.shape[1:], frames.dtype):
            raise ValueError(f"expected images of one size, got {frames.shape[1:]} and {frame.shape}")
        frames[i] = frame
    assert frames is not None
    return frames


def decode_video(path: pathlib.Path, seconds: Sequence[float] | np.ndarray, rate: float) -> np.ndarray:
    """Decode the frames of a video at some times, in any order, uint8 `[N, height, width, 3]`; `rate` a second.

    Times are rounded to whole frames. Raises ValueError if the video has no frame at one of them, and for what is no
    MP4: playlists, which the library would follow to other files, are among the other formats.
    """
    av = need("av", "PyAV", "lerobot", f"{path}: reading videos")
    wanted = np.rint(np.asarray(seconds, np.float64) * rate).astype(np.int64)
    order = np.argsort(wanted, kind="stable")
    frames: np.ndarray | None = None
    at = 0
    with naming(path), av.open(str(path), format="mp4") as container:
        if not container.streams.video:
            raise ValueError("there is no video in it")
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
