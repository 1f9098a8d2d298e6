"""What a buffer says of itself: its size and capacity, its rows, and counts of all it holds."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import lookup, trees
from jaxreplay._core.episode_numbers import VOID
from jaxreplay._core.order import newest_in_order
from jaxreplay._core.records import live_records
from jaxreplay.sources.base import Source
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import Whole, as_source
from jaxreplay.stacks import gathered, is_sharded, on_parts, refuse_stack
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Rows, SourceRows, Stats, out_of_range_unless
from jaxreplay.views import View, transition
from jaxreplay.views.base import check_reads, check_view


def size(source: Buffer | Source) -> jax.Array:
    """Count the rows that can be read, an int32 scalar: not void, not removed, with their episode's record kept.

    Of a mixture it is the size of all its sources together.
    """
    return _size(as_source("size", source))


@functools.partial(jax.jit, inline=True)
def _size(source: Source) -> jax.Array:
    if is_sharded(source):
        return jnp.sum(on_parts(lambda part: part.size()[None], source, (), (), 0), dtype=jnp.int32)
    return source.size()


def capacity(source: Buffer | Source) -> int:
    """Return how many steps the buffer keeps, over all envs; of a source, its buffers together."""
    return sum(buffer.num_slots * buffer.num_envs for buffer in as_source("capacity", source).buffers)


def can_sample(source: Buffer | Source, n: int = 1, view: View = transition()) -> jax.Array:  # noqa: B008
    """Tell whether a view can start from at least `n` rows, a bool scalar; of a mixture, from those of each source.

    For a view that refuses rows, as `sequence(80)`, it costs one pass over the ring's own words. Raises ValueError for
    a view that cannot read such a buffer, whatever it holds.
    """
    shape, dtype = trees.shape_dtype("n", n)
    if shape or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"n: expected a whole number of rows, got {trees.describe(shape, dtype)}")
    check_view(view)
    made = as_source("can_sample", source)
    check_reads(view, made.buffers)
    if isinstance(made, Mixture):
        return jnp.all(jnp.stack([can_sample(part, n, view) for part in made.sources]))
    return (_count_starts(made, view) if view.refuses else _size(made)) >= n


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _count_starts(source: Source, view: View) -> jax.Array:
    if is_sharded(source):
        each = on_parts(lambda part: _count_starts(part, view)[None], source, (), (), 0)
        return jnp.sum(each, dtype=jnp.int32)
    every, mask = source.every_row()
    return jnp.sum(mask & source.starts(every, view), dtype=jnp.int32)


def rows(source: Buffer | Source) -> tuple[Rows | SourceRows, jax.Array]:
    """List every slot in order of time, then env: `(Rows, mask)`, `[T*E]` each; `mask` says which can be read.

    Of several buffers, one after the other: `(SourceRows, mask)`. Of a subset, its rows. Of a stack of buffers, whose
    clocks may differ, in order of age. Over a mesh it costs a collection of all rows on every device.
    """
    return _rows(as_source("rows", source))


@functools.partial(jax.jit, inline=True)
def _rows(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    if is_sharded(source):
        return _rows_of_all(source)
    return source.every_row()


def _rows_of_all(source: Source) -> tuple[Rows | SourceRows, jax.Array]:
    """List the rows of all devices, in the order of one buffer's: by time, then env."""
    lengths = [buffer.num_slots * buffer.stack.envs_per_device for buffer in source.buffers if buffer.stack]
    ends, slots = np.cumsum(lengths), [buffer.num_slots for buffer in source.buffers]

    def list_rows(part: Source) -> tuple[Any, ...]:
        every = part.every_row()
        by_time = lambda x: tuple(part.reshape(n, -1) for part, n in zip(jnp.split(x, ends[:-1]), slots))  # noqa: E731
        return tuple(jax.tree.transpose(jax.tree.structure(every), None, jax.tree.map(by_time, every)))

    listed = on_parts(list_rows, source, (), (), (1,) * len(lengths))
    flat = [jax.tree.map(jnp.ravel, gathered(source, x)) for x in listed]
    rows, mask = jax.tree.map(lambda *parts: jnp.concatenate(parts), *flat)
    return rows.replace(axis=None), mask


