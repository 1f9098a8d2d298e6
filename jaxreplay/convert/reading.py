"""Read the rows of a buffer through any view into a table on the host, without making windows of what is stored.

A view reads columns of the stored steps and makes its batch of them with a pure function. A leaf that the function
passes on is kept as the stored values, each once, and their numbers for each item. Only a leaf that it computes (a
mask, an n-step reward, whatever `map` makes) is kept for each item.
"""

import dataclasses
import functools
import operator
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from jaxreplay._core import lookup, trees
from jaxreplay._core.gather import Place, Read, find_places, gather, gather_leaf
from jaxreplay._core.layout import arrange
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.rings import Rings, Span
from jaxreplay.sources.base import VIEW, Source
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import as_source
from jaxreplay.stacks import refuse_stack
from jaxreplay.types import PyTree, Rows
from jaxreplay.views import View
from jaxreplay.views.base import plan

CHUNK = 4096  # rows that a view is evaluated for in one compiled call,
VIEW_BYTES = 2**28  # or as many as read and compute so many bytes
SAMPLE = 4096  # rows of each array, evenly spaced, that a fingerprint looks at
LEAF_BYTES = 2**26  # of one stored leaf that are read in one such call


@dataclasses.dataclass(frozen=True)
class Column:
    """One leaf of N items: item i is `values[index[i]]`, so rows that items share are kept once.

    values: `[M, ...]`. index: `[N]`, or `[N, W]` for items `[W, ...]`; None where M is N and item i is `values[i]`.
    how: `stack`, `axis` and `single` of the `Read`, by which the W make the leaf.
    """

    values: np.ndarray
    index: np.ndarray | None = None
    how: tuple[int, int, bool] = (0, 0, False)

    def read(self, items: np.ndarray) -> np.ndarray:
        """Read the leaf of some items `[B]`: a new array `[B, ...]`."""
        if self.index is None:
            return self.values.take(items, axis=0)
        return arrange(self.values.take(self.index[items], axis=0), *self.how)


