"""Whether a store is whole, and making it whole again: `verify` and `repair`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxreplay.datasets.files import atomic
from jaxreplay.datasets.files.opening import naming
from jaxreplay.datasets.workers import progress_bar
from jaxreplay.storage import compressed, manifest, npy
from jaxreplay.storage.committing import lock_store, remove_uncommitted, uncommitted
from jaxreplay.storage.index import check_index
from jaxreplay.storage.manifest import FILE, LOCK, Kind, Manifest, Part, Segment
from jaxreplay.storage.opening import Opened, open_store
from jaxreplay.storage.places import Folder, Remote

PIECE = 2**22

__all__ = ["Repaired", "check", "open_store", "repair", "verify"]


def verify(path: Any, *, progress: bool | None = False) -> list[str]:
    """Read every byte of a store, and list what is wrong, each with the name of its file; nothing if it is whole.

    Beside changed, cut and missing files these are files that no store has. What a writer has not committed yet, or
    left behind when it died, is no fault. Raises FileNotFoundError where there is no store.
    """
    folder = pathlib.Path(path)
    try:
        about = manifest.read(folder)[1]
    except ValueError as error:
        return [str(error)]
    place, wrong = Folder(folder), []
    total = sum(npy.file_bytes(kind, part.rows) for s in about.segments for kind, part in about.files_of(s))
    with progress_bar(total, "B", progress) as advance:
        for segment in about.segments:
            for kind, part in about.files_of(segment):
                try:
                    for count in _check_file(place, segment.file(kind.name), kind, part):
                        advance(count)
                except ValueError as error:
                    wrong.append(str(error))
    wrong += [f"{folder / name}: it is no file of a store" for name in _foreign(folder, about)]
    if not wrong:
        try:
            _check_compressed(Opened(place, manifest.dump(about), about))
        except ValueError as error:
            wrong.append(str(error))
    return wrong


def _foreign(folder: pathlib.Path, about: Manifest) -> list[str]:
    loose = {path.name for path in uncommitted(folder, about)}
    known = {segment.file(name) for segment in about.segments for name in segment.files} | {FILE, LOCK} | loose
    return [name for name in sorted(os.listdir(folder)) if name not in known and not atomic.PART.fullmatch(name)]


def _check_file(place: Folder | Remote, name: str, kind: Kind, part: Part) -> Iterator[int]:
    """Check the header and the digest of a file; give the bytes as they are read. ValueError names it."""
    with naming(place.name(name)):
        with place.open(name) as file:
            if npy.rows_in(kind, file.read(npy.header_bytes(kind))) < part.rows:
                raise ValueError(f"its header says that it has fewer than the {part.rows} rows of the manifest")
            left, crc, most = part.rows * kind.row_bytes, 0, 0
            while left:
                data = file.read(min(PIECE, left))
                if not data:
                    raise ValueError(f"it is cut: {left} bytes are missing")
                crc, left = zlib.crc32(data, crc), left - len(data)
                if kind.dtype == np.bool_:
                    most = max(most, max(data))
                yield len(data)
        if crc != part.crc:
            raise ValueError("its content does not match its digest: bytes were changed")
        if most > 1:
            raise ValueError("expected bytes 0 and 1")


def check(opened: Opened) -> None:
    """Raise ValueError naming the first file that does not match its digest, or has a row that cannot be read."""
    for segment in opened.manifest.segments:
        for kind, part in opened.manifest.files_of(segment):
            for _ in _check_file(opened.place, segment.file(kind.name), kind, part):
                pass
    _check_compressed(opened)


def _check_compressed(opened: Opened) -> None:
    """Raise ValueError unless the first compressed row of each file can be read."""
    for number, segment in enumerate(opened.manifest.segments):
        for kind in opened.manifest.kinds.values():
            if kind.stored != "npy":
                compressed.check(kind)
                opened.read(kind, number, np.arange(min(1, segment.files[kind.name + manifest.SIZES].rows)))


@dataclasses.dataclass(frozen=True)
class Repaired:
    """What `repair` did. dropped: of segments, and why. removed_bytes: of files that the store does not name."""

    episodes: int
    steps: int
    dropped_steps: int
    dropped: tuple[str, ...]
    removed_bytes: int

    def __str__(self) -> str:
        lines = [f"{self.episodes} episodes, {self.steps} steps are whole; {self.dropped_steps} steps were dropped"]
        lines += [f"  {why}" for why in self.dropped]
        return "\n".join([*lines, f"  {self.removed_bytes} bytes of files without a use were removed"])


def repair(path: Any, *, progress: bool | None = False) -> Repaired:
    """Make a store whole: keep the segments before the first damaged one.

    The new manifest is on the disk before anything is removed, so a repair that is killed can be repeated. What no
    store has is left alone. Raises BlockingIOError where a writer has the store, FileNotFoundError where there is none,
    and ValueError where the manifest itself is damaged: nothing then says what the files are.
    """
    folder = pathlib.Path(path)
    manifest.read(folder)  # before a lock is left in a folder that has no store
    with lock_store(folder):
        about = manifest.read(folder)[1]
        good, why = list[Segment](), list[str]()
        with progress_bar(len(about.segments), "segment", progress) as advance:
            for segment in about.segments:
                wrong = _faults(folder, about, segment)
                if wrong:
                    why += wrong
                    break
                good.append(segment)
                advance(1)
        dropped = about.num_steps - sum(segment.steps for segment in good)
        if len(good) < len(about.segments):
            about = dataclasses.replace(about, commit=about.commit + 1, segments=tuple(good))
            manifest.write(folder, about)
        atomic.remove_leftovers(folder)
        removed = remove_uncommitted(folder, about)
    table = Opened(Folder(folder), manifest.dump(about), about).table
    return Repaired(len(table.length), int(table.length.sum()), dropped, tuple(why), removed)


def _faults(folder: pathlib.Path, about: Manifest, segment: Segment) -> list[str]:
    wrong = []
    for kind, part in about.files_of(segment):
        try:
            for _ in _check_file(Folder(folder), segment.file(kind.name), kind, part):
                pass
            if kind.name == "index":
                with naming(folder):
                    check_index(about, segment, _index(folder / segment.file("index"), kind, part))
        except ValueError as error:
            wrong.append(str(error))
    return wrong


def _index(path: pathlib.Path, kind: Kind, part: Part) -> np.ndarray:
    return np.fromfile(path, kind.dtype, offset=npy.header_bytes(kind)).reshape(-1, *kind.shape)[: part.rows]
