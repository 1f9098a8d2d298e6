"""The files of a store as a writer has them: the lock, the segments, and commits."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxreplay.datasets.files import atomic
from jaxreplay.storage import manifest
from jaxreplay.storage.growing import Growing, Pieces, join
from jaxreplay.storage.manifest import FILE, LOCK, SEGMENT_NAMES, Manifest, Part, Segment
from jaxreplay.storage.structure import Structure

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None

TOGETHER_BYTES, TOGETHER = 2**23, 1000  # of pieces that wait to be written at once
RING_SEGMENTS = 8  # of the steps that a ring keeps


class Committing:
    """A store that one writer has. `manifest` is its last commit; a folder without one becomes an empty store."""

    def __init__(self, folder: pathlib.Path, max_steps: int | None, segment_bytes: int) -> None:
        self.folder, self.max_steps, self.segment_bytes = folder, max_steps, segment_bytes
        self.waiting: list[Pieces] = []
        self.waiting_bytes = 0
        self.sealed: list[Growing] = []  # full, and not yet all on the disk
        self.current: Growing | None = None
        self._lock = None
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists():
            _check_free(folder)
        self._lock = _lock(folder)
        try:
            atomic.remove_leftovers(folder)
            if (folder / FILE).exists():
                self.manifest = manifest.read(folder)[1]
            else:
                _check_free(folder)
                self.manifest = Manifest(secrets.token_hex(8), 0, None, {}, (), 0, 0)
                manifest.write(folder, self.manifest)
            self.leftovers = remove_uncommitted(folder, self.manifest)
            self.next_segment = self.manifest.next_segment
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        return self._lock is None

    @property
    def growing(self) -> list[Growing]:
        """List the segments that are open to be written."""
        return [*self.sealed, *([self.current] if self.current else [])]

    @property
    def num_steps(self) -> int:
        """Count the steps that were handed on, written or not, without those that a ring has dropped."""
        steps = {segment.number: segment.steps for segment in self.manifest.segments}
        steps |= {growing.written.number: growing.written.steps for growing in self.growing}
        return sum(steps.values()) + sum(pieces.num_steps for pieces in self.waiting)

    def most_steps(self, row_bytes: int) -> int:
        """Say how many steps of so many bytes a piece may have, so that segments keep their size."""
        most = self.segment_bytes // row_bytes if row_bytes else 2**62
        return max(1, most if self.max_steps is None else min(most, self.max_steps // RING_SEGMENTS))

    def add(self, pieces: list[Pieces], structure: Structure, next_episode: int) -> None:
        """Take pieces to write. Small ones wait, as copies, until there are enough to be written at once.

        Where that raises, as on a full disk, they go on waiting.
        """
        large = False
        for each in pieces:
            if each.num_bytes < TOGETHER_BYTES // 8:
                each = Pieces(each.index, {name: [np.array(x) for x in every] for name, every in each.files.items()})
            else:
                large = True
            self.waiting.append(each)
            self.waiting_bytes += each.num_bytes
        if large or self.waiting_bytes >= TOGETHER_BYTES or len(self.waiting) >= TOGETHER:
            self._write_waiting(structure, next_episode)

    def _write_waiting(self, structure: Structure, next_episode: int) -> None:
        while self.waiting:
            count, size, steps, most = 0, 0, 0, self.most_steps(0)
            for each in self.waiting:
                size, steps = size + each.num_bytes, steps + each.num_steps
                if count and (size > min(TOGETHER_BYTES, self.segment_bytes) or steps > most):
                    break
                count += 1
            self._write(join(self.waiting[:count]), structure, next_episode)
            del self.waiting[:count]
        self.waiting_bytes = 0

    def _write(self, pieces: Pieces, structure: Structure, next_episode: int) -> None:
        about = self._about(structure, next_episode)
        if self.current is None and about.segments and not self.sealed:
            last = about.segments[-1]
            self.current = Growing(self.folder, about, last, new=False)
        current = self.current
        if current is not None and current.written.pieces and self._is_full(current, pieces):
            self.sealed.append(current)
            self.current = current = None
        if current is None:
            number, self.next_segment = self.next_segment, self.next_segment + 1
            empty = Segment(number, 0, {name: Part(0) for name in about.names()})
            self.current = current = Growing(self.folder, about, empty, new=True)
        current.append(pieces)

    def _is_full(self, growing: Growing, pieces: Pieces) -> bool:
        if growing.num_bytes + pieces.num_bytes > self.segment_bytes:
            return True
        return growing.written.steps + pieces.num_steps > self.most_steps(0)

    def _about(self, structure: Structure, next_episode: int) -> Manifest:
        return dataclasses.replace(
            self.manifest,
            structure=structure.text,
            kinds=structure.kinds,
            next_episode=next_episode,
            next_segment=self.next_segment,
        )

    def commit(self, structure: Structure, next_episode: int) -> None:
        """Bring all to the disk, then the manifest that says so, and take away what it does not name any more."""
        self._write_waiting(structure, next_episode)
        open_now = self.growing
        if all(growing.synced for growing in open_now) and structure.text == self.manifest.structure:
            return
        written = {growing.written.number: growing.sync() for growing in open_now}
        before = [segment for segment in self.manifest.segments if segment.number not in written]
        segments, dropped = _newest([*before, *written.values()], self.max_steps)
        about = self._about(structure, next_episode)
        about = dataclasses.replace(about, commit=about.commit + 1, segments=tuple(segments))
        manifest.write(self.folder, about)
        self.manifest = about
        for growing in self.sealed:
            growing.close()
        self.sealed = []
        for segment in dropped:
            if self.current is not None and self.current.written.number == segment.number:
                self.current.close()
                self.current = None
            for name in segment.files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / segment.file(name))  # who has it mapped keeps it

    def close(self) -> None:
        """Let go of the store, as it was last committed."""
        for growing in self.growing:
            growing.close()
        self.sealed, self.current = [], None
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _newest(segments: list[Segment], max_steps: int | None) -> tuple[list[Segment], list[Segment]]:
    """Part segments into those that hold the newest steps, and those before them."""
    if max_steps is None:
        return segments, []
    first, steps = len(segments), 0
    while first and steps < max_steps:
        first -= 1
        steps += segments[first].steps
    return segments[first:], segments[:first]


def _lock(folder: pathlib.Path) -> int:
    """Take the lock of the one writer, which the system lets go of when its process ends, however that ends."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BlockingIOError(f"{folder}: another writer has this store; close it first") from error
    except OSError:  # some network drives have no locks
        pass
    return handle


@contextlib.contextmanager
def lock_store(folder: pathlib.Path) -> Iterator[None]:
    """Have the store for as long as this lasts. Raises BlockingIOError where another writer has it."""
    handle = _lock(folder)
    try:
        yield
    finally:
        os.close(handle)


def _check_free(folder: pathlib.Path) -> None:
    """Raise FileExistsError where a folder has files that are none of a store that was being made."""
    others = [name for name in os.listdir(folder) if name != LOCK and not atomic.PART.fullmatch(name)]
    if others:
        raise FileExistsError(f"{folder}: it is no store and not empty: there is {min(others)}; name a new folder")


def uncommitted(folder: pathlib.Path, about: Manifest) -> list[pathlib.Path]:
    """List the files of segments that the manifest does not name: what a writer that died left behind."""
    known = {segment.file(name) for segment in about.segments for name in segment.files}
    return [folder / name for name in sorted(os.listdir(folder)) if SEGMENT_NAMES.fullmatch(name) and name not in known]


def remove_uncommitted(folder: pathlib.Path, about: Manifest) -> int:
    """Remove them, and say how many bytes they had. Only who has the lock may do so."""
    size = 0
    for path in uncommitted(folder, about):
        size += path.lstat().st_size
        path.unlink()
    return size