def nth(source: Buffer | Source, index: Any, env: Any = None) -> Rows | SourceRows:
    """Find rows by their number among those that can be read, the oldest first: `Rows` `[...]`.

    index: int32 `[...]`, 0 for the oldest row, -1 for the newest, in the order of `rows`: by time, then env. Of a
        concat, one source after the other.
    env: int32 `[...]`: number the rows of this env alone; the shapes of both broadcast.
    Where there is no row of that number, nothing can read what comes: `take` gives it with `mask` False.

    Costs a bisection over time that reads a word of each env in each step, with `env` a word, and no pass over the
    ring. Raises TypeError for a mixture, and for `env` of what is no buffer.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(12)})
    >>> replay.take(buffer, replay.nth(buffer, jnp.array([0, 1, -1, 8]))).data["x"].tolist()
    [4, 5, 11, 0]
    """
    made = as_source("nth", source)
    refuse_stack("nth", made, "rows are in order in each of its parts alone; see replay.rows")
    if isinstance(made, Mixture):
        raise TypeError("nth: a mixture draws in proportions and has no order; concat its sources")
    index = _no_row_unless_fits("index", index)
    if env is None:
        return _nth(made, index)
    check_buffer("nth of an env", source)
    env = _no_row_unless_fits("env", env)
    try:
        shape = np.broadcast_shapes(index.shape, env.shape)
    except ValueError:
        raise ValueError(f"nth: shapes {index.shape} of index and {env.shape} of env do not broadcast") from None
    return _nth_of_env(source, jnp.broadcast_to(index, shape), jnp.broadcast_to(env, shape))


def _no_row_unless_fits(name: str, value: Any) -> jax.Array:
    """Return int32, and a number that no row has where int32 cannot hold the value."""
    narrow, fits = trees.to_int32(name, value)
    return jnp.asarray(narrow) if fits is None else jnp.where(fits, narrow, np.int32(-(2**31)))


@functools.partial(jax.jit, inline=True)
def _nth(source: Source, index: jax.Array) -> Rows | SourceRows:
    total, at = source.ordered()
    number = jnp.where(index < 0, index + total, index)
    found = jax.tree.map(lambda x: x.reshape(index.shape), at(number.ravel()))
    return out_of_range_unless((number >= 0) & (number < total), found)


@functools.partial(jax.jit, inline=True)
def _nth_of_env(buffer: Buffer, index: jax.Array, env: jax.Array) -> Rows:
    counts = lookup.counts(buffer.rings)
    known = (env >= 0) & (env < buffer.rings.num_envs)
    env = jnp.where(known, env, 0)
    number = jnp.where(index < 0, index + counts[env], index)
    found = lookup.nth_rows(buffer.rings, number.ravel(), env.ravel(), counts)
    known &= (number >= 0) & (number < counts[env])
    return out_of_range_unless(known, jax.tree.map(lambda x: x.reshape(index.shape), found))


def newest(source: Buffer | Source, n: int) -> Rows:
    """List the newest n rows that can be read, oldest first: `Rows` `[n]`, for learners on recent data.

    It is `nth(source, jnp.arange(-n, 0))` at the price of two bisections and a sort of n numbers. Where fewer rows are
    there, the first places are rows that nothing can read. `nth(buffer, jnp.arange(-n, 0)[:, None], jnp.arange(E))`
    gives those of each env. Raises TypeError for a concat and a mixture, whose times are not of one clock.
    """
    made, n = as_source("newest", source), trees.check_count("n", n)
    refuse_stack("newest", made, "rows are in order in each of its parts alone; see replay.rows")
    if not isinstance(made, Whole | Subset):
        raise TypeError(f"newest: a {type(made).__name__.lower()} has no common clock; take the newest of each source")
    return _newest(made, n)


@functools.partial(jax.jit, static_argnames="n", inline=True)
def _newest(source: Whole | Subset, n: int) -> Rows:
    if isinstance(source, Whole):
        return newest_in_order(source.buffer.rings, n)
    return cast(Rows, _nth(source, jnp.arange(-n, 0, dtype=jnp.int32)))


def stats(buffer: Buffer) -> Stats:
    """Count what the ring holds, in one pass over it; see `Stats`."""
    check_buffer("stats", buffer)
    return _stats(buffer)


@functools.partial(jax.jit, inline=True)
def _stats(buffer: Buffer) -> Stats:
    if buffer.stack is not None:
        count_one = lambda one: jax.tree.map(lambda x: x.reshape(1, 1), _stats(one))  # noqa: E731
        each = on_parts(count_one, buffer, (), (), 1, each=True)
        time = jnp.max(each.time)
        return jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32), each).replace(time=time)
    rings = buffer.rings

    def count(x: jax.Array) -> jax.Array:
        return jnp.sum(x, dtype=jnp.int32)

    valid, number = lookup.all_valid(rings), lookup.all_numbers(rings)
    newest_first = jnp.arange(number.shape[0] - 1, -1, -1, dtype=jnp.int32)
    held = newest_first < rings.clock.held * rings.num_envs
    numbers = live_records(rings)
    return Stats(
        capacity=jnp.int32(number.shape[0]),
        time=rings.clock.time,
        held=rings.clock.held * rings.num_envs,
        size=count(valid),
        void=count(held & (number == VOID)),
        removed=count(held & (number < VOID)),
        lost=count(held & (number >= 0) & ~valid),
        num_episodes=count(numbers.mask),
        open_episodes=count(numbers.mask & ~numbers.ended),
    )
