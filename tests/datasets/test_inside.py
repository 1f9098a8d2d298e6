"""No format reads outside its own file or folder: what leads elsewhere is refused, naming the file and the member."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxreplay import convert
from jaxreplay.datasets import Dataset
from jaxreplay.record.actions.files import load_actions, save_actions
from tests.datasets.episodes import all_same, simple
from tests.datasets.test_formats import columns, imitation_folder, write
from tests.extras import library
from tests.record.records import record_of

SECRET = np.arange(4, dtype=np.float32)


def external_storage(file: Any, name: str, outside: pathlib.Path) -> None:
    file.create_dataset(name, (4,), "f4", external=[(str(outside), 0, 16)])


def virtual(file: Any, name: str, outside: pathlib.Path) -> None:
    h5py = library("h5py")
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(outside, "values", (4,))
    file.create_virtual_dataset(name, layout)


def external_link(file: Any, name: str, outside: pathlib.Path) -> None:
    file[name] = library("h5py").ExternalLink(outside, "values")


def soft_link_out(file: Any, name: str, outside: pathlib.Path) -> None:
    external_link(file, "away", outside)
    file[name] = library("h5py").SoftLink("/away")


WAYS: list[tuple[Callable[..., None], str]] = [
    (external_storage, r"{}: its values are in another file, .*outside.*external storage"),
    (virtual, r"{}: it is virtual"),
    (external_link, r"{}: it is a link to another file"),
    (soft_link_out, r"away: it is a link to another file"),
]


def outside_of(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that holds what must not be read, as HDF5 and as plain bytes."""
    path = write(tmp_path / "outside", {"values": SECRET})
    path.write_bytes(path.read_bytes() + SECRET.tobytes())
    return path


@pytest.mark.parametrize(("way", "message"), WAYS)
@pytest.mark.parametrize("member", ["rewards", "infos/deep", "metadata"])
def test_an_hdf5_file_that_reaches_outside_is_refused(
    tmp_path: pathlib.Path, way: Callable[..., None], message: str, member: str
) -> None:
    h5py, data = library("h5py"), columns(4, [], [3])
    del data["rewards"]
    path = write(tmp_path / "x.hdf5", data)
    with h5py.File(path, "a") as file:
        way(file, member, outside_of(tmp_path))
    with pytest.raises(ValueError, match=r"x\.hdf5: " + message.format(member)):
        Dataset.load(path)


def test_a_soft_link_within_an_hdf5_file_harms_nothing(tmp_path: pathlib.Path) -> None:
    h5py = library("h5py")
    path = write(tmp_path / "x.hdf5", columns(4, [], [3]))
    with h5py.File(path, "a") as file:
        file["alias"] = h5py.SoftLink("/rewards")
    assert len(Dataset.load(path)) == 3


def minari_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    library("minari")
    convert.to_minari(Dataset([simple(4, terminated=True)]), "test/one-v0", path=tmp_path / "sets")
    return tmp_path / "sets" / "test" / "one-v0"


@pytest.mark.parametrize(("way", "message"), WAYS)
def test_a_minari_file_that_reaches_outside_is_refused(
    tmp_path: pathlib.Path, way: Callable[..., None], message: str
) -> None:
    folder, h5py = minari_folder(tmp_path), library("h5py")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        way(file, "episode_0/rewards", outside_of(tmp_path))
    expected = r"main_data\.hdf5: " + message.format("episode_0/rewards")
    for path in (folder, folder / "data", folder / "data" / "main_data.hdf5", tmp_path / "sets"):
        with pytest.raises(ValueError, match=expected):
            Dataset.load(path)
    with pytest.raises(ValueError, match=expected):
        convert.from_minari("test/one-v0", path=tmp_path / "sets")


@pytest.mark.parametrize("entry", ["data", "data/main_data.hdf5", "data/metadata.json"])
def test_a_minari_folder_with_a_link_out_of_it_is_refused(tmp_path: pathlib.Path, entry: str) -> None:
    folder = minari_folder(tmp_path)
    shutil.move(folder / entry, tmp_path / "moved")
    (folder / entry).symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{entry}: a link leads out of"):
        Dataset.load(folder)
    with pytest.raises(ValueError, match=f"{entry}: a link leads out of"):
        convert.from_minari("test/one-v0", path=tmp_path / "sets")


def test_a_folder_of_imitation_with_a_link_out_of_it_is_refused(tmp_path: pathlib.Path) -> None:
    made = {"obs": np.zeros((2, 1)), "acts": np.zeros(1), "terminal": True, "infos": [{}]}
    folder = imitation_folder(tmp_path / "x", [made])
    (arrow,) = folder.glob("*.arrow")
    arrow.rename(tmp_path / "moved")
    arrow.symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{arrow.name}: a link leads out of"):
        Dataset.load(folder)


@pytest.mark.parametrize("name", ["..", "../moved", "/moved", "."])
def test_a_folder_of_imitation_that_names_a_file_elsewhere_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    made = {"obs": np.zeros((2, 1)), "acts": np.zeros(1), "terminal": True, "infos": [{}]}
    folder = imitation_folder(tmp_path / "x", [made])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(ValueError, match=r"state\.json: .* is not in this folder"):
        Dataset.load(folder)


def test_a_folder_of_files_with_a_link_out_of_it_is_refused_or_skipped(tmp_path: pathlib.Path) -> None:
    Dataset([simple(2)]).save(tmp_path / "outside" / "x.npz")
    Dataset([simple(3)]).save(tmp_path / "sets" / "a.npz")
    (tmp_path / "sets" / "b.npz").symlink_to(tmp_path / "outside" / "x.npz")
    with pytest.raises(ValueError, match=r"b\.npz: a link leads out of .*sets, to .*outside/x\.npz"):
        Dataset.load(tmp_path / "sets")
    kept = Dataset.load(tmp_path / "sets", on_error="skip", progress=False)
    all_same(kept, [simple(3)])
    assert kept.report is not None
    assert [file for file, _ in kept.report.skipped] == [str(tmp_path / "sets" / "b.npz")]
    os.unlink(tmp_path / "sets" / "b.npz")
    (tmp_path / "sets" / "b").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"sets/b: a link leads out of"):
        Dataset.load(tmp_path / "sets")


def test_links_within_a_folder_and_links_that_are_named_themselves_are_read(tmp_path: pathlib.Path) -> None:
    Dataset([simple(2)]).save(tmp_path / "sets" / "a.npz")
    (tmp_path / "sets" / "b.npz").symlink_to(tmp_path / "sets" / "a.npz")
    (tmp_path / "link").symlink_to(tmp_path / "sets")
    all_same(Dataset.load(tmp_path / "link", progress=False), [simple(2)] * 2)
    (tmp_path / "named.npz").symlink_to(tmp_path / "sets" / "a.npz")
    all_same(Dataset.load(tmp_path / "named.npz"), [simple(2)])


def test_a_folder_of_actions_with_a_link_out_of_it_is_refused(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(save_actions(record_of([1]), tmp_path / "outside"))
    save_actions(record_of([1]), tmp_path / "actions")
    (tmp_path / "actions" / path.name).symlink_to(path)
    with pytest.raises(ValueError, match=f"{path.name}: a link leads out of"):
        load_actions(tmp_path / "actions")
