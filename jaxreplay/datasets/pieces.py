"""Steps in a row as episodes: where one goes on with the next, and the observations of those that do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree


def follows(observation: PyTree, following: PyTree) -> np.ndarray:
    """Tell which next observations are the following step's observation, bit for bit, `[N - 1]` bool.

    observation, following: `[N, ...]`. Raises ValueError naming the leaf in which they differ in shape or dtype.
    """
    same = np.ones(max(len(jax.tree.leaves(observation)[0]) - 1, 0), np.bool_)
    _check_structure(observation, following)
    for (path, leaf), other in zip(trees.paths(observation), jax.tree.leaves(following), strict=True):
        expected, came = (trees.describe(x.shape, x.dtype) for x in (leaf, other))
        if expected != came:
            raise ValueError(f"next observations: {path}: expected {expected}, got {came}")
        same &= (_bytes(other[:-1]) == _bytes(leaf[1:])).all(axis=1)
    return same


def _check_structure(observation: PyTree, following: PyTree) -> None:
    expected, came = (jax.tree.structure(tree) for tree in (observation, following))
    if expected == came:
        return
    wanted, got = (dict(trees.paths(tree)) for tree in (observation, following))
    for path in wanted.keys() - got.keys():
        leaf = wanted[path]
        raise ValueError(f"next observations: {path}: expected {trees.describe(leaf.shape, leaf.dtype)}, got nothing")
    for path in got.keys() - wanted.keys():
        raise ValueError(f"next observations: {path}: there is no such observation")
    raise ValueError(f"next observations: the containers differ: got {came}, expected {expected}")


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(len(x), -1).view(np.uint8) if x.size else np.empty((len(x), 0), np.uint8)


def pieces(goes_on: np.ndarray) -> Iterator[tuple[int, int]]:
    """The ranges `[first, last)` of steps that go on with one another, of `[N - 1]` bool."""
    bounds = np.concatenate([[0], np.flatnonzero(~goes_on) + 1, [len(goes_on) + 1]]).tolist()
    return itertools.pairwise(bounds)


def with_final(observation: PyTree, following: PyTree, first: int, last: int) -> PyTree:
    """The observations of the steps `[first, last)`, and the one after the last."""
    return jax.tree.map(
        lambda x, after: np.concatenate([x[first:last], after[last - 1 : last]]), observation, following
    )
