"""What every converter takes: a JAX buffer, a subset of one, or a data set; read as a table of rows or as episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

import jaxreplay as replay
from jaxreplay._core import trees
from jaxreplay.convert.containers import plain
from jaxreplay.convert.reading import read_table
from jaxreplay.convert.tables import Column, Table
from jaxreplay.datasets import Dataset, Report, Trajectory
from jaxreplay.datasets.narrow import narrow_tree
from jaxreplay.datasets.reading import read_buffer
from jaxreplay.datasets.select import summarise
from jaxreplay.sources.concat import Concat
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.subset import Subset
from jaxreplay.state import way_out
from jaxreplay.types import PyTree, Transition
from jaxreplay.views import View
from jaxreplay.views._transition import TransitionView


def read_rows(what: str, source: Any, view: View, key: Any = None, narrow: bool = False) -> Table:
    """Read a source through a view: a table with the view's own containers.

    The steps of a data set are read as they are, whatever their dtypes; through any other view they pass through
    `to_buffer`. narrow: make 64-bit leaves of a data set 32-bit ones. Raises TypeError for another source, ValueError
    where there is no row to read.
    """
    check_source(what, source)
    if not isinstance(source, Dataset):
        return read_table(source, view, key)
    if not len(source):
        raise ValueError(f"{what}: the data set is empty")
    if isinstance(view, TransitionView):
        return _steps(list(source), narrow)
    buffer = source.to_buffer(narrow=narrow)
    table, infos = read_table(buffer, view, key), _infos(list(source))
    if infos is None:
        return table
    rows, mask = replay.rows(buffer)
    step = np.searchsorted(np.asarray(rows.time)[np.asarray(mask)], table.time)  # there are void rows between episodes
    return dataclasses.replace(table, infos=[infos[i] for i in step])


def plain_rows(what: str, source: Any, view: View, key: Any = None, narrow: bool = False) -> Table:
    """Read a source as `read_rows` does, with containers that every library knows; infos only where items are dicts."""
    table = read_rows(what, source, view, key, narrow)
    structure = plain(table.structure)
    named = isinstance(structure, dict)
    if named and table.infos is not None and "infos" in structure:
        raise ValueError(f"{what}: the items have infos of their own beside those of the episodes; rename them")
    return dataclasses.replace(table, structure=structure, infos=table.infos if named else None)


def check_source(what: str, source: Any) -> None:
    """Raise TypeError for what no converter takes."""
    if isinstance(source, replay.Buffer | Subset | Dataset):
        return
    hint = way_out(source)
    if isinstance(source, Concat | Mixture):
        hint = "; convert its sources one by one, and join the results"
    raise TypeError(f"{what}: expected a buffer, a subset of one, or a Dataset, got {type(source).__name__}{hint}")


def _steps(episodes: list[Trajectory], narrow: bool) -> Table:
    """The steps of episodes as transitions: each observation once, `[sum of T + 1, ...]`."""
    lengths = np.array([len(episode) for episode in episodes])
    count, step = int(lengths.sum()), np.cumsum(lengths) - lengths
    number = np.arange(count) + np.repeat(np.arange(len(episodes)), lengths)  # one observation more in each episode
    columns: list[Column] = []

    def join(part: str, index: np.ndarray | None) -> PyTree:
        parts = [getattr(episode, part) for episode in episodes]
        joined = {part: jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)}
        joined = narrow_tree(joined, narrow=True) if narrow else joined

        def add(values: np.ndarray) -> int:
            columns.append(Column(values, index))
            return len(columns) - 1

        return jax.tree.map(add, joined[part])

    def flag(part: str) -> int:
        values = np.zeros(count, np.bool_)
        values[step + lengths - 1] = [getattr(episode, part) for episode in episodes]
        columns.append(Column(values))
        return len(columns) - 1

    observation = join("observations", number)
    following = [len(columns) + i for i in range(len(columns))]
    columns += [dataclasses.replace(column, index=number + 1) for column in columns]
    extras = join("extras", None)
    structure = Transition(
        observation=observation,
        action=join("actions", None),
        reward=join("rewards", None),
        terminated=flag("terminated"),
        truncated=flag("truncated"),
        next_observation=jax.tree.unflatten(jax.tree.structure(observation), following),
        extras={} if extras is None else extras,
    )
    time = np.arange(count, dtype=np.int32)
    return Table(structure, tuple(columns), time, np.zeros_like(time), _infos(episodes))


def _infos(episodes: list[Trajectory]) -> list[dict[str, Any]] | None:
    """The infos of all steps, empty where an episode has none; None where no episode has any."""
    if all(episode.infos is None for episode in episodes):
        return None
    return [info for episode in episodes for info in (episode.infos or [{}] * len(episode))]


def read_dataset(what: str, source: Any) -> Dataset:
    """The episodes of a buffer or a data set. Raises TypeError for another source, ValueError where there is none."""
    check_source(what, source)
    if isinstance(source, Subset):
        raise TypeError(f"{what}: expected a buffer or a Dataset, got a subset, whose rows need not be whole episodes")
    dataset = source if isinstance(source, Dataset) else Dataset._of(*read_buffer(source, what))
    if not dataset.num_episodes:
        raise ValueError(f"{what}: the source is empty: it has no episode")
    return dataset


def reported(episodes: Iterable[Trajectory], report: Report | None = None) -> Dataset:
    """A data set of imported episodes, whose report says how they end, and in `report` what was left out."""
    dataset = Dataset(episodes)
    dataset.report = summarise(dataset._store) + (report or Report())
    return dataset


def refuse_unheld(
    what: str, target: str, episodes: Sequence[Trajectory], parts: Sequence[str], drop: Sequence[str]
) -> None:
    """Raise ValueError naming the first leaf of the `parts` of episodes for which there is no place, unless dropped.

    parts: fields of `Trajectory`. Raises ValueError for a name in `drop` that is none of them as well.
    """
    if isinstance(drop, str) or not set(drop) <= set(parts):
        raise ValueError(f"{what}: drop: expected some of {tuple(parts)}, got {drop!r}")
    for i, episode in enumerate(episodes):
        for part in parts:
            value = getattr(episode, part)
            if part not in drop and value is not None and jax.tree.leaves(value):
                path = f"{part}.{trees.paths(value)[0][0]}".removesuffix(".the item")
                raise ValueError(
                    f"{what}: episode {i}: {target} has no place for {path}; to leave it out, pass drop=({part!r},)"
                )
