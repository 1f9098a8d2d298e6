"""Which format a file or folder has, told by its content, and reading it."""

import codecs
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

from jaxreplay.datasets.files import (
    archive,
    arrays,
    d4rl,
    diffusion_policy,
    episodes,
    imitation,
    inside,
    lerobot,
    minari,
    pickles,
    robomimic,
)
from jaxreplay.datasets.files.opening import naming
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Store

KNOWN = (
    "an .npz of Dataset.save or OGBench, HDF5 of Minari, D4RL or robomimic, a folder of Minari, LeRobot, imitation or "
    "diffusion policy, a pickle, or, with columns=, HDF5, Parquet or .npz with any columns"
)

SUFFIXES = {".npz", ".hdf5", ".h5", ".pkl", ".pickle", ".arrow", ".parquet"}
BEGINNINGS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x89HDF": "HDF5", b"PAR1": "Parquet"}
FOREIGN = {
    *("readme", "license", "licence", "notice", "makefile", "thumbs.db"),
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".mp4", ".webm", ".avi", ".mov", ".wav", ".mp3"),
    *(".pdf", ".docx", ".xlsx", ".pptx", ".ipynb", ".pyc", ".so"),
}


def is_folder_format(path: pathlib.Path) -> bool:
    """Tell whether a folder is one data set of a known format, and not a folder of files."""
    return any(module.is_folder(path) for module in (minari, imitation, diffusion_policy, lerobot))


def is_foreign(path: pathlib.Path) -> bool:
    """Tell whether a file in a folder is plainly none of a data set, as a README, a picture or a log.

    What begins as a known format does is none of these, whatever its name, nor is what has a name that data have, or
    one that says nothing, and begins as no format does: it may be damaged.
    """
    if path.suffix.lower() in SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] in BEGINNINGS or pickles.is_pickle(start, path):
        return False
    return path.name.lower() in FOREIGN or path.suffix.lower() in FOREIGN or (path.suffix != "" and _is_text(start))


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text.removeprefix("\ufeff"))


def read(
    path: pathlib.Path, allow_pickle: bool, missing_final: str, columns: Mapping[str, Any] | None
) -> tuple[Store, Report]:
    """Read one file, or a folder of a known format. Raises ValueError naming it, whatever is wrong with its content.

    missing_final: "drop" or "repeat", what to do where an episode's final observation is not known.
    """
    with naming(path):
        store, report = _read(path, allow_pickle, missing_final, columns)
        return store, summarise(store) + report


def _read(
    path: pathlib.Path, allow_pickle: bool, missing_final: str, columns: Mapping[str, Any] | None
) -> tuple[Store, Report]:
    if diffusion_policy.is_folder(path):
        return diffusion_policy.read(path, columns, missing_final)
    if lerobot.is_folder(path):
        return lerobot.read(path, columns, missing_final)
    if path.is_dir():
        _refuse(columns)
        return minari.read(path) if minari.is_folder(path) else imitation.read(path)
    with path.open("rb") as file:
        start = file.read(8)
    kind = BEGINNINGS.get(start[:4])
    if kind == "zip":
        return _read_zip(path, missing_final, columns)
    if kind == "HDF5":
        if columns is None and minari.is_file(path):
            return minari.read(path)
        with inside.open_hdf5(path) as (members, found):
            if columns is not None:
                return d4rl.read_by_name(list(found), found.__getitem__, columns, missing_final)
            if any(map(robomimic.DEMO.fullmatch, found)):
                return robomimic.read(members, found, missing_final)
            return d4rl.join_columns(found, missing_final)
    if kind == "Parquet":
        if columns is None:
            raise ValueError('it is Parquet; name its columns, as columns={"observations": "obs", "actions": "act"}')
        return d4rl.read_by_name(*arrays.open_parquet([path]), columns, missing_final)
    _refuse(columns)
    if not pickles.is_pickle(start, path):
        raise ValueError(f"it is of no known format: expected {KNOWN}")
    if not allow_pickle:
        raise ValueError("it is a pickle; pass allow_pickle=True to read its arrays and plain containers")
    return pickles.read(path)


def _read_zip(path: pathlib.Path, missing_final: str, columns: Mapping[str, Any] | None) -> tuple[Store, Report]:
    if not archive.is_own(path) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            names = set(members.namelist())
        if f"{diffusion_policy.ENDS}/.zarray" in names:
            return diffusion_policy.read(path, columns, missing_final)
        with arrays.open_npz(path) as (found, read_array):
            if columns is not None:
                return d4rl.read_by_name(found, read_array, columns, missing_final)
            if set(found) >= arrays.OGBENCH and not {"next_observations", "timeouts"} & set(found):
                return arrays.join_ogbench({name: read_array(name) for name in found})
        if archive.MANIFEST not in names:
            raise ValueError(
                'it is no file of this library, nor of OGBench; name its columns: columns={"actions": ...}'
            )
    _refuse(columns)
    return episodes.read(path), Report()


def _refuse(columns: Any) -> None:
    if columns is not None:
        raise ValueError("columns: the parts of this format have names of their own; load it without columns")
