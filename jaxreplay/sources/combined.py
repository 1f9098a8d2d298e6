"""What can be sampled beside a buffer: some of its rows, and several buffers as one. Nothing is copied.

A source is a pytree that holds its buffers as they are. `sample`, `take`, `epoch`, `rows`, `size` and `can_sample` take
any source. To append, append to the buffer and make the source anew, which costs nothing for `concat` and `mixture`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxreplay._core import rings, trees
from jaxreplay._core.loops import find_interval, vary_as
from jaxreplay._core.rings import Rings, Span
from jaxreplay.buffer import Buffer
from jaxreplay.samplers._uniform import Numbered, held_rows, readable_rows
from jaxreplay.state import way_out
from jaxreplay.types import Rows, SourceRows
from jaxreplay.views import View

TOLERANCE = 1e-6  # by how much proportions may miss 1


class Subset(struct.PyTreeNode):
    """Some rows of a buffer, made by `subset` or `split`: `count` of `rows` `[N]`, from number `first` on.

    These are in order of time, then env, so that one is found by bisection.
    It is sampled uniformly, whatever the buffer's own sampler.
    """

    buffer: Buffer
    rows: Rows
    first: jax.Array
    count: jax.Array


class Concat(struct.PyTreeNode):
    """Several sources as one, made by `concat`."""

    sources: tuple[Any, ...]


class Mixture(struct.PyTreeNode):
    """Several sources in fixed proportions, made by `mixture`."""

    sources: tuple[Any, ...]
    proportions: tuple[float, ...] = struct.field(pytree_node=False)


Source: TypeAlias = Buffer | Subset | Concat | Mixture


def concat(sources: Sequence[Buffer | Subset | Concat]) -> Concat:
    """Address several sources as one: every row of any of them has the same probability, whatever their samplers.

    A sample's rows are `SourceRows`. Reading gathers from every buffer, so it costs as much as sampling each.
    Raises ValueError where the stored structures differ, and TypeError for a mixture among the sources.
    """
    for i, source in enumerate(_check_sources("concat", sources)):
        if isinstance(source, Mixture):
            raise TypeError(f"concat: source {i} is a mixture, whose rows have no common probability; mix last")
    rows = sum(buffer.rings.num_slots * buffer.rings.num_envs for source in sources for buffer in buffers(source))
    if rows > rings.MAX_INDEX:
        raise ValueError(f"concat: {rows} rows in all do not fit in 31-bit numbers")
    return Concat(tuple(part for source in sources for part in _parts(source)))


def mixture(sources: Sequence[Source], proportions: Sequence[float]) -> Mixture:
    """Sample one batch from several sources, as half online and half offline (Ball et al. 2023, RLPD).

    Each source gives its proportion of every batch, drawn with its own sampler; where that is no whole number of rows,
    one more or one less by chance, so that it holds on average. A batch has the first source's rows first;
    `batch.rows.source` says whose each is, and `batch.rows.of(0)` addresses those of the first alone, for priorities.

    proportions: Python numbers, not negative, which add up to 1. A source that is empty gives rows with `mask` False
    under jit, and raises ValueError outside it. Raises ValueError where the stored structures differ, naming the leaf.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> online = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(8)})
    >>> offline = replay.extend(replay.create({"x": jnp.int32(0)}, 50), {"x": -jnp.arange(50)})
    >>> both = replay.mixture([online, offline], [0.5, 0.5])
    >>> replay.sample(both, jax.random.key(0), 8).rows.source.tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    sources = _check_sources("mixture", sources)
    shares = check_shares("proportions", proportions)
    if len(shares) != len(sources):
        raise ValueError(f"proportions: expected one for each of {len(sources)} sources, got {len(shares)}")
    for i, source in enumerate(sources):
        if isinstance(source, Mixture):
            raise TypeError(f"mixture: source {i} is a mixture itself; name all sources in one")
    return Mixture(sources, shares)


def buffers(source: Source) -> tuple[Buffer, ...]:
    """The buffers of a source, in the order of `SourceRows.source`."""
    if isinstance(source, Buffer):
        return (source,)
    if isinstance(source, Subset):
        return (source.buffer,)
    return tuple(buffer for part in source.sources for buffer in buffers(part))


def check_source(what: str, came: Any) -> Any:
    """Return a source, or raise TypeError naming the function, what came and the way out."""
    if not isinstance(came, Source):
        expected = "expected a buffer, or a source made of buffers"
        raise TypeError(f"{what}: {expected}, got {type(came).__name__}{way_out(came)}")
    return came


def held(source: Buffer | Subset | Concat) -> Numbered:
    """Rows that are cheap to name, and among which are all that can be drawn."""
    return _numbered(source, held_rows)


def readable(source: Buffer | Subset | Concat) -> Numbered:
    """The rows that can be drawn."""
    return _numbered(source, readable_rows)


def locate(source: Source, rows: Rows | SourceRows) -> tuple[Span, ...]:
    """Where rows `[B]` are, for each buffer; each is `valid` in at most one."""
    if isinstance(rows, Rows):
        return tuple(rings.find(buffer.rings, rows) for buffer in buffers(source)[:1])
    return tuple(rings.find(buffer.rings, rows.of(i)) for i, buffer in enumerate(buffers(source)))


def usable(source: Source, rows: Rows | SourceRows, view: View) -> tuple[Span, ...]:
    """Where rows are, `valid` where the view can start from them as well."""
    spans = []
    for span in locate(source, rows):
        mask: Any = view.usable(span)
        spans.append(span if mask is None else span.replace(valid=span.valid & mask))
    return tuple(spans)


