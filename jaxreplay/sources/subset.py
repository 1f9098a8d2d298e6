"""Some rows of a buffer as a source: given rows, those of given episodes, or the parts of a random split."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import lookup, trees
from jaxreplay._core.clock import age, is_last_of_equals
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.loops import bisect, vary_as
from jaxreplay._core.rings import MAX_INDEX, Rings, Span
from jaxreplay.buffer import check_rows
from jaxreplay.samplers.numbered import Numbered, draw_uniform, one_over
from jaxreplay.sources.base import Source, read
from jaxreplay.sources.checks import check_shares
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Episodes, Rows, Sample
from jaxreplay.views import View


class Subset(Source):
    """Some rows of a buffer, made by `subset` or `split`: `count` of `rows` `[N]`, from number `first` on.

    These are in order of time, then env, so that one is found by bisection. They are sampled uniformly, whatever the
    buffer's own sampler.
    """

    buffer: Buffer
    rows: Rows
    first: jax.Array
    count: jax.Array

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)

    def size(self) -> jax.Array:
        return self.count

    def readable(self) -> Numbered:
        """Number the rows."""

        def at(number: jax.Array) -> Rows:
            index = self.first + jnp.clip(number, 0, self.rows.time.shape[0] - 1)
            return jax.tree.map(lambda x: x.at[index].get(mode="clip"), self.rows)

        return Numbered(self.count, at)

    held = ordered = readable

    def every_row(self) -> tuple[Rows, jax.Array]:
        number = jnp.arange(self.rows.time.shape[0], dtype=jnp.int32) - self.first
        wanted = (number >= 0) & (number < self.count)
        return self.rows, wanted & lookup.is_valid(self.buffer.rings, self.rows)

    def find(self, rows: Rows, view: View) -> Span:
        """Say where rows are, `valid` where they are of the subset and the view can start from them."""
        span = view.find(self.buffer.rings, rows)
        return span.replace(valid=span.valid & self._has(rows))

    def starts(self, rows: Rows, view: View) -> jax.Array:
        return view.starts(self.buffer.rings, rows)

    def sample(self, key: jax.Array, batch_size: int, view: View) -> Sample:
        rings, mine = self.buffer.rings, self.readable()
        look_up = functools.partial(view.look_up, rings)
        span, found = draw_uniform(key, batch_size, mine, mine, look_up, view, rings.memory.at_once)
        return read(rings, span.replace(valid=found), one_over(self.count), view, key)

    def take(self, rows: Rows, view: View, key: jax.Array | None) -> Sample:
        return read(self.buffer.rings, self.find(rows, view), one_over(self.count), view, key)

    def _has(self, rows: Rows) -> jax.Array:
        """Tell which rows `[B]` are of the subset, by bisection."""
        last = self.rows.time.shape[0] - 1

        def behind(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Tell how far the subset's row is behind, in time and in env."""
            mine = jax.tree.map(lambda x: x[jnp.clip(index, 0, last)], self.rows)
            return rows.time - mine.time, rows.env - mine.env

        def comes_before(count: jax.Array) -> jax.Array:
            time, env = behind(self.first + count - 1)
            return (count <= self.count) & ((time > 0) | ((time == 0) & (env > 0)))

        like = vary_as(vary_as(rows.time, self.rows.time[:1]), self.count)
        index = bisect(last + 1, comes_before, like, unroll=self.buffer.rings.memory.at_once)
        time, env = behind(self.first + index)
        return (index < self.count) & (time == 0) & (env == 0)


def subset(buffer: Buffer, rows: Rows | Episodes) -> Subset:
    """Restrict sampling to some rows, or to the rows of some episodes, which can be read.

    rows: `Rows` `[...]`, of which repeated ones count once; or `Episodes` as `replay.episodes(buffer)` gives them, with
    `mask` True where they are wanted. The rows around them still serve as context: frames, windows, next observations.
    Raises TypeError for anything else.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(8)})
    >>> few = replay.subset(buffer, replay.Rows(time=jnp.array([2, 5, 99]), env=jnp.array([0, 0, 0])))
    >>> int(replay.size(few)), sorted(set(replay.sample(few, jax.random.key(0), 32).data["x"].tolist()))
    (2, [2, 5])
    """
    check_buffer("subset", buffer)
    if isinstance(rows, Episodes):
        return _subset_of_episodes(buffer, rows)
    return _subset(buffer, check_rows(buffer, rows))


def split(buffer: Buffer, key: jax.Array, fractions: Sequence[float]) -> tuple[Subset, ...]:
    """Split a buffer into disjoint subsets, at random and by whole episodes (by rows, for independent items).

    fractions: of the rows that can be read, for each part; they add up to 1. Episodes are shuffled and laid out in a
    row, and each goes to the part in which its middle lies, so a part misses its fraction by one episode at most.
    Raises ValueError for fractions that do not add up.
    """
    check_buffer("split", buffer)
    trees.check_key(key)
    return _split(buffer, key, check_shares("fractions", fractions))


