"""What is checked of the sources that are made into one."""

from __future__ import annotations

from typing import Any

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay.sources.base import Source
from jaxreplay.sources.whole import as_source


def check_sources(what: str, sources: Any) -> tuple[Source, ...]:
    """Return the sources, or raise naming the first that is none, or whose structure is not that of the first."""
    if not isinstance(sources, list | tuple):
        raise TypeError(f"{what}: expected a list of buffers, subsets or concats, got {type(sources).__name__}")
    if not sources:
        raise ValueError(f"{what}: expected at least one source, got none")
    made = tuple(as_source(f"{what}: source {i}", source) for i, source in enumerate(sources))
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
