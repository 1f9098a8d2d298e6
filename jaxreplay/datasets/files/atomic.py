"""Writing so that under a name there is the old or the new, whole, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write and read, that becomes `path` when all is written and on the disk; folders are made for it.

    Raises IsADirectoryError where there is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: there is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".part")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, that becomes `path`, where there must be nothing or an empty folder. Raises FileExistsError."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: there is something already, and it would be mixed with what is written")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".part"))
    try:
        yield part
        os.chmod(part, 0o777 & ~_umask())
        _sync_folder(part)
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _prefix(path: pathlib.Path) -> str:
    """How the name of a hidden file begins: not with a whole long name, for with what is added it may be too long."""
    return f".{path.name[:20]}."


def _umask() -> int:
    """What new files are denied; temporary ones are made private."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(path: pathlib.Path) -> None:
    """Bring a folder's entries to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
