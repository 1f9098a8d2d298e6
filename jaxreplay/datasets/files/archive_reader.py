"""Reading the library's own files in one pass: everything is checked, and sizes before memory is taken for them."""

from __future__ import annotations

import io
import json
import math
import pathlib
import re
import zipfile
import zlib
from typing import Any, BinaryIO

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files import values as plain
from jaxreplay.datasets.files.archive import COMMENT, COMMENT_BYTES, FORMAT, MANIFEST, VERSION, stored_dtype
from jaxreplay.datasets.store import PARTS, Chunk, Store, consecutive

PIECE = 2**20  # read and summed up at a time: it stays in the processor's cache
SMALL = 2**23  # a file of fewer bytes is read at once, so that threads seldom wait for each other
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][a-z]\d+)', 'fortran_order': False, "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
HEADER_BYTES = 1024  # more than a header of 32 axes has
Columns = dict[str, tuple[np.dtype, tuple[int, ...]]]
"""The dtype and shape of each column, by its member's name."""


def read(path: pathlib.Path) -> Store:
    """Read a file that `save` wrote. Raises ValueError for any other, and for one with a changed or missing byte.

    What else may be raised for a damaged file is any Exception, which `formats.read` makes a ValueError.
    """
    with path.open("rb", buffering=0) as opened:
        small = opened.seek(0, 2) <= SMALL
        opened.seek(0)
        file = io.BytesIO(opened.read()) if small else opened
        end = file.seek(0, 2) - COMMENT_BYTES
        file.seek(max(end, 0))
        comment = file.read()
        if not comment.startswith(COMMENT[: COMMENT.index("{")].encode()):
            raise ValueError("it is cut or changed, or it is not of Dataset.save: its last bytes are not a checksum")
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            members = _check_members(archive, end)
            manifest = json.loads(_text(archive, members, MANIFEST))
            episodes, steps, structure, wanted = _plan(manifest)
            texts = {name: json.loads(_text(archive, members, f"{name}.json")) for name in manifest["texts"]}
        columns = _read_columns(file, end, comment, members, wanted)
    return _make_store(episodes, steps, structure, columns, texts)


def _check_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name; none is compressed or encrypted, and together they are no larger than the file."""
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > size or len({info.filename for info in infos}) != len(infos):
        raise ValueError("its members are larger than the file, or have one name")
    for info in infos:
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not stored or info.compress_size != info.file_size:
            raise ValueError(f"{info.filename}: expected a member that is not compressed")
    return {info.filename: info for info in infos}


def _text(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], member: str) -> str:
    if member not in members:
        raise ValueError(f"there is no {member}")
    return archive.read(members[member]).decode()


def _plan(manifest: Any) -> tuple[int, int, dict[str, Any], Columns]:
    """The number of episodes and steps, the structure with members' names as leaves, and the columns to read."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} does not say that this is a data set")
    if manifest.get("version") != VERSION:
        raise ValueError(f"it has version {manifest.get('version')!r} of the format, this library reads {VERSION}")
    episodes, steps, columns = manifest["episodes"], manifest["steps"], manifest["columns"]
    if type(episodes) is not int or type(steps) is not int or not 1 <= episodes <= steps < 2**60:
        raise ValueError(f"expected at least one episode and step, got {episodes!r} and {steps!r}")
    structure, wanted = {part: plain.decode(manifest["structure"][part]) for part in PARTS}, {}
    for part, tree in structure.items():
        rows = steps + (episodes if part == "observations" else 0)
        for member in jax.tree.leaves(tree):
            name, shape = columns.pop(member)
            wanted[member] = plain.known_dtype(name), (rows, *plain.known_shape(shape))
    if columns:
        raise ValueError(f"{MANIFEST} names columns that are in no structure")
    for name, kind in (("length", "int64"), ("terminated", "bool"), ("truncated", "bool")):
        wanted[f"episodes.{name}.npy"] = np.dtype(kind), (episodes,)
    return episodes, steps, structure, wanted


