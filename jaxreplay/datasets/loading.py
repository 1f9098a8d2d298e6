"""Loading files and folders, by several workers, in order."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from jaxreplay import trees
from jaxreplay.datasets.files import atomic, formats
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
    files = list_files(paths)
    options = Options(bool(allow_pickle), missing_final)
    found: list[tuple[str, Store]] = []
    report = Report()
    results = with_progress(_read_all(files, options, workers), len(files), "file", progress)
    for result, file in zip(results, files):  # the results first, so that the bar sees their end
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


def list_files(paths: Any) -> list[pathlib.Path]:
    """The files and data set folders meant, folders gone through in order of names, hidden entries left out.

    Raises FileNotFoundError for a path where there is nothing, ValueError for a folder without files.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    each = list(paths) if isinstance(paths, Iterable) else []
    if not each or not all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in each):
        raise ValueError(f"paths: expected a file or folder, or a list of them, got {paths!r}")
    for folder in {pathlib.Path(path).parent for path in each}:
        atomic.remove_leftovers(folder)
    return [file for path in each for file in _files_of(pathlib.Path(path))]


def _files_of(path: pathlib.Path) -> list[pathlib.Path]:
    atomic.remove_leftovers(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not path.is_dir() or formats.is_folder_format(path):
        return [path]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith(".") and not formats.is_beside(p))
    files = [file for p in inside for file in (_files_of(p) if not p.is_dir() or any(p.iterdir()) else [])]
    if not files:
        raise ValueError(f"{path}: there are no files in this folder")
    return files


def _read_all(files: list[pathlib.Path], options: Options, workers: int) -> Iterator[Any]:
    """What each file holds, in order, or the error; read by threads ahead of the one that is asked for."""
    if workers == 1 or len(files) == 1:
        yield from (_try_read(file, options) for file in files)
        return
    # Threads, not processes: reading and checksums run side by side, and what processes read must be copied over, which
    # took longer than one thread for files of every size tried.
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield from pool.map(_try_read, files, [options] * len(files))


def _try_read(file: pathlib.Path, options: Options) -> Any:
    try:
        return formats.read(file, options)
    except Exception as error:
        return error
