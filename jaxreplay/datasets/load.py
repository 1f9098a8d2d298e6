"""Loading files and folders, by several workers, in order."""

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from jaxreplay._core import trees
from jaxreplay.datasets.files import atomic, formats, inside, opening
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, check_same, concat
from jaxreplay.datasets.workers import run_in_order, with_progress

BESIDE = "namespace_metadata.json"  # of Minari, beside its data sets
Listed: TypeAlias = tuple[pathlib.Path, ValueError | None]
"""A file or data set folder to read, or why it cannot be."""


def load_store(
    paths: Any,
    workers: int,
    progress: bool | None,
    on_error: str,
    allow_pickle: bool,
    missing_final: str,
    columns: Mapping[str, Any] | None,
) -> tuple[Store, Report]:
    """Read files and folders, in order; see `Dataset.load`."""
    trees.check_count("workers", workers)
    trees.check_choice("on_error", on_error, ("raise", "skip"))
    trees.check_choice("missing_final", missing_final, ("drop", "repeat"))
    files, ignored = list_files(paths)
    found: dict[int, tuple[str, Store]] = {}
    first, report = None, Report(ignored=tuple(ignored))
    # Threads, not processes: reading and checksums run side by side, and what processes read must be copied over, which
    # took longer than one thread for files of every size tried.
    options = {"allow_pickle": bool(allow_pickle), "missing_final": missing_final, "columns": columns}
    read = functools.partial(_try_read, **options)
    results = run_in_order(read, files, workers if len(files) > 1 else 1, False, "file")
    for i, result in enumerate(with_progress(results, len(files), "file", progress)):
        file = str(files[i][0])
        try:
            if isinstance(result, Exception):
                raise result
            store, more = result
            if first is not None:
                check_same(first[1], store, first[0], file)
        except Exception as error:
            if on_error == "raise":
                raise
            report += Report(skipped=((file, str(error)),))
        else:
            found[i] = file, store
            report += more
            if first is None and store.num_episodes:
                first = found[i]
    return concat([store for _, store in found.values()], [name for name, _ in found.values()]), report


def _try_read(listed: Listed, **options: Any) -> tuple[Store, Report] | Exception:
    try:
        return listed[1] or formats.read(listed[0], **options)
    except Exception as error:
        return error


def list_files(paths: Any) -> tuple[list[Listed], list[str]]:
    """List the files and data set folders that are meant, and the files that are passed over.

    Folders are gone through in order of names. Hidden files, and those that are plainly no data, are passed over.
    Raises FileNotFoundError for a path where there is nothing, ValueError for a folder without files to read.
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
    """List the files in a folder, or the path itself; what is passed over is added to `ignored`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not path.is_dir() or formats.is_folder_format(path):
        return [(path, None)]
    if opening.holds_keys(path / "manifest.json", {"crc32", "store"}):
        raise ValueError(f"{path}: this is a store of storage.Writer; read it with Dataset.open")
    atomic.remove_leftovers(path)
    before, files = len(ignored), list[Listed]()
    for inner in sorted(path.iterdir()):
        if inner.name.startswith("."):
            ignored += [] if inner.is_dir() else [str(inner)]
            continue
        try:
            if inner.is_symlink():
                inside.check_entry(inner, root)
        except ValueError as error:
            files.append((inner, error))
            continue
        if inner.is_dir():
            files += _files_of(inner, root, ignored) if any(inner.iterdir()) else []
        elif formats.is_foreign(inner):
            ignored.append(str(inner))
        elif inner.name != BESIDE:
            files.append((inner, None))
    if not files:
        names = "".join(f"; {name}: it is of no known format" for name in ignored[before:])
        raise ValueError(f"{path}: there are no files in this folder that can be read{names}")
    return files
