"""The library's own files: `.npz` archives, not compressed, that `numpy.load` opens as well; data alone.

Members: `jaxreplay.json` says what there is; an `.npy` for each column, episode after episode; `episodes.length.npy`,
`episodes.terminated.npy` and `episodes.truncated.npy`; `infos.json` and `episode_data.json` where there are some. What
NumPy knows only by an extension, as bfloat16, is there as unsigned integers of its bits. The archive's comment, its
last bytes, holds a CRC-32 of all bytes before, so a changed or missing byte anywhere is found before anything is read.
"""

from __future__ import annotations

import json
import pathlib
import re
import zipfile
import zlib
from typing import Any, BinaryIO

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files import atomic
from jaxreplay.datasets.files import values as plain
from jaxreplay.datasets.store import PARTS, Chunk, Store, pieces

FORMAT, VERSION = "jaxreplay.datasets", 1
MANIFEST = "jaxreplay.json"
COMMENT = "jaxreplay archive, crc32 {:08x}"
COMMENT_BYTES = len(COMMENT.format(0))
PIECE = 16 * 2**20
FLAGS = ("terminated", "truncated")


def save_folder(store: Store, path: Any) -> None:
    """Write a folder with a file for each episode, in order of their names."""
    if not store.num_episodes:
        raise ValueError(f"{path}: there are no episodes to save")
    path, digits = pathlib.Path(path), max(6, len(str(store.num_episodes - 1)))
    atomic.remove_leftovers(path.parent)
    with atomic.new_folder(path) as folder:
        for i in range(store.num_episodes):
            _save(store.take(slice(i, i + 1)), folder / f"episode_{i:0{digits}d}.npz")


def save(store: Store, path: Any) -> None:
    """Write all episodes to one file. Raises TypeError for what is no data, before anything is written."""
    if not store.num_episodes:
        raise ValueError(f"{path}: there are no episodes to save")
    path = pathlib.Path(path)
    atomic.remove_leftovers(path.parent)
    _save(store, path)


def _save(store: Store, path: pathlib.Path) -> None:
    named = _named_columns(store.chunks[0])
    manifest, texts = _describe(store, named)
    with atomic.new_file(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(MANIFEST, json.dumps(manifest))
            for member, (part, leaf, example) in named.items():
                rows = store.num_steps + (store.num_episodes if part == "observations" else 0)
                _write_column(archive, member, example, rows, pieces(store, part, leaf))
            for name in ("length", *FLAGS):
                column = getattr(store.table, name)
                _write_column(archive, f"episodes.{name}.npy", column, len(column), [column])
            for name, text in texts.items():
                archive.writestr(f"{name}.json", text)
            archive.comment = b" " * COMMENT_BYTES
        value = checksum(file)
        file.seek(-COMMENT_BYTES, 2)
        file.write(COMMENT.format(value).encode())


def _named_columns(chunk: Chunk) -> dict[str, tuple[str, int, np.ndarray]]:
    """For each column its member's name, and its part, its number among the part's leaves, and itself."""
    named: dict[str, tuple[str, int, np.ndarray]] = {}
    for part in PARTS:
        for leaf, (path, column) in enumerate(trees.paths({part: getattr(chunk, part)})):
            member = f"{path}.npy"
            if not re.fullmatch(r"[\w.\-]{1,100}", member, re.ASCII) or member in named:
                member = f"{part}#{leaf}.npy"
            named[member] = (part, leaf, column)
    return named


def _describe(store: Store, named: dict[str, tuple[str, int, np.ndarray]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest, and the JSON of infos and episode data."""
    members = iter(named)
    structure = {
        part: plain.encode(jax.tree.map(lambda _: next(members), getattr(store.chunks[0], part)), part)
        for part in PARTS
    }
    columns = {
        member: [plain.dtype_name(column.dtype, member), list(column.shape[1:])]
        for member, (_, _, column) in named.items()
    }
    texts = {}
    for name in ("infos", "episode_data"):
        values = list(getattr(store.table, name))
        if any(value is not None for value in values):
            encoded = [plain.encode(value, f"episodes.{i}.{name}") for i, value in enumerate(values)]
            texts[name] = json.dumps(encoded, allow_nan=False)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "structure": structure,
        "columns": columns,
        "texts": list(texts),
    }
    return manifest, texts


def _write_column(archive: zipfile.ZipFile, member: str, like: np.ndarray, rows: int, parts: Any) -> None:
    dtype = stored_dtype(like.dtype)
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *like.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            for begin in range(0, len(part), _rows_at_a_time(part)):
                piece = np.ascontiguousarray(part[begin : begin + _rows_at_a_time(part)])
                file.write(piece.reshape(-1).view(np.uint8).data)


def _rows_at_a_time(column: np.ndarray) -> int:
    row = column.dtype.itemsize * int(np.prod(column.shape[1:]))
    return max(1, PIECE // max(row, 1))


def stored_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"uint{8 * dtype.itemsize}") if plain.is_extended(dtype) else dtype


def checksum(file: BinaryIO) -> int:
    """CRC-32 of all bytes but the comment's; afterwards the file stands at the comment."""
    left = file.seek(0, 2) - COMMENT_BYTES
    file.seek(0)
    value, piece = 0, memoryview(bytearray(2**20))  # small enough to stay in the processor's cache
    while left > 0:
        count = file.readinto(piece[: min(len(piece), left)])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the file became shorter")
        value, left = zlib.crc32(piece[:count], value), left - count
    return value
