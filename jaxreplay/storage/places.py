"""Where the files of a store lie: in a folder, whose files are mapped, or at a URL, of which bytes are asked for."""

from __future__ import annotations

import os
import pathlib
import re
import stat
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.storage import manifest, mapping, npy
from jaxreplay.storage.manifest import FILE, Kind, Manifest

OLDEST = "0.1.83"  # of TensorStore's versions that read a part of a file


def is_url(path: Any) -> bool:
    """Tell whether a path is a URL, as `gs://bucket/store`."""
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def place_of(path: Any) -> Folder | Remote:
    """Give the place that a path or a URL names. Nothing is read."""
    return Remote(path) if is_url(path) else Folder(pathlib.Path(path).absolute())


class Folder:
    """A folder of this machine."""

    is_mapped = True

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> Any:
        return Folder, (self.path,)

    def name(self, file: str) -> str:
        return str(self.path / file)

    def manifest(self) -> tuple[bytes, Manifest]:
        """Read the manifest: `(text, manifest)`."""
        return manifest.read(self.path)

    def check(self, about: Manifest) -> None:
        """Raise ValueError naming the first file that is missing, none, or too short."""
        found = {entry.name: entry for entry in os.scandir(self.path)}
        for segment in about.segments:
            for name, part in segment.files.items():
                file = segment.file(name)
                if file not in found:
                    raise ValueError(f"{self.path / file}: it is missing, and the manifest names it")
                entry = found[file].stat(follow_symlinks=False)
                if not stat.S_ISREG(entry.st_mode):
                    raise ValueError(f"{self.path / file}: expected a file, not a link or a folder")
                size = npy.file_bytes(about.file_kind(name), part.rows)
                if entry.st_size < size:
                    raise ValueError(
                        f"{self.path / file}: it is cut: expected at least {size} bytes, got {entry.st_size}"
                    )

    def open(self, file: str) -> BinaryIO:
        """Open a file to read it from its beginning."""
        path = self.path / file
        if path.is_symlink() or not path.is_file():
            raise ValueError("it is missing" if not path.exists() else "expected a file, not a link or a folder")
        return path.open("rb")

    def rows(self, file: str, kind: Kind, rows: int) -> np.ndarray:
        """Map the first rows of a column's file; see `mapping.map_rows`."""
        return mapping.map_rows(self.name(file), kind, rows)


class Remote:
    """A URL that TensorStore reads: `http://`, `https://`, `gs://`, `s3://`, `file://`. Nothing is kept but headers."""

    is_mapped = False

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") + "/"
        self.library = need("tensorstore", "TensorStore", "tensorstore", f"{url}: reading it")
        with naming(url):
            self.files = self.library.KvStore.open(self.url).result()
        self.checked: dict[tuple[str, int], Rows] = {}

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> Any:
        return Remote, (self.url,)

    def name(self, file: str) -> str:
        return self.url + file

    def manifest(self) -> tuple[bytes, Manifest]:
        """Read the manifest: `(text, manifest)`. Raises FileNotFoundError where there is none."""
        with naming(self.name(FILE)):
            found = self.files.read(FILE).result()
            if found.state == "missing":
                raise FileNotFoundError(f"{self.url}: it holds no store: there is no {FILE}")
            return found.value, manifest.parse(found.value)

    def check(self, about: Manifest) -> None:
        """Do nothing: whether a file has what the manifest says is found when it is read."""

    def start(self, file: str, ranges: Sequence[tuple[int, int]]) -> Callable[[], list[bytes]]:
        """Ask for ranges of the bytes of a file, all at once; return a function that waits for them.

        Raises ValueError naming the file where it is missing, or has not so many.
        """
        try:
            with self.library.Batch() as batch:
                asked = [self.files.read(file, batch=batch, byte_range=slice(*each)) for each in ranges]
        except TypeError as error:
            raise ModuleNotFoundError(
                f"{self.url}: reading it needs TensorStore {OLDEST} or newer: pip install -U tensorstore"
            ) from error

        def finish() -> list[bytes]:
            with naming(self.name(file)):
                found = [each.result() for each in asked]
                if any(each.state == "missing" for each in found):
                    raise ValueError("there is no such file, or none any more; open the store again")
                return [each.value for each in found]

        return finish

    def open(self, file: str) -> Any:
        """Open a file to read it from its beginning."""
        return _Stream(self, file)

    def rows(self, file: str, kind: Kind, rows: int) -> np.ndarray | Rows:
        """Give the first rows of a column's file. Its header is read and checked."""
        at = file, rows
        if at not in self.checked:
            header = self.start(file, [(0, npy.header_bytes(kind))])()[0]
            with naming(self.name(file)):
                if npy.rows_in(kind, header) < rows:
                    raise ValueError(f"its header says that it has fewer than the {rows} rows of the manifest")
            self.checked[at] = Rows(self, file, kind, rows)
        return self.checked[at] if rows * kind.row_bytes else np.empty((rows, *kind.shape), kind.dtype)


class Rows:
    """The rows `[N, ...]` of a column's file at a URL, which are read when they are asked for."""

    def __init__(self, place: Remote, file: str, kind: Kind, rows: int) -> None:
        self.place, self.file, self.kind, self.begin = place, file, kind, npy.header_bytes(kind)
        self.shape = (rows, *kind.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice) -> np.ndarray:
        first, last, _ = chosen.indices(len(self))
        return self._array(self.slices([first], [max(first, last)]))

    def slices(self, begins: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Read the bytes of several slices."""
        found = iter(self._start([(a, b) for a, b in zip(begins, ends) if a < b])())
        return [next(found) if a < b else b"" for a, b in zip(begins, ends)]

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Ask for rows `[B]`; return a function that waits for them. Rows beside each other are asked for as one."""
        used, which = np.unique(rows, return_inverse=True)
        first = np.flatnonzero(np.diff(used, prepend=-2) != 1)
        last = used[np.append(first[1:], len(used)) - 1]
        finish = self._start(list(zip(used[first].tolist(), (last + 1).tolist())))
        return lambda: self._array(finish())[which]

    def _start(self, slices: list[tuple[int, int]]) -> Callable[[], list[bytes]]:
        size = self.kind.row_bytes
        return self.place.start(self.file, [(self.begin + a * size, self.begin + b * size) for a, b in slices])

    def _array(self, parts: list[bytes]) -> np.ndarray:
        data = np.frombuffer(b"".join(parts), np.uint8).view(self.kind.dtype)
        return data.reshape(-1, *self.kind.shape)


class _Stream:
    """A file at a URL, as one that is open."""

    def __init__(self, place: Remote, file: str) -> None:
        self.place, self.file, self.at = place, file, 0

    def read(self, count: int) -> bytes:
        data = self.place.start(self.file, [(self.at, self.at + count)])()[0]
        self.at += len(data)
        return data

    def readinto(self, data: memoryview) -> int:
        found = self.read(len(data))
        data[:] = found
        return len(found)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
