"""Law 9: a store that was cut off at any byte opens as it was after its last commit."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from jaxreplay.datasets.trajectory import steps_of
from jaxreplay.storage import Writer
from jaxreplay.storage.checking import verify
from tests.datasets.episodes import all_same
from tests.storage.kills import RING, block, episode


def check(folder: pathlib.Path, kind: int, committed: int) -> int:
    """Raise unless a store holds just what its last commit had; say how many episodes, or blocks, that is.

    committed: of which the commit returned. A commit that did not return has happened or not.
    """
    opened = Dataset.open(folder, verify=True)
    assert verify(folder) == []
    if kind == 2:
        blocks = (len(opened) // 6) if len(opened) else 0
        got = np.sort(np.concatenate([t.actions for t in opened])) if blocks else np.zeros(0)
        whole = np.concatenate([block(i).action.ravel() for i in range(blocks)]) if blocks else got
        assert np.array_equal(got, np.sort(whole))
        assert opened.num_episodes == 2 * -(-blocks // 4)
        found = blocks
    else:
        found = int(opened.episode(-1).episode_data["i"]) + 1 if opened.num_episodes else 0
        first = found - opened.num_episodes
        assert kind == 1 or first == 0
        assert kind == 0 or len(opened) >= min(RING, sum(len(episode(i)) for i in range(found)))
        all_same(opened, [episode(i) for i in range(first, found)])
    assert committed <= found <= committed + 3
    return found


def run_kills(folder: pathlib.Path, count: int, seed: int) -> None:
    subprocess.run([sys.executable, "-m", "tests.storage.kills", folder, str(count), str(seed)], check=True)
    for trial in range(count):
        place, kind = folder / str(trial), trial % 3
        log = (place / "log").read_text().split()
        if not (place / "store" / "manifest.json").exists():
            assert not log
            continue
        found = check(place / "store", kind, int(log[-1]) if log else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the dead one left behind
            writer = Writer(place / "store", num_envs=2 if kind == 2 else None, max_steps=RING if kind == 1 else None)
        with writer:  # the dead one does not hold the lock, and its leftovers are gone
            assert {x.name.split(".")[0] for x in (place / "store").glob("*.npy")} == {
                f"{s.number:06d}" for s in writer._files.manifest.segments
            }
            for i in range(found, found + 4):
                writer.extend(block(i)) if kind == 2 else writer.append(episode(i))
        if kind != 2:
            check(place / "store", kind, found + 4)


def test_a_killed_writer_leaves_what_it_committed(tmp_path: pathlib.Path) -> None:
    run_kills(tmp_path, 21, 0)


@pytest.mark.slow
def test_a_thousand_killed_writers_leave_what_they_committed(tmp_path: pathlib.Path) -> None:
    run_kills(tmp_path, 1000, 1)


class Death(BaseException):
    """The process ends here."""


class Mortal:
    """From the n-th byte written, or file made, renamed or removed, on nothing reaches the disk any more."""

    def __init__(self, patch: pytest.MonkeyPatch, life: int) -> None:
        self.life = life
        for name in ("replace", "unlink", "ftruncate", "open"):
            patch.setattr(os, name, self.wrap(getattr(os, name), name == "open"))
        pwritev = os.pwritev
        patch.setattr(os, "pwritev", lambda *arguments: self.write(pwritev, *arguments))

    def wrap(self, call: Any, only_new: bool) -> Any:
        def mortal(path: Any, *arguments: Any, **options: Any) -> Any:
            if not only_new or (arguments and arguments[0] & os.O_CREAT):
                self.live(5)
            return call(path, *arguments, **options)

        return mortal

    def live(self, count: int) -> None:
        self.life -= count
        if self.life < 0:
            raise Death

    def write(self, call: Any, handle: int, views: list[memoryview], at: int) -> int:
        if self.life < 0:
            raise Death
        data = b"".join(views)
        kept = data[: self.life]
        if kept:
            call(handle, [kept], at)
        self.live(len(data))
        return len(data)


def lives(kind: int, folder: pathlib.Path, step: int, start: int = 0) -> Iterator[tuple[int, pathlib.Path, int]]:
    """Kill a writer after so many bytes, until it lives to its end: `(life, folder, committed)`."""
    for life in itertools.count(start, step):
        place, committed, done = folder / str(life), 0, False
        writer: Any = None
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, life)
            try:
                options = {"num_envs": 2} if kind == 2 else {"max_steps": 8} if kind == 1 else {}
                writer = Writer(place, commit_every=None, segment_bytes=900, **options)
                for i in range(6):
                    writer.extend(block(i)) if kind == 2 else writer.append(episode(i))
                    if i % 3 == 2:
                        writer.commit()
                        committed = i + 1
                done = True
            except Death:
                mortal.life = -1
        if writer is not None:
            writer._files.close()
        yield life, place, committed
        if done:
            return


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["episodes", "ring", "blocks"])
def test_a_writer_that_dies_at_any_byte_leaves_what_it_committed(kind: int, tmp_path: pathlib.Path) -> None:
    seen = set()
    for life, place, committed in lives(kind, tmp_path, 997 if kind == 1 else 211, 7 * kind):
        if (place / "manifest.json").exists():
            found = check_any(place, kind)
            assert committed <= found <= committed + 3, life
            seen.add(found)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Writer(place, num_envs=2 if kind == 2 else None).close()
            assert check_any(place, kind) == found
        else:
            assert not committed
    assert seen == {0, 3, 6}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["episodes", "ring", "blocks"])
def test_a_writer_that_dies_at_every_byte_leaves_what_it_committed(kind: int, tmp_path: pathlib.Path) -> None:
    for life, place, committed in lives(kind, tmp_path, 3):
        if (place / "manifest.json").exists():
            assert committed <= check_any(place, kind) <= committed + 3, life


def check_any(folder: pathlib.Path, kind: int) -> int:
    """Say how many episodes, or blocks, a store has, which must be the first, or in a ring the newest, bit for bit."""
    opened = Dataset.open(folder, verify=True)
    if kind == 2:
        return check(folder, kind, len(opened) // 6)
    found = int(opened.episode(-1).episode_data["i"]) + 1 if opened.num_episodes else 0
    expected = [episode(i) for i in range(found - opened.num_episodes, found)]
    if kind == 1 and expected:  # of the first one steps may have been dropped
        expected[0] = steps_of(expected[0], len(expected[0]) - len(opened.episode(0)), len(expected[0]))
    all_same(opened, expected)
    assert kind == 1 or found == opened.num_episodes
    return found


def test_a_full_disk_leaves_what_was_committed_and_a_later_commit_tries_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev, room = os.pwritev, [10**9]

    def bounded(handle: int, views: list[Any], at: int) -> int:
        data = b"".join(views)[: room[0]]
        if not data:
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        return pwritev(handle, [data], at)

    monkeypatch.setattr(os, "pwritev", bounded)
    writer = Writer(tmp_path, commit_every=None, segment_bytes=2000)
    for i in range(4):
        writer.append(episode(i))
    writer.commit()
    room[0] = 700
    for i in range(4, 8):
        writer.append(episode(i))
    with pytest.raises(OSError, match="No space"):
        writer.commit()
    all_same(Dataset.open(tmp_path, verify=True), [episode(i) for i in range(4)])
    room[0] = 10**9
    writer.close()
    all_same(Dataset.open(tmp_path, verify=True), [episode(i) for i in range(8)])
