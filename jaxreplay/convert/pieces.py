"""Steps in a row as episodes: where one goes on with the next, and the observations of those that do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from jaxreplay import trees
from jaxreplay.types import PyTree


def follows(observation: PyTree, following: PyTree) -> np.ndarray:
    """Tell which next observations are the following step's observation, bit for bit, `[N - 1]` bool.

    observation, following: `[N, ...]`. Raises ValueError naming the leaf in which they differ in shape or dtype.
    """
    same = np.ones(max(len(jax.tree.leaves(observation)[0]) - 1, 0), np.bool_)
    others = dict(trees.paths(following))
    for path, leaf in trees.paths(observation):
        other = others.pop(path, None)
        if other is None or (other.shape, other.dtype) != (leaf.shape, leaf.dtype):
            came = "nothing" if other is None else trees.describe(other.shape, other.dtype)
            raise ValueError(
                f"next observations: {path}: expected {trees.describe(leaf.shape, leaf.dtype)}, got {came}"
            )
        same &= (_bytes(other[:-1]) == _bytes(leaf[1:])).all(axis=1)
    for path in others:
        raise ValueError(f"next observations: {path}: there is no such observation")
    return same


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
