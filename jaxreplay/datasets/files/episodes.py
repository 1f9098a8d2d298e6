"""Episodes as the library's own archives: an array for each column, episode after episode, and what JSON says of them.

`episodes.length`, `episodes.terminated` and `episodes.truncated` have an entry for each episode. `infos...` are of all
steps, None in those of an episode that has none, and `episode_data...` of all episodes, where there are some.
"""

import io
import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.columns import pieces
from jaxreplay.datasets.files import archive, atomic, values
from jaxreplay.datasets.store import Chunk, Store, consecutive
from jaxreplay.datasets.trajectory import PARTS, check_infos

KIND = "jaxreplay data set"
FLAGS = ("terminated", "truncated")
SMALL = 2**23  # a file of fewer bytes is read at once, so that threads seldom wait for each other


def save(store: Store, path: Any, one_file_per_episode: bool) -> None:
    """Write all episodes to one file, or a folder with a file for each, in order of their names.

    Raises TypeError for what is no data, before anything is written to the file; ValueError for no episodes.
    """
    if not store.num_episodes:
        raise ValueError(f"{path}: there are no episodes to save")
    path = pathlib.Path(path)
    atomic.remove_leftovers(path.parent)
    if not one_file_per_episode:
        _save(store, path)
        return
    digits = max(6, len(str(store.num_episodes - 1)))
    with atomic.new_folder(path) as folder:
        for i in range(store.num_episodes):
            _save(store.take(slice(i, i + 1)), folder / f"episode_{i:0{digits}d}.npz")


def _save(store: Store, path: pathlib.Path) -> None:
    table = store.table
    arrays: dict[str, Any] = {f"episodes.{name}": getattr(table, name) for name in ("length", *FLAGS)}
    content: dict[str, Any] = {part: _add_columns(store, part, arrays) for part in PARTS}
    for name, each in (("infos", table.infos), ("episode_data", table.episode_data)):
        content[name] = None
        if any(value is not None for value in each):
            copies = [values.copy_value(f"episodes.{i}.{name}", value) for i, value in enumerate(each)]
            if name == "infos":
                copies = [info for infos, n in zip(copies, table.length) for info in infos or [None] * n]
            content[name] = values.pack(name, copies, arrays)
    with atomic.new_file(path) as file:
        archive.write(file, KIND, content, arrays)


def _add_columns(store: Store, part: str, arrays: dict[str, Any]) -> Any:
    """Name the columns of a part, and return its structure with these names as leaves."""
    leaves, treedef = jax.tree.flatten(getattr(store.chunks[0], part))
    rows = store.num_steps + (store.num_episodes if part == "observations" else 0)

    def add(path: str, leaf: int) -> str:
        name, like = values.free_name(f"{part}{path}", arrays), leaves[leaf]
        if not values.is_number(like.dtype):
            raise TypeError(f"{part}{path}: expected an array of numbers, got dtype {like.dtype}")
        arrays[name] = archive.Column(like.dtype, (rows, *like.shape[1:]), pieces(store, part, leaf))
        return name

    return values.describe(values.copy_value(part, jax.tree.unflatten(treedef, range(len(leaves)))), add)


def read(path: pathlib.Path) -> Store:
    """Read a file that `save` wrote; see `archive.read` for what is raised."""
    with path.open("rb") as file:
        small = file.seek(0, 2) <= SMALL
        file.seek(0)
        content, arrays = archive.read(io.BytesIO(file.read()) if small else file, KIND)

    def take(name: Any) -> np.ndarray:
        if name not in arrays:
            raise ValueError(f"there is no {name}.npy")
        return arrays.pop(name)

    length, terminated, truncated = (take(f"episodes.{name}") for name in ("length", *FLAGS))
    parts = {part: values.build(content[part], take) for part in PARTS}
    steps, episodes = len(jax.tree.leaves(parts["actions"])[0]), len(length)
    if length.dtype != np.int64 or not ((length >= 1) & (length <= steps)).all() or length.sum() != steps:
        raise ValueError(f"the lengths of episodes are not positive, or do not add up to {steps} steps")
    for part, tree in parts.items():
        rows = steps + (episodes if part == "observations" else 0)
        if any(len(leaf) != rows for leaf in jax.tree.leaves(tree)):
            raise ValueError(f"{part}: expected {rows} rows")
    if any(flags.shape != (episodes,) or flags.dtype != np.bool_ for flags in (terminated, truncated)):
        raise ValueError(f"episodes: expected {episodes} flags")
    infos, data = (
        None if content[name] is None else values.unpack(content[name], arrays, count)
        for name, count in (("infos", steps), ("episode_data", episodes))
    )
    if arrays:
        raise ValueError(f"it holds unknown arrays: {', '.join(arrays)}")
    if infos is not None:
        remaining = iter(infos)
        infos = [list(itertools.islice(remaining, n)) for n in length.tolist()]
        infos = [None if each[0] is None else check_infos(each, len(each)) for each in infos]
    store = Store((Chunk(**parts),), consecutive(length, terminated, truncated, infos, data))
    store.trajectory(0)  # makes the checks of a trajectory
    return store