def any_valid(spans: tuple[Span, ...]) -> jax.Array:
    """Which rows `[B]` are valid in any buffer."""
    return functools.reduce(jnp.logical_or, [span.valid for span in spans])


def members(source: Source, rows: Rows | SourceRows) -> jax.Array:
    """Tell which rows `[B]` are of the source, whether or not they can be read: all but those a subset leaves out."""
    if isinstance(source, Buffer):
        return jnp.ones(rows.time.shape, jnp.bool_)
    if isinstance(source, Subset):
        return _is_in_subset(source, rows)
    found, first = jnp.zeros(rows.time.shape, jnp.bool_), 0
    for part in source.sources:
        count = len(buffers(part))
        mine = rows.replace(source=rows.source - first) if isinstance(part, Concat) else rows.of(first)
        found |= (rows.source >= first) & (rows.source < first + count) & members(part, mine)
        first += count
    return found


def _is_in_subset(source: Subset, rows: Rows) -> jax.Array:
    """Look rows `[B]` up among those of a subset, which are in order of time, then env: by bisection."""
    last = source.rows.time.shape[0] - 1

    def at(place: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How far the subset's row is behind, in time and in env."""
        mine = jax.tree.map(lambda x: x[jnp.clip(place, 0, last)], source.rows)
        return rows.time - mine.time, rows.env - mine.env

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # the first row that does not come before lies in [low, high]
        middle = low + (high - low) // 2
        time, env = at(middle)
        before = (low < high) & ((time > 0) | ((time == 0) & (env > 0)))
        return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

    low = jnp.broadcast_to(source.first, rows.time.shape)
    bounds = vary_as((low, low + source.count), (rows.time, rows.time))
    bounds = vary_as(bounds, (source.rows.time[:1], source.rows.time[:1]))
    low, _ = lax.fori_loop(0, (last + 1).bit_length(), halve, bounds)
    time, env = at(low)
    return (low < source.first + source.count) & (time == 0) & (env == 0)


def every_row(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    """All rows of a source `[N]`, and which can be read; see `replay.rows`."""
    if isinstance(source, Buffer):
        every = rings.all_rows(source.rings)
        return every, rings.is_valid(source.rings, every)
    if isinstance(source, Subset):
        place = jnp.arange(source.rows.time.shape[0], dtype=jnp.int32) - source.first
        wanted = (place >= 0) & (place < source.count)
        return source.rows, wanted & rings.is_valid(source.buffer.rings, source.rows)
    found = [(as_source_rows(rows, i), mask) for i, (rows, mask) in enumerate(map(every_row, source.sources))]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def as_source_rows(rows: Rows | SourceRows, source: int) -> SourceRows:
    """Rows of a source whose first buffer is number `source`."""
    if isinstance(rows, SourceRows):
        return rows.replace(source=rows.source + source)
    return SourceRows(source=jnp.full_like(rows.time, source), time=rows.time, env=rows.env)


def check_shares(name: str, shares: Sequence[float]) -> tuple[float, ...]:
    """Return shares as Python numbers, or raise where they are traced, outside 0 to 1, or do not add up to 1."""
    if not trees.is_concrete(shares):
        raise TypeError(f"{name}: expected Python numbers (they shape the program), got traced values")
    values = tuple(float(share) for share in np.asarray(shares, np.float64).ravel())
    if not values or not all(0 <= value <= 1 for value in values) or abs(math.fsum(values) - 1) > TOLERANCE:
        raise ValueError(f"{name}: expected numbers from 0 to 1 that add up to 1, got {list(values)}")
    return values


def _numbered(source: Buffer | Subset | Concat, of_buffer: Callable[[Rings], Numbered]) -> Numbered:
    if isinstance(source, Buffer):
        return of_buffer(source.rings)
    if isinstance(source, Subset):

        def at_subset(number: jax.Array) -> Rows:
            place = source.first + jnp.clip(number, 0, source.rows.time.shape[0] - 1)
            return jax.tree.map(lambda x: x.at[place].get(mode="clip"), source.rows)

        return Numbered(source.count, at_subset)
    parts = [_numbered(part, of_buffer) for part in source.sources]
    counts = jnp.stack([part.total for part in parts])
    ends = jnp.cumsum(counts, dtype=jnp.int32)

    def at_concat(number: jax.Array) -> SourceRows:
        index = jnp.minimum(find_interval(ends, number), len(parts) - 1)
        chosen = as_source_rows(parts[0].at(number), 0)
        for i, part in enumerate(parts[1:], 1):
            chosen = trees.choose(index == i, as_source_rows(part.at(number - ends[i - 1]), i), chosen)
        return chosen

    return Numbered(ends[-1], at_concat)


def _parts(source: Buffer | Subset | Concat) -> tuple[Buffer | Subset, ...]:
    return source.sources if isinstance(source, Concat) else (source,)


def _check_sources(what: str, sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources, or raise naming the first that is none, or whose structure is not that of the first."""
    if not isinstance(sources, list | tuple):
        raise TypeError(f"{what}: expected a list of buffers, subsets or concats, got {type(sources).__name__}")
    if not sources:
        raise ValueError(f"{what}: expected at least one source, got none")
    for i, source in enumerate(sources):
        if not isinstance(source, Source):
            hint = way_out(source)
            raise TypeError(f"{what}: source {i} is {type(source).__name__}, expected a buffer, subset or concat{hint}")
    every = [(i, buffer) for i, source in enumerate(sources) for buffer in buffers(source)]
    expected = every[0][1].rings.layout
    for i, buffer in every[1:]:
        _check_same_structure(f"{what}: source {i} differs from source 0", buffer.rings.layout, expected)
    return tuple(sources)


def _check_same_structure(what: str, came: Any, expected: Any) -> None:
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
