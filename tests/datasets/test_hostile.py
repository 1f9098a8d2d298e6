"""Files that were damaged, or made to harm: an error that names the file, and nothing else."""

from __future__ import annotations

import json
import pathlib
import pickle
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.datasets.files import archive


def valid(path: pathlib.Path) -> list[Trajectory]:
    """Write a file with everything a file can hold."""
    rng = np.random.default_rng(0)
    made = [
        Trajectory(
            observations={"a": rng.normal(size=(n + 1, 2)), "b": (rng.integers(0, 255, (n + 1, 3)).astype(np.uint8),)},
            actions=rng.integers(0, 5, n),
            rewards=rng.normal(size=n).astype(np.float32),
            terminated=n == 2,
            extras=np.arange(n).astype(ml_dtypes.bfloat16),
            infos=[{"x": 1.5, "y": [None, "text"]}] * n,
            episode_data={"seed": n},
        )
        for n in (2, 3)
    ]
    Dataset(made).save(path)
    return made


def corrupt(rng: np.random.Generator, data: bytes) -> bytes:
    """Change, cut, add, double or swap some bytes somewhere."""
    changed = bytearray(data)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    kind = rng.integers(6)
    if kind == 0:
        changed[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        changed[at : at + length] = rng.bytes(len(changed[at : at + length]))
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + length]
    elif kind == 4:
        changed[at:at] = rng.bytes(length)
    else:
        other = int(rng.integers(len(data)))
        changed[at : at + length] = data[other : other + length]
    return bytes(changed)


def fuzz(tmp_path: pathlib.Path, count: int, seed: int) -> int:
    """Corrupt a valid file `count` times; return how often it was not the file any more. Each of these must raise."""
    path, rng = tmp_path / "valid.npz", np.random.default_rng(seed)
    valid(path)
    data, bad, tried = path.read_bytes(), tmp_path / "bad.npz", 0
    for _ in range(count):
        changed = corrupt(rng, data)
        if changed == data:
            continue
        tried += 1
        bad.write_bytes(changed)
        with pytest.raises(ValueError, match=r"bad.npz"):
            Dataset.load(bad)
    return tried


def test_a_changed_file_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    assert fuzz(tmp_path, 300, seed=0) > 280


@pytest.mark.slow
def test_ten_thousand_changed_files_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    assert fuzz(tmp_path, 10_000, seed=1) > 9_500


def load_or_refuse(path: pathlib.Path, **options: Any) -> Dataset | None:
    """The data set, or None for a ValueError that names the file; any other error is a failure."""
    try:
        return Dataset.load(path, **options)
    except ValueError as error:
        if path.name not in str(error):
            raise
        return None


def sealed_fuzz(tmp_path: pathlib.Path, count: int, seed: int) -> None:
    """The same with a checksum that is right: an error that names the file, or arrays of the shapes it states."""
    path, rng = tmp_path / "valid.npz", np.random.default_rng(seed)
    valid(path)
    data, bad = path.read_bytes()[: -len(archive.BLANK)], tmp_path / "bad.npz"
    refused = 0
    for _ in range(count):
        bad.write_bytes(seal(corrupt(rng, data)))
        got = load_or_refuse(bad)
        if got is None:
            refused += 1
            continue
        assert len(got) == sum(len(t) for t in got) <= len(data)
        assert sum(leaf.nbytes for t in got for leaf in (t.actions, t.rewards)) <= len(data)
    assert 0.5 * count < refused < count


def seal(data: bytes) -> bytes:
    """Put the right checksum behind."""
    return data + archive.COMMENT.format(zlib.crc32(data + archive.BLANK)).encode()


def test_a_changed_file_with_a_right_checksum_does_no_harm(tmp_path: pathlib.Path) -> None:
    sealed_fuzz(tmp_path, 300, seed=2)


@pytest.mark.slow
def test_ten_thousand_changed_files_with_right_checksums_do_no_harm(tmp_path: pathlib.Path) -> None:
    sealed_fuzz(tmp_path, 10_000, seed=3)


