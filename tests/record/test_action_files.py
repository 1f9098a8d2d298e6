"""Action records as files: they come back bit for bit, whole or not at all, and earlier ones stay."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxreplay.record.actions import files as action_files
from jaxreplay.record.actions.files import ActionDirectory, from_bytes, load_actions, save_actions, to_bytes
from jaxreplay.record.actions.record import ActionRecord
from tests.datasets.test_values import values
from tests.record.records import assert_same_record, nested, record_of


@given(st.lists(values, max_size=4), st.one_of(st.none(), st.integers(0, 2**80)))
def test_a_record_of_any_actions_comes_back_bit_for_bit(actions: list[Any], seed: int | None) -> None:
    record = record_of([{"x": action} for action in actions], seed)
    assert_same_record(from_bytes(to_bytes(record)), record)


def test_a_file_and_a_directory_give_back_what_was_saved_in_order(tmp_path: pathlib.Path) -> None:
    records = [record_of(list(range(n))) for n in (1, 3, 2)] + [nested()]
    paths = [save_actions(record, tmp_path / "new" / "deep") for record in records]
    assert paths == sorted(paths)
    loaded = load_actions(tmp_path / "new" / "deep")
    assert isinstance(loaded, list)
    for a, b in zip(loaded, records, strict=True):
        assert_same_record(a, b)
    one = load_actions(paths[3])
    assert isinstance(one, ActionRecord)
    assert_same_record(one, records[3])


def test_numpy_alone_reads_a_file_without_pickle(tmp_path: pathlib.Path) -> None:
    with np.load(save_actions(nested(), tmp_path), allow_pickle=False) as arrays:
        assert arrays["actions.arm"].shape == (5, 2)
        assert arrays["rewards"].shape == (5,)
        assert json.loads(arrays["jaxreplay.json"])["content"]["seed"] == 7


def test_records_load_where_gymnasium_is_missing_and_the_rest_names_the_extra(tmp_path: pathlib.Path) -> None:
    save_actions(nested(), tmp_path)
    program = (
        "import sys; sys.modules['gymnasium'] = None; import jaxreplay.record as record\n"
        f"print(record.load_actions({str(tmp_path)!r})[0].clip(2))\n"
        "for name in ('RecordActions', 'Playback', 'convert_dataset'):\n"
        "    try: getattr(record, name)\n"
        "    except ImportError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, *others = result.stdout.splitlines()
    assert first.startswith("ActionRecord(Robot-v0, seed=7, 2 steps")
    assert len(others) == 3
    assert all("pip install 'jaxreplay[gym]'" in line for line in others)


def test_the_same_record_gives_the_same_bytes() -> None:
    assert to_bytes(nested()) == to_bytes(nested())


def test_numbers_continue_behind_those_of_others_and_nothing_is_overwritten(tmp_path: pathlib.Path) -> None:
    a, b = ActionDirectory(tmp_path), ActionDirectory(tmp_path)
    paths = []
    for i in range(8):
        paths.append((a if i % 3 else b).write(record_of([i])))
        os.utime(tmp_path, ns=(i, i))  # as if the clock were coarse, or no
    (tmp_path / "notes.txt").write_text("not mine")
    (tmp_path / "episode-000000999-0123abcd.txt").write_text("not mine")
    paths.append(ActionDirectory(tmp_path).write(record_of([8])))
    assert len(set(paths)) == 9
    loaded = load_actions(tmp_path)
    assert isinstance(loaded, list)
    assert [record.actions[0] for record in loaded] == list(range(9))


def test_many_writers_at_once_lose_nothing(tmp_path: pathlib.Path) -> None:
    def write(writer: int) -> None:
        directory = ActionDirectory(tmp_path)
        for i in range(10):
            directory.write(record_of([100 * writer + i]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    loaded = load_actions(tmp_path)
    assert isinstance(loaded, list)
    written = [record.actions[0] for record in loaded]
    assert sorted(written) == [100 * w + i for w in range(4) for i in range(10)]
    for writer in range(4):
        assert sorted(x for x in written if x // 100 == writer) == [x for x in written if x // 100 == writer]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_records_and_nothing_half_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    save_actions(record_of([1]), tmp_path)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(action_files.os, broken, full)
        with pytest.raises(OSError, match=f"No space left on device.*are whole, in {tmp_path}") as caught:
            save_actions(record_of([2]), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert len(os.listdir(tmp_path)) == 1
    loaded = load_actions(tmp_path)
    assert isinstance(loaded, list)
    assert [record.actions for record in loaded] == [(1,)]


def test_an_interrupt_while_writing_leaves_nothing_half_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(action_files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_actions(record_of([2]), tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_behind_is_not_read(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(save_actions(record_of([1]), tmp_path))
    (tmp_path / f".{path.name}.partial").write_bytes(path.read_bytes()[:100])
    loaded = load_actions(tmp_path)
    assert isinstance(loaded, list)
    assert len(loaded) == 1


def test_a_folder_that_cannot_be_written_to_is_named_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"action records cannot be written to .*file"):
        ActionDirectory(tmp_path / "file")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=f"Permission denied: action records cannot be written to {tmp_path}"):
        ActionDirectory(tmp_path)
