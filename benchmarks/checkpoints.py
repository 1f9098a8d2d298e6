"""`python -m benchmarks checkpoints`: what it costs to save a ring of frames, to save it again, and to load it.

A ring of 84x84 frames and small columns, 16 envs, is saved to a new folder, and then again after each one percent more
was appended. Then it is loaded in a process of its own, because peak memory is a process's. Every file is brought to
the disk before a save ends; `numpy.save` of the same arrays with fsync is timed beside it, in turns.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from benchmarks import machine
from benchmarks.datasets import peak

FRAME, ENVS = (84, 84), 16
RESULT = pathlib.Path(__file__).parent / "results" / "checkpoints.md"


def make(slots: int) -> replay.Buffer:
    """An empty ring, with priorities."""
    frame = jax.ShapeDtypeStruct(FRAME, jnp.uint8)
    example = replay.Transition(frame, jnp.int32(0), jnp.float32(0), jnp.bool_(False), jnp.bool_(False), frame)
    return replay.create(example, slots * ENVS, ENVS, sampler=replay.samplers.prioritized())


def steps(seed: int, length: int) -> replay.Transition:
    """Random frames, which nothing can compress, in episodes of about 100 steps."""
    rng, lead = np.random.default_rng(seed), (length, ENVS)
    frames = rng.integers(0, 256, (*lead, *FRAME), np.uint8)
    ended = rng.random(lead) < 0.01
    reward = rng.random(lead, np.float32)
    return replay.Transition(frames, rng.integers(0, 4, lead, np.int32), reward, ended, np.zeros(lead, bool), frames)


def bytes_of(folder: pathlib.Path, names: set[str]) -> int:
    return sum((folder / "pieces" / name).stat().st_size for name in names)


def save(folder: pathlib.Path, slots: int, rounds: int) -> dict[str, list[float]]:
    """Save a full ring anew and again, in turns, and tell the seconds and the bytes of each."""
    extend = jax.jit(replay.extend, donate_argnums=0)
    percent = max(1, slots // 100)
    buffer = make(slots)
    for i in range(-(-slots // percent)):
        buffer = extend(buffer, steps(i, percent))
    found: dict[str, list[float]] = {}

    def timed(name: str, work: Any) -> None:
        jax.block_until_ready(buffer)
        began = time.perf_counter()
        work()
        found.setdefault(name, []).append(time.perf_counter() - began)

    for i in range(rounds):
        path = folder / f"round-{i}"
        timed("first", functools.partial(replay.checkpoint.save, path, buffer))
        before = set(os.listdir(path / "pieces"))
        found.setdefault("first bytes", []).append(bytes_of(path, before))
        buffer = extend(buffer, steps(1000 + i, percent))
        timed("second", functools.partial(replay.checkpoint.save, path, buffer))
        new = set(os.listdir(path / "pieces")) - before
        found.setdefault("second bytes", []).append(bytes_of(path, new))
        timed("numpy.save", functools.partial(numpy_save, folder / "numpy", buffer))
        if i:
            _remove(folder / f"round-{i - 1}")
    return found


def numpy_save(folder: pathlib.Path, buffer: replay.Buffer) -> None:
    """Write every array with `numpy.save`, and bring it to the disk."""
    folder.mkdir(exist_ok=True)
    for i, leaf in enumerate(jax.tree.leaves(buffer)):
        with (folder / f"{i}.npy").open("wb") as file:
            np.save(file, np.asarray(leaf))
            file.flush()
            os.fsync(file.fileno())


def _remove(folder: pathlib.Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            os.unlink(os.path.join(root, name))


def load(folder: pathlib.Path, slots: int) -> dict[str, float]:
    """Load, and tell how long it took, and the peak of memory beside what the process had before."""
    like = jax.eval_shape(functools.partial(make, slots))
    jnp.zeros(3).block_until_ready()
    before, began = peak(), time.perf_counter()
    buffer = jax.block_until_ready(replay.checkpoint.load(folder, like))
    seconds = time.perf_counter() - began
    ring = sum(x.nbytes for x in jax.tree.leaves(buffer))
    return {"load": seconds, "ring": ring, "peak": peak() - before}


def table(found: dict[str, Any], rounds: int) -> str:
    """Write what was seen, and whether the goals were reached."""
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))  # noqa: E731
    middle = {name: statistics.median(x) if isinstance(x, list) else x for name, x in found.items()}
    size, time_ratio = ratio("second bytes", "first bytes"), ratio("second", "first")
    memory = found["peak"] / found["ring"]
    rows = [
        ("save of a full ring", f"{middle['first']:.2f} s, {middle['first bytes'] / 1e9:.2f} GB", ""),
        ("`numpy.save` of its arrays, with fsync", f"{middle['numpy.save']:.2f} s", ""),
        ("save again after 1 percent more: bytes", f"{100 * size:.1f} % of the first", _verdict(size, 0.05)),
        ("the same: time", f"{middle['second']:.2f} s, {100 * time_ratio:.1f} %", _verdict(time_ratio, 0.10)),
        ("load", f"{found['load']:.2f} s", ""),
        ("peak memory of the load", f"{memory:.2f} times the ring", _verdict(memory, 1.1)),
    ]
    about = ", ".join(f"{name}: {value}" for name, value in machine.describe().items() if name != "libraries")
    lines = [f"| {' | '.join(row)} |" for row in [("what", "seen", "goal"), ("---",) * 3, *rows]]
    return "\n".join(
        [f"Checkpoints of a ring of {found['ring'] / 1e9:.2f} GB, {rounds} rounds.", "", *lines, "", about, ""]
    )


def _verdict(seen: float, goal: float) -> str:
    return f"{'reached' if seen <= goal else 'SHORT'} ({goal:g})"


def main(arguments: list[str]) -> int:
    """Run, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks checkpoints", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the ring (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure; by default for temporary files")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    parser.add_argument("--load", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    slots = max(100, round(args.gigabytes * 1e9 / np.prod(FRAME) / ENVS))
    if args.load:
        print(json.dumps(load(args.load, slots)))
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = pathlib.Path(name)
        found: dict[str, Any] = dict(save(folder, slots, args.rounds))
        jax.clear_caches()
        command = [sys.executable, "-m", "benchmarks", "checkpoints", "--gigabytes", str(args.gigabytes)]
        last = folder / f"round-{args.rounds - 1}"
        done = subprocess.run([*command, "--load", str(last)], capture_output=True, text=True, check=True)
        found |= json.loads(done.stdout)
    text = table(found, args.rounds)
    args.out.write_text(text)
    print(text)
    return 0
