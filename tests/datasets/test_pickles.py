"""Pickles: arrays and plain containers come back, anything else is refused by name, and nothing is ever run."""

from __future__ import annotations

import codecs
import collections
import os
import pathlib
import pickle
import subprocess
import tracemalloc
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory
from tests.datasets.episodes import all_same, same, simple
from tests.datasets.test_hostile import corrupt, load_or_refuse, valid


class Runs:
    """Unpickled by `pickle`, it would run a command."""

    def __init__(self, how: Any, *args: Any) -> None:
        self.how, self.args = how, args

    def __reduce__(self) -> Any:
        return self.how, self.args


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_a_command_is_refused_by_its_name(tmp_path: pathlib.Path, protocol: int) -> None:
    mark, path = tmp_path / "ran", tmp_path / "bad.pkl"
    for how, args, name in (
        (os.system, (f"touch {mark}",), "posix.system|nt.system"),
        (subprocess.Popen, (["touch", str(mark)],), "Popen"),
        (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
        (getattr, ((), "__class__"), "getattr"),
        (np.load, (str(mark),), "load"),
        (collections.Counter, ("aa",), "Counter"),
    ):
        for value in (Runs(how, *args), [{"observations": Runs(how, *args), "actions": np.zeros(1)}]):
            path.write_bytes(pickle.dumps(value, protocol))
            with pytest.raises(ValueError, match=f"bad.pkl: it holds .*{name}.*, and only arrays and plain containers"):
                Dataset.load(path, allow_pickle=True)
    assert not mark.exists()


def test_pickles_are_read_only_when_asked_for(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(simple(1)))
    with pytest.raises(ValueError, match="x: it is a pickle; pass allow_pickle=True"):
        Dataset.load(path)


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_trajectories_come_back_bit_for_bit(tmp_path: pathlib.Path, protocol: int) -> None:
    made = valid(tmp_path / "valid.npz")
    path = tmp_path / "x.pkl"
    fields = [collections.OrderedDict(vars(t)) for t in made]
    fortran = Trajectory(np.asfortranarray(np.arange(6.0).reshape(3, 2)), np.arange(2), infos=np.array([{}, {"a": 1}]))
    big = vars(fortran) | {"observations": fortran.observations.astype(">f8")}
    for value, expected in (
        (made, made),
        (tuple(made), made),
        (made[0], made[:1]),
        (fields, made),
        (fortran, [fortran]),
        (big, [fortran]),
        (
            {"observations": np.zeros((2, 0)), "actions": np.float32([3])},
            [Trajectory(np.zeros((2, 0)), np.float32([3]))],
        ),
    ):
        path.write_bytes(pickle.dumps(value, protocol))
        all_same(Dataset.load(path, allow_pickle=True), expected)


def test_imitations_pickles_are_read_by_their_fields(tmp_path: pathlib.Path) -> None:
    fields = {"obs": np.zeros((3, 2)), "acts": np.zeros(2, int), "terminal": True, "rews": np.ones(2)}
    path = tmp_path / "x.pkl"
    infos = np.array([{}, {"TimeLimit.truncated": True}])
    path.write_bytes(pickle.dumps([fields | {"infos": None}, fields | {"infos": infos}]))
    first, second = Dataset.load(path, allow_pickle=True)
    same(first, Trajectory(fields["obs"], fields["acts"], fields["rews"], terminated=True))
    same(second, Trajectory(fields["obs"], fields["acts"], fields["rews"], truncated=True, infos=list(infos)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04" + b"]" * 10 + b"R.",
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"\x80\x04]\x94h\x00a.",
        b"\x80\x05\x97.",
        b"\x80\x04\x95" + (2**63 - 1).to_bytes(8, "little") + b"N.",
        b"\x80\x04cnumpy\nndarray\n}b.",
        b"\x80\x04cnumpy\ndtype\n(VO8\nI0\nI1\ntRcnumpy\ndtype\n\x86.",
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntRN}\x86b.",
        b"\x80\x04N\x82\x01.",
        b"\x80\x04P1\n.",
        b"\x80\x04i__builtin__\neval\n.",
        b"\x80\x04",
        b"\x80\x04N.",
        b"\x80\x02](K\x01e.",
    ],
)
def test_wrong_pickles_are_refused_by_name(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match="bad: "):
        Dataset.load(tmp_path / "bad", allow_pickle=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x05\x96" + (40 * 10**9).to_bytes(8, "little"),
        b"\x80\x05\x96" + (2**64 - 1).to_bytes(8, "little"),
        b"\x80\x05\x95" + (14).to_bytes(8, "little") + b"\x96" + (2**40).to_bytes(8, "little") + b"abcd.",
        *[b"\x80\x05" + code + (2**40).to_bytes(8, "little") for code in (b"\x8d", b"\x8e", b"\x95")],
        *[b"\x80\x05" + code + (2**31 - 1).to_bytes(4, "little") for code in (b"\x8b", b"B", b"T", b"X")],
    ],
)
def test_a_length_that_the_file_does_not_have_takes_no_memory(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="bad: ") as caught:
            Dataset.load(tmp_path / "bad", allow_pickle=True)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert "memory" not in str(caught.value)  # it was not even tried


