"""What every converter takes: a JAX buffer, a subset of one, or a data set; read as a table of rows or as episodes."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxreplay as replay
from jaxreplay._core import trees
from jaxreplay.convert.reading import Column, Table, read_table
from jaxreplay.convert.stored import StoredTable
from jaxreplay.datasets import Dataset, Report
from jaxreplay.datasets.buffers import read_buffer, step_numbers
from jaxreplay.datasets.columns import compact, is_stored, narrow_tree
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Store
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.datasets.viewing import NeedsRings
from jaxreplay.sources.concat import Concat
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.subset import Subset
from jaxreplay.state import way_out
from jaxreplay.types import PyTree, Transition
from jaxreplay.views import View
from jaxreplay.views._transition import TransitionView


def check_source(what: str, source: Any) -> None:
    """Raise TypeError for what no converter takes."""
    if isinstance(source, replay.Buffer | Subset | Dataset):
        return
    hint = way_out(source)
    if isinstance(source, Concat | Mixture):
        hint = "; convert its sources one by one, and join the results"
    raise TypeError(f"{what}: expected a buffer, a subset of one, or a Dataset, got {type(source).__name__}{hint}")


def read_rows(what: str, source: Any, view: View, key: Any = None, narrow: bool = False) -> Table | StoredTable:
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
    if is_stored(source._store):
        with contextlib.suppress(NeedsRings):
            return StoredTable(source, view, narrow)
    if isinstance(view, TransitionView):
        return _read_steps(source, narrow)
    buffer = source.to_buffer(narrow=narrow)
    table, infos = read_table(buffer, view, key), _infos(source)
    if infos is None:
        return table
    return dataclasses.replace(table, infos=[infos[i] for i in step_numbers(buffer, table.time)])


def _read_steps(dataset: Dataset, narrow: bool) -> Table:
    """Read the steps of a data set as transitions; each observation is kept once."""
    store = compact(dataset._store)
    parts = {part: getattr(store.chunks[0], part) for part in PARTS}
    parts = narrow_tree(parts, narrow=True) if narrow else parts
    count, lengths = store.num_steps, store.table.length
    number = np.arange(count) + np.repeat(np.arange(len(lengths)), lengths)  # one observation more in each episode

    def columns(part: str, index: np.ndarray | None = None) -> PyTree:
        return jax.tree.map(lambda x: Column(x, index), parts[part])

    def flag(of_episodes: np.ndarray) -> Column:
        of_steps = np.zeros(count, np.bool_)
        of_steps[store.ends - 1] = of_episodes
        return Column(of_steps)

    steps = Transition(
        observation=columns("observations", number),
        action=columns("actions"),
        reward=columns("rewards"),
        terminated=flag(store.table.terminated),
        truncated=flag(store.table.truncated),
        next_observation=columns("observations", number + 1),
        extras={} if parts["extras"] is None else columns("extras"),
    )
    time = np.arange(count, dtype=np.int32)
    each, treedef = jax.tree.flatten(steps)
    return Table(jax.tree.unflatten(treedef, range(len(each))), each, time, np.zeros_like(time), _infos(dataset))


def _infos(dataset: Dataset) -> list[dict[str, Any]] | None:
    """List the infos of all steps, empty where an episode has none; None where no episode has any."""
    return None if all(infos is None for infos in dataset._store.table.infos) else dataset.infos()


def plain(tree: PyTree, fn: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """Give the containers of a pytree as ones that every library knows, at any depth, and `fn` of its leaves.

    Dataclasses, as `Transition`, become dicts of their fields, mappings become dicts; lists, tuples (named ones too)
    and None stay. Any other node becomes a dict of its children by their key.

    >>> import jaxreplay as replay
    >>> plain(replay.Rows(time=1, env=(2, None)))
    {'time': 1, 'env': (2, None)}
    """
    if tree is None:
        return None
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(plain(inner, fn) for inner in tree))
    if type(tree) in (list, tuple):
        return type(tree)(plain(inner, fn) for inner in tree)
    if isinstance(tree, Mapping):
        return {name: plain(inner, fn) for name, inner in tree.items()}
    if jax.tree_util.all_leaves([tree]):
        return fn(tree)
    children, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    return {jax.tree_util.keystr(path, simple=True): plain(child, fn) for path, child in children}


def read_dataset(what: str, source: Any) -> Dataset:
    """Read the episodes of a buffer or a data set. Raises TypeError for another source, ValueError for no episodes."""
    check_source(what, source)
    if isinstance(source, Subset):
        raise TypeError(f"{what}: expected a buffer or a Dataset, got a subset, whose rows need not be whole episodes")
    dataset = source if isinstance(source, Dataset) else Dataset._of(*read_buffer(source, what))
    if not dataset.num_episodes:
        raise ValueError(f"{what}: the source is empty: it has no episode")
    return dataset


def reported(store: Store, left_out: Report | None = None) -> Dataset:
    """Make a data set of imported episodes, whose report says how they end, beside what was left out."""
    return Dataset._of(store, summarise(store) + (left_out or Report()))


def joined(what: str, join: Callable[[], tuple[Store, Report]]) -> Dataset:
    """Make a data set of rows that are joined to episodes; what is raised begins with the name of the function."""
    try:
        return reported(*join())
    except (ValueError, TypeError) as error:
        raise type(error)(f"{what}: {error}") from error


def refuse_unheld(what: str, target: str, held: Store | None, parts: Sequence[str], drop: Sequence[str]) -> None:
    """Raise ValueError naming the first leaf of the `parts` of episodes for which there is no place, unless dropped.

    parts: fields of `Trajectory`. Raises ValueError for a name in `drop` that is none of them as well.
    """
    if isinstance(drop, str) or not set(drop) <= set(parts):
        raise ValueError(f"{what}: drop: expected some of {tuple(parts)}, got {drop!r}")
    if held is None:
        return
    for part in parts:
        of_all = [getattr(held.chunks[0], part)] if part in PARTS else getattr(held.table, part)
        for i, value in enumerate(of_all):
            if part not in drop and value is not None and jax.tree.leaves(value):
                path = f"{part}.{trees.paths(value)[0][0]}".removesuffix(".the item")
                raise ValueError(
                    f"{what}: episode {i}: {target} has no place for {path}; to leave it out, pass drop=({part!r},)"
                )
