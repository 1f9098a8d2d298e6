"""Minari's data sets, from the folder they are kept in, and the episodes of a `minari.MinariDataset`."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.files import inside
from jaxreplay.datasets.files.opening import holds_keys, naming, need
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store, make_store
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.types import PyTree

KEYS = {"total_episodes", "total_steps", "data_format", "observation_space", "action_space"}
MAIN_FILE = "main_data.hdf5"
WRAPPED = {"extras", "infos", "reset_infos"}  # the groups of our own that keep extras and infos apart


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is a Minari data set, or the folder `data` of one: by what its metadata say."""
    return _data_folder(path) is not None


def is_file(path: pathlib.Path) -> bool:
    """Tell whether an HDF5 file is the one that a Minari data set keeps its episodes in."""
    return path.name == MAIN_FILE and is_folder(path.parent)


def _data_folder(path: pathlib.Path) -> pathlib.Path | None:
    return next((folder for folder in (path, path / "data") if holds_keys(folder / "metadata.json", KEYS)), None)


def read(path: pathlib.Path) -> tuple[Store, Report]:
    """Read a folder of a data set, or its main file, with Minari; see `jaxreplay.convert.from_minari`."""
    return make_store(read_episodes(open_folder(path))), Report()


def open_folder(path: pathlib.Path) -> Any:
    """Open a folder of a data set, or its main file, as a `MinariDataset`."""
    folder = _data_folder(path if path.is_dir() else path.parent)
    assert folder is not None
    minari = need("minari", "Minari", "minari", f"{path}: reading it")
    if path.is_dir():
        inside.check_entry(folder, path)
    check_inside(folder)
    return minari.MinariDataset(str(folder))


def check_inside(folder: pathlib.Path) -> None:
    """Raise ValueError naming what in a data set's folder `data` leads out of the folder, or of its HDF5 file."""
    inside.check_folder(folder)
    main = folder / MAIN_FILE
    if main.is_file():
        with naming(main), inside.open_hdf5(main):
            pass


def read_episodes(dataset: Any, reward_dtype: Any = None) -> list[Trajectory]:
    """Read all episodes, as `iterate_episodes` gives them."""
    return list(iterate_episodes(dataset, reward_dtype))


def iterate_episodes(dataset: Any, reward_dtype: Any = None) -> Iterator[Trajectory]:
    """Read episodes one by one, see `jaxreplay.convert.from_minari`; ValueError names the one that cannot be."""
    indices = [int(i) for i in dataset.episode_indices]
    found = dataset.storage.get_episode_metadata(indices)
    for episode, attributes in zip(dataset.iterate_episodes(), found, strict=True):
        try:
            yield _trajectory(episode, attributes, reward_dtype)
        except (ValueError, TypeError) as error:
            raise type(error)(f"from_minari: episode {episode.id}: {error}") from error


def _trajectory(episode: Any, attributes: dict[str, Any], reward_dtype: Any) -> Trajectory:
    length = len(episode.rewards)
    for name, flags in (("terminations", episode.terminations), ("truncations", episode.truncations)):
        if np.any(flags[:-1]):
            raise ValueError(f"{name}: step {int(np.argmax(flags))} of {length} ends the episode, and it goes on")
    extras, infos, more = _part_infos(episode.infos, length)
    data = {name: value for name, value in attributes.items() if name != "total_steps"} | {"id": int(episode.id)}
    rewards = np.asarray(episode.rewards)
    return Trajectory(
        observations=episode.observations,
        actions=episode.actions,
        rewards=rewards if reward_dtype is None else rewards.astype(reward_dtype),
        terminated=bool(episode.terminations[-1]),
        truncated=bool(episode.truncations[-1]),
        extras=extras,
        infos=infos,
        episode_data=data | more,
    )


def _part_infos(infos: Any, length: int) -> tuple[PyTree, list[dict[str, Any]] | None, dict[str, Any]]:
    """Part Minari's infos as `(extras, infos, what belongs to the episode)`, whichever there are."""
    infos = _decode(infos) if infos else {}
    leaves = jax.tree.leaves(infos)
    counts = {x.shape[0] if getattr(x, "ndim", 0) else None for x in leaves}
    if infos.keys() <= WRAPPED:
        extras, each, reset = (infos.get(name) for name in ("extras", "infos", "reset_infos"))
    elif counts in ({length}, {length + 1}):
        reset = infos if counts == {length + 1} else None
        steps = infos if reset is None else jax.tree.map(lambda x: x[1:], infos)
        numbers = all(x.dtype.kind in "biufc" for x in leaves)
        extras, each = (steps, None) if numbers else (None, steps)
    else:
        return None, None, {"infos": infos}
    split = None if each is None else [_nth(each, i) for i in range(length)]
    return extras, split, {} if reset is None else {"reset_infos": _nth(reset, 0)}


def _nth(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _decode(node: Any) -> Any:
    """Return groups of numbered members as tuples, and bytes as texts."""
    if isinstance(node, dict):
        if node and all(re.fullmatch(r"_index_\d+", name) for name in node):
            return tuple(_decode(node[f"_index_{i}"]) for i in range(len(node)))
        return {name: _decode(inner) for name, inner in node.items()}
    array = np.asarray(node)
    if array.dtype.kind == "O":
        texts = [x.decode() if isinstance(x, bytes) else x for x in array.ravel()]
        return np.array([*texts, None], dtype=object)[:-1].reshape(array.shape)
    return array
