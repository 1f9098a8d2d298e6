"""Stores that were changed, cut, or made up: ValueError naming a file, or what was committed; never anything else."""

from __future__ import annotations

import json
import os
import pathlib
import random
import resource
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from jaxreplay.storage import Writer, manifest
from jaxreplay.storage.checking import repair, verify
from tests.datasets.episodes import all_same
from tests.extras import library
from tests.storage.kills import episode

COUNT = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make(tmp_path_factory.mktemp("whole"), "png")


def make(folder: pathlib.Path, stored: str) -> pathlib.Path:
    with Writer(folder, segment_bytes=2500, compress={"observation.frame": stored}) as writer:
        for i in range(COUNT):
            writer.append(episode(i))
            if i % 2 == 1:
                writer.commit()
    return folder


def copy(whole: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(whole, to)
    return to


def read_all(folder: pathlib.Path, check: bool) -> Dataset:
    opened = Dataset.open(folder, verify=check)
    opened[:]
    opened.infos()
    for _ in opened:
        pass
    return opened


def read_or_refuse(folder: pathlib.Path, check: bool) -> None:
    """Read all, or raise anything but a ValueError that names a file of the store."""
    refused = ""
    try:
        read_all(folder, check)
    except ValueError as error:
        refused = str(error)
    assert not refused or str(folder) in refused


def test_a_changed_cut_or_missing_file_is_found_and_named(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Each file, at its first and last byte and at some between."""
    folder = copy(whole, tmp_path / "store")
    for path in sorted(whole.iterdir()):
        if path.name == manifest.LOCK:
            continue
        data = path.read_bytes()
        places = sorted({0, len(data) - 1, *random.Random(path.name).sample(range(len(data)), min(4, len(data)))})
        changed = [data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :] for i in places]
        for wrong in (*changed, *(data[:i] for i in places), None):
            (folder / path.name).unlink(missing_ok=True)
            if wrong is not None:
                (folder / path.name).write_bytes(wrong)
            missing = wrong is None and path.name == manifest.FILE
            name = "there is no manifest" if missing else path.name
            with pytest.raises(FileNotFoundError if missing else ValueError, match=name):
                read_all(folder, check=True)
            if not missing:
                assert any(path.name in text for text in verify(folder))
            if not missing:  # without the digests what is read may differ, but it is read, or refused by name
                read_or_refuse(folder, check=False)
        (folder / path.name).write_bytes(data)


def rewrite(folder: pathlib.Path, change: Callable[[Any], Any]) -> None:
    """Change a manifest, and make its digest right."""
    path = folder / manifest.FILE
    text = json.loads(path.read_bytes())["store"]
    change(text)
    body = json.dumps(text).encode()
    path.write_bytes(b'{"crc32": "%08x", "store": %s}\n' % (zlib.crc32(body), body))


def set_at(*keys: Any, value: Any) -> Callable[[Any], Any]:
    def change(text: Any) -> None:
        for key in keys[:-1]:
            text = text[key]
        text[keys[-1]] = value

    return change


def all_rows(text: Any) -> None:
    """Claim very many rows in every file."""
    for segment in text["segments"]:
        segment["steps"] = 10**12
        for file in segment["files"].values():
            file["rows"], file["bytes"] = 10**12, 128 + 8 * 10**12


FRAME = "observations.frame"
MADE_UP: dict[str, Callable[[Any], Any]] = {
    "another version": set_at("version", value=2),
    "another format": set_at("format", value="x"),
    "no commit": set_at("commit", value=-1),
    "a path out of the folder": set_at(
        "columns", "../../etc/passwd", value={"dtype": "uint8", "shape": [], "stored": "npy"}
    ),
    "a name that is a path": set_at("structure", "actions", value="actions/../../x"),
    "a structure that names no column": set_at("structure", "actions", value="actions.x"),
    "a column twice": set_at("structure", "extras", value="actions"),
    "a part that is none": set_at("structure", value={"a": 1}),
    "objects": set_at("columns", "actions", "dtype", value="object"),
    "a dtype that is none": set_at("columns", "actions", "dtype", value="os.system"),
    "texts as a dtype": set_at("columns", "actions", "dtype", value="<U8"),
    "other numbers": set_at("columns", "actions", "dtype", value="int64"),
    "another shape": set_at("columns", "actions", "shape", value=[1]),
    "a huge shape": set_at("columns", "actions", "shape", value=[2**40, 2**40]),
    "very many axes": set_at("columns", "actions", "shape", value=[1] * 60),
    "a negative axis": set_at("columns", "actions", "shape", value=[-1]),
    "a float axis": set_at("columns", "actions", "shape", value=[2.0]),
    "stored in an unknown way": set_at("columns", FRAME, "stored", value="exec"),
    "plain frames that are compressed": set_at("columns", FRAME, "stored", value="npy"),
    "a huge picture": set_at("columns", FRAME, "shape", value=[30000, 30000]),
    "a larger picture": set_at("columns", FRAME, "shape", value=[9, 8]),
    "rewards of whole numbers": set_at("columns", "rewards", "dtype", value="int64"),
    "very many rows": all_rows,
    "more rows": set_at("segments", 0, "files", "actions", "rows", value=99),
    "true as a count": set_at("segments", 0, "steps", value=True),
    "a count too large": set_at("segments", 0, "steps", value=10**30),
    "fewer steps": set_at("segments", 0, "steps", value=1),
    "a segment without files": set_at("segments", 0, "files", value={}),
    "the same segment twice": lambda text: text["segments"].append(text["segments"][0]),
    "segments in another order": lambda text: text["segments"].reverse(),
    "a segment that is not there": set_at("segments", 0, "number", value=999999),
    "no segments": set_at("segments", value=None),
    "episodes of no number": set_at("next_episode", value=1),
    "deep nesting": set_at("structure", "extras", value=json.loads("[" * 900 + "]" * 900)),
    "no columns": set_at("columns", value={}),
    "a list": set_at("columns", value=[]),
}


@pytest.mark.parametrize("what", MADE_UP)
def test_a_manifest_that_was_made_up_is_refused(what: str, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy(whole, tmp_path / "store")
    rewrite(folder, MADE_UP[what])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="store"):
        read_all(folder, check=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert verify(folder)


def rewrite_index(folder: pathlib.Path, change: Callable[[np.ndarray], Any]) -> None:
    """Change the index of the first segment, and make its digest right."""
    path = folder / "000000.index.npy"
    index = np.load(path)
    change(index)
    header = path.read_bytes()[: -index.nbytes]
    path.write_bytes(header + index.tobytes())
    rewrite(folder, set_at("segments", 0, "files", "index", "crc32", value=zlib.crc32(index)))


@pytest.mark.parametrize(
    "value", [-1, 0, 1, 2, 3, 7, 10**9, 2**62, 2**63 - 1, -(2**63)], ids=lambda value: f"value {value}"
)
def test_an_index_that_was_made_up_is_refused_or_read(value: int, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for row in (0, -1):
        for column in range(5):
            folder = copy(whole, tmp_path / "store")
            rewrite_index(folder, lambda index: index.__setitem__((row, column), value))  # noqa: B023
            read_or_refuse(folder, check=True)


def test_links_and_folders_in_the_place_of_files_are_refused(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("000000.actions.npy", "000000.index.npy", manifest.FILE):
        folder = copy(whole, tmp_path / "store")
        (folder / name).rename(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=rf"{name}: expected a file, not a link"):
            Dataset.open(folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name}: expected a file, not a link"):
            Dataset.open(folder)


def test_a_file_that_no_store_has_is_told_by_verify_alone(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy(whole, tmp_path / "store")
    (folder / "evil.npy").write_bytes(b"")
    assert [text.split(": ")[1] for text in verify(folder)] == ["it is no file of a store"]
    all_same(Dataset.open(folder), [episode(i) for i in range(COUNT)])


def test_repair_keeps_the_longest_good_prefix_and_removes_leftovers(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = copy(whole, tmp_path / "store")
    (folder / "999999.actions.npy").write_bytes(b"left behind")
    before = repair(folder)
    assert (before.episodes, before.dropped_steps, before.dropped, before.removed_bytes) == (COUNT, 0, (), 11)
    about = manifest.read(folder)[1]
    path = folder / about.segments[1].file("actions")
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    done = repair(folder)
    assert path.name in done.dropped[0]
    assert 0 < done.episodes < COUNT
    assert verify(folder) == []
    all_same(Dataset.open(folder, verify=True), [episode(i) for i in range(done.episodes)])
    assert repair(folder).dropped_steps == 0
    with Writer(folder) as writer:
        writer.append(episode(50))
    assert Dataset.open(folder, verify=True).num_episodes == done.episodes + 1


def fuzz(whole: pathlib.Path, to: pathlib.Path, count: int, seed: int, only: str = "") -> None:
    """Change, cut, swap and lengthen files at random, digests made right or not, and read all. only: in their names."""
    dice = random.Random(seed)
    original = {path.name: path.read_bytes() for path in whole.iterdir()}
    copy(whole, to)
    for _ in range(count):
        name = dice.choice([name for name in sorted(original) if only in name])
        data = bytearray(original[name])
        for _ in range(dice.choice((1, 1, 3))):
            at = dice.randrange(len(data) + 1) if data else 0
            kind = dice.randrange(5)
            if kind == 0 and data:
                data[at - 1] = dice.randrange(256)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = dice.randbytes(dice.randrange(40))
            elif kind == 3:
                data[at : at + 8] = dice.choice((0, 1, 2**31, 2**62, 2**64 - 1)).to_bytes(8, "little")
            else:
                data = bytearray(original[dice.choice(sorted(original))])
        (to / name).write_bytes(data)
        if dice.random() < 0.5:  # so that what is behind the digests is reached
            if name == manifest.FILE:
                found = manifest.BEGIN.match(data)
                body = bytes(data[found.end() : -2]) if found else b""
                (to / name).write_bytes(b'{"crc32": "%08x", "store": %s}\n' % (zlib.crc32(body), body))
            elif name.endswith(".npy"):
                number, column = int(name[:6]), name[7:-4]
                place = [s.number for s in manifest.read(whole)[1].segments].index(number)
                size = manifest.read(whole)[1].segments[place].files[column]
                kind_of = manifest.read(whole)[1].file_kind(column)
                length = size.rows * kind_of.row_bytes
                start = len(original[name]) - length
                rewrite(
                    to, set_at("segments", place, "files", column, "crc32", value=zlib.crc32(data[start:][:length]))
                )
        for check in (False, True):
            read_or_refuse(to, check)
        for changed in {name, manifest.FILE}:
            (to / changed).write_bytes(original[changed])


def test_hostile_stores_raise_value_errors_alone(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fuzz(whole, tmp_path / "store", 300, 0)


def test_hostile_stores_of_zarr3_raise_value_errors_alone(tmp_path: pathlib.Path) -> None:
    library("tensorstore")
    fuzz(make(tmp_path / "whole", "zarr3"), tmp_path / "store", 150, 1, only="observations.frame")


def test_hostile_stores_of_video_raise_value_errors_alone(tmp_path: pathlib.Path) -> None:
    library("av")
    fuzz(make(tmp_path / "whole", "video"), tmp_path / "store", 100, 2, only="observations.frame")


@pytest.mark.slow
def test_very_many_hostile_stores_raise_value_errors_alone(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fuzz(whole, tmp_path / "store", 100_000, os.getpid())
