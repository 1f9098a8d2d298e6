"""Columns of frames, each row of which is a frame of H.264 video, with loss or without, by PyAV.

A row is a packet of the video, after one byte that says how many rows before it the keyframe is from which it is
decoded. So any row is read by decoding a few, with one of them in memory.
"""

import fractions
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import need
from jaxreplay.storage.manifest import MOST_RATIO, Kind

KEYFRAME_EVERY = 4  # rows: more of them make files smaller, and random reads slower
QUALITY = "18"  # x264's `crf`: 0 is without loss, 23 its default
MOST_SIDE = 2**13
FORMATS = {"gray": ("yuv420p", "gray"), "yuv444p": ("yuv444p",), "rgb24": ("gbrp",)}  # by those written, those read


def check(kind: Kind) -> None:
    """Raise ValueError unless the rows of a column are frames that a video holds."""
    fits = kind.dtype == np.uint8 and (len(kind.shape) == 2 or kind.shape[2:] in ((1,), (3,)))
    if not (fits and min(kind.shape) > 0 and max(kind.shape) <= MOST_SIDE):
        raise ValueError(
            f"{kind.name}: {kind.stored} holds uint8 [H, W] or [H, W, C] with C of 1 or 3, and sides of at most "
            f"{MOST_SIDE}; it is {kind.dtype}{list(kind.shape)}. zarr3 holds any array."
        )


def compress_rows(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    """Compress rows `[B, ...]`, each to an array of bytes; the first of them is a keyframe."""
    av = need("av", "PyAV", "lerobot", f"{kind.name} as {kind.stored}: writing it")
    stored_as = _format(kind)
    encoder = av.CodecContext.create("libx264rgb" if stored_as == "rgb24" else "libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *kind.shape[:2], stored_as
    encoder.time_base, encoder.framerate = fractions.Fraction(1, 30), 30
    encoder.gop_size, encoder.thread_count = KEYFRAME_EVERY, 1
    quality = {"crf": QUALITY} if kind.stored == "video" else {"qp": "0"}
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", **quality}
    least, out, back = -(-kind.row_bytes // MOST_RATIO), list[np.ndarray](), 0
    reformat = av.video.reformatter.VideoReformatter().reformat
    for number, frame in enumerate([*rows, None]):
        picture = None
        if frame is not None:
            given = "rgb24" if frame.shape[2:] == (3,) else "gray"
            picture = reformat(av.VideoFrame.from_ndarray(frame.reshape(_sides(kind)), format=given), format=stored_as)
            picture.pts = number
        for packet in encoder.encode(picture):
            back = 0 if packet.is_keyframe else back + 1
            out.append(np.frombuffer((bytes([back]) + bytes(packet)).ljust(least, b"\0"), np.uint8))
    if len(out) != len(rows):
        raise ValueError(f"{kind.name}: the encoder made {len(out)} packets of {len(rows)} frames")
    return out


def read_rows(kind: Kind, fetch: Callable[[np.ndarray], list[bytes]], rows: np.ndarray) -> np.ndarray:
    """Read rows `[B]`: `[B, ...]`. fetch: gives what rows `[B]` were compressed to.

    Raises ValueError, or an error of the library, for damaged ones.
    """
    av = need("av", "PyAV", "lerobot", f"{kind.name} as {kind.stored}: reading it")
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    height, width = (-(-side // 64) * 64 for side in kind.shape[:2])  # in blocks, fields of which may be twice as high
    decoder.options = {"err_detect": "explode", "max_pixels": str(height * width)}
    read = _reader(kind, av.video.reformatter.VideoReformatter().reformat)
    out = np.empty((len(rows), *kind.shape), kind.dtype)
    packets, keyframes = _fetch_chains(fetch, rows)
    keyframe, following, frame = -1, 0, None
    for i in np.argsort(rows, kind="stable").tolist():
        row = int(rows[i])
        if keyframes[row] != keyframe:
            if frame is not None:
                decoder.flush_buffers()
            keyframe = following = keyframes[row]
        while following <= row:
            packet = packets[following]
            if len(packet) < 2 or packet[0] != following - keyframe:
                raise ValueError("a row does not go on with the video before it")
            frames = decoder.decode(av.Packet(packet[1:]))
            if len(frames) != 1:
                raise ValueError(f"a row holds {len(frames)} frames")
            frame, following = frames[0], following + 1
        out[i] = read(frame)
    return out


def _fetch_chains(
    fetch: Callable[[np.ndarray], list[bytes]], rows: np.ndarray
) -> tuple[dict[int, bytes], dict[int, int]]:
    """Fetch rows `[B]` and those from their keyframes to them: the packets by row, and the keyframe of each row."""
    used = np.unique(rows)
    packets = dict(zip(used.tolist(), fetch(used)))
    keyframes = {row: row - packet[0] if packet else -1 for row, packet in packets.items()}
    if min(keyframes.values()) < 0:
        raise ValueError("a row is said to follow a keyframe before the first row")
    needed = {before for row, first in keyframes.items() for before in range(first, row)}
    others = np.array(sorted(needed - packets.keys()), np.int64)
    return packets | dict(zip(others.tolist(), fetch(others))), keyframes


def _format(kind: Kind) -> str:
    if kind.shape[2:] != (3,):
        return "gray"
    return "yuv444p" if kind.stored == "video" else "rgb24"


def _sides(kind: Kind) -> tuple[int, ...]:
    return kind.shape[:2] if kind.shape[2:] == (1,) else kind.shape


def _reader(kind: Kind, reformat: Any) -> Any:
    """Return a function that reads the pixels of a decoded frame, or raises ValueError for one of another kind."""
    written = _format(kind)

    def read(frame: Any) -> np.ndarray:
        if (frame.height, frame.width) != kind.shape[:2] or frame.format.name not in FORMATS[written]:
            raise ValueError(f"a frame is {frame.format.name} of size {(frame.width, frame.height)}")
        if written == "yuv444p":
            return reformat(frame, format="rgb24").to_ndarray()
        if written == "gray":
            return _plane(frame.planes[0], frame).reshape(kind.shape)
        green, blue, red = (_plane(plane, frame) for plane in frame.planes)
        return np.stack([red, green, blue], -1)

    return read


def _plane(plane: Any, frame: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
