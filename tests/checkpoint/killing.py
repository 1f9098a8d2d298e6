"""A process that saves again and again, in children that its parent kills: `python -m tests.checkpoint.killing`.

The states are of NumPy arrays, so that the parent starts no device, and its children can be forked.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import struct
import sys
import time
import warnings
from typing import Any

import numpy as np

from jaxreplay import checkpoint
from jaxreplay.checkpoint import pieces

SLOTS, WIDTH = 64, 32


def state(number: int) -> dict[str, Any]:
    """The ring after so many writes: each slot holds the newest number that was written to it, and its square."""
    slots = np.arange(SLOTS)
    newest = number - (number - slots) % SLOTS
    ring = np.where(newest >= 0, newest, -1)[:, None] + np.zeros((1, WIDTH))
    return {"ring": ring, "square": ring**2, "number": number}


def save_for_ever(folder: pathlib.Path, number: int, told: int) -> None:
    while True:
        checkpoint.save(folder, state(number))
        os.write(told, struct.pack("<q", number))
        number += 1


def kill_once(folder: pathlib.Path, number: int, longest: float) -> int:
    """Let a child save from a number on, kill it at a random moment, and return the number that is found then."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            save_for_ever(folder, number, write)
        finally:
            os._exit(1)
    os.close(write)
    came = os.read(read, 8)  # the first save is done
    time.sleep(random.uniform(0, longest))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child ended by itself"
    with os.fdopen(read, "rb") as rest:
        came += rest.read()
    last = struct.unpack("<q", came[-8:])[0]
    found = checkpoint.load(folder, state(0))
    assert found["number"] in (last, last + 1), (found["number"], last)
    for name, value in state(found["number"]).items():
        np.testing.assert_array_equal(found[name], value)
    return found["number"]


def main(folder: pathlib.Path, kills: int) -> None:
    pieces.PIECE = 1024
    random.seed(0)
    warnings.simplefilter("ignore")  # of leftovers that were removed
    number = 0
    for _ in range(kills):
        number = kill_once(folder, number + 1, 0.03)
    checkpoint.save(folder, state(number + 1))
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    whole = checkpoint.load(folder, state(0))
    assert whole["number"] == number + 1
    expected = sum(-(-value.nbytes // 1024) for value in (whole["ring"], whole["square"])) + 1
    assert len(os.listdir(folder / "pieces")) == expected, "pieces of no checkpoint stayed"
    print(kills, number)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
