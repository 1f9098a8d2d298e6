"""Reading rows through views: `sample`, `take`, `pop` and `epoch`."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay._core.loops import find_interval
from jaxreplay._core.rings import Span
from jaxreplay.buffer import Buffer, check_rows
from jaxreplay.inspection import can_sample, size
from jaxreplay.samplers._uniform import draw_uniform, one_over
from jaxreplay.sources.combined import (
    Concat,
    Mixture,
    Source,
    Subset,
    any_valid,
    as_source_rows,
    buffers,
    check_source,
    every_row,
    held,
    members,
    readable,
    usable,
)
from jaxreplay.state import check_buffer
from jaxreplay.types import PyTree, Rows, Sample, SourceRows, out_of_range_unless
from jaxreplay.views import View, transition
from jaxreplay.views.base import check_view, read, refuses

VIEW = 2**32 - 1  # what is folded into a sample's key for the view's own draws; no round of redraws is that one


def sample(source: Source, key: jax.Array, batch_size: int, view: View = transition()) -> Sample:  # noqa: B008
    """Draw a batch of rows with the buffer's sampler and read them through a view: `Sample`, leaves `[B, ...]`.

    source: a buffer, or what `subset`, `split`, `concat` and `mixture` make of buffers. Rows are drawn independently,
    each with the sampler's stated distribution over the rows that can be read and that the view can start from. The key
    decides everything. What could not be filled has `mask` False and zeros; outside jit, where nothing can be drawn, as
    from an empty buffer, it raises ValueError and says why.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"reward": jnp.float32(0)}, capacity=100)
    >>> buffer = replay.extend(buffer, {"reward": jnp.arange(10.0)})
    >>> batch = replay.sample(buffer, jax.random.key(0), batch_size=32)
    >>> batch.data["reward"].shape, bool(batch.mask.all())
    ((32,), True)
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    batch = _sample(check_source("sample", source), key, batch_size, check_view(view))
    if trees.is_concrete(batch.mask) and not np.asarray(batch.mask).all():
        _check_filled(source, view, batch)
    return batch


def _check_filled(source: Source, view: View, batch: Sample) -> None:
    """Raise ValueError where nothing could be drawn, of the source or of one that a mixture draws from."""
    if not isinstance(source, Mixture):
        if not np.asarray(batch.mask).any():
            _explain_nothing(source, view, "the buffer")
        return
    for i, (part, share) in enumerate(zip(source.sources, source.proportions, strict=True)):
        if share and not bool(can_sample(part, 1, view)):
            _explain_nothing(part, view, f"source {i} of the mixture")


def _explain_nothing(source: Source, view: View, name: str) -> None:
    count = int(size(source))
    if count == 0:
        raise ValueError(f"{name} is empty: append steps before sampling (replay.can_sample tells)")
    if bool(can_sample(source, 1, view)):
        raise ValueError(f"{name} holds {count} rows, but none could be drawn: all their priorities are zero")
    needs = getattr(view, "needs", "")
    needs = f"it needs {needs}, and there are none yet" if needs else "see its `usable`"
    raise ValueError(
        f"{name} holds {count} rows, but {view} can start from none of them: {needs} "
        "(replay.can_sample(buffer, n, view) tells)"
    )


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _sample(source: Source, key: jax.Array, batch_size: int, view: View) -> Sample:
    if isinstance(source, Mixture):
        return _sample_mixture(source, key, batch_size, view)

    def find(rows: Rows | SourceRows) -> tuple[Span, ...]:
        return usable(source, rows, view)

    narrowed = refuses(view)
    if isinstance(source, Buffer):
        sampler, state = source.sampler, source.sampler_state
        span, probability = sampler.draw(state, source.rings, key, batch_size, lambda rows: find(rows)[0], narrowed)
        spans = (span,)
    else:
        spans, found = draw_uniform(key, batch_size, held(source), readable(source), find, any_valid, narrowed)
        spans = tuple(span.replace(valid=span.valid & found) for span in spans)
        probability = _probability(source, spans)
    return _read(source, _rows_of(source, spans), spans, probability, view, key)


