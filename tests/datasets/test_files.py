"""The library's own files: exact, atomic, readable by NumPy; and loading many, by several workers."""

from __future__ import annotations

import os
import pathlib
import stat
import tempfile
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from jaxreplay.datasets import Dataset, Trajectory
from tests.datasets.episodes import all_same, simple, trajectories
from tests.extras import library


def several() -> list[Trajectory]:
    return [simple(1 + i, 10.0 * i, terminated=i % 2 == 0, truncated=i == 1) for i in range(5)]


@given(made=trajectories())
@settings(settings.get_profile("short"), max_examples=40)
def test_any_structure_and_dtype_comes_back_bit_for_bit(made: list[Trajectory]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Dataset(made).save(f"{folder}/one.npz")
        all_same(Dataset.load(f"{folder}/one.npz"), made)
        Dataset(made).save(f"{folder}/many", one_file_per_episode=True)
        assert len(os.listdir(f"{folder}/many")) == len(made)
        all_same(Dataset.load(f"{folder}/many", workers=2, progress=False), made)


def test_a_part_of_a_data_set_is_saved_as_it_is(tmp_path: pathlib.Path) -> None:
    whole = Dataset(several()).compact()
    for name, part in (("a", whole.episodes[::-2]), ("b", whole.clip(1)), ("c", whole.filter(min_length=2))):
        part.save(tmp_path / name)
        all_same(Dataset.load(tmp_path / name), part)


def test_numpy_opens_a_file(tmp_path: pathlib.Path) -> None:
    half = Trajectory({"a": np.zeros((3, 2))}, np.arange(2), extras=np.array([1, 2], ml_dtypes.bfloat16))
    Dataset([half]).save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["observations.a"].shape == (3, 2)
        assert arrays["actions"].tolist() == [0, 1]
        assert arrays["extras"].dtype == np.uint16
        assert arrays["episodes.length"].tolist() == [2]


def test_what_is_no_data_is_named_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    for fields, message in (
        ({"infos": [{"a": object()}]}, r"episodes.0.infos.0.a: object cannot .* expected NumPy arrays, .*; convert it"),
        ({"infos": [{1: 2}]}, "episodes.0.infos.0: a dict's keys must be strings to be recorded, got 1"),
        (
            {"episode_data": np.array(["x"])},
            "episodes.0.episode_data: expected an array .* got dtype <U1",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            Dataset([simple(1, **fields)]).save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="there are no episodes to save"):
        Dataset().save(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: pathlib.Path) -> None:
    old, path = several(), tmp_path / "x.npz"
    Dataset(old).save(path)
    for broken in ("os.fsync", "os.replace", "jaxreplay.datasets.files.archive.zlib.crc32"):
        with (
            mock.patch(broken, side_effect=OSError(28, "No space left on device")),
            pytest.raises(OSError, match="space"),
        ):
            Dataset([simple(9)]).save(path)
        assert os.listdir(tmp_path) == ["x.npz"]
        all_same(Dataset.load(path), old)
    with mock.patch("os.replace", side_effect=OSError("no")), pytest.raises(OSError, match="no"):
        Dataset(old).save(tmp_path / "many", one_file_per_episode=True)
    assert os.listdir(tmp_path) == ["x.npz"]


def test_files_have_the_rights_of_any_new_file_and_folders_are_not_mixed(tmp_path: pathlib.Path) -> None:
    Dataset(several()).save(tmp_path / "x.npz")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "x.npz").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    with pytest.raises(FileExistsError, match="there is something already"):
        Dataset(several()).save(tmp_path, one_file_per_episode=True)


@pytest.mark.parametrize("workers", [1, 4])
def test_files_folders_and_lists_are_read_in_order(tmp_path: pathlib.Path, workers: int) -> None:
    made = several()
    for i, name in enumerate(["b/2.npz", "a.npz", "b/1.npz", "c/d/x", "b/.hidden"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset([made[i]]).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    load = lambda paths: Dataset.load(paths, workers=workers, progress=False)  # noqa: E731
    all_same(load(tmp_path), [made[1], made[2], made[0], made[3]])
    all_same(load([tmp_path / "c", str(tmp_path / "a.npz"), tmp_path / "a.npz"]), [made[3], made[1], made[1]])
    report = load(tmp_path).report
    assert report is not None
    assert (report.episodes, report.steps, report.terminated, report.truncated, report.unfinished) == (4, 10, 2, 1, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failing_file_is_named_and_stops_or_is_skipped(tmp_path: pathlib.Path, workers: int) -> None:
    made = several()
    Dataset(made).save(tmp_path / "many", one_file_per_episode=True)
    bad = sorted((tmp_path / "many").iterdir())[2]
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{bad}: it is cut or changed"):
        Dataset.load(tmp_path / "many", workers=workers, progress=False)
    rest = Dataset.load(tmp_path / "many", workers=workers, on_error="skip", progress=False)
    all_same(rest, made[:2] + made[3:])
    assert rest.report is not None
    assert [file for file, _ in rest.report.skipped] == [str(bad)]
    assert f"skipped {bad}" in str(rest.report)


def test_files_of_different_structures_are_named(tmp_path: pathlib.Path) -> None:
    Dataset([simple(2)]).save(tmp_path / "a")
    Dataset([Trajectory(np.zeros(2), np.zeros(1))]).save(tmp_path / "b")
    with pytest.raises(ValueError, match=f"{tmp_path}/b: observations is float64.*, in {tmp_path}/a it is float32"):
        Dataset.load(tmp_path, progress=False)


def test_a_file_of_another_structure_is_skipped_and_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"nothing")
    Dataset([simple(2)]).save(tmp_path / "b")
    Dataset([Trajectory(np.zeros(2), np.zeros(1))]).save(tmp_path / "c")
    Dataset([simple(3)]).save(tmp_path / "d")
    dataset = Dataset.load(tmp_path, on_error="skip", progress=False)
    all_same(dataset, [simple(2), simple(3)])
    assert dataset.report is not None
    assert [file for file, _ in dataset.report.skipped] == [str(tmp_path / "a"), str(tmp_path / "c")]
    assert f"observations is float64[] a step, in {tmp_path}/b it is float32" in dataset.report.skipped[1][1]
    assert (dataset.report.episodes, dataset.report.steps) == (2, 5)


def test_paths_of_any_kind(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Dataset([simple(1)]).save("new/é ü/日本.npz")
    Dataset([simple(2)]).save(tmp_path / ("x" * 250 + ".npz"))
    path: Any
    for path in ("new", pathlib.Path("new/é ü"), (tmp_path / name for name in ["new"])):
        all_same(Dataset.load(path), [simple(1)])
    Dataset([simple(3)]).save("new/é ü/日本.npz")
    all_same(Dataset.load("new"), [simple(3)])
    with pytest.raises(IsADirectoryError, match="new: there is a folder; name a file in it"):
        Dataset([simple(1)]).save("new")
    with pytest.raises(ValueError, match="many: there are no episodes to save"):
        Dataset().save("many", one_file_per_episode=True)
    for path in ("", b"new", 3, [3], None):
        with pytest.raises(ValueError, match="paths: expected a file or folder"):
            Dataset.load(path)
    assert sorted(os.listdir(tmp_path)) == ["new", "x" * 250 + ".npz"]


def test_a_bar_moves_with_the_files(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    library("tqdm")
    Dataset(several()).save(tmp_path / "many", one_file_per_episode=True)
    Dataset.load(tmp_path / "many", progress=True)
    assert "5/5" in capsys.readouterr().err
    Dataset.load(tmp_path / "many", progress=False)
    assert not capsys.readouterr().err
    with mock.patch.dict("sys.modules", tqdm=None):
        Dataset.load(tmp_path / "many")
        with pytest.raises(ModuleNotFoundError, match="pip install tqdm, or pass progress=False"):
            Dataset.load(tmp_path / "many", progress=True)


def test_paths_that_are_none(tmp_path: pathlib.Path) -> None:
    arguments: Any
    for arguments, error, message in (
        ({"paths": tmp_path / "no"}, FileNotFoundError, "no: there is no such file or folder"),
        ({"paths": tmp_path}, ValueError, "there are no files in this folder"),
        ({"paths": []}, ValueError, "paths: expected a file or folder"),
        ({"paths": 3}, ValueError, "paths: expected a file or folder"),
        ({"paths": tmp_path, "workers": 0}, ValueError, "workers: expected at least 1"),
        ({"paths": tmp_path, "on_error": "ignore"}, ValueError, "on_error: expected 'raise' or 'skip', got 'ignore'"),
        ({"paths": tmp_path, "missing_final": 1}, ValueError, "missing_final: expected 'drop' or 'repeat'"),
    ):
        with pytest.raises(error, match=message):
            Dataset.load(**arguments)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes.txt: it is of no known format"):
        Dataset.load(tmp_path)


def test_files_that_are_plainly_no_data_are_passed_over_and_reported(tmp_path: pathlib.Path) -> None:
    Dataset([simple(2)]).save(tmp_path / "sets" / "a.npz")
    Dataset([simple(3)]).save(tmp_path / "sets" / "in" / "data.txt")  # the content says what it is
    foreign: dict[str, bytes] = {
        "README.txt": b"These are ours.\n",
        "README": "Größe\n".encode(),
        "notes.yaml": ("é" * 400).encode(),
        "empty.log": b"",
        "plot.png": b"\x89PNG\r\n\x1a\n\0",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        ".DS_Store": b"\0\0\0\1Bud1",
    }
    for name, content in foreign.items():
        (tmp_path / "sets" / "in" / name).write_bytes(content)
    dataset = Dataset.load(tmp_path / "sets", progress=False)
    all_same(dataset, [simple(2), simple(3)])
    assert dataset.report is not None
    assert sorted(dataset.report.ignored) == sorted(str(tmp_path / "sets" / "in" / name) for name in foreign)
    assert "README.txt" in str(dataset.report)


@pytest.mark.parametrize(("name", "content"), [("x", b"text"), ("x.npz", b""), ("x.h5", b"text"), ("x.bin", b"\0\1")])
def test_a_file_that_may_be_damaged_data_is_not_passed_over(tmp_path: pathlib.Path, name: str, content: bytes) -> None:
    Dataset([simple(2)]).save(tmp_path / "a.npz")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: it is of no known format"):
        Dataset.load(tmp_path, progress=False)


def test_a_file_that_is_plainly_no_data_is_refused_where_it_is_named_itself(tmp_path: pathlib.Path) -> None:
    (tmp_path / "README.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"README.txt: it is of no known format"):
        Dataset.load(tmp_path / "README.txt")
