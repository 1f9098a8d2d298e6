"""Files and folders of other formats turned into a store, and a store into files."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets import Dataset, Report, Trajectory
from jaxreplay.datasets.files import atomic, formats, minari
from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.datasets.load import list_files
from jaxreplay.datasets.workers import progress_bar, with_progress
from jaxreplay.storage import manifest
from jaxreplay.storage.writer import Writer

PICTURES = (".png", ".jpg", ".jpeg")
HDF5 = (".h5", ".hdf5")


def to_store(
    source: Any,
    target: Any,
    *,
    columns: Mapping[str, Any] | None = None,
    missing_final: str = "drop",
    compress: Mapping[str, str] | None = None,
    progress: bool | None = None,
) -> Report:
    """Write what is in files and folders to a store, after what it has; return what was found and left out.

    source: all that `Dataset.load` reads but pickles, with columns and missing_final as there; or a folder of episodes,
        each a folder of T + 1 pictures in order of their names and `actions.npy`, `[T, ...]` (`rewards.npy` too, where
        there is one). One file is in memory at a time; of Minari's data sets and folders of pictures, one episode.
    compress: as in `Writer`. It commits after each file. Raises what `Dataset.load` raises; what was committed stays.
    """
    trees.check_choice("missing_final", missing_final, ("drop", "repeat"))
    path, report = pathlib.Path(source), Report()
    with Writer(target, compress=compress) as writer:
        pictures = _picture_folders(path)
        if pictures:
            for folder in with_progress(pictures, len(pictures), "episode", progress):
                writer.append(_read_pictures(folder))
        elif path.is_dir() and minari.is_folder(path):
            with naming(path):
                found = minari.open_folder(path)
                for episode in with_progress(minari.iterate_episodes(found), found.total_episodes, "episode", progress):
                    writer.append(episode)
        else:
            files, ignored = list_files([path])
            report += Report(ignored=tuple(ignored))
            for file, problem in with_progress(files, len(files), "file", progress):
                if problem is not None:
                    raise problem
                held, more = formats.read(file, False, missing_final, columns)
                report += more.left_out()
                writer.extend(Dataset._of(held))
                writer.commit()
    with contextlib.suppress(FileNotFoundError):
        stored = Dataset.open(target).report
        report = (stored or Report()) + report
    return report


def _picture_folders(path: pathlib.Path) -> list[pathlib.Path]:
    """List the folders in a folder, if all are of pictures and actions."""
    folders = sorted(inner for inner in path.iterdir() if inner.is_dir()) if path.is_dir() else []
    return folders if folders and all((folder / "actions.npy").is_file() for folder in folders) else []


def _read_pictures(folder: pathlib.Path) -> Trajectory:
    """Read an episode of pictures. Raises ValueError naming the file that does not fit."""
    image = need("PIL.Image", "Pillow", "lerobot", f"{folder}: reading it")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    frames = []
    for file in files:
        with naming(file), image.open(file) as picture:
            frames.append(np.asarray(picture))
            if frames[-1].shape != frames[0].shape or frames[-1].dtype != frames[0].dtype:
                raise ValueError(f"expected a picture like the first: {frames[0].shape}, got {frames[-1].shape}")
    with naming(folder):
        rewards = folder / "rewards.npy"
        return Trajectory(
            observations=np.stack(frames),
            actions=np.load(folder / "actions.npy", allow_pickle=False),
            rewards=np.load(rewards, allow_pickle=False) if rewards.is_file() else None,
        )


def from_store(source: Any, target: Any, *, progress: bool | None = None) -> None:
    """Write a store to one file: `.npz`, see `Dataset.save`, or HDF5 with one row a step, as D4RL has them.

    The names in HDF5 are `observations`, `actions`, `rewards`, `terminals`, `timeouts`, `next_observations` and
    `episode`, and those of extras; nested ones are groups. Atomic: there is the file, whole, or none. Infos and episode
    data are in `.npz` alone. Raises ValueError for another ending.
    """
    path, dataset = pathlib.Path(target), Dataset.open(source)
    if path.suffix == ".npz":
        dataset.save(path)
        return
    if path.suffix not in HDF5:
        raise ValueError(f"{path}: expected a name that ends in .npz, .h5 or .hdf5")
    if not len(dataset):
        raise ValueError(f"{source}: there are no episodes to write")
    h5py = need("h5py", "h5py", "datasets", f"{path}: writing it")
    bar = progress_bar(len(dataset), "step", progress)
    with atomic.new_file(path) as file, h5py.File(file, "w") as out, bar as advance:
        for first, steps in _blocks(dataset):
            last = first + len(steps.terminated)
            named = _named("observations", steps.observation) | _named("actions", steps.action)
            named |= _named("next_observations", steps.next_observation) | _named("infos", steps.extras or None)
            named |= _named("rewards", steps.reward)
            named |= {"terminals": steps.terminated, "timeouts": steps.truncated}
            named["episode"] = np.searchsorted(dataset._store.ends, np.arange(first, last), side="right")
            for name, rows in named.items():
                if name not in out:
                    out.create_dataset(name, (len(dataset), *rows.shape[1:]), _h5_dtype(name, rows))
                out[name][first:last] = rows
            advance(last - first)


def _blocks(dataset: Dataset) -> Iterator[tuple[int, Any]]:
    row = max(1, dataset.nbytes // max(len(dataset), 1))
    size = max(1, 2**26 // row)
    for first in range(0, len(dataset), size):
        yield first, dataset[first : first + size]


def _named(part: str, tree: Any) -> dict[str, np.ndarray]:
    return {path.replace(".", "/"): leaf for path, leaf in trees.paths({part: tree}) if jax.tree.leaves(tree)}


def _h5_dtype(name: str, rows: np.ndarray) -> np.dtype:
    if rows.dtype.kind not in "biufc":
        raise ValueError(f"{name}: HDF5 has no {rows.dtype}; convert it, or write .npz")
    return rows.dtype


def is_store(path: pathlib.Path) -> bool:
    """Tell whether a folder is a store."""
    return (path / manifest.FILE).is_file()
