"""Checkpoints that were damaged or made up: ValueError that names the file, and nothing else."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import tracemalloc
import zlib
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.checkpoint import pieces
from tests.checkpoint import killing
from tests.extras import library
from tests.test_errors import expect
from tests.test_restoring import make

library("xxhash")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("hostile") / "good"
    with mock.patch.object(pieces, "PIECE", 4096):
        replay.checkpoint.save(folder, killing.state(70) | {"flags": np.ones(8, bool), "none": np.zeros((0, 2))})
    return folder


@pytest.fixture
def folder(good: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    return tmp_path


def load(folder: pathlib.Path) -> Any:
    return replay.checkpoint.load(folder, killing.state(0) | {"flags": np.zeros(8, bool), "none": np.zeros((0, 2))})


def rewrite(folder: pathlib.Path, content: Any) -> None:
    """Write a manifest with the right digest, as one who makes it up does."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "checkpoint.json").write_bytes(text + f"\n{zlib.crc32(text):08x}\n".encode())


def content_of(folder: pathlib.Path) -> Any:
    return json.loads((folder / "checkpoint.json").read_bytes().splitlines()[0])


def test_a_changed_byte_of_any_file_is_found_and_named(folder: pathlib.Path) -> None:
    rng = random.Random(0)
    for path in [folder / "checkpoint.json", *sorted((folder / "pieces").iterdir())]:
        data = path.read_bytes()
        for at in {0, len(data) - 2, *(rng.randrange(len(data) - 1) for _ in range(3))}:
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with expect(ValueError, str(path)):
                load(folder)
        path.write_bytes(data)
    load(folder)


def test_a_cut_longer_or_missing_file_is_named(folder: pathlib.Path) -> None:
    for path in sorted((folder / "pieces").iterdir()):
        data = path.read_bytes()
        for other in (data[:-1], b"", data + b"x"):
            path.write_bytes(other)
            with expect(ValueError, str(path), f"expected {len(data)} bytes, got {len(other)}"):
                load(folder)
        path.unlink()
        with expect(ValueError, str(path), "missing"):
            load(folder)
        path.write_bytes(data)
    load(folder)


MADE_UP = {
    "no dict": lambda c: [c],
    "another format": lambda c: c | {"format": "zip"},
    "a newer version": lambda c: c | {"version": 2},
    "no leaves": lambda c: c | {"leaves": []},
    "leaves of nothing": lambda c: c | {"leaves": [[path, kind, []] for path, kind, _ in c["leaves"]]},
    "buffers of no form": lambda c: c | {"buffers": {"a": 3}},
    "a buffer more": lambda c: c | {"buffers": {"a": {}}},
    "a path out of the folder": lambda c: with_part(c, digests=["../../../../../../etc/passwd"]),
    "a digest too many": lambda c: with_part(c, digests=["0" * 32] * 99),
    "a larger array": lambda c: with_part(c, shape=[2**40, 32], block=[2**40, 32]),
    "a smaller array": lambda c: with_part(c, shape=[1, 32], block=[1, 32], digests=["0" * 32]),
    "a piece of no size": lambda c: with_part(c, block=[0, 32], digests=[]),
    "another rank": lambda c: with_part(c, start=[0], shape=[64], block=[64], digests=["0" * 32]),
    "a negative start": lambda c: with_part(c, start=[-1, 0]),
    "a fraction": lambda c: with_part(c, shape=[64.0, 32]),
    "the same part twice": lambda c: with_leaf(c, lambda parts: parts * 2),
    "one piece for two of its size": lambda c: with_part(c, block=[64, 32], digests=["0" * 32]),
}


def with_leaf(content: Any, change: Any) -> Any:
    leaves = [[path, kind, change(parts) if path == "ring" else parts] for path, kind, parts in content["leaves"]]
    return content | {"leaves": leaves}


def with_part(content: Any, **changes: Any) -> Any:
    def change(parts: Any) -> Any:
        [[(start, shape), block, digests]] = parts
        got = {"start": start, "shape": shape, "block": block, "digests": digests} | changes
        return [[[got["start"], got["shape"]], got["block"], got["digests"]]]

    return with_leaf(content, change)


