"""What compressed columns of frames take on disk, and how fast they are written and read.

`python -m benchmarks.compression` writes the same frames in each way to a temporary folder, in turns, prints the table
of `docs/stores.md`, and takes the files away. Game: flat colours and moving squares. Camera: the same with noise.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np

from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.storage import Writer
from jaxreplay.storage.manifest import STORED

FRAME, STEPS, EPISODES, BATCH = (84, 84), 200, 10, 256
ORDER = ("npy", "zarr3", "png", "video-lossless", "video", "jpeg")


def game(rng: np.random.Generator) -> np.ndarray:
    """An episode of flat colours and squares that move."""
    frames = np.full((STEPS + 1, *FRAME), 30, np.uint8)
    frames[:, 60:] = 90
    for colour in (60, 120, 180, 240):
        x, y, dx, dy = rng.integers(0, 60, 4)
        for i, frame in enumerate(frames):
            left, top = (x + i * (1 + dx % 3)) % 70, (y + i * (1 + dy % 3)) % 50
            frame[top : top + 8, left : left + 8] = colour
    return frames


def measure(episodes: list[np.ndarray], stored: str, folder: pathlib.Path, reads: int) -> dict[str, float]:
    """Write episodes of frames, and read some at random, and an episode."""
    began = time.perf_counter()
    with Writer(folder, compress={"observation": stored}) as writer:
        for frames in episodes:
            writer.append(Trajectory(frames, actions=np.zeros(STEPS, np.int32)))
    found = {"written": sum(map(len, episodes)) / (time.perf_counter() - began)}
    size = sum(path.stat().st_size for path in folder.glob("*.observations*.npy"))
    found["bytes"] = size / sum(map(len, episodes))
    column = Dataset.open(folder)._store.chunks[0].observations
    rng, seconds, errors = np.random.default_rng(0), [], []
    every = np.concatenate(episodes)
    column.take(np.arange(BATCH))
    for _ in range(reads):
        rows = rng.integers(0, len(every), BATCH)
        began = time.perf_counter()
        read = column.take(rows)
        seconds.append(time.perf_counter() - began)
        errors.append(np.sqrt(np.mean((read.astype(float) - every[rows]) ** 2)))
    found["read"] = 1e3 * statistics.median(seconds)
    found["error"] = float(np.median(errors))
    began = time.perf_counter()
    np.array(column[: STEPS + 1])
    found["episode"] = 1e3 * (time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    frames = [game(rng) for _ in range(EPISODES)]
    noisy = [np.clip(x + rng.normal(0, 4, x.shape), 0, 255).astype(np.uint8) for x in frames]
    assert sorted(ORDER) == sorted(STORED)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for stored in ORDER:
            for what, episodes in (("game", frames), ("camera", noisy)):
                with tempfile.TemporaryDirectory() as folder:
                    figures = measure(episodes, stored, pathlib.Path(folder), reads=8)
                found.setdefault((stored, what), []).append(figures)
    print("| stored | frames | bytes a frame | written a second | 256 read in | an episode in | error |")
    print("| --- " * 7 + "|")
    for what in ("game", "camera"):
        for stored in ORDER:
            each = found[stored, what]
            seen = {name: statistics.median(figures[name] for figures in each) for name in each[0]}
            print(
                f"| {stored} | {what} | {seen['bytes']:,.0f} | {seen['written']:,.0f} | {seen['read']:.1f} ms | "
                f"{seen['episode']:.1f} ms | {seen['error']:.1f} |"
            )


if __name__ == "__main__":
    main()
