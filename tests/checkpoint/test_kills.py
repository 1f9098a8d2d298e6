"""A save that stops at any byte leaves the checkpoint before, and the next save removes what it left."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.checkpoint import pieces, saving
from tests.checkpoint import killing
from tests.extras import library

library("xxhash")
library("fcntl")


def kill(folder: pathlib.Path, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.killing", str(folder), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills, number = map(int, done.stdout.split())
    assert (kills, number >= kills) == (count, True)


def test_after_a_kill_at_a_random_moment_there_is_the_newest_checkpoint_whole(tmp_path: pathlib.Path) -> None:
    kill(tmp_path, 15)


@pytest.mark.slow
def test_the_same_after_a_thousand_kills(tmp_path: pathlib.Path) -> None:
    kill(tmp_path, 1000)


@pytest.fixture(scope="module")
def saves(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """A checkpoint, and the one that the next save makes of it."""
    old = tmp_path_factory.mktemp("saves") / "old"
    with mock.patch.object(pieces, "PIECE", 1024):
        replay.checkpoint.save(old, killing.state(70))
        shutil.copytree(old, new := old.with_name("new"))
        replay.checkpoint.save(new, killing.state(75))
    return old, new


def holds(folder: pathlib.Path, number: int) -> bool:
    found = replay.checkpoint.load(folder, killing.state(0))
    return all(np.array_equal(found[name], value) for name, value in killing.state(number).items())


def cuts(old: pathlib.Path, new: pathlib.Path) -> list[tuple[str, int]]:
    """The files that the second save wrote, in an order, and some sizes they had meanwhile."""
    rng = np.random.default_rng(0)
    written = sorted(set(os.listdir(new / "pieces")) - set(os.listdir(old / "pieces")))
    found = []
    for path in [f"pieces/{name}" for name in written] + ["checkpoint.json"]:
        size = os.stat(new / path).st_size
        found += [(path, int(n)) for n in {0, 1, size - 1, size, *rng.integers(0, size, 2).tolist()}]
    return found


def test_cut_at_any_byte_the_old_one_opens_and_the_next_save_leaves_nothing(saves: Any, tmp_path: pathlib.Path) -> None:
    old, new = saves
    sampled = cuts(old, new)
    assert len(sampled) > 12
    done: list[str] = []
    for i, (path, size) in enumerate(sampled):
        folder = tmp_path / str(i)
        shutil.copytree(old, folder)
        for before in done:
            if before != path:
                shutil.copy(new / before, folder / before)
        part = path if path.startswith("pieces") else f".checkpoint.json.{'0' * 16}.jaxreplay-part"
        (folder / part).write_bytes((new / path).read_bytes()[:size])
        if path.startswith("pieces"):
            done.append(path)
        assert holds(folder, 70)
        with warnings.catch_warnings(), mock.patch.object(pieces, "PIECE", 1024):
            warnings.simplefilter("ignore")
            replay.checkpoint.save(folder, killing.state(75))
        assert holds(folder, 75)
        assert sorted(os.listdir(folder)) == sorted(os.listdir(new))
        assert sorted(os.listdir(folder / "pieces")) == sorted(os.listdir(new / "pieces"))


def test_stopped_after_it_was_committed_the_new_one_opens(saves: Any, tmp_path: pathlib.Path) -> None:
    old, new = saves
    shutil.copytree(new, tmp_path, dirs_exist_ok=True)
    shutil.copytree(old / "pieces", tmp_path / "pieces", dirs_exist_ok=True)
    assert holds(tmp_path, 75)


def test_a_save_that_fails_takes_back_what_it_wrote(saves: Any, tmp_path: pathlib.Path) -> None:
    """As on a full disk."""
    old, _ = saves
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    write, count = saving._write_file, []

    def full(path: pathlib.Path, data: Any) -> None:
        count.append(path)
        if len(count) > 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(path, data)

    with (
        mock.patch.object(saving, "_write_file", full),
        mock.patch.object(pieces, "PIECE", 1024),
        pytest.raises(OSError, match="No space left"),
    ):
        replay.checkpoint.save(tmp_path, killing.state(75))
    assert len(count) > 1
    assert holds(tmp_path, 70)
    assert sorted(os.listdir(tmp_path / "pieces")) == sorted(os.listdir(old / "pieces"))


def test_interrupted_after_it_was_committed_nothing_is_taken_back(saves: Any, tmp_path: pathlib.Path) -> None:
    from jaxreplay.checkpoint import processes

    shutil.copytree(saves[0], tmp_path, dirs_exist_ok=True)
    with (
        mock.patch.object(processes, "_remove_others", side_effect=KeyboardInterrupt),
        mock.patch.object(pieces, "PIECE", 1024),
        pytest.raises(KeyboardInterrupt),
    ):
        replay.checkpoint.save(tmp_path, killing.state(75))
    assert holds(tmp_path, 75)
