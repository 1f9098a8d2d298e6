"""Which arrays are pictures, and how they become RGB: for strips, animations and pages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_SIDE = 8  # pixels; what is smaller is a matrix
CHANNELS = (1, 3, 4)
PALETTE = np.array(  # colours that the colour-blind tell apart (Okabe and Ito 2008); the first is for nothing set
    [
        *[(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)],
        *[(204, 121, 167), (255, 255, 255), (153, 153, 153), (120, 60, 0), (0, 60, 60)],
    ],
    np.uint8,
)


def is_picture(shape: Sequence[int], dtype: Any) -> bool:
    """Tell whether an array of this shape, without the axis of time, can be shown as a picture.

    `[H, W]`; `[H, W, C]` or `[C, H, W]` with 1 or 3 channels, 4 for RGBA or a stack of frames; `[H, W, N]` planes.
    """
    if np.dtype(dtype).kind not in "biuf" or not 2 <= len(shape) <= 3 or 0 in shape:
        return False
    return min(_sides(shape)) >= LEAST_SIDE


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) == 2 or not _channels_first(shape):
        return shape[0], shape[1]
    return shape[1], shape[2]


def _channels_first(shape: Sequence[int]) -> bool:
    """Tell whether the first axis is one of channels or frames: it is short, and the last is not one of channels."""
    return shape[0] < LEAST_SIDE <= min(shape[1:]) and shape[-1] not in CHANNELS


def to_rgb(frames: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Make RGB uint8 `[T, H, W, 3]` of pictures `[T, ...]`.

    Floats are taken from 0 to 1 where they lie there, else from their least to their most. Of a stack of frames the
    last one is shown; of N planes, the last that is set, each in a colour of its own.
    like: frames of the same recording that decide all this, so that frames made one by one look alike.
    """
    frames = np.asarray(frames)
    like = frames if like is None else np.asarray(like)
    if frames.ndim == 4 and _channels_first(frames.shape[1:]):
        frames, like = np.moveaxis(frames, 1, -1), np.moveaxis(like, 1, -1)
    if frames.ndim == 4 and frames.shape[-1] not in CHANNELS:
        if frames.shape[-1] >= LEAST_SIDE or frames.dtype != np.uint8 or not (like > 1).any():
            return _planes(frames)
        frames, like = frames[..., -1], like[..., -1]  # a stack of frames
    if frames.ndim == 4 and frames.shape[-1] == 4:
        is_rgba = (_to_bytes(like, like)[..., 3] == 255).all()
        frames, like = (frames[..., :3], like[..., :3]) if is_rgba else (frames[..., 3], like[..., 3])
    values = _to_bytes(frames, like)
    values = values[..., None] if values.ndim == 3 else values
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values


def _planes(frames: np.ndarray) -> np.ndarray:
    """Colour each pixel by the last of the planes `[T, H, W, N]` that is set there."""
    is_set = frames > 0
    last = frames.shape[-1] - np.argmax(is_set[..., ::-1], axis=-1)
    return PALETTE[np.where(is_set.any(-1), last, 0) % len(PALETTE)]


def _to_bytes(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    known = like.astype(np.float64)
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if values.dtype.kind in "bf" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    wide = values.astype(np.float64)
    scaled = (wide - low) / (high - low) if high > low else np.zeros_like(wide)
    return np.round(255 * np.nan_to_num(np.clip(scaled, 0, 1))).astype(np.uint8)


def evenly(count: int, most: int) -> np.ndarray:
    """Choose up to `most` of `count` indices at even distances, first and last included.

    >>> evenly(10, 4).tolist(), evenly(3, 8).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))


def grid(count: int) -> tuple[int, int]:
    """Give rows and columns for a strip of so many pictures, at most 8 in a row."""
    columns = min(count, 8)
    return math.ceil(count / columns), columns
