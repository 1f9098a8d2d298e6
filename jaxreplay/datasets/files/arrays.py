"""Files of columns: compressed `.npz`, as OGBench's, and Parquet."""

import contextlib
import dataclasses
import io
import math
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.d4rl import MOST_COMPRESSED, join_columns, read_flags
from jaxreplay.datasets.files.imitation import read_array
from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

OGBENCH = {"observations", "actions", "terminals"}
MOST_REPEATED = 2**16  # a file in which values are told once for many rows is not made larger by more
ROWS, IMAGES = 8192, 256  # of Parquet that are decoded at a time


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """Open an `.npz` to read: the names of its arrays, and what reads one.

    What reads raises ValueError for an array of objects, and for one that is larger than its file can hold.
    """
    with zipfile.ZipFile(path) as archive:
        every = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        members = {info.filename.removesuffix(".npy"): info for info in every}
        if len(members) < len(every) or sum(info.compress_size for info in every) > path.stat().st_size:
            raise ValueError("two of its members have one name, or lie over one another")

        def read(name: str) -> np.ndarray:
            info = members[name]
            with naming(info.filename):
                with archive.open(info) as member:
                    major, minor = np.lib.format.read_magic(member)
                    if major > 2:
                        raise ValueError(f"it is in version {major}.{minor} of NumPy's format, which holds no numbers")
                    shape, _, dtype = getattr(np.lib.format, f"read_array_header_{major}_{minor}")(member)
                size = max(info.file_size, math.prod(shape) * dtype.itemsize)
                if size > MOST_COMPRESSED * (info.compress_size + 64):
                    raise ValueError(f"{trees.describe(shape, dtype)} is more than the file can hold")
                with archive.open(info) as member:
                    return np.lib.format.read_array(member, allow_pickle=False)

        yield list(members), read


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


def open_parquet(files: Sequence[pathlib.Path]) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Give the names of the columns of Parquet files of one structure, and what reads one as an array `[N, ...]`.

    No file stays open: there may be more than a process can open. Raises ValueError naming the file that is damaged.
    """
    parquet = need("pyarrow.parquet", "pyarrow", "datasets", f"{files[0]}: reading it")
    known = []
    for file in files:
        with naming(file):
            known.append(parquet.read_metadata(file))

    schema = known[0].schema.to_arrow_schema()

    def pieces(name: str) -> Iterator[Any]:
        rows = ROWS if name in schema.names and not schema.field(name).type.num_fields else IMAGES
        for file, metadata in zip(files, known):
            with naming(file), parquet.ParquetFile(file, metadata=metadata) as opened:
                yield from (batch.column(name) for batch in opened.iter_batches(rows, columns=[name]))

    count, most = sum(each.num_rows for each in known), MOST_REPEATED * sum(file.stat().st_size for file in files)
    return schema.names, lambda name: arrow_column(pieces(name), count, most)


def arrow_column(chunks: Iterable[Any], count: int, most: float = math.inf) -> np.ndarray:
    """Read the chunks of an Arrow column of N rows as one array `[N, ...]`: of numbers, lists of one length, or images.

    Raises ValueError for anything else, where a value is missing, and for more than `most` bytes.
    """
    at, column = 0, np.empty(0)
    for chunk in filter(len, chunks):
        piece = _decode_images(chunk, most) if hasattr(chunk, "field") else read_array(chunk)
        if not at and count * piece.nbytes > most * len(piece):
            raise ValueError("its values are more than the file can hold")
        column = column if at else np.empty((count, *piece.shape[1:]), piece.dtype)
        if (piece.shape[1:], piece.dtype) != (column.shape[1:], column.dtype):
            raise ValueError(f"expected rows of one shape, got {column.shape[1:]} and {piece.shape[1:]}")
        column[at : at + len(piece)] = piece
        at += len(piece)
    if not at:
        raise ValueError("expected rows of one shape, got no row")
    return column


def _decode_images(values: Any, most: float) -> np.ndarray:
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
