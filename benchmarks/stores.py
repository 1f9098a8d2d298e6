"""Data sets on disk: reading rows and stacks at random, batches in a training loop, writing, and opening a huge store.

Files lie in a temporary folder, and in the page cache: what is compared is the way from there to a batch.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from benchmarks import disk_peers
from benchmarks.datasets import peak
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import interleave
from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.datasets.viewing import Viewed
from jaxreplay.storage import Writer

FRAME, EPISODE, BATCH = (84, 84), 500, 256
SIZE = {"gigabytes": 4.0}
MOST_OF_MINARI = 250  # episodes: they are in memory while they are written
HUGE = 1_000_000, 100  # episodes, and steps of each


def stores(rounds: int) -> list[Result]:
    """Measure stores of frames of 84x84; `--gigabytes` says how large."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("JAXREPLAY_BENCHMARK_FOLDER")) as folder:
        place = pathlib.Path(folder)
        count = max(2, round(SIZE["gigabytes"] * 1e9 / np.prod(FRAME) / EPISODE))
        results = [_write(place, count, max(2, rounds // 4))]
        dataset = Dataset.open(place / "store")
        frames = np.load(place / "frames.npy", mmap_mode="r")
        results += _read(place, dataset, frames, rounds)
        results.append(_train(dataset, max(3, rounds // 3)))
    return [*results, *_open()]


def _episodes(count: int, seed: int = 0) -> Iterator[Trajectory]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (EPISODE + 1, *FRAME), np.uint8)
    for i in range(count):
        yield Trajectory(
            np.roll(frames, i, axis=0),
            actions=rng.integers(0, 5, EPISODE).astype(np.int32),
            rewards=rng.random(EPISODE).astype(np.float32),
            terminated=True,
        )


def _write(folder: pathlib.Path, count: int, rounds: int) -> Result:
    """Write the store that the others read, and the same frames as one file; then time a part of each."""
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (count * (EPISODE + 1), *FRAME))
    with Writer(folder / "store") as writer:
        for i, episode in enumerate(_episodes(count)):
            frames[i * (EPISODE + 1) : (i + 1) * (EPISODE + 1)] = episode.observations
            writer.append(episode)
    np.save(folder / "actions.npy", np.concatenate([episode.actions for episode in _episodes(count)]))
    np.save(folder / "rewards.npy", np.concatenate([episode.rewards for episode in _episodes(count)]))
    del frames
    some = list(_episodes(min(count, 30)))
    number = iter(range(10**6))

    def ours() -> None:
        with Writer(folder / f"written{next(number)}") as written:
            for episode in some:
                written.append(episode)

    def numpy() -> None:
        with open(folder / f"saved{next(number)}.npy", "wb") as file:
            for episode in some:
                for array in (episode.observations, episode.actions, episode.rewards):
                    np.save(file, array)
            file.flush()
            os.fsync(file.fileno())

    gigabytes = len(some) * (EPISODE + 1) * np.prod(FRAME) / 1e9
    seconds = interleave({"jaxreplay": ours, "numpy.save with fsync": numpy}, rounds)
    times = {name: [1e3 * s / gigabytes for s in values] for name, values in seconds.items()}
    return Result(
        "write episodes of 84x84 frames", "a GB, brought to the disk", times, Goal("numpy.save with fsync", 0.5), "ms"
    )


def _touch(dataset: Dataset, frames: np.ndarray) -> None:
    """Bring both to the page cache, and map them; other work may have taken them away."""
    for first in range(0, len(frames), 4096):
        frames[first : first + 4096].max()
    for episode in dataset:
        episode.observations.max()


def _read(folder: pathlib.Path, dataset: Dataset, frames: np.ndarray, rounds: int) -> list[Result]:
    rng, steps = np.random.default_rng(0), len(dataset)
    _touch(dataset, frames)
    viewed = Viewed(dataset._store, replay.views.frame_stack(4), narrow=True)
    row = lambda i: i + i // EPISODE  # noqa: E731  (each episode has a frame more)
    calls, few = 20, max(3, rounds // 3)

    def repeat(read: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                jax.block_until_ready(read(rng.integers(0, steps, BATCH)))

        return run

    def stack(i: np.ndarray) -> np.ndarray:
        at = i % EPISODE
        return row(i)[:, None] - np.minimum(np.arange(3, -1, -1), at[:, None])

    others = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("actions", "rewards")]
    take = lambda x, i: np.take(x, i, axis=0)  # noqa: E731
    both = lambda i, at: (take(frames, i), take(frames, i + 1), *(take(x, at) for x in others))  # noqa: E731
    numpy, stacks = (lambda i: both(row(i), i)), (lambda i: both(stack(i), i))
    rows: dict[str, Any] = {"jaxreplay": repeat(lambda i: dataset[i]), "NumPy": repeat(numpy)}
    stacked: dict[str, Any] = {"jaxreplay": repeat(viewed.read), "NumPy": repeat(stacks)}
    what = f"{BATCH} random rows of 84x84 frames, {SIZE['gigabytes']:g} GB on disk"
    goal = Goal("NumPy", 1 / 1.3)
    results = [
        Result(what, "transitions", micros(interleave(rows, rounds), calls), goal),
        Result(what, "stacks of 4 and the next ones", micros(interleave(stacked, rounds), calls), goal),
    ]
    columns = {"frames": frames, "actions": others[0], "rewards": others[1]}
    for name in disk_peers.available(disk_peers.PEERS):
        with disk_peers.PEERS[name](folder, columns) as read:
            _touch(dataset, frames[:1])
            mine = {"jaxreplay": rows["jaxreplay"], name: repeat(lambda i, read=read: read(row(i), i))}
            results.append(Result(what, f"transitions, beside {name}", micros(interleave(mine, few), calls)))
            mine = {"jaxreplay": stacked["jaxreplay"], name: repeat(lambda i, read=read: read(stack(i), i))}
            results.append(Result(what, f"stacks, beside {name}", micros(interleave(mine, few), calls)))
    if disk_peers.available(["Minari"]):
        results.append(_read_beside_minari(folder, dataset, columns, what))
    return results


def _read_beside_minari(folder: pathlib.Path, dataset: Dataset, columns: dict[str, np.ndarray], what: str) -> Result:
    rng, count = np.random.default_rng(0), min(MOST_OF_MINARI, dataset.num_episodes)
    some = {name: x[: count * (EPISODE + (name == "frames"))] for name, x in columns.items()}
    draw = lambda: rng.integers(0, count * EPISODE, BATCH)  # noqa: E731
    with disk_peers.minari(folder, some, EPISODE) as read:
        _touch(dataset, columns["frames"][:1])
        runs = {"jaxreplay": lambda: dataset[draw()], "Minari": lambda: read(draw())}
        mode = f"transitions of {count} episodes, beside Minari, which reads them whole"
        return Result(what, mode, micros(interleave(runs, 3), 1))


def _train(dataset: Dataset, rounds: int) -> Result:
    """A loop of training steps on prefetched batches, against the same loop on one batch."""
    key, number = jax.random.key(0), 30
    weights = 0.01 * jax.random.normal(key, (84 * 84, 512))

    @jax.jit
    def step(weights: jax.Array, frames: jax.Array) -> jax.Array:
        x = frames.reshape(len(frames), -1).astype(jnp.float32) / 255
        return weights - 1e-3 * jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(weights)

    constant = next(dataset.batches(key, BATCH)).data.observation

    def run(batches: Callable[[], Iterator[jax.Array]]) -> Callable[[], jax.Array]:
        def loop() -> jax.Array:
            state = weights
            for frames, _ in zip(batches(), range(number)):
                state = step(state, frames)
            return jax.block_until_ready(state)

        return loop

    def endless() -> Iterator[jax.Array]:
        while True:
            yield from (batch.data.observation for batch in dataset.batches(key, BATCH, epochs=1000))

    stream = endless()
    loops = {"jaxreplay": run(lambda: stream), "a constant batch": run(lambda: iter([constant] * number))}
    return Result(
        f"a training step on {BATCH} frames of 84x84",
        "batches made ahead",
        micros(interleave(loops, rounds), number),
        Goal("a constant batch", 1 / 1.1),
    )


def _open() -> list[Result]:
    """Open a store of 10^6 episodes and 10^8 steps, made of sparse files, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("JAXREPLAY_BENCHMARK_FOLDER")) as folder:
        make_huge(pathlib.Path(folder), *HUGE)
        command = [sys.executable, "-m", "benchmarks.stores", folder]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    title = f"open a store of {HUGE[0]:,} episodes, {HUGE[0] * HUGE[1]:,} steps"
    return [
        Result(title, "time", {"jaxreplay": [found["seconds"]], "the goal": [2.0]}, Goal("the goal", 1.0), "s"),
        Result(title, "memory", {"jaxreplay": [found["mebibytes"]], "the goal": [300.0]}, Goal("the goal", 1.0), "MiB"),
    ]


def make_huge(folder: pathlib.Path, episodes: int, steps: int) -> None:
    """Make a store whose files of steps are sparse: whole but for the digests of these."""
    import dataclasses
    import zlib

    from jaxreplay.storage import manifest, npy
    from jaxreplay.storage.manifest import Part, Segment

    with Writer(folder) as writer:
        writer.append(Trajectory(np.zeros(2, np.float32), np.zeros(1, np.int32), np.zeros(1, np.float32)))
    about, in_each = manifest.read(folder)[1], 100_000
    segments = []
    for number in range(episodes // in_each):
        index = np.zeros((in_each, 5), np.int64)
        index[:, 0], index[:, 1], index[:, 2] = np.arange(in_each) + number * in_each, steps, 1
        rows = {name: in_each * (steps + 1 if name == "observations" else steps) for name in about.kinds}
        rows |= {"index": in_each, "infos": 0, "episode_data": 0}
        parts = {name: Part(rows[name], zlib.crc32(index) if name == "index" else 0) for name in about.names()}  # type: ignore[arg-type]
        segment = Segment(number, in_each * steps, parts)
        for kind, part in about.files_of(segment):
            with open(folder / segment.file(kind.name), "wb") as file:
                file.write(npy.header(kind.raw, kind.shape, part.rows))
                if kind.name == "index":
                    file.write(index.tobytes())
                file.truncate(npy.file_bytes(kind, part.rows))
        segments.append(segment)
    next_segment = len(segments)
    about = dataclasses.replace(about, segments=tuple(segments), next_episode=episodes, next_segment=next_segment)
    manifest.write(folder, about)


def main(folder: str) -> None:
    began, before = time.perf_counter(), peak()
    dataset = Dataset.open(folder)
    seconds = time.perf_counter() - began
    dataset[np.array([0, 10**7, len(dataset) - 1])]
    print(json.dumps({"seconds": seconds, "mebibytes": peak() / 2**20, "before": before / 2**20}))


if __name__ == "__main__":
    main(sys.argv[1])