@pytest.mark.parametrize("name", MADE_UP)
def test_a_manifest_that_was_made_up_is_refused(name: str, folder: pathlib.Path) -> None:
    rewrite(folder, MADE_UP[name](content_of(folder)))
    tracemalloc.start()
    with expect(ValueError, str(folder)):
        load(folder)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_text_that_is_no_json_is_refused(folder: pathlib.Path) -> None:
    for text in (b"", b"[" * 100_000, b"\xff", b"{", b"NaN"):
        rewrite(folder, text)
        with expect(ValueError, "checkpoint.json"):
            load(folder)


def test_bytes_that_are_no_bools_are_refused(folder: pathlib.Path) -> None:
    values = np.full(8, 7, np.uint8)
    content = content_of(folder)
    for leaf in content["leaves"]:
        if leaf[0] == "flags":
            [[box, block, _]] = leaf[2]
            leaf[2] = [[box, block, [pieces.digest(values)]]]
    rewrite(folder, content)
    (path,) = (folder / "pieces").glob("0.0.*")
    path.rename(other := path.with_name(f"0.0.{pieces.digest(values)}"))
    other.write_bytes(values.tobytes())
    with expect(ValueError, str(other), "bytes that are no bool"):
        load(folder)


@pytest.mark.parametrize("options", [{"capacity": 2**40}, {"capacity": -4}, {"capacity": None}, {"max_episodes": 3}])
def test_a_capacity_that_was_made_up_is_refused_and_takes_no_memory(options: Any, tmp_path: pathlib.Path) -> None:
    replay.checkpoint.save(tmp_path, make())
    content = content_of(tmp_path)
    content["buffers"]["the buffer"]["options"] |= options
    rewrite(tmp_path, content)
    with expect(ValueError, str(tmp_path)):
        replay.checkpoint.load(tmp_path, make())


def mutate(node: Any, rng: random.Random) -> Any:
    """Change one thing somewhere in JSON."""
    if isinstance(node, dict | list) and node and rng.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = rng.choice(list(keys))
        copy = dict(node) if isinstance(node, dict) else list(node)
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = mutate(node[key], rng)
        return copy
    return rng.choice([None, -1, 0, 1, 2**70, 0.5, "", "../x", [], [[]], {}, True, [node], node, "0" * 32])


def fuzz(folder: pathlib.Path, count: int, load: Any = load) -> None:
    content, messages = content_of(folder), []
    for seed in range(count):
        rewrite(folder, mutate(content, random.Random(seed)))
        try:
            load(folder)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > count // 2
    assert all(str(folder) in message for message in messages)


def test_made_up_manifests_raise_value_error_alone(folder: pathlib.Path) -> None:
    fuzz(folder, 500)


def test_made_up_facts_of_a_buffer_raise_value_error_alone(tmp_path: pathlib.Path) -> None:
    replay.checkpoint.save(tmp_path, {"buffer": make()})
    like = {"buffer": jax.eval_shape(make)}
    options = content_of(tmp_path)["buffers"]["buffer"]["options"]
    assert len(options) == 11
    for name in options:
        content = content_of(tmp_path)
        del content["buffers"]["buffer"]["options"][name]
        rewrite(tmp_path, content)
        with expect(ValueError, str(tmp_path)):
            replay.checkpoint.load(tmp_path, like)
        for other in ([], {}, -1, 2**70, "", 0.5):
            content["buffers"]["buffer"]["options"][name] = other
            rewrite(tmp_path, content)
            with expect(ValueError, str(tmp_path)):
                replay.checkpoint.load(tmp_path, like)


@pytest.mark.slow
def test_very_many_made_up_manifests_raise_value_error_alone(folder: pathlib.Path) -> None:
    fuzz(folder, 100_000)


def test_a_save_over_a_damaged_one_saves_all_anew_and_says_so(folder: pathlib.Path) -> None:
    path = folder / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="cut or changed.*All of it is saved anew"):
        replay.checkpoint.save(folder, killing.state(3))
    assert replay.checkpoint.load(folder, killing.state(0))["number"] == 3


def test_a_save_over_that_of_a_newer_version_is_refused(folder: pathlib.Path) -> None:
    rewrite(folder, content_of(folder) | {"version": 2})
    before = sorted(os.listdir(folder / "pieces"))
    with expect(ValueError, "version 2", "or a newer one"):
        replay.checkpoint.save(folder, killing.state(3))
    assert sorted(os.listdir(folder / "pieces")) == before
