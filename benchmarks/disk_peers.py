"""How other libraries read the same frames from disk: h5py, TorchRL's memory-mapped storage, and Minari.

Each writes files of its own, which are in the page cache when they are read. A reader gives the frames at some places
of the frames that were written, `[B]` or `[B, W]`, and the ones after them, with the actions and rewards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

AT_ONCE = 4096  # frames that are written at a time
Reader = Callable[[np.ndarray, np.ndarray], Any]


@contextlib.contextmanager
def h5py(folder: pathlib.Path, columns: dict[str, np.ndarray]) -> Iterator[Reader]:
    """Columns of one HDF5 file, not chunked. It wants rows sorted, and each once."""
    import h5py as library

    with library.File(folder / "columns.h5", "w") as file:
        for name, column in columns.items():
            made = file.create_dataset(name, column.shape, column.dtype)
            for first in range(0, len(column), AT_ONCE):
                made[first : first + AT_ONCE] = column[first : first + AT_ONCE]
    with library.File(folder / "columns.h5", "r") as file:
        found: dict[str, Any] = {name: file[name] for name in columns}

        def take(name: str, at: np.ndarray) -> np.ndarray:
            used, which = np.unique(at, return_inverse=True)
            return found[name][used][which.reshape(at.shape)]

        def read(at: np.ndarray, steps: np.ndarray) -> Any:
            both = take("frames", np.stack([at, at + 1]))
            return both[0], both[1], take("actions", steps), take("rewards", steps)

        yield read
    os.unlink(folder / "columns.h5")


@contextlib.contextmanager
def torchrl(folder: pathlib.Path, columns: dict[str, np.ndarray]) -> Iterator[Reader]:
    """A storage of frames, and one of the small columns, which have a row less an episode; read by one thread, as ours.

    On a machine with other work its threads wait for each other: two took five times as long as one.
    """
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage

    def make(names: Iterable[str]) -> Any:
        count = len(columns[next(iter(names))])
        storage = LazyMemmapStorage(count, scratch_dir=str(folder / "torchrl" / "-".join(names)))
        for first in range(0, count, AT_ONCE):
            rows = {name: torch.from_numpy(np.array(columns[name][first : first + AT_ONCE])) for name in names}
            size = min(AT_ONCE, count - first)
            storage.set(range(first, first + size), TensorDict(rows, [size]))
        return storage

    frames, small, shape = make(["frames"]), make(["actions", "rewards"]), columns["frames"].shape[1:]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def read(at: np.ndarray, steps: np.ndarray) -> Any:
        index = torch.from_numpy(at)
        both = [frames.get(x.reshape(-1))["frames"].reshape(*x.shape, *shape) for x in (index, index + 1)]
        found = small.get(torch.from_numpy(steps))
        return *both, found["actions"], found["rewards"]

    yield read
    torch.set_num_threads(threads)
    shutil.rmtree(folder / "torchrl")


@contextlib.contextmanager
def minari(folder: pathlib.Path, columns: dict[str, np.ndarray], length: int) -> Iterator[Callable[[np.ndarray], Any]]:
    """A data set of episodes of so many steps, without its lossy pictures. A reader takes numbers of steps `[B]`."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    import gymnasium
    import minari as library
    from minari.data_collector import EpisodeBuffer

    frames, ends = columns["frames"], np.zeros(length, bool)
    buffers = [
        EpisodeBuffer(
            id=i,
            observations=np.array(frames[i * (length + 1) : (i + 1) * (length + 1)]),  # type: ignore[arg-type]
            actions=columns["actions"][i * length : (i + 1) * length],  # type: ignore[arg-type]
            rewards=columns["rewards"][i * length : (i + 1) * length],  # type: ignore[arg-type]
            terminations=ends,  # type: ignore[arg-type]
            truncations=np.arange(length) == length - 1,  # type: ignore[arg-type]
        )
        for i in range(len(frames) // (length + 1))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not know who made it
        made = library.create_dataset_from_buffers(
            "benchmark/frames-v0",
            buffers,
            action_space=gymnasium.spaces.Discrete(5),
            observation_space=gymnasium.spaces.Box(0, 255, frames.shape[1:], np.uint8),
            jpeg_encoding=False,
        )
    del buffers

    def read(steps: np.ndarray) -> Any:
        episode, step = steps // length, steps % length
        out = [
            np.empty((len(steps), *columns[name].shape[1:]), columns[name].dtype)
            for name in ("frames", "frames", "actions", "rewards")
        ]
        for data in made.iterate_episodes(np.unique(episode)):
            mine = episode == data.id
            for column, rows in zip(out, (data.observations, data.observations[1:], data.actions, data.rewards)):
                column[mine] = rows[step[mine]]
        return tuple(out)

    yield read
    shutil.rmtree(folder / "minari")


PEERS: dict[str, Any] = {"h5py": h5py, "TorchRL": torchrl}


def available(names: Iterable[str]) -> list[str]:
    """List those that are installed."""
    return [name for name in names if importlib.util.find_spec(name.lower())]
