"""The segment that is being written: its files, which only ever get longer, and what of them is on the disk."""

import concurrent.futures
import dataclasses
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxreplay.storage import npy
from jaxreplay.storage.manifest import Kind, Manifest, Part, Segment

PIECE = 2**21  # bytes summed up and written at a time: they stay in the processor's cache
BESIDE = 2**19  # bytes that are summed up by another thread while they are written
MOST_AT_ONCE = 512  # arrays in one system call


@dataclasses.dataclass
class Pieces:
    """P pieces of episodes to write: their rows of the index, `[P, 5]`, and the rows of each file, in order."""

    index: np.ndarray
    files: dict[str, list[np.ndarray]]

    @property
    def num_bytes(self) -> int:
        return self.index.nbytes + sum(array.nbytes for arrays in self.files.values() for array in arrays)

    @property
    def num_steps(self) -> int:
        return int(self.index[:, 1].sum())


def join(pieces: Sequence[Pieces]) -> Pieces:
    """Put pieces one after the other."""
    files: dict[str, list[np.ndarray]] = {}
    for each in pieces:
        for name, arrays in each.files.items():
            files.setdefault(name, []).extend(arrays)
    return Pieces(np.concatenate([each.index for each in pieces]), files)


class Growing:
    """One segment, open to be written. written: what its files have. synced: whether all is on the disk."""

    def __init__(self, folder: pathlib.Path, about: Manifest, segment: Segment, new: bool) -> None:
        self.folder, self.written, self.synced = folder, segment, not new
        self.kinds = {name: about.file_kind(name) for name in about.names()}
        self.handles: dict[str, int] = {}
        self.beside = concurrent.futures.ThreadPoolExecutor(8)
        try:
            for name, kind in self.kinds.items():
                self.handles[name] = self._open(name, kind, new)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, kind: Kind, new: bool) -> int:
        path = self.folder / self.written.file(name)
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o666)
        if not new:  # what a writer that died left behind the rows that it committed; no reader looks there
            os.ftruncate(handle, npy.file_bytes(kind, self.written.files[name].rows))
        return handle

    @property
    def num_bytes(self) -> int:
        return sum(npy.file_bytes(kind, self.written.files[name].rows) for name, kind in self.kinds.items())

    def append(self, pieces: Pieces) -> None:
        """Write pieces after what is there. If this raises, as on a full disk, nothing was added."""
        files = {"index": [pieces.index], **pieces.files}
        parts = {name: self._write(name, files.get(name, [])) for name in self.kinds}
        self.written = Segment(self.written.number, self.written.steps + pieces.num_steps, parts)
        self.synced = False

    def _write(self, name: str, arrays: Sequence[np.ndarray]) -> Part:
        kind, part = self.kinds[name], self.written.files[name]
        at, crc = npy.file_bytes(kind, part.rows), part.crc
        for views in _in_groups(arrays):
            if sum(map(len, views)) < BESIDE:
                crc = _add_up(views, crc)
                at = write_all(self.handles[name], views, at)
            else:
                summed = self._start(_add_up, views, crc)
                at = write_all(self.handles[name], views, at)
                crc = summed()
        return Part(part.rows + sum(len(array) for array in arrays), crc)

    def _start(self, call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Call a function that leaves Python to other threads in one of these; return what waits for its result."""
        try:
            return self.beside.submit(call, *arguments).result
        except RuntimeError:  # the interpreter ends, and starts no thread any more
            found = call(*arguments)
            return lambda: found

    def sync(self) -> Segment:
        """Bring all that was written to the disk, and say what that is."""
        if not self.synced:
            for name, handle in self.handles.items():
                kind = self.kinds[name]
                write_all(handle, [memoryview(npy.header(kind.raw, kind.shape, self.written.files[name].rows))], 0)
            for finish in [self._start(os.fsync, handle) for handle in self.handles.values()]:
                finish()
            self.synced = True
        return self.written

    def close(self) -> None:
        self.beside.shutdown()
        for handle in self.handles.values():
            os.close(handle)
        self.handles = {}


def _add_up(views: Iterable[memoryview], crc: int) -> int:
    for view in views:
        crc = zlib.crc32(view, crc)
    return crc


def _in_groups(arrays: Iterable[np.ndarray]) -> Iterable[list[memoryview]]:
    """Give the bytes of arrays in order, some megabytes at a time."""
    group, size = [], 0
    for array in arrays:
        data: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for begin in range(0, len(data), PIECE):
            view = data[begin : begin + PIECE]
            group.append(view)
            size += len(view)
            if size >= PIECE or len(group) == MOST_AT_ONCE:
                yield group
                group, size = [], 0
    if group:
        yield group


def write_all(handle: int, views: list[memoryview], at: int) -> int:
    """Write bytes at a place of a file, all of them, and return the place after them."""
    while views:
        count = os.pwritev(handle, views, at)
        at += count
        while views and count >= len(views[0]):
            count -= len(views[0])
            views = views[1:]
        if views and count:
            views = [views[0][count:], *views[1:]]
    return at
