"""Loading files and folders, by several workers, in order."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxreplay._core import trees
from jaxreplay.datasets.files import atomic, formats, inside
from jaxreplay.datasets.files.formats import Options
from jaxreplay.datasets.progress import with_progress
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, check_same, concat


def load_store(
    paths: Any,
    *,
    workers: int,
    progress: bool | None,
    on_error: str,
    allow_pickle: bool,
    missing_final: str,
) -> tuple[Store, Report]:
    """Read files and folders, in order; see `Dataset.load`."""
    trees.check_count("workers", workers)
    for name, value, allowed in (
        ("on_error", on_error, ("raise", "skip")),
        ("missing_final", missing_final, ("drop", "repeat")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: expected {' or '.join(map(repr, allowed))}, got {value!r}")
    files, ignored = list_files(paths)
    options = Options(bool(allow_pickle), missing_final)
    found: list[tuple[str, Store]] = []
    report = Report(ignored=tuple(ignored))
    results = with_progress(_read_all(files, options, workers), len(files), "file", progress)
    for result, (file, _) in zip(results, files):  # the results first, so that the bar sees their end
        if isinstance(result, Exception):
            error: Exception | None = result
        elif (error := _differs(found, str(file), result[0])) is None:
            found.append((str(file), result[0]))
            report += result[1]
        if error is not None:
            if on_error == "raise":
                raise error
            report += Report(skipped=((str(file), str(error)),))
    return concat([store for _, store in found], [name for name, _ in found]), report


def _differs(found: list[tuple[str, Store]], file: str, store: Store) -> Exception | None:
    """What is wrong with a file whose episodes differ in structure from the first file's."""
    name, first = next(((name, held) for name, held in found if held.num_episodes), (file, store))
    try:
        check_same(first, store, name, file)
    except ValueError as error:
        return error
    return None


class Listed(NamedTuple):
    """A file or data set folder to read, or why it cannot be."""

    file: pathlib.Path
    error: ValueError | None = None


def list_files(paths: Any) -> tuple[list[Listed], list[str]]:
    """The files and data set folders meant, folders gone through in order of names, and the files that are passed over.

    These are hidden ones, and those that are plainly no data. Raises FileNotFoundError for a path where there is
    nothing, ValueError for a folder without files to read.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    each = [*paths] if isinstance(paths, Iterable) else []
    if not each or not all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in each):
        raise ValueError(f"paths: expected a file or folder, or a list of them, got {paths!r}")
    each = [pathlib.Path(path) for path in each]
    for folder in {path.parent for path in each}:
        atomic.remove_leftovers(folder)
    ignored: list[str] = []
    return [listed for path in each for listed in _files_of(path, path, ignored)], ignored


def _files_of(path: pathlib.Path, root: pathlib.Path, ignored: list[str]) -> list[Listed]:
    """The files in a folder, or the path itself; what is passed over is added to `ignored`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not path.is_dir() or formats.is_folder_format(path):
        return [Listed(path)]
    atomic.remove_leftovers(path)
    before, files = len(ignored), []
    for inner in sorted(path.iterdir()):
        if inner.name.startswith("."):
            ignored += [] if inner.is_dir() else [str(inner)]
        elif (error := _leads_out(inner, root)) is not None:
            files.append(Listed(inner, error))
        elif inner.is_dir():
            files += _files_of(inner, root, ignored) if any(inner.iterdir()) else []
        elif formats.is_foreign(inner):
            ignored.append(str(inner))
        elif not formats.is_beside(inner):
            files.append(Listed(inner))
    if not files:
        found = "".join(f"; {name}: it is of no known format" for name in ignored[before:])
        raise ValueError(f"{path}: there are no files in this folder that can be read{found}")
    return files


def _leads_out(path: pathlib.Path, root: pathlib.Path) -> ValueError | None:
    """What is wrong with an entry of a folder if it is a link out of it."""
    try:
        if path.is_symlink():
            inside.check_entry(path, root)
    except ValueError as error:
        return error
    return None


def _read_all(files: list[Listed], options: Options, workers: int) -> Iterator[Any]:
    """What each file holds, in order, or the error; read by threads ahead of the one that is asked for."""
    if workers == 1 or len(files) == 1:
        yield from (_try_read(file, options) for file in files)
        return
    # Threads, not processes: reading and checksums run side by side, and what processes read must be copied over, which
    # took longer than one thread for files of every size tried.
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield from pool.map(_try_read, files, [options] * len(files))


def _try_read(listed: Listed, options: Options) -> Any:
    if listed.error is not None:
        return listed.error
    try:
        return formats.read(listed.file, options)
    except Exception as error:
        return error