def test_byte_arrays_are_read(tmp_path: pathlib.Path) -> None:
    class Array:
        def __reduce__(self) -> Any:
            return np._core.numeric._frombuffer, (bytearray(b"\x01\x02"), np.dtype("uint8"), (2,), "C")

    (tmp_path / "x").write_bytes(pickle.dumps({"observations": np.zeros(3), "actions": Array()}, 5))
    assert Dataset.load(tmp_path / "x", allow_pickle=True).episode(0).actions.tolist() == [1, 2]


def test_containers_and_bytes_that_are_made_of_one_many_times_are_refused(tmp_path: pathlib.Path) -> None:
    class Made:
        def __init__(self, *how: Any) -> None:
            self.how = how

        def __reduce__(self) -> Any:
            return self.how

    text, mapping = "a" * 100_000, {str(i): i for i in range(1000)}
    for how, message in (
        ((codecs.encode, (text, "latin1")), "its bytes are more than the file's"),
        ((collections.OrderedDict, (mapping,)), "an OrderedDict made of another container"),
    ):
        (tmp_path / "bad").write_bytes(pickle.dumps([Made(*how) for _ in range(50)]))
        with pytest.raises(ValueError, match=f"bad: .*{message}"):
            Dataset.load(tmp_path / "bad", allow_pickle=True)


def test_a_pickle_that_says_the_same_bytes_many_times_is_not_made_larger(tmp_path: pathlib.Path) -> None:
    class Array:
        def __reduce__(self) -> Any:
            return np._core.numeric._frombuffer, (shared, np.dtype("uint8"), (len(shared),), "C")

    shared = bytes(range(256)) * 4000
    data = pickle.dumps([{"observations": Array(), "actions": Array()} for _ in range(1000)], 5)
    assert len(data) < 1.2 * len(shared)
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match="bad: its arrays are larger than the file"):
        Dataset.load(tmp_path / "bad", allow_pickle=True)


def test_a_changed_pickle_does_no_harm(tmp_path: pathlib.Path) -> None:
    """Pickles hold no checksum: what comes is an error that names the file, or trajectories of sound shapes."""
    rng, path = np.random.default_rng(0), tmp_path / "bad.pkl"
    data = pickle.dumps(valid(tmp_path / "valid.npz"))
    sizes: list[int | None] = []
    tracemalloc.start()
    for _ in range(300):
        path.write_bytes(corrupt(rng, data))
        got = load_or_refuse(path, allow_pickle=True)
        sizes.append(None if got is None else got.nbytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    loaded = [size for size in sizes if size is not None]
    assert 0 < len(loaded) < len(sizes)
    assert max(loaded) <= len(data)
    assert peak < 5_000_000


def test_a_pickled_dict_that_is_no_trajectory_is_refused_by_its_names(tmp_path: pathlib.Path) -> None:
    fields = {"observations": np.zeros(2), "actions": np.zeros(1)}
    for value, message in (
        ({"first": fields, "second": fields}, "got a dict of first, second; of a dict of episodes, pickle the list"),
        ({**fields, "dones": np.ones(1)}, "got a dict of observations, actions, dones$"),
        ([{}], "got a dict of nothing$"),
        ([3], "got int$"),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match=f"trajectories.0: expected a dict or object with observations.*{message}"):
            Dataset.load(tmp_path / "x.pkl", allow_pickle=True)