@functools.partial(jax.jit, inline=True)
def _choose_rows(rings: Rings, rows: Rows) -> tuple[Rows, jax.Array]:
    """Put the rows that can be read, each once, in order of time, then env, before the others; count them."""
    slot, env, _ = lookup.find_slots(rings, rows)
    wanted = lookup.is_valid(rings, rows) & is_last_of_equals(flat_index(rings, slot, env))
    in_order = flat_index(rings, rings.num_slots - age(rings.clock, rows.time), rows.env)
    order = jnp.argsort(jnp.where(wanted, in_order, MAX_INDEX))
    return jax.tree.map(lambda x: x[order], rows), jnp.sum(wanted, dtype=jnp.int32)


def _subset(buffer: Buffer, rows: Rows) -> Subset:
    rows = jax.tree.map(jnp.ravel, rows)
    if rows.time.shape[0] == 0:  # one that nothing can read, so that there is something to index
        rows = Rows(time=jnp.zeros((1,), jnp.int32), env=jnp.full((1,), -1, jnp.int32))
    chosen, count = _choose_rows(buffer.rings, rows)
    return Subset(buffer=buffer, rows=chosen, first=jnp.zeros((), jnp.int32), count=count)


def _subset_of_episodes(buffer: Buffer, episodes: Episodes) -> Subset:
    rings = buffer.rings
    shape = (rings.num_records,) if buffer.single else (rings.num_records, rings.num_envs)
    if not rings.num_records or episodes.mask.shape != shape:
        raise ValueError(f"subset: expected episodes {list(shape)} as replay.episodes(buffer) gives them")
    rows = _rows_of_episodes(rings, episodes.number.reshape(-1, rings.num_envs), episodes.mask)
    return _subset(buffer, rows)


@functools.partial(jax.jit, inline=True)
def _rows_of_episodes(rings: Rings, number: jax.Array, mask: jax.Array) -> Rows:
    """List every row, with those of other episodes than the given ones out of range."""
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    place = jnp.where(mask.reshape(number.shape), number % rings.num_records, rings.num_records)
    wanted = jnp.full((rings.num_records, rings.num_envs), -1, jnp.int32).at[place, env].set(number, mode="drop")
    rows, own = _own_episodes(rings)
    return rows.replace(env=jnp.where(wanted[own % rings.num_records, rows.env] == own, rows.env, -1))


def _own_episodes(rings: Rings) -> tuple[Rows, jax.Array]:
    """List every slot's row and its episode's number, which may be any for removed and void rows."""
    return lookup.all_rows(rings), jnp.maximum(lookup.all_numbers(rings), 0)


@functools.partial(jax.jit, static_argnames="fractions", inline=True)
def _split_rows(rings: Rings, key: jax.Array, fractions: tuple[float, ...]) -> tuple[Rows, jax.Array, jax.Array]:
    """Order every row by part, those that nothing can read last; say where each part begins, and how many it has."""
    rows, own = _own_episodes(rings)
    valid = lookup.all_valid(rings)
    if rings.num_records:
        group = flat_index(rings, own % rings.num_records, rows.env)
        num_groups = rings.num_records * rings.num_envs
    else:
        group = jnp.arange(valid.shape[0], dtype=jnp.int32)
        num_groups = valid.shape[0]
    length = jnp.zeros((num_groups,), jnp.int32).at[group].add(valid.astype(jnp.int32))
    order = jax.random.permutation(key, num_groups)
    ends = jnp.cumsum(length[order], dtype=jnp.int32)
    middle = ends.astype(jnp.float32) - 0.5 * length[order].astype(jnp.float32)
    bounds = jnp.asarray(np.cumsum(fractions)[:-1], jnp.float32) * ends[-1].astype(jnp.float32)
    part_of_group = (
        jnp.zeros((num_groups,), jnp.int32)
        .at[order]
        .set(jnp.searchsorted(bounds, middle, side="right").astype(jnp.int32), unique_indices=True)
    )
    part = jnp.where(valid, part_of_group[group], len(fractions))
    by_part = jnp.argsort(part, stable=True)
    counts = jnp.zeros((len(fractions),), jnp.int32).at[part].add(1, mode="drop")
    return jax.tree.map(lambda x: x[by_part], rows), jnp.cumsum(counts, dtype=jnp.int32) - counts, counts


def _split(buffer: Buffer, key: jax.Array, fractions: tuple[float, ...]) -> tuple[Subset, ...]:
    rows, first, count = _split_rows(buffer.rings, key, fractions)
    return tuple(Subset(buffer=buffer, rows=rows, first=first[i], count=count[i]) for i in range(len(fractions)))
