"""`python -m tests.storage.kills FOLDER COUNT SEED`: writers that are killed in the middle, each in its folder.

One process imports the library and forks the writers, so that a kill does not cost an import. A writer notes in `log`
how many episodes each commit had, once it has returned.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sys
import time
from typing import Any

import numpy as np

import jaxreplay as replay
from jaxreplay.datasets import Trajectory
from jaxreplay.storage import Writer

RING = 60


def episode(i: int) -> Trajectory:
    """The i-th episode of every writer."""
    rng = np.random.default_rng(i)
    n = 1 + i % 7
    return Trajectory(
        {"frame": rng.integers(0, 255, (n + 1, 9, 7), np.uint8), "row": np.full(n + 1, i)},
        actions=rng.random((n, 2)),
        rewards=rng.random(n),
        terminated=i % 2 == 0,
        infos=[{"i": i}] * n,
        episode_data={"i": i},
    )


def block(i: int) -> Any:
    """The i-th block of two envs, whose episodes end in every fourth of them."""
    rng = np.random.default_rng(i)
    x = np.arange(6.0).reshape(3, 2) + 100 * i
    ended = np.zeros((3, 2), bool)
    ended[-1] = i % 4 == 3
    return replay.Transition(x, x, rng.random((3, 2)), ended, np.zeros((3, 2), bool), x + 2)


def write(folder: pathlib.Path, kind: int) -> None:
    """Write without end. kind: episodes, a ring of them, or blocks of steps."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    options = {"num_envs": 2} if kind == 2 else {"max_steps": RING} if kind == 1 else {}
    i = 0
    while True:
        with Writer(folder / "store", commit_every=None, segment_bytes=3000, **options) as writer:
            for _ in range(4):
                for _ in range(3):
                    writer.extend(block(i)) if kind == 2 else writer.append(episode(i))
                    i += 1
                writer.commit()
                os.write(log, f"{i}\n".encode())


def main(folder: str, count: str, seed: str) -> None:
    dice = random.Random(int(seed))
    os.fsync = lambda handle: None  # it tells nothing where the system lives on
    for trial in range(int(count)):
        place = pathlib.Path(folder, str(trial))
        place.mkdir()
        child = os.fork()
        if not child:
            try:
                write(place, trial % 3)
            finally:
                os._exit(1)
        while not (place / "log").exists():
            time.sleep(0.001)
        time.sleep(dice.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            raise RuntimeError(f"writer {trial} ended by itself")


if __name__ == "__main__":
    main(*sys.argv[1:])