def rewrite(source: pathlib.Path, target: pathlib.Path, changes: dict[str, Any], compression: int = 0) -> None:
    """Copy an archive with other members; a function changes what JSON holds, bytes replace, None removes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            change = changes.get(name, data)
            if callable(change):
                value = json.loads(data)
                change = json.dumps(change(value) or value)
            if change is not None:
                new.writestr(name, change)
        new.comment = archive.BLANK
    target.write_bytes(seal(target.read_bytes()[: -len(archive.BLANK)]))


def npy(dtype: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def content(**changes: Any) -> dict[str, Any]:
    """Change what the JSON says of parts."""
    return {"jaxreplay.json": lambda manifest: manifest["content"].update(changes)}


def packed(count: int, *groups: Any, **more: Any) -> dict[str, Any]:
    """What JSON says of packed values."""
    return {"count": count, "groups": list(groups), "rest": None, "which": None, "room": None} | more


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions.npy": npy("'<i8'", "(10**9,)")}, ""),
        ({"actions.npy": npy("'<i8'", "(1000000000000,)")}, "actions.npy: expected .* got int64.1000000000000. and 0"),
        ({"actions.npy": npy("'|O'", "(5,)", pickle.dumps([1] * 5))}, "actions.npy: expected numbers .* got object"),
        ({"actions.npy": npy("'<i8'", "(5,)", bytes(39))}, "40 bytes of them .* and 39 bytes"),
        ({"actions.npy": npy("'<i8'", "(4,)", bytes(32))}, "do not add up to 4 steps"),
        ({"rewards.npy": npy("'<f8'", "(4,)", bytes(32))}, "rewards: expected 5 rows"),
        ({"rewards.npy": npy("'<i8'", "(5,)", bytes(40))}, "rewards: expected a floating dtype, got int64"),
        ({"extras.npy": npy("'<f8'", "(5,)", bytes(40))}, "extras: expected the bits of bfloat16, got float64"),
        ({"actions.npy": b"\x80\x04."}, ""),
        ({"actions.npy": None}, "there is no actions.npy"),
        ({"episodes.length.npy": npy("'<i8'", "(2,)", np.array([6, -1]).tobytes())}, "lengths of episodes"),
        ({"episodes.length.npy": npy("'<i8'", "(2,)", np.array([4, 4]).tobytes())}, "lengths of episodes"),
        ({"episodes.length.npy": npy("'<f8'", "(2,)", np.array([2.0, 3]).tobytes())}, "lengths of episodes"),
        ({"episodes.terminated.npy": npy("'|b1'", "(2,)", b"\x02\x00")}, "expected bytes 0 and 1"),
        ({"episodes.terminated.npy": npy("'|b1'", "(1,)", b"\x01")}, "expected 2 flags"),
        ({"jaxreplay.json": "[" * 100_000}, "RecursionError"),
        (content(infos=packed(3, None)), "expected 5 values, got 3"),
        (content(infos=packed(5, 3)), ""),
        (content(infos=packed(5, "int:actions", which=None)), ""),
        (content(infos=packed(5, "float:episode_data.seed")), "expected values of kind 'float'|expected 5 values"),
        (content(infos=packed(5, ["tuple", *[None] * 10_000])), "more values than there is room for"),
        (content(infos=None), "unknown arrays: infos"),
        ({"jaxreplay.json": lambda m: m["dtypes"].update(extras="object")}, "KeyError"),
        ({"jaxreplay.json": lambda m: m.update(version=3)}, "version 3 of the format"),
        ({"jaxreplay.json": lambda m: m.update(format="x")}, "does not say that this is a jaxreplay data set"),
        (content(actions="rewards"), ""),
        (content(observations=None), "unknown arrays"),
        ({"jaxreplay.json": lambda m: m["content"].pop("extras") and None}, "extras"),
        ({"jaxreplay.json": b"[]"}, "does not say that this is a jaxreplay data set"),
        ({"jaxreplay.json": None}, "jaxreplay.json does not say"),
    ],
)
def test_wrong_members_are_refused(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    valid(tmp_path / "valid.npz")
    rewrite(tmp_path / "valid.npz", tmp_path / "bad.npz", changes)
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}"):
        Dataset.load(tmp_path / "bad.npz")


def test_compressed_members_are_refused_so_that_memory_is_bounded(tmp_path: pathlib.Path) -> None:
    valid(tmp_path / "valid.npz")
    rewrite(tmp_path / "valid.npz", tmp_path / "bad.npz", {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bad.npz: .*is compressed; expected a member that is not"):
        Dataset.load(tmp_path / "bad.npz")
    rewrite(tmp_path / "valid.npz", tmp_path / "good.npz", {})
    assert Dataset.load(tmp_path / "good.npz").num_episodes == 2