@dataclasses.dataclass(frozen=True)
class Table:
    """N items: their structure, with the number of a column as each leaf, and the columns.

    time, env: `[N]` int32, the row that each item was read from. infos: a dict for each item, or None.
    """

    structure: PyTree
    columns: Sequence[Column]
    time: np.ndarray
    env: np.ndarray
    infos: Sequence[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.time)

    def read(self, items: Sequence[int]) -> list[np.ndarray]:
        """Read the leaves of some items, `[B, ...]` each. Raises IndexError for numbers that are none of an item."""
        numbers = check_numbers(items, len(self))
        return [column.read(numbers) for column in self.columns]

    def fingerprint(self) -> int:
        """Make a number that tells tables of other structures, rows or values apart."""
        number = zlib.crc32(repr(self.structure).encode())
        for array in (self.time, self.env, *(column.values for column in self.columns)):
            some = array[:: max(1, len(array) // SAMPLE)]
            number = zlib.crc32(f"{array.dtype}{array.shape}".encode(), number)
            number = zlib.crc32(np.ascontiguousarray(some).tobytes(), number)
        return number


def check_numbers(items: Sequence[int], count: int) -> np.ndarray:
    """Return the numbers of items, counted from 0, int64 `[B]`. Raises IndexError for numbers that are none."""
    numbers = np.array([operator.index(item) for item in items], np.int64)
    wrong = numbers[(numbers < -count) | (numbers >= count)]
    if wrong.size:
        raise IndexError(f"item {wrong[0]} of {count} items")
    return numbers % count


def read_table(source: replay.Buffer | Subset, view: View, key: Any = None) -> Table:
    """Read every row that can be read, and that the view can start from, in order of time, then env.

    key: for a view that draws. The table has the view's own containers, and PRNG keys are their words.
    Raises ValueError where there is no such row, and TypeError for traced values.
    """
    if not trees.is_concrete(source):
        raise TypeError("a buffer is converted outside jit: its rows are read to the host")
    whole = as_source("read_table", source)
    refuse_stack("conversion", whole, "read it by replay.take, with the rows that replay.rows lists")
    stored = whole.buffers[0].rings
    every, usable = jax.tree.map(np.asarray, _usable_rows(whole, view))
    rows = jax.tree.map(lambda x: x[usable], every)
    count = len(rows.time)
    if not count:
        size = int(replay.size(source))
        raise ValueError(f"{view} can start from none of the {size} rows" if size else "the source is empty")

    bits = None
    if key is not None:
        trees.check_key(key)
        if view.num_bits:  # the same random words as `take` draws for these rows
            bits = np.asarray(jax.random.bits(jax.random.fold_in(key, VIEW), (count, view.num_bits), jnp.uint32))
    elif view.num_bits:
        raise ValueError(f"{view} draws at random: give a key for it")

    treedef, made_of, num_bytes = _trace_batch(stored, view)
    passed = [read for read in made_of if read is not None]
    groups = tuple(dict.fromkeys(read.places for read in passed))
    computed = tuple(i for i, read in enumerate(made_of) if read is None)
    where, values = _in_chunks(
        lambda part: _read_rows(stored, *part, view, groups, computed),
        (rows, bits),
        max(1, min(CHUNK, VIEW_BYTES // num_bytes)),
    )
    as_stored, as_computed = iter(_stored_columns(stored, passed, dict(zip(groups, where)))), map(Column, values)
    columns = [next(as_computed if read is None else as_stored) for read in made_of]
    return Table(jax.tree.unflatten(treedef, range(len(columns))), columns, rows.time, rows.env)


@functools.partial(jax.jit, static_argnames="view")
def _usable_rows(source: Source, view: View) -> tuple[Rows, jax.Array]:
    """List every row in order of time, then env, and say which to read."""
    rows, mask = source.every_row()
    return rows, mask & source.starts(rows, view)


def _read_step(stored: Rings, rows: Rows, bits: Any, view: View) -> tuple[PyTree, Span]:
    """Read what a view reads of the steps around rows, and say where these are: the arguments of its `batch`."""
    span = view.narrow(stored, view.widen(stored, lookup.find(stored, rows)).replace(bits=bits))
    return gather(stored, span, plan(view, stored.layout, stored.num_slots)), span


def _trace_batch(stored: Rings, view: View) -> tuple[Any, list[Read | None], int]:
    """Say how the batch is built, how each of its leaves was read, None if it is computed, and what a row takes."""
    one: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    bits = jax.ShapeDtypeStruct((1, view.num_bits), jnp.uint32) if view.num_bits else None
    step, span = jax.eval_shape(functools.partial(_read_step, view=view), stored, Rows(one, one), bits)
    program, batch = jax.make_jaxpr(view.batch, return_shape=True)(step, span)
    reads = [read for read in plan(view, stored.layout, stored.num_slots).reads if read is not None]
    came = {id(x): read for x, read in zip(program.jaxpr.invars, reads)}  # the leaves of the step are the first inputs
    num_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((step, batch)))
    return jax.tree.structure(batch), [came.get(id(x)) for x in program.jaxpr.outvars], num_bytes or 1


@functools.partial(jax.jit, static_argnames=("view", "groups", "computed"))
def _read_rows(
    stored: Rings, rows: Rows, bits: Any, view: View, groups: tuple[tuple[Place, ...], ...], computed: tuple[int, ...]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Find each group of places, `[B, W]`, and compute the leaves `[B, ...]` that the view computes."""
    step, span = _read_step(stored, rows, bits, view)
    leaves = jax.tree.leaves(view.batch(step, span))
    found = [find_places(stored, span, places) for places in groups]
    return [flat_index(stored, slot, env) for slot, env in found], [_words(leaves[i]) for i in computed]


def _words(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if trees.is_key_dtype(x.dtype) else x


def _stored_columns(stored: Rings, reads: list[Read], where: dict[Any, np.ndarray]) -> list[Column]:
    """Read each stored leaf at all places `where` it is asked for, each value once, and make the columns of them."""
    asked = {read.source: tuple(dict.fromkeys(r.places for r in reads if r.source == read.source)) for read in reads}
    # Leaves that are read at the same places share the numbers of these.
    numbered = {groups: _number([where[places] for places in groups]) for groups in set(asked.values())}
    values = {}
    for leaf, groups in asked.items():
        size = min(2**20, LEAF_BYTES // max(1, stored.layout.leaves[leaf].num_bytes))
        values[leaf] = _in_chunks(lambda at, leaf=leaf: _read_leaf(stored, at, leaf), numbered[groups][0], max(1, size))
    columns = []
    for read in reads:
        groups = asked[read.source]
        index = numbered[groups][1][groups.index(read.places)]
        columns.append(Column(values[read.source], index, (read.stack, read.axis, read.single)))
    return columns


def _number(where: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """List the places that are read, each once, and give every array of places as numbers of these."""
    mark = np.zeros(max(int(places.max()) for places in where) + 1, np.bool_)
    for places in where:
        mark[places] = True
    number = np.cumsum(mark, dtype=np.int32) - 1
    return np.flatnonzero(mark).astype(np.int32), [number[places] for places in where]


@functools.partial(jax.jit, static_argnames="leaf")
def _read_leaf(stored: Rings, where: jax.Array, leaf: int) -> jax.Array:
    return _words(gather_leaf(stored, leaf, where // stored.num_envs, where % stored.num_envs))


def _in_chunks(fn: Callable[[Any], PyTree], arrays: PyTree, size: int) -> PyTree:
    """Call `fn` on slices of arrays `[N, ...]` and join what it gives on the host; every slice has one shape."""
    count = len(jax.tree.leaves(arrays)[0])
    size = min(size, 1 << (count - 1).bit_length())
    joined: list[np.ndarray] = []
    treedef: Any = None
    for first in range(0, count, size):
        rows = np.minimum(np.arange(first, first + size), count - 1)
        leaves, treedef = jax.tree.flatten(fn(jax.tree.map(lambda x: x[rows], arrays)))  # noqa: B023
        joined = joined or [np.empty((count, *x.shape[1:]), x.dtype) for x in leaves]
        for whole, leaf in zip(joined, leaves, strict=True):
            whole[first : first + size] = np.asarray(leaf)[: count - first]
    return jax.tree.unflatten(treedef, joined)
