"""Several sources in fixed proportions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay._core.loops import find_interval
from jaxreplay.sources.base import Source, as_source_rows, check_alike, merge
from jaxreplay.sources.checks import check_shares, check_sources
from jaxreplay.sources.concat import Concat
from jaxreplay.sources.subset import Subset
from jaxreplay.state import Buffer
from jaxreplay.types import Sample, SourceRows
from jaxreplay.views import View


def mixture(sources: Sequence[Buffer | Subset | Concat], proportions: Sequence[float]) -> Mixture:
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
    made = check_sources("mixture", sources)
    shares = check_shares("proportions", proportions)
    if len(shares) != len(made):
        raise ValueError(f"proportions: expected one for each of {len(made)} sources, got {len(shares)}")
    for i, source in enumerate(made):
        if isinstance(source, Mixture):
            raise TypeError(f"mixture: source {i} is a mixture itself; name all sources in one")
    return Mixture(made, shares)


class Mixture(Source):
    """Several sources in fixed proportions, made by `mixture`."""

    sources: tuple[Source, ...]
    proportions: tuple[float, ...] = struct.field(pytree_node=False)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(buffer for part in self.sources for buffer in part.buffers)

    def size(self) -> jax.Array:
        return jnp.sum(jnp.stack([part.size() for part in self.sources]), dtype=jnp.int32)

    def every_row(self) -> tuple[SourceRows, jax.Array]:
        found = []
        for part, first in self._numbered():
            rows, mask = part.every_row()
            found.append((as_source_rows(rows, first), mask))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)

    def sample(self, key: jax.Array, batch_size: int, view: View) -> Sample:
        """Sample each source for the most rows it can have, then pick; where proportions give whole rows, all are."""
        shares = [batch_size * Fraction(share).limit_denominator(10**6) for share in self.proportions]
        *keys, key = jax.random.split(key, len(shares) + 1)
        batches = []
        for (part, first), share, proportion, part_key in zip(self._numbered(), shares, self.proportions, keys):
            if share:
                batch = part.sample(part_key, math.ceil(share), view)
                batches.append(_as_part(batch, first, proportion))
        check_alike(batches)
        every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
        if all(share.denominator == 1 for share in shares):
            return every
        index = _pick_systematically(key, batch_size, shares)
        return jax.tree.map(lambda leaf: leaf[index], every)

    def take(self, rows: SourceRows, view: View, key: jax.Array | None) -> Sample:
        samples = []
        for (part, first), proportion in zip(self._numbered(), self.proportions, strict=True):
            mine: Any = rows.replace(source=rows.source - first) if isinstance(part, Concat) else rows.of(first)
            samples.append(_as_part(part.take(mine, view, key), first, proportion))
        return merge(samples)

    def _numbered(self) -> list[tuple[Source, int]]:
        """List the sources with the number of each one's first buffer."""
        counts = [len(part.buffers) for part in self.sources]
        return list(zip(self.sources, itertools.accumulate([0, *counts])))


def _as_part(batch: Sample, first: int, proportion: float) -> Sample:
    """Make a source's batch a part of a mixture's."""
    scaled = batch.probability * jnp.float32(proportion)
    return batch.replace(rows=as_source_rows(batch.rows, first), probability=scaled)


def _pick_systematically(key: jax.Array, batch_size: int, shares: list[Fraction]) -> jax.Array:
    """Pick `[B]` of the joined rows of each source, as many as its share on average.

    Row j of the batch lies at j + offset, the offset uniform in [0, 1), and belongs to the source whose share of the
    batch covers it; it is the next row of that source.
    """
    shares = [share for share in shares if share]
    at = jnp.arange(batch_size, dtype=jnp.float32) + jax.random.uniform(key, dtype=jnp.float32)
    ends = [float(end) for end in itertools.accumulate(shares)]
    part = find_interval(jnp.asarray(ends[:-1], jnp.float32), at)
    before = find_interval(part, jnp.arange(-1, len(shares) - 1, dtype=jnp.int32))  # rows of the sources before each
    nth = jnp.arange(batch_size, dtype=jnp.int32) - before[part]
    counts = np.array([math.ceil(share) for share in shares])
    start, last = (jnp.asarray(x, jnp.int32)[part] for x in (np.cumsum(counts) - counts, counts - 1))
    return start + jnp.minimum(nth, last)