def _sample_mixture(source: Mixture, key: jax.Array, batch_size: int, view: View) -> Sample:
    """Sample each source for the most rows it can have, then pick; where proportions give whole rows, all are."""
    exact = [batch_size * Fraction(share).limit_denominator(10**6) for share in source.proportions]
    ends = list(itertools.accumulate(exact))
    *keys, key = jax.random.split(key, len(exact) + 1)
    batches, first = [], 0
    for part, part_key, share, rows in zip(source.sources, keys, source.proportions, exact, strict=True):
        if rows:
            batch = _sample(part, part_key, math.ceil(rows), view)
            scaled = batch.probability * jnp.float32(share)
            batches.append(batch.replace(rows=as_source_rows(batch.rows, first), probability=scaled))
        first += len(buffers(part))
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    if all(rows.denominator == 1 for rows in exact):
        return every
    # Systematic: row j lies at j + offset of the batch, and belongs to the source whose share covers it.
    place = jnp.arange(batch_size, dtype=jnp.float32) + jax.random.uniform(key, dtype=jnp.float32)
    bounds = [float(end) for end, rows in zip(ends, exact) if rows]
    part = find_interval(jnp.asarray(bounds[:-1], jnp.float32), place)
    most = np.array([math.ceil(rows) for rows in exact if rows])
    before = find_interval(part, jnp.arange(-1, len(most) - 1, dtype=jnp.int32))  # rows of the sources before each
    within = jnp.arange(batch_size, dtype=jnp.int32) - before[part]
    start, last = (jnp.asarray(x, jnp.int32)[part] for x in (np.cumsum(most) - most, most - 1))
    index = start + jnp.minimum(within, last)
    return jax.tree.map(lambda leaf: leaf[index], every)


def take(source: Source, rows: Rows | SourceRows, view: View = transition(), key: Any = None) -> Sample:  # noqa: B008
    """Read given rows `[...]` through a view: `Sample`, leaves `[..., *shape]`.

    Rows that are stale, void, removed, out of range or left out by a subset, and those that the view cannot start from,
    come back with `mask` False and zeros. `probability` is that of drawing the row from the source. Several buffers are
    addressed by `SourceRows`. key: for a view that draws, as `hindsight`. Raises TypeError for rows of another kind.
    """
    rows = _check_rows(check_source("take", source), rows)
    check_view(view)
    if key is not None:
        trees.check_key(key)
    elif getattr(view, "num_bits", 0):
        raise ValueError(f"{view} draws at random: give take a key for it")
    return _take(source, rows, view, key)


def _check_rows(source: Source, rows: Any) -> Any:
    first = buffers(source)[0]
    if isinstance(source, Buffer | Subset):
        return check_rows(first, rows)
    if not isinstance(rows, SourceRows):
        raise TypeError(f"rows: expected SourceRows(source, time, env), got {type(rows).__name__}")
    narrow = check_rows(first, Rows(time=rows.time, env=rows.env))
    return SourceRows(check_rows(first, Rows(rows.source, narrow.env)).time, narrow.time, narrow.env)


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _take(source: Source, rows: Rows | SourceRows, view: View, key: jax.Array | None = None) -> Sample:
    shape = rows.time.shape
    flat = jax.tree.map(jnp.ravel, rows)
    spans = usable(source, flat, view)
    if not isinstance(source, Buffer):
        member = members(source, flat)
        spans = tuple(span.replace(valid=span.valid & member) for span in spans)
    got = _read(source, flat, spans, _probability(source, spans), view, key)
    got = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), got)
    return got.replace(rows=rows)


def pop(buffer: Buffer, n: int) -> tuple[Buffer, Sample]:
    """Take the n oldest slices out, for on-policy learners: `(buffer, batch)`, the batch's leaves `[n, E, ...]`.

    They are consumed: their rows are stale afterwards. Where fewer than n slices are held, the rest has `mask` False.
    For a single stream the leaves are `[n, ...]`.
    """
    check_buffer("pop", buffer)
    n = trees.check_count("n", n)
    if n > buffer.rings.num_slots:
        raise ValueError(f"n: {n} slices were asked for, and the ring holds at most {buffer.rings.num_slots}")
    return _pop(buffer, n)


