"""Parts of a source: given rows of it, those of given episodes, or the parts of a random split."""

import functools
from collections.abc import Sequence
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import lookup, trees
from jaxreplay._core.clock import age, is_last_of_equals
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.rings import MAX_INDEX
from jaxreplay.sources.base import Source
from jaxreplay.sources.checks import check_shares, check_source_rows
from jaxreplay.sources.concat import Concat
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import Whole, as_source
from jaxreplay.stacks import refuse_stack
from jaxreplay.state import Buffer
from jaxreplay.types import Episodes, Rows, SourceRows
from jaxreplay.views import transition


@overload
def subset(source: Buffer | Subset, rows: Rows | Episodes) -> Subset: ...
@overload
def subset(source: Concat, rows: SourceRows) -> Concat: ...
def subset(source: Buffer | Source, rows: Rows | SourceRows | Episodes) -> Subset | Concat:
    """Restrict sampling to some rows, or to the rows of some episodes, which can be read from the source.

    source: a buffer, a subset or a part of a split, or a concat of these, whose rows are `SourceRows`.
    rows: `[...]`, of which repeated ones count once; or `Episodes` as `replay.episodes(buffer)` gives them, with `mask`
    True where they are wanted. The rows around them still serve as context: frames, windows, next observations.
    Raises TypeError for anything else.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(8)})
    >>> few = replay.subset(buffer, replay.Rows(time=jnp.array([2, 5, 99]), env=jnp.array([0, 0, 0])))
    >>> int(replay.size(few)), sorted(set(replay.sample(few, jax.random.key(0), 32).data["x"].tolist()))
    (2, [2, 5])
    """
    made = _not_mixed("subset", source)
    if isinstance(made, Concat):
        if isinstance(rows, Episodes):
            raise TypeError("subset: episodes are those of one buffer; subset the sources, and concat what comes")
        chosen: SourceRows = check_source_rows(made, rows)
        return Concat(tuple(_subset(part, chosen.of(i)) for i, part in enumerate(made.sources)))
    return _subset(made, _rows_of_episodes(made, rows) if isinstance(rows, Episodes) else check_source_rows(made, rows))


@overload
def split(source: Buffer | Subset, key: jax.Array, fractions: Sequence[float]) -> tuple[Subset, ...]: ...
@overload
def split(source: Concat, key: jax.Array, fractions: Sequence[float]) -> tuple[Concat, ...]: ...
def split(source: Buffer | Source, key: jax.Array, fractions: Sequence[float]) -> tuple[Subset | Concat, ...]:
    """Split a source into disjoint parts, at random and by whole episodes (by rows, for independent items).

    source: a buffer, a subset or a part of a split; or a concat of these, of which each source is split by itself, and
    each part is the concat of a part of every source.
    fractions: of the rows that can be read, for each part; they add up to 1. Episodes are shuffled and laid out in a
    row, and each goes to the part in which its middle lies, so a part misses its fraction by one episode at most.
    Raises ValueError for fractions that do not add up, and TypeError for a mixture.
    """
    made = _not_mixed("split", source)
    trees.check_key(key)
    shares = check_shares("fractions", fractions)
    if isinstance(made, Concat):
        each = [_split(part, jax.random.fold_in(key, i), shares) for i, part in enumerate(made.sources)]
        return tuple(Concat(parts) for parts in zip(*each, strict=True))
    return _split(made, key, shares)


def _not_mixed(what: str, source: Buffer | Source) -> Whole | Subset | Concat:
    made = as_source(what, source)
    refuse_stack(what, made, f"{what} buffers of one device, as inside jax.shard_map")
    if isinstance(made, Mixture):
        raise TypeError(f"{what}: a mixture draws in proportions, not by rows; {what} its sources, and mix what comes")
    assert isinstance(made, Whole | Subset | Concat)
    return made


@functools.partial(jax.jit, inline=True)
def _choose_rows(source: Whole | Subset, rows: Rows) -> tuple[Rows, jax.Array, jax.Array]:
    """Put the rows that can be read, each once, in order of time, then env, before the others; count them from 0."""
    rings, span = source.buffer.rings, source.find(rows, transition())
    wanted = span.valid & is_last_of_equals(flat_index(rings, span.slot, span.env))
    in_order = flat_index(rings, rings.num_slots - age(rings.clock, rows.time), rows.env)
    order = jnp.argsort(jnp.where(wanted, in_order, MAX_INDEX))
    count = jnp.sum(wanted, dtype=jnp.int32)
    return jax.tree.map(lambda x: x[order], rows), jnp.zeros((), jnp.int32), count


def _subset(source: Whole | Subset, rows: Rows) -> Subset:
    rows = jax.tree.map(jnp.ravel, rows)
    if rows.time.shape[0] == 0:  # one that nothing can read, so that there is something to index
        rows = Rows(time=jnp.zeros((1,), jnp.int32), env=jnp.full((1,), -1, jnp.int32))
    return Subset(source.buffer, *_choose_rows(source, rows))


def _rows_of_episodes(source: Whole | Subset, episodes: Episodes) -> Rows:
    buffer = source.buffer
    rings = buffer.rings
    shape = (rings.num_records,) if buffer.single else (rings.num_records, rings.num_envs)
    if not rings.num_records or episodes.mask.shape != shape:
        raise ValueError(f"subset: expected episodes {list(shape)} as replay.episodes(buffer) gives them")
    return _list_rows(source, episodes.number.reshape(-1, rings.num_envs), episodes.mask)


@functools.partial(jax.jit, inline=True)
def _list_rows(source: Whole | Subset, number: jax.Array, mask: jax.Array) -> Rows:
    """List the rows of a source, with those of other episodes than the given ones out of range."""
    rings = source.buffer.rings
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    place = jnp.where(mask.reshape(number.shape), number % rings.num_records, rings.num_records)
    wanted = jnp.full((rings.num_records, rings.num_envs), -1, jnp.int32).at[place, env].set(number, mode="drop")
    rows, _, own = _own_episodes(source)
    return rows.replace(env=jnp.where(wanted[own % rings.num_records, rows.env] == own, rows.env, -1))


def _own_episodes(source: Whole | Subset) -> tuple[Rows, jax.Array, jax.Array]:
    """List a source's rows, which can be read, and their episodes' numbers, any where they cannot."""
    rows, valid = source.every_row()
    _, _, number, _ = lookup.find_readable(source.buffer.rings, rows)
    return rows, valid, jnp.maximum(number, 0)


@functools.partial(jax.jit, static_argnames="fractions", inline=True)
def _split_rows(
    source: Whole | Subset, key: jax.Array, fractions: tuple[float, ...]
) -> tuple[Rows, list[tuple[jax.Array, jax.Array]]]:
    """Order every row by part, those that nothing can read last; list each part's first row and how many it has."""
    rings = source.buffer.rings
    rows, valid, own = _own_episodes(source)
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
    firsts = jnp.cumsum(counts, dtype=jnp.int32) - counts
    return jax.tree.map(lambda x: x[by_part], rows), [(firsts[i], counts[i]) for i in range(len(fractions))]


def _split(source: Whole | Subset, key: jax.Array, fractions: tuple[float, ...]) -> tuple[Subset, ...]:
    rows, parts = _split_rows(source, key, fractions)
    return tuple(Subset(source.buffer, rows, first, count) for first, count in parts)
