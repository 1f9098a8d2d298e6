"""What a killed writer leaves is removed and told; what a living one writes is left alone."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from jaxreplay.datasets import Dataset
from jaxreplay.datasets.files import atomic
from jaxreplay.record.actions.files import load_actions, save_actions
from tests.datasets.episodes import simple
from tests.extras import library
from tests.record.records import record_of

fcntl = library("fcntl")

PROGRAM = """
import os, sys, threading, time
import tests.conftest
from jaxreplay.datasets import Dataset
from jaxreplay.record.actions.files import save_actions
from tests.datasets.episodes import simple
from tests.extras import library
from tests.record.records import record_of

def stop(handle):
    os.write(1, b"stopped" + bytes([10]))  # whole, whichever threads write
    time.sleep(600)

write = {
    "file": lambda folder: Dataset([simple(500)]).save(folder + "/x.npz"),
    "folder": lambda folder: Dataset([simple(500)] * 3).save(folder + "/many", one_file_per_episode=True),
    "actions": lambda folder: save_actions(record_of(list(range(500))), folder),
}
os.fsync = stop
for folder in sys.argv[1:]:
    threading.Thread(target=write[os.path.basename(folder)[:-2]], args=(folder,)).start()
"""
NEXT: dict[str, list[Any]] = {
    "file": [lambda path: Dataset([simple(1)]).save(path / "y.npz"), lambda path: Dataset.load(path / "old.npz")],
    "folder": [
        lambda path: Dataset([simple(1)]).save(path / "few", one_file_per_episode=True),
        lambda path: Dataset.load(path),
    ],
    "actions": [lambda path: save_actions(record_of([1]), path), load_actions],
}


@contextlib.contextmanager
def stopped_within_writes(folders: list[pathlib.Path]) -> Iterator[subprocess.Popen[str]]:
    """A process whose threads wrote some bytes into each folder, and stand still before they bring them to the disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, folders)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        for _ in folders:
            assert process.stdout.readline() == "stopped\n"
        yield process
    finally:
        process.kill()
        process.wait()


def each_use(tmp_path: pathlib.Path) -> list[tuple[pathlib.Path, Any]]:
    """A folder for each kind of writer and each way to use it next, with something saved in it, and that way."""
    found = []
    for kind, ways in NEXT.items():
        for i, use in enumerate(ways):
            folder = tmp_path / f"{kind}-{i}"
            folder.mkdir()
            save_actions(record_of([1]), folder) if kind == "actions" else Dataset([simple(1)]).save(folder / "old.npz")
            found.append((folder, use))
    return found


def hidden(folder: pathlib.Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_the_next_save_or_load_removes_what_a_killed_writer_left_and_says_so(tmp_path: pathlib.Path) -> None:
    uses = each_use(tmp_path)
    with stopped_within_writes([folder for folder, _ in uses]):
        pass
    for folder, use in uses:
        (part,) = [name for name in hidden(folder) if atomic.PART.fullmatch(name)]
        with pytest.warns(UserWarning, match="removed [1-9][0-9]{3,} bytes that a writer left") as said:
            use(folder)
        assert str(folder / part) in str(said[0].message)
        assert hidden(folder) == []


def test_what_a_living_writer_writes_is_left_alone(tmp_path: pathlib.Path) -> None:
    uses = each_use(tmp_path)
    with stopped_within_writes([folder for folder, _ in uses]), warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder, use in uses:
            before = sorted(hidden(folder))
            assert before
            use(folder)
            assert sorted(hidden(folder)) == before


def test_a_writer_in_another_thread_is_left_alone(tmp_path: pathlib.Path) -> None:
    with atomic.new_file(tmp_path / "x") as file:
        thread = threading.Thread(target=atomic.remove_leftovers, args=(tmp_path,))
        thread.start()
        thread.join()
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_a_part_that_is_taken_for_a_dead_writers_before_it_is_locked_is_begun_anew(tmp_path: pathlib.Path) -> None:
    lock, calls = fcntl.flock, []

    def late(file: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            with pytest.warns(UserWarning, match="removed 0 bytes"):
                atomic.remove_leftovers(tmp_path)
        lock(file, how)

    with mock.patch("fcntl.flock", late), atomic.new_file(tmp_path / "x") as file:
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert calls == [fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]


def test_other_hidden_files_and_links_are_left_alone(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".x.part").touch()
    (folder / f".x.{'0' * 16}.jaxreplay-part").symlink_to(outside)
    os.mkfifo(folder / f".y.{'0' * 16}.jaxreplay-part")
    before = sorted(hidden(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset([simple(1)]).save(folder / "x.npz")
    assert sorted(hidden(folder))[:2] == before[:2]
    assert outside.read_bytes() == b"mine"


def test_nothing_is_removed_where_there_are_no_locks(tmp_path: pathlib.Path) -> None:
    (tmp_path / f".x.{'0' * 16}.jaxreplay-part").touch()
    with mock.patch("fcntl.flock", side_effect=OSError(95, "Operation not supported")):
        Dataset([simple(1)]).save(tmp_path / "x.npz")
    assert len(hidden(tmp_path)) == 1


def test_the_umask_of_the_process_is_never_changed(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o027)
    try:
        with mock.patch("os.umask", side_effect=AssertionError("changed")):
            Dataset([simple(1)]).save(tmp_path / "x.npz")
            Dataset([simple(1)]).save(tmp_path / "many", one_file_per_episode=True)
    finally:
        os.umask(before)
    rights = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("x.npz", "many")]
    assert rights == [0o640, 0o750]


def test_a_folder_that_cannot_be_brought_to_the_disk_fails_no_save(tmp_path: pathlib.Path) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    with mock.patch("os.fsync", only_files):
        Dataset([simple(1)]).save(tmp_path / "x.npz")
        Dataset([simple(1)]).save(tmp_path / "many", one_file_per_episode=True)
    assert sorted(os.listdir(tmp_path)) == ["many", "x.npz"]