def _read_columns(
    file: BinaryIO | Any, end: int, comment: bytes, members: dict[str, zipfile.ZipInfo], wanted: Columns
) -> dict[str, np.ndarray]:
    """Read the columns into their arrays, in the order they are in, and all between them, and compare the checksum."""
    missing = [member for member in wanted if member not in members]
    if missing:
        raise ValueError(f"there is no {missing[0]}")
    at, value, columns = 0, 0, {}
    scratch = memoryview(bytearray(PIECE))
    for member in sorted(wanted, key=lambda member: members[member].header_offset):
        begin, column = _begin_column(file, members[member], *wanted[member])
        if begin < at:
            raise ValueError(f"{member}: it lies over another member")
        value = _sum_into(file, at, begin, scratch, value, keep=False)
        at = begin + column.nbytes
        value = _sum_into(file, begin, at, column.reshape(-1).view(np.uint8).data, value, keep=True)
        columns[member] = column
    if at > end or comment != COMMENT.format(_sum_into(file, at, end, scratch, value, keep=False)).encode():
        raise ValueError("its checksum is wrong: bytes were changed or cut")
    for member, column in columns.items():
        if column.dtype == np.bool_ and column.size and column.view(np.uint8).max() > 1:
            raise ValueError(f"{member}: expected bytes 0 and 1")
    return columns


def _begin_column(file: Any, info: zipfile.ZipInfo, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """Where the values of an `.npy` member begin, and the array to read them into, if all sizes agree."""
    member = info.filename
    file.seek(info.header_offset)
    local = file.read(30)
    if local[:4] != b"PK\x03\x04" or len(local) < 30:
        raise ValueError(f"{member}: there is no member at its place")
    first = file.tell() + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    file.seek(first)
    header = HEADER.match(file.read(min(HEADER_BYTES, info.file_size)))
    if header is None:
        raise ValueError(f"{member}: it does not begin as save writes it")
    stored, num_bytes = stored_dtype(dtype), math.prod(shape) * dtype.itemsize
    came_dtype, came_shape = header[1].decode(), tuple(int(n) for n in header[2].split(b",") if n.strip())
    if (came_shape, came_dtype) != (shape, stored.str):
        expected = trees.describe(shape, stored)
        raise ValueError(f"{member}: expected {expected}, got {trees.describe(came_shape, came_dtype)}")
    if int.from_bytes(header[0][8:10], "little") + 10 != header.end() or header.end() + num_bytes != info.file_size:
        raise ValueError(f"{member}: expected {num_bytes} bytes of values, the member has {info.file_size} in all")
    return first + header.end(), np.empty(shape, dtype)


def _sum_into(file: Any, begin: int, end: int, into: memoryview, value: int, keep: bool) -> int:
    """Read a range of the file, into successive bytes if they are kept, and go on with the checksum over it."""
    at = begin
    file.seek(begin)
    while at < end:
        offset = at - begin if keep else 0
        piece = into[offset : offset + min(PIECE, end - at)]
        count = file.readinto(piece)
        if not count:
            raise ValueError("it is cut")
        value, at = zlib.crc32(piece[:count], value), at + count
    return value


def _make_store(
    episodes: int, steps: int, structure: dict[str, Any], columns: dict[str, np.ndarray], texts: dict[str, Any]
) -> Store:
    length, terminated, truncated = (columns[f"episodes.{name}.npy"] for name in ("length", "terminated", "truncated"))
    if (length < 1).any() or (length > steps).any() or int(length.sum()) != steps:
        raise ValueError(f"the lengths of episodes are not positive, or do not add up to {steps}")
    values = {name: plain.decode(text) for name, text in texts.items()}
    for name, each in values.items():
        if name not in ("infos", "episode_data") or not isinstance(each, list) or len(each) != episodes:
            raise ValueError(f"{name}.json does not have a value for each episode")
    table = consecutive(length, terminated, truncated, values.get("infos"), values.get("episode_data"))
    chunk = Chunk(**{part: jax.tree.map(lambda member: columns[member], tree) for part, tree in structure.items()})
    store = Store((chunk,), table)
    for i in {0, *np.flatnonzero([infos is not None for infos in table.infos]).tolist()}:
        store.trajectory(i)  # makes the checks of a trajectory
    return store
