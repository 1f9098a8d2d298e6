"""Several sources as one."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.loops import find_interval
from jaxreplay._core.rings import MAX_INDEX, Span
from jaxreplay.samplers.numbered import Numbered, draw_uniform, one_over
from jaxreplay.sources.base import Source, as_source_rows, merge, read
from jaxreplay.sources.checks import check_sources
from jaxreplay.sources.subset import Subset
from jaxreplay.sources.whole import Whole
from jaxreplay.state import Buffer
from jaxreplay.types import Sample, SourceRows
from jaxreplay.views import View


def concat(sources: Sequence[Buffer | Subset | Concat]) -> Concat:
    """Address several sources as one: every row of any of them has the same probability, whatever their samplers.

    A sample's rows are `SourceRows`. Reading gathers from every buffer, so it costs as much as sampling each.
    Raises ValueError where the stored structures differ, and TypeError for a mixture among the sources.
    """
    parts: list[Whole | Subset] = []
    for i, source in enumerate(check_sources("concat", sources)):
        if isinstance(source, Concat):
            parts += source.sources
        elif isinstance(source, Whole | Subset):
            parts.append(source)
        else:
            raise TypeError(f"concat: source {i} is a mixture, whose rows have no common probability; mix last")
    rows = sum(part.buffer.num_slots * part.buffer.num_envs for part in parts)
    if rows > MAX_INDEX:
        raise ValueError(f"concat: {rows} rows in all do not fit in 31-bit numbers")
    return Concat(tuple(parts))


class Concat(Source):
    """Several sources as one, made by `concat`."""

    sources: tuple[Whole | Subset, ...]

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(part.buffer for part in self.sources)

    def size(self) -> jax.Array:
        return self._joined([part.readable() for part in self.sources]).total

    def ordered(self) -> Numbered:
        return self._joined([part.ordered() for part in self.sources])

    def every_row(self) -> tuple[SourceRows, jax.Array]:
        found = [part.every_row() for part in self.sources]
        found = [(as_source_rows(rows, i), mask) for i, (rows, mask) in enumerate(found)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)

    def starts(self, rows: SourceRows, view: View) -> jax.Array:
        each = [part.starts(rows.of(i), view) for i, part in enumerate(self.sources)]
        return functools.reduce(jnp.logical_or, each)

    def sample(self, key: jax.Array, batch_size: int, view: View) -> Sample:
        held, readable = (
            self._joined([getattr(part, name)() for part in self.sources]) for name in ("held", "readable")
        )
        at_once = self.buffers[0].rings.memory.at_once
        rows, found = draw_uniform(
            key, batch_size, held, readable, lambda rows: (rows, self.starts(rows, view)), view, at_once
        )
        rows = rows.replace(source=jnp.where(found, rows.source, -1))
        spans = tuple(view.find(part.buffer.as_one, rows.of(i)) for i, part in enumerate(self.sources))
        return self._read(spans, one_over(readable.total), view, key)

    def take(self, rows: SourceRows, view: View, key: jax.Array | None) -> Sample:
        spans = tuple(part.find(rows.of(i), view) for i, part in enumerate(self.sources))
        return self._read(spans, one_over(self.size()), view, key)

    def _read(self, spans: tuple[Span, ...], probability: jax.Array, view: View, key: jax.Array | None) -> Sample:
        each = zip(self.buffers, spans, strict=True)
        return merge([read(buffer.as_one, span, probability, view, key, i) for i, (buffer, span) in enumerate(each)])

    def _joined(self, parts: list[Numbered]) -> Numbered:
        """Number the rows of all parts, one part after the other."""
        ends = jnp.cumsum(jnp.stack([part.total for part in parts]), dtype=jnp.int32)

        def at(number: jax.Array) -> SourceRows:
            index = jnp.minimum(find_interval(ends, number), len(parts) - 1)
            chosen = as_source_rows(parts[0].at(number), 0)
            for i, part in enumerate(parts[1:], 1):
                chosen = trees.choose(index == i, as_source_rows(part.at(number - ends[i - 1]), i), chosen)
            return chosen

        return Numbered(ends[-1], at)
