"""Minari's data sets, from the folder they are kept in."""

from __future__ import annotations

import json
import pathlib

from jaxreplay.datasets.files import inside
from jaxreplay.datasets.files.minari_episodes import read_episodes
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, make_store

KEYS = {"total_episodes", "total_steps", "data_format", "observation_space", "action_space"}
MAIN_FILE = "main_data.hdf5"


def is_folder(path: pathlib.Path) -> bool:
    """Whether a folder is a Minari data set, or the folder `data` of one: by what its metadata say."""
    return _data_folder(path) is not None


def is_metadata(path: pathlib.Path) -> bool:
    """Whether a file is one that Minari puts beside data sets."""
    return path.name == "namespace_metadata.json"


def is_file(path: pathlib.Path) -> bool:
    """Whether an HDF5 file is the one that a Minari data set keeps its episodes in."""
    return path.name == MAIN_FILE and is_folder(path.parent)


def _data_folder(path: pathlib.Path) -> pathlib.Path | None:
    for folder in (path, path / "data"):
        try:
            metadata = json.loads((folder / "metadata.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(metadata, dict) and metadata.keys() >= KEYS:
            return folder
    return None


def read(path: pathlib.Path) -> tuple[Store, Report]:
    """Read a folder of a data set, or its main file, with Minari; see `jaxreplay.convert.from_minari`."""
    folder = _data_folder(path if path.is_dir() else path.parent)
    assert folder is not None
    try:
        from minari import MinariDataset
    except ImportError as error:
        raise ModuleNotFoundError(f"{path}: reading it needs Minari: pip install 'jaxreplay[minari]'") from error
    if path.is_dir():
        inside.check_entry(folder, path)
    check_inside(folder)
    return make_store(read_episodes(MinariDataset(str(folder)))), Report()


def check_inside(folder: pathlib.Path) -> None:
    """Raise ValueError naming what in a data set's folder `data` leads out of the folder, or of its HDF5 file."""
    inside.check_folder(folder)
    main = folder / MAIN_FILE
    if main.is_file():
        try:
            with inside.open_hdf5(main):
                pass
        except ValueError as error:
            raise ValueError(f"{main}: {error}") from error
