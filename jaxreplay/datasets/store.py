"""Where episodes are kept: chunks of columns that data sets share, and a table that says where each episode lies."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.comparing import first_difference
from jaxreplay.datasets.trajectory import PARTS, Trajectory
from jaxreplay.types import PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Columns of one or more episodes, arrays that are never written to: what is handed out cannot be.

    They are NumPy's, or of a store on disk: then a slice or an array of row numbers reads those rows.

    An episode of T steps is T + 1 consecutive rows of `observations` and T of each of the others; `rewards` and
    `extras` may be None.
    """

    observations: PyTree
    actions: PyTree
    rewards: PyTree = None
    extras: PyTree = None

    @functools.cached_property
    def flat(self) -> dict[str, tuple[list[Any], Any]]:
        """Give the leaves and the structure of each part by its name, found once."""
        return {part: jax.tree.flatten(getattr(self, part)) for part in PARTS}

    def columns(self) -> list[tuple[str, np.ndarray]]:
        """List `(path, array)` of every column: `observations.camera`."""
        return [column for part in PARTS for column in trees.paths({part: getattr(self, part)})]

    def map(self, fn: Callable[[Any], np.ndarray]) -> Chunk:
        return Chunk(**{part: jax.tree.map(fn, getattr(self, part)) for part in PARTS})


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Where N episodes lie and how each went, `[N]` each.

    chunk: its number. observation, step: int64, its first row among the chunk's observations and other columns.
    length: int64, T. terminated, truncated: bool. infos, episode_data: objects, as in `Trajectory`.
    """

    chunk: np.ndarray
    observation: np.ndarray
    step: np.ndarray
    length: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: np.ndarray
    episode_data: np.ndarray

    def map(self, fn: Callable[[np.ndarray], np.ndarray]) -> Table:
        return Table(**{field.name: fn(getattr(self, field.name)) for field in dataclasses.fields(self)})


def objects(values: Sequence[Any]) -> np.ndarray:
    """Make an array of objects, whatever they are."""
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out


def consecutive(lengths: Any, terminated: Any, truncated: Any, infos: Any = None, episode_data: Any = None) -> Table:
    """Make the table of episodes that lie one after the other in one chunk."""
    length = np.asarray(lengths, np.int64)
    count, step = len(length), np.cumsum(length) - length
    return Table(
        chunk=np.zeros(count, np.int64),
        observation=step + np.arange(count),
        step=step,
        length=length,
        terminated=np.asarray(terminated, bool),
        truncated=np.asarray(truncated, bool),
        infos=objects([None] * count if infos is None else infos),
        episode_data=objects([None] * count if episode_data is None else episode_data),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Episodes of one structure: chunks, and the table of the episodes chosen from them.

    origin: of all episodes of a store on disk, what has it open: see `storage`.
    """

    chunks: tuple[Chunk, ...]
    table: Table
    origin: Any = None

    def __reduce__(self) -> Any:
        return (Store, (self.chunks, self.table)) if self.origin is None else (self.origin.whole, ())

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Count the steps up to each episode's end, `[N]` int64."""
        return np.cumsum(self.table.length)

    @functools.cached_property
    def in_order(self) -> bool:
        """Whether all episodes are in one chunk, one after the other and none left out: step i is its row i."""
        table = self.table
        step = self.ends - table.length
        together = len(self.chunks) == 1 and (table.step == step).all()
        return bool(together and (table.observation == step + np.arange(len(step))).all())

    @property
    def num_steps(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def num_episodes(self) -> int:
        return len(self.ends)

    def take(self, chosen: Any) -> Store:
        """Keep the episodes that an index array, a mask or a slice chooses; chunks without one are let go.

        If none is chosen, a chunk without rows tells the structure.
        """
        table = self.table.map(lambda x: x[chosen])
        used, chunk = np.unique(table.chunk, return_inverse=True)
        if not used.size:
            return Store(tuple(chunk.map(lambda x: x[:0].copy()) for chunk in self.chunks[:1]), table)
        return Store(tuple(self.chunks[i] for i in used), dataclasses.replace(table, chunk=chunk))

    def trajectory(self, i: Any) -> Trajectory:
        """Return episode i, as views of its chunk that cannot be written to."""
        table, chunk = self.table, self.chunks[self.table.chunk[i]]
        infos: Any = table.infos[i]
        first, length, before = int(table.step[i]), int(table.length[i]), int(table.observation[i])
        steps = lambda tree: jax.tree.map(lambda x: _view(x, first, first + length), tree)  # noqa: E731
        return Trajectory(
            observations=jax.tree.map(lambda x: _view(x, before, before + length + 1), chunk.observations),
            actions=steps(chunk.actions),
            rewards=steps(chunk.rewards),
            terminated=bool(table.terminated[i]),
            truncated=bool(table.truncated[i]),
            extras=steps(chunk.extras),
            infos=infos,
            episode_data=table.episode_data[i],
        )


def _view(column: np.ndarray, first: int, last: int) -> np.ndarray:
    view = column[first:last]
    view.flags.writeable = False  # of the view alone: whoever made the column may still write to it
    return view


def make_store(trajectories: Iterable[Trajectory]) -> Store:
    """Keep trajectories as they are: each its own chunk, nothing copied from host arrays.

    Raises ValueError or TypeError naming the first that differs from the one before it in structure.
    """
    if isinstance(trajectories, Trajectory):
        raise TypeError("trajectories: expected several, got one Trajectory; put it in a list: [trajectory]")
    if not isinstance(trajectories, Iterable):
        raise TypeError(f"trajectories: expected several Trajectory, got {type(trajectories).__name__}")
    stores = []
    for i, trajectory in enumerate(trajectories):
        if not isinstance(trajectory, Trajectory):
            raise TypeError(f"trajectories.{i}: expected a Trajectory, got {type(trajectory).__name__}")
        chunk = Chunk(*(getattr(trajectory, part) for part in PARTS)).map(to_host)
        of_one = {name: [getattr(trajectory, name)] for name in ("terminated", "truncated", "infos", "episode_data")}
        stores.append(Store((chunk,), consecutive([len(trajectory)], **of_one)))
    return concat(stores, [f"trajectories.{i}" for i in range(len(stores))])


def concat(stores: Sequence[Store], names: Sequence[str] = ("the data set", "what was added")) -> Store:
    """Join the episodes of stores of one structure, in order; chunks are shared. ValueError names two that differ."""
    held = [(i, store) for i, store in enumerate(stores) if store.num_episodes]
    for i, store in held[1:]:
        check_same(held[0][1], store, names[held[0][0]], names[i])
    if not held:
        return next((store for store in stores if store.chunks), Store((), consecutive([], [], [])))
    if len(held) == 1:
        return held[0][1]
    before = np.cumsum([0] + [len(store.chunks) for _, store in held])
    tables = [dataclasses.replace(store.table, chunk=store.table.chunk + b) for (_, store), b in zip(held, before[:-1])]
    names = [field.name for field in dataclasses.fields(Table)]
    table = Table(**{name: np.concatenate([getattr(t, name) for t in tables]) for name in names})
    return Store(tuple(chunk for _, store in held for chunk in store.chunks), table)


def to_host(leaf: Any) -> np.ndarray:
    """Return a leaf as a NumPy array, or raise TypeError for PRNG keys."""
    if isinstance(leaf, jax.Array) and trees.is_key_dtype(leaf.dtype):
        raise TypeError("a data set holds NumPy arrays, and PRNG keys are none: store jax.random.key_data of them")
    return np.asarray(leaf)


def check_same(one: Store, other: Store, first: str, name: str) -> None:
    """Raise ValueError naming the first column of the `other` that is not like the one's, where both have episodes."""
    if not one.chunks or not other.chunks:
        return
    for part in PARTS:
        expected, came = ({part: getattr(store.chunks[0], part)} for store in (one, other))
        if found := first_difference(expected, came, skip=1):
            path, a, b = found
            if not path:
                a, b = jax.tree.structure(expected[part]), jax.tree.structure(came[part])
                raise ValueError(f"{name}: the containers of {part} differ: got {b}, in {first} it is {a}")
            mine = f"{path} is {trees.describe(*b)} a step" if b else f"there is no {path}"
            theirs = f"it is {trees.describe(*a)}" if a else "there is none"
            raise ValueError(f"{name}: {mine}, in {first} {theirs}; all must have one structure")
