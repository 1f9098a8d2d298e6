"""Reading the rows of a buffer through any view into a table on the host, without making windows of what is stored.

A view gathers columns of the stored steps and makes its batch of them with a pure function. What that function passes
on as it came is kept as the stored rows and their numbers; only what it computes (a mask, an n-step reward, whatever
`map` makes) is kept for each item.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from jaxreplay._core import lookup, trees
from jaxreplay._core.clock import age
from jaxreplay._core.gather import Place, Read, find_places, gather_leaf
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.rings import Rings, Span
from jaxreplay.convert.tables import Column, Table
from jaxreplay.sources.base import VIEW, Source
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import as_source
from jaxreplay.types import PyTree, Rows
from jaxreplay.views import View
from jaxreplay.views.base import Over, plan

CHUNK = 4096  # rows that a view is evaluated for in one compiled call,
VIEW_BYTES = 2**28  # or as many as read and compute so many bytes
LEAF_BYTES = 2**26  # of one stored leaf that are read in one such call


def read_table(source: replay.Buffer | Subset, view: View, key: Any = None) -> Table:
    """Read every row that can be read, and that the view can start from, in order of time, then env.

    key: for a view that draws. The table's structure has the view's own containers, and PRNG keys are their words.
    Raises ValueError where there is no such row, and TypeError for traced values.
    """
    if not trees.is_concrete(source):
        raise TypeError("a buffer is converted outside jit: its rows are read to the host")
    made = as_source("read_table", source)
    stored = made.buffers[0].rings
    order, count = _usable_rows(made, view)
    rows = jax.tree.map(lambda x: np.asarray(x)[: int(count)], order)
    if not int(count):
        size = int(replay.size(source))
        raise ValueError(f"{view} can start from none of the {size} rows" if size else "the source is empty")
    structure, passed, num_bytes = _describe(stored, view)
    reads = plan(view, stored.layout, stored.num_slots).reads
    groups = tuple(dict.fromkeys(read.places for leaf in passed if leaf is not None and (read := reads[leaf])))
    computed = tuple(i for i, leaf in enumerate(passed) if leaf is None)
    where, made = _in_chunks(
        lambda rows, bits: _read_rows(stored, rows, bits, view, groups, computed),
        (rows, _draw_bits(view, key, int(count))),
        max(1, min(CHUNK, VIEW_BYTES // num_bytes)),
    )
    values = _Values(stored, reads, dict(zip(groups, where)))
    columns = [Column(made.pop(0)) if leaf is None else values.column(leaf) for leaf in passed]
    return Table(structure, tuple(columns), rows.time, rows.env)


@functools.partial(jax.jit, static_argnames="view")
def _usable_rows(source: Source, view: View) -> tuple[Rows, jax.Array]:
    """Every row, those to read first and in order, and how many these are."""
    rows, mask = source.every_row()
    mask &= source.starts(rows, view)
    order = jnp.lexsort((rows.env, -age(source.buffers[0].rings.clock, rows.time), ~mask))
    return jax.tree.map(lambda x: x[order], rows), jnp.sum(mask, dtype=jnp.int32)


def _draw_bits(view: View, key: Any, count: int) -> np.ndarray | None:
    """The random words of a view that draws, the same as `take` draws for these rows."""
    num_bits = view.num_bits
    if key is None:
        if num_bits:
            raise ValueError(f"{view} draws at random: give a key for it")
        return None
    trees.check_key(key)
    bits = jax.random.bits(jax.random.fold_in(key, VIEW), (count, num_bits), jnp.uint32)
    return np.asarray(bits) if num_bits else None


@dataclasses.dataclass(frozen=True)
class _Probe(Over):
    """A view that gives what another makes its batch of, beside the batch itself."""

    base: View

    def batch(self, step: PyTree, span: Span) -> tuple[Span, PyTree, PyTree]:
        """Where rows are, what the view reads of the step at them, and the batch it makes."""
        return span, step, self.base.batch(step, span)


def _evaluate(stored: Rings, rows: Rows, bits: Any, view: View) -> tuple[Span, PyTree, PyTree]:
    return _Probe(view).read(stored, lookup.find(stored, rows).replace(bits=bits))


def _describe(stored: Rings, view: View) -> tuple[PyTree, list[int | None], int]:
    """The batch's structure with numbered leaves, which stored leaf each is, None if computed; a row's bytes."""
    found: list[Any] = []

    def trace(rows: Rows, bits: Any) -> None:
        _, step, batch = _evaluate(stored, rows, bits, view)
        came = stored.layout.treedef.flatten_up_to(step)  # None where nothing is read
        leaves, treedef = jax.tree.flatten(batch)
        found.append(jax.tree.unflatten(treedef, range(len(leaves))))
        found.append([next((i for i, x in enumerate(came) if x is leaf), None) for leaf in leaves])
        every = [*leaves, *(x for x in came if x is not None)]
        found.append(sum(x.size * x.dtype.itemsize for x in every) or 1)

    one: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    num_bits = view.num_bits
    jax.eval_shape(trace, Rows(one, one), jax.ShapeDtypeStruct((1, num_bits), jnp.uint32) if num_bits else None)
    return found[0], found[1], found[2]


@functools.partial(jax.jit, static_argnames=("view", "groups", "computed"))
def _read_rows(
    stored: Rings, rows: Rows, bits: Any, view: View, groups: tuple[tuple[Place, ...], ...], computed: tuple[int, ...]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """For each group of columns where they are, `[B, W]`, and the leaves that the view computes, `[B, ...]`."""
    span, _, batch = _evaluate(stored, rows, bits, view)
    leaves = jax.tree.leaves(batch)
    found = [find_places(stored, span, places) for places in groups]
    return [flat_index(stored, slot, env) for slot, env in found], [_words(leaves[i]) for i in computed]


@functools.partial(jax.jit, static_argnames="leaf")
def _read_values(stored: Rings, place: jax.Array, leaf: int) -> jax.Array:
    return _words(gather_leaf(stored, leaf, place // stored.num_envs, place % stored.num_envs))


def _words(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if trees.is_key_dtype(x.dtype) else x


class _Values:
    """The values of each stored leaf at the places that are read, each once, and columns of them."""

    def __init__(self, stored: Rings, reads: Sequence[Read | None], where: dict[Any, np.ndarray]):
        self.stored, self.reads, self.where = stored, reads, where
        self.used: dict[Any, tuple[np.ndarray, list[np.ndarray]]] = {}
        self.values: dict[int, np.ndarray] = {}

    def column(self, leaf: int) -> Column:
        mine = self.reads[leaf]
        assert mine is not None
        groups = [read.places for read in self.reads if read is not None and read.source == mine.source]
        groups = tuple(dict.fromkeys(places for places in groups if places in self.where))
        used, indices = self._used(groups)
        if mine.source not in self.values:
            num_bytes = max(1, self.stored.layout.leaves[mine.source].num_bytes)
            chunk = max(1, min(LEAF_BYTES // num_bytes, 2**20))
            self.values[mine.source] = _in_chunks(lambda at: _read_values(self.stored, at, mine.source), used, chunk)
        return Column(self.values[mine.source], indices[groups.index(mine.places)], mine.stack, mine.axis, mine.single)

    def _used(self, groups: tuple[Any, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The flat indices of several groups of places, each once, and every group's as numbers of these."""
        if groups not in self.used:
            mark = np.zeros(max(int(self.where[places].max()) for places in groups) + 1, np.bool_)
            for places in groups:
                mark[self.where[places]] = True
            number = np.cumsum(mark, dtype=np.int32) - 1
            self.used[groups] = np.flatnonzero(mark).astype(np.int32), [number[self.where[p]] for p in groups]
        return self.used[groups]


def _in_chunks(fn: Callable[..., PyTree], arguments: PyTree, size: int) -> PyTree:
    """Call `fn` on slices of arguments `[N, ...]` and join what it gives on the host; every slice has one shape."""
    count = len(jax.tree.leaves(arguments)[0])
    size = min(size, 1 << (count - 1).bit_length())
    joined: list[np.ndarray] = []
    treedef: Any = None
    for first in range(0, count, size):
        part = jax.tree.map(lambda x: _pad(x[first : first + size], size), arguments)  # noqa: B023
        leaves, treedef = jax.tree.flatten(fn(*part) if isinstance(part, tuple) else fn(part))
        joined = joined or [np.empty((count, *x.shape[1:]), x.dtype) for x in leaves]
        for whole, leaf in zip(joined, leaves, strict=True):
            whole[first : first + size] = np.asarray(leaf)[: count - first]
    return jax.tree.unflatten(treedef, joined)


def _pad(x: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([x, np.repeat(x[-1:], length - len(x), axis=0)]) if len(x) < length else x
