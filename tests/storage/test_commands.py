"""`python -m jaxreplay.storage`: what is in a store, whether it is whole, and files turned into stores and back."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.storage import Writer
from jaxreplay.storage.__main__ import main
from tests.datasets.episodes import all_same, simple
from tests.extras import library

EPISODES = [simple(4, terminated=True), simple(3, start=20, truncated=True), simple(5, start=50, terminated=True)]


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    with Writer(tmp_path / "store", segment_bytes=100) as writer:
        writer.extend(EPISODES)
    return tmp_path / "store"


def test_info_says_what_is_in_a_store(store: pathlib.Path, capsys: Any) -> None:
    assert main(["info", str(store)]) == 0
    said = capsys.readouterr().out
    for text in ("3 episodes, 12 steps", "observations: float32[], npy", "2 terminated, 1 truncated, 0 unfinished"):
        assert text in said


def test_verify_and_repair_say_what_is_wrong_and_what_they_did(store: pathlib.Path, capsys: Any) -> None:
    assert main(["verify", str(store), "--no-progress"]) == 0
    (store / "000001.actions.npy").write_bytes(b"")
    assert main(["verify", str(store), "--no-progress"]) == 1
    assert "000001.actions.npy: " in capsys.readouterr().out
    assert main(["repair", str(store), "--no-progress"]) == 0
    assert "1 episodes, 4 steps are whole; 8 steps were dropped" in capsys.readouterr().out
    assert main(["verify", str(store)]) == 0


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: pathlib.Path, store: pathlib.Path, capsys: Any) -> None:
    for arguments in (
        ["info", str(tmp_path / "nowhere")],
        ["convert", str(tmp_path / "nowhere"), str(tmp_path / "out")],
        ["convert", str(store), str(tmp_path / "out.txt")],
    ):
        assert main([*arguments, "--no-progress"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("python -m jaxreplay.storage")
        assert said.count("\n") == 1


def test_files_become_a_store_and_a_store_a_file_again(tmp_path: pathlib.Path, store: pathlib.Path) -> None:
    Dataset(EPISODES).save(tmp_path / "files", one_file_per_episode=True)
    assert main(["convert", str(tmp_path / "files"), str(tmp_path / "made"), "--no-progress"]) == 0
    all_same(Dataset.open(tmp_path / "made", verify=True), EPISODES)
    assert main(["convert", str(store), str(tmp_path / "one.npz"), "--no-progress"]) == 0
    all_same(Dataset.load(tmp_path / "one.npz"), EPISODES)
    library("h5py")
    assert main(["convert", str(store), str(tmp_path / "one.h5"), "--no-progress"]) == 0
    all_same(Dataset.load(tmp_path / "one.h5"), EPISODES)
    assert main(["convert", str(tmp_path / "one.h5"), str(tmp_path / "again"), "--no-progress"]) == 0
    all_same(Dataset.open(tmp_path / "again", verify=True), EPISODES)


def test_parquet_becomes_a_store_by_the_names_of_its_columns(tmp_path: pathlib.Path) -> None:
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    table = {"obs": np.arange(6.0), "act": np.arange(6), "done": [False, False, True] * 2}
    parquet.write_table(arrow.table(table), tmp_path / "rows.parquet")
    columns = '{"observations": "obs", "actions": "act", "terminals": "done"}'
    options = ["--columns", columns, "--missing-final", "repeat", "--no-progress"]
    assert main(["convert", str(tmp_path / "rows.parquet"), str(tmp_path / "made"), *options]) == 0
    assert [t.actions.tolist() for t in Dataset.open(tmp_path / "made")] == [[0, 1, 2], [3, 4, 5]]


def test_folders_of_pictures_become_a_store(tmp_path: pathlib.Path) -> None:
    image = library("PIL.Image")
    rng = np.random.default_rng(0)
    episodes = []
    for i, length in enumerate((2, 11)):
        frames = rng.integers(0, 255, (length + 1, 5, 6, 3), np.uint8)
        folder = tmp_path / "pictures" / f"episode{i}"
        folder.mkdir(parents=True)
        for j, frame in enumerate(frames):
            image.fromarray(frame).save(folder / f"{j:03d}.png")
        np.save(folder / "actions.npy", np.arange(length))
        episodes.append(Trajectory(frames, actions=np.arange(length)))
    options = ["--compress", "observation=png", "--no-progress"]
    assert main(["convert", str(tmp_path / "pictures"), str(tmp_path / "made"), *options]) == 0
    all_same(Dataset.open(tmp_path / "made", verify=True), episodes)
