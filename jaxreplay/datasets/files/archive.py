"""The library's own files: `.npz` archives, not compressed, of named arrays and one JSON text; data alone.

`numpy.load` opens them as well. What NumPy knows only by an extension, as bfloat16, is there as unsigned integers of
its bits. The archive's comment, its last bytes, holds a CRC-32 of all bytes before, so a changed or missing byte
anywhere is found. A file is written and read once from its first byte to its last.
"""

import functools
import io
import json
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.values import EXTENDED, is_extended

VERSION = 2
MANIFEST = "jaxreplay.json"
COMMENT = "jaxreplay archive, crc32 {:08x}"
_COMMENT_BEGIN = COMMENT[: COMMENT.index("{")].encode()
BLANK = bytes(len(COMMENT.format(0)))  # what stands for the comment while the others are summed up
PIECE = 2**20  # bytes that are written, or read, and summed up at a time: they stay in the processor's cache


class Column(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def write(file: BinaryIO, kind: str, content: Any, arrays: Mapping[str, np.ndarray | Column]) -> None:
    """Write an archive to an empty file that can be read and written. kind: what it is, as "jaxreplay data set"."""
    columns = {name: x if isinstance(x, Column) else Column(x.dtype, x.shape, [x]) for name, x in arrays.items()}
    dtypes = {name: column.dtype.name for name, column in columns.items() if is_extended(column.dtype)}
    manifest = {"format": kind, "version": VERSION, "dtypes": dtypes, "content": content}
    summed = _Writer(file)
    with zipfile.ZipFile(summed, "w") as archive:  # type: ignore[call-overload]
        archive.comment = BLANK
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, allow_nan=False))
        for name, column in columns.items():
            _write_column(archive, zipfile.ZipInfo(f"{name}.npy"), column)
    file.seek(-len(BLANK), 2)
    file.write(COMMENT.format(summed.sum).encode())


class _Writer:
    """A file to write from its beginning to its end, and the CRC-32 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, 0

    def write(self, data: Any) -> int:
        self.sum = zlib.crc32(data, self.sum)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _write_column(archive: zipfile.ZipFile, info: zipfile.ZipInfo, column: Column) -> None:
    stored = stored_dtype(column.dtype)
    row = stored.itemsize * math.prod(column.shape[1:])
    rows = max(1, PIECE // max(row, 1))
    with archive.open(info, "w", force_zip64=row * column.shape[0] > 2**30) as member:
        header = {"descr": stored.str, "fortran_order": False, "shape": column.shape}
        np.lib.format.write_array_header_1_0(member, header)
        for part in column.pieces:
            for begin in range(0, len(part), rows):
                piece = np.ascontiguousarray(part[begin : begin + rows])
                member.write(piece.reshape(-1).view(np.uint8).data)


def stored_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"uint{8 * dtype.itemsize}") if is_extended(dtype) else dtype


def is_own(path: pathlib.Path) -> bool:
    """Tell whether a file ends as those that `write` makes."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - len(BLANK)))
        return file.read().startswith(_COMMENT_BEGIN)


def read(file: BinaryIO, kind: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the content and the arrays of an archive of this kind.

    Raises ValueError for any other file, and for one with a changed or missing byte; what else may be raised for a
    damaged file is any Exception. No more memory is taken than the file's own size, whatever it promises.
    """
    end = file.seek(0, 2) - len(BLANK)
    file.seek(max(end, 0))
    comment = file.read()
    if end < 0 or not comment.startswith(_COMMENT_BEGIN):
        raise ValueError("it is cut or changed, or no file of this library: the digest at its end is missing")
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len({info.filename for info in members}) != len(members):
        raise ValueError("two of its members have one name")
    reader, arrays, manifest = _Reader(file, end), {}, None
    for info in members:
        reader.enter(info)
        if info.filename == MANIFEST:
            manifest = json.loads(reader.read(info.file_size))
        else:
            arrays[info.filename.removesuffix(".npy")] = _read_array(reader, info)
    reader.read(end - reader.at)
    if comment != COMMENT.format(zlib.crc32(BLANK, reader.sum)).encode():
        raise ValueError("its content does not match the digest at its end: bytes were changed or cut")
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise ValueError(f"{MANIFEST} does not say that this is a {kind}")
    if manifest.get("version") != VERSION:
        raise ValueError(f"it has version {manifest.get('version')!r} of the format, this library reads {VERSION}")
    for name, dtype in manifest["dtypes"].items():
        if arrays[name].dtype != stored_dtype(EXTENDED[dtype]):
            raise ValueError(f"{name}: expected the bits of {dtype}, got {arrays[name].dtype}")
        arrays[name] = arrays[name].view(EXTENDED[dtype])
    return manifest["content"], arrays


class _Reader:
    """The bytes of a file before `end`, to read from the first to the last, and the CRC-32 of what was read."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file, self.end, self.at, self.sum = file, end, 0, 0
        file.seek(0)

    def enter(self, info: zipfile.ZipInfo) -> None:
        """Read up to where a member's content begins. Raises ValueError where there is no room for what it promises."""
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"{info.filename} is compressed; expected a member that is not")
        self.read(info.header_offset - self.at)
        local = self.read(30)
        self.read(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"))
        self.check(info.file_size)

    def check(self, count: int) -> None:
        if not 0 <= count <= self.end - self.at:
            raise ValueError("its members take more bytes than the file has, or lie over one another")

    def read(self, count: int) -> bytes:
        """Read the next bytes, all of them or ValueError."""
        self.check(count)
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError("it is cut")
        self.sum, self.at = zlib.crc32(data, self.sum), self.at + count
        return data

    def read_into(self, into: memoryview) -> None:
        for begin in range(0, len(into), PIECE):
            piece = into[begin : begin + PIECE]
            if self.file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                raise ValueError("it is cut")
            self.sum = zlib.crc32(piece, self.sum)
        self.at += len(into)


def _read_array(reader: _Reader, info: zipfile.ZipInfo) -> np.ndarray:
    begin = reader.at
    start = reader.read(10)
    shape, fortran, dtype = _parse_header(start + reader.read(int.from_bytes(start[8:], "little")))
    expected, came = math.prod(shape) * dtype.itemsize, begin + info.file_size - reader.at
    if dtype.kind not in "biufc" or fortran or expected != came:
        raise ValueError(
            f"{info.filename}: expected numbers in C order, {expected} bytes of them for its shape, got "
            f"{trees.describe(shape, dtype)} and {came} bytes"
        )
    array = np.empty(shape, dtype)
    values = array.reshape(-1).view(np.uint8)
    reader.read_into(values.data)
    if dtype == np.bool_ and values.size and values.max() > 1:
        raise ValueError(f"{info.filename}: expected bytes 0 and 1")
    return array


@functools.lru_cache(maxsize=4096)  # many files have the same, and NumPy parses them as Python
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether it is in Fortran's order, and the dtype that an array in NumPy's format begins with."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array in it is in another version of NumPy's format")
    return np.lib.format.read_array_header_1_0(stream)
