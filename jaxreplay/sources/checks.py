"""What is checked of sources that are made into one, of the shares they get, and of rows of a source."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay.buffer import check_rows
from jaxreplay.sources.base import Source
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import Whole, as_source
from jaxreplay.stacks import stack_of
from jaxreplay.types import Rows, SourceRows

TOLERANCE = 1e-6  # by how much shares may miss 1


def check_sources(what: str, sources: Any) -> tuple[Source, ...]:
    """Return the sources, or raise naming the first that is none, or whose structure is not that of the first."""
    if not isinstance(sources, list | tuple):
        raise TypeError(f"{what}: expected a list of buffers, subsets or concats, got {type(sources).__name__}")
    if not sources:
        raise ValueError(f"{what}: expected at least one source, got none")
    made = tuple(as_source(f"{what}: source {i}", source) for i, source in enumerate(sources))
    stack_of([source.buffers for source in made])
    layouts = [(i, buffer.rings.layout) for i, source in enumerate(made) for buffer in source.buffers]
    for i, layout in layouts[1:]:
        _check_same_structure(f"{what}: source {i} differs from source 0", layout, layouts[0][1])
    return made


def _check_same_structure(what: str, came: Layout, expected: Layout) -> None:
    mine, theirs = dict(zip(came.paths, came.leaves)), dict(zip(expected.paths, expected.leaves))
    for path, leaf in theirs.items():
        if path not in mine:
            raise ValueError(f"{what}: it has no {path}; its leaves: {', '.join(mine)}")
        described = [trees.describe(x.shape, x.dtype) for x in (mine[path], leaf)]
        if described[0] != described[1]:
            raise ValueError(f"{what} at {path}: got {described[0]}, expected {described[1]}")
    if unknown := [path for path in mine if path not in theirs]:
        raise ValueError(f"{what}: only it has {unknown[0]}")
    if came.treedef != expected.treedef:
        raise ValueError(f"{what}: the containers are {came.treedef}, expected {expected.treedef}")


def check_source_rows(source: Source, rows: Any) -> Any:
    """Return int32 rows: `Rows` of one buffer, `SourceRows` of several. Raises TypeError and ValueError for others."""
    first = source.buffers[0]
    if isinstance(source, Whole | Subset):
        return check_rows(first, rows)
    if not isinstance(rows, SourceRows):
        raise TypeError(f"rows: expected SourceRows(source, time, env), got {type(rows).__name__}")
    narrow = check_rows(first, Rows(time=rows.time, env=rows.env))
    return SourceRows(check_rows(first, Rows(rows.source, narrow.env)).time, narrow.time, narrow.env, axis=rows.axis)


def check_shares(name: str, shares: Sequence[float]) -> tuple[float, ...]:
    """Return shares as Python numbers, or raise where they are traced, outside 0 to 1, or do not add up to 1."""
    if not trees.is_concrete(shares):
        raise TypeError(f"{name}: expected Python numbers (they shape the program), got traced values")
    values = tuple(float(share) for share in np.asarray(shares, np.float64).ravel())
    if not values or not all(0 <= value <= 1 for value in values) or abs(math.fsum(values) - 1) > TOLERANCE:
        raise ValueError(f"{name}: expected numbers from 0 to 1 that add up to 1, got {list(values)}")
    return values
