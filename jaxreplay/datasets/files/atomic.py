"""Writing so that under a name there is the old or the new, whole, whatever happens in between.

What is being written is a hidden part file beside its place, which its writer holds an advisory lock on (`flock`) until
it is renamed. The system lets go of the lock when the writer dies, however it dies. So a part that nobody holds is a
dead writer's, and `remove_leftovers` removes it. A lock needs neither process numbers, which are used again and mean
nothing to other machines, nor clocks. Where a drive has no locks (and on Windows) nothing is ever removed.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None

PART = re.compile(r"\..*\.[0-9a-f]{16}\.jaxreplay-part", re.DOTALL)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file to write and read, which becomes `path` when all of it is on the disk; make the folders for it.

    Raises IsADirectoryError where there is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: there is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_file(path) as (part, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:  # Windows renames no open file
            file.close()
        os.replace(part, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a folder to fill, which becomes `path`. Raises FileExistsError where there is more than an empty one."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: there is something already, and it would be mixed with what is written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_file(path) as (part, _):  # a file stands for the folder: not every drive can lock folders
        folder = _folder_of(part)
        try:
            folder.mkdir()
            yield folder
            sync_folder(folder)
            os.replace(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def part_file(path: pathlib.Path) -> Iterator[tuple[pathlib.Path, BinaryIO]]:
    """Open a new hidden file beside `path`, locked; it is gone in the end unless it was renamed.

    It has the rights of any new file.
    """
    part, file = _create(path)
    try:
        yield part, file
    finally:
        if fcntl is None:  # Windows removes no open file
            file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        file.close()


def _create(path: pathlib.Path) -> tuple[pathlib.Path, BinaryIO]:
    while True:
        # not with a whole long name, for with what is added it may be too long
        part = path.parent / f".{path.name[:20]}.{secrets.token_hex(8)}.jaxreplay-part"
        file = open(part, "x+b")  # noqa: SIM115  (closed by `part_file`)
        if fcntl is None:
            return part, file
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, part):  # else it was taken for a dead writer's before it was locked
            return part, file
        file.close()


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what writers that are dead left in a folder, and warn of each, naming it and its size.

    What a living writer, in any process, is writing is left alone, and what may not be removed as well.
    """
    if fcntl is None:
        return
    try:
        names = sorted(name for name in os.listdir(folder) if PART.fullmatch(name))
    except OSError:
        return
    for name in names:
        part = pathlib.Path(folder, name)
        with contextlib.suppress(OSError), open(part, "r+b", opener=_open_itself) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError where its writer lives
            if not _is_at(file, part):
                continue
            parts = _folder_of(part)
            size = os.fstat(file.fileno()).st_size + _size(parts)
            shutil.rmtree(parts, ignore_errors=True)
            os.unlink(part)
            warnings.warn(
                f"{part}: removed {size} bytes that a writer left there when it was killed; "
                "what was saved before is whole",
                stacklevel=3,
            )


def _open_itself(path: str, flags: int) -> int:
    """Open a file, not what a link points to, and do not wait for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    """Tell whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _folder_of(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}s")


def _size(folder: pathlib.Path) -> int:
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(folder) for name in names)


def sync_folder(path: pathlib.Path) -> None:
    """Make a rename last through a power failure, where the system can; the files' own bytes are safe by then."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some network drives cannot bring them to disk
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