@functools.partial(jax.jit, static_argnames="n", inline=True)
def _pop(buffer: Buffer, n: int) -> tuple[Buffer, Sample]:
    stored = buffer.rings
    time = stored.clock.time - stored.clock.held + jnp.arange(n, dtype=jnp.int32)
    if buffer.single:
        rows = Rows(time=time, env=jnp.zeros((n,), jnp.int32))
    else:
        env = jnp.arange(stored.num_envs, dtype=jnp.int32)
        rows = Rows(*jnp.broadcast_arrays(time[:, None], env[None]))
    batch = _take(buffer, rows, transition())
    clock = stored.clock.replace(held=jnp.maximum(stored.clock.held - n, 0))
    state = buffer.sampler.on_remove(buffer.sampler_state, stored, jax.tree.map(jnp.ravel, rows))
    return buffer.replace(rings=stored.replace(clock=clock), sampler_state=state), batch


def epoch(source: Source, key: jax.Array, batch_size: int, view: View = transition()) -> Any:  # noqa: B008
    """Put every row that can be read, and that the view can start from, in random order: `Rows`, `[num_batches, B]`.

    The number of batches is that of a full ring, `ceil(T * E / B)`; past the last row come rows that nothing can read,
    so `take` gives them with `mask` False. Scan over it: `lax.scan(step, state, replay.epoch(buffer, key, 256))`.
    Of several buffers it is `SourceRows`. Raises TypeError for a mixture, whose proportions an epoch would not keep.
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    if isinstance(check_source("epoch", source), Mixture):
        raise TypeError("epoch: a mixture draws in proportions, which an epoch would not keep; concat its sources")
    return _epoch(source, key, batch_size, check_view(view))


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _epoch(source: Source, key: jax.Array, batch_size: int, view: View) -> Rows | SourceRows:
    every, mask = every_row(source)
    count = mask.shape[0]
    order = jax.random.permutation(key, count)
    shuffled = jax.tree.map(lambda x: x[order], every)
    valid = mask[order] & any_valid(usable(source, shuffled, view))
    order = jnp.argsort(~valid, stable=True)
    rows = out_of_range_unless(valid[order], jax.tree.map(lambda x: x[order], shuffled))
    batches = -(-count // batch_size)
    rows = jax.tree.map(lambda x: jnp.pad(x, (0, batches * batch_size - count)), rows)
    rows = out_of_range_unless(jnp.arange(batches * batch_size) < count, rows)
    return jax.tree.map(lambda x: x.reshape(batches, batch_size), rows)


def _rows_of(source: Source, spans: tuple[Span, ...]) -> Rows | SourceRows:
    """The addresses of what was found."""
    each = [out_of_range_unless(span.valid, Rows(time=span.time, env=span.env)) for span in spans]
    if isinstance(source, Buffer | Subset):
        return each[0]
    return _of_each(spans, [as_source_rows(rows, i) for i, rows in enumerate(each)])


def _read(
    source: Source, rows: Any, spans: tuple[Span, ...], probability: jax.Array, view: View, key: jax.Array | None
) -> Sample:
    mask = any_valid(spans)
    num_bits = getattr(view, "num_bits", 0)
    if num_bits and key is not None:
        bits = jax.random.bits(jax.random.fold_in(key, VIEW), (*mask.shape, num_bits), jnp.uint32)
        spans = tuple(span.replace(bits=bits) for span in spans)
    stored = buffers(source)
    data = _of_each(spans, [read(buffer.rings, span, view) for buffer, span in zip(stored, spans, strict=True)])
    return Sample(data=data, rows=rows, probability=jnp.where(mask, probability, 0.0), mask=mask)


def _probability(source: Source, spans: tuple[Span, ...]) -> jax.Array:
    """The probability of each row in one draw, `[B]`, for those that are found."""
    if isinstance(source, Buffer):
        return source.sampler.probability(source.sampler_state, source.rings, spans[0])
    if isinstance(source, Subset | Concat):
        return jnp.broadcast_to(one_over(readable(source).total), spans[0].time.shape)
    probability, rest = jnp.zeros(spans[0].time.shape, jnp.float32), spans
    for part, share in zip(source.sources, source.proportions, strict=True):
        mine, rest = rest[: len(buffers(part))], rest[len(buffers(part)) :]
        probability = jnp.where(any_valid(mine), share * _probability(part, mine), probability)
    return probability


def _of_each(spans: tuple[Span, ...], values: list[PyTree]) -> PyTree:
    """Of values for each buffer, leaves `[B, ...]`, take every row from the buffer it is in."""
    chosen = values[0]
    for span, value in zip(spans[1:], values[1:], strict=True):
        chosen = trees.choose(span.valid, value, chosen)
    return chosen
