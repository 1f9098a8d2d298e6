"""What it costs to load a data set and to bring it into a buffer: seconds, and peak memory against the data's.

`python -m benchmarks.datasets --gigabytes 2` writes episodes to a temporary folder, measures each case in a process of
its own, because peak memory is a process's, prints a table, and takes the files away. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

FRAME = (84, 84)
STEPS = 250
CASES = (("one file", "one.npz", 1), *(("a file an episode", "many", workers) for workers in (1, 2, 4)))


def make(seed: int, steps: int) -> Any:
    """An episode of frames and small columns."""
    from jaxreplay.datasets import Trajectory

    rng = np.random.default_rng(seed)
    return Trajectory(
        observations={
            "frame": rng.integers(0, 255, (steps + 1, *FRAME), np.uint8),
            "state": rng.random((steps + 1, 8)),
        },
        actions=rng.integers(0, 5, steps).astype(np.int32),
        rewards=rng.random(steps).astype(np.float32),
        truncated=True,
    )


def write(folder: pathlib.Path, gigabytes: float) -> None:
    """Write the same episodes as one file, and as many."""
    from jaxreplay.datasets import Dataset

    row = int(np.prod(FRAME)) + 8 * 8 + 8
    dataset = Dataset(make(i, STEPS) for i in range(max(1, round(gigabytes * 1e9 / row / STEPS))))
    dataset.save(folder / "one.npz")
    dataset.save(folder / "many", one_file_per_episode=True)


def measure(path: pathlib.Path, workers: int, to_buffer: bool) -> dict[str, Any]:
    """Load, and tell how long it took and how much memory more than before it took at most."""
    from jaxreplay.datasets import Dataset

    import_peak = peak()
    began = time.perf_counter()
    dataset = Dataset.load(path, workers=workers, progress=False)
    figures: dict[str, Any] = {"seconds": time.perf_counter() - began, "data": dataset.nbytes}
    figures["peak"] = peak() - import_peak
    if to_buffer:
        import jax

        began = time.perf_counter()
        buffer = dataset.to_buffer(narrow=True)
        jax.block_until_ready(buffer)
        figures["buffer_seconds"] = time.perf_counter() - began
        figures["buffer"] = sum(x.nbytes for x in jax.tree.leaves(buffer))
        figures["buffer_peak"] = peak() - import_peak
    return figures


def peak() -> int:
    """The most memory this process had at any time, bytes; not that of the process it was started from."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        path, workers, to_buffer = args.measure
        print(json.dumps(measure(pathlib.Path(path), int(workers), to_buffer == "1")))
        return
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write(pathlib.Path(folder), args.gigabytes)
        print(f"written twice in {time.perf_counter() - began:.1f} s")
        print("| loaded from | workers | seconds | GB/s | peak memory / data |\n| --- | --- | --- | --- | --- |")
        for name, path, workers in CASES:
            found = run(f"{folder}/{path}", workers, to_buffer=False)
            speed, ratio = found["data"] / found["seconds"] / 1e9, found["peak"] / found["data"]
            print(f"| {name} | {workers} | {found['seconds']:.2f} | {speed:.2f} | {ratio:.2f} |")
        found = run(f"{folder}/one.npz", 1, to_buffer=True)
        more = found["buffer_peak"] - found["data"] - found["buffer"]
        print(
            f"to_buffer: {found['buffer_seconds']:.2f} s, buffer {found['buffer'] / 1e9:.2f} GB; at its peak "
            f"{more / 1e9:.2f} GB more than data set ({found['data'] / 1e9:.2f} GB) and buffer together"
        )


def run(path: str, workers: int, to_buffer: bool) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.datasets", "--measure", path, str(workers), str(int(to_buffer))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
