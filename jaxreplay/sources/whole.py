"""A buffer as a source: the plain path of `sample` and `take`."""

import functools
from typing import Any

import jax

from jaxreplay._core import lookup
from jaxreplay._core.order import nth_in_order
from jaxreplay._core.rings import Span
from jaxreplay.samplers.numbered import Numbered, held_rows, readable_rows
from jaxreplay.sources.base import Source, read
from jaxreplay.state import Buffer, way_out
from jaxreplay.types import Rows, Sample
from jaxreplay.views import View


class Whole(Source):
    """All rows of a buffer, drawn by its own sampler."""

    buffer: Buffer

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)

    def size(self) -> jax.Array:
        return self.readable().total

    def held(self) -> Numbered:
        return held_rows(self.buffer.as_one)

    def readable(self) -> Numbered:
        return readable_rows(self.buffer.as_one)

    def ordered(self) -> Numbered:
        return Numbered(self.size(), functools.partial(nth_in_order, self.buffer.rings))

    def every_row(self) -> tuple[Rows, jax.Array]:
        rings = self.buffer.as_one
        return lookup.all_rows(rings), lookup.all_valid(rings)

    def find(self, rows: Rows, view: View) -> Span:
        """Say where rows are, `valid` where they are of the source and the view can start from them."""
        return view.find(self.buffer.as_one, rows)

    def starts(self, rows: Rows, view: View) -> jax.Array:
        return view.starts(self.buffer.as_one, rows)

    def sample(self, key: jax.Array, batch_size: int, view: View) -> Sample:
        buffer, rings = self.buffer, self.buffer.rings if self.buffer.stack is None else self.buffer.as_one
        span, probability = buffer.sampler.draw(buffer.sampler_state, rings, key, batch_size, view)
        return read(rings, span, probability, view, key)

    def take(self, rows: Rows, view: View, key: jax.Array | None) -> Sample:
        buffer, span = self.buffer, self.find(rows, view)
        probability = buffer.sampler.probability(buffer.sampler_state, buffer.as_one, span)
        return read(buffer.as_one, span, probability, view, key)


def as_source(what: str, came: Any) -> Source:
    """Return a buffer, or what is made of buffers, as a source; raise TypeError naming the function and the way out."""
    if isinstance(came, Source):
        return came
    if isinstance(came, Buffer):
        return Whole(came)
    expected = "expected a buffer, or a source made of buffers"
    raise TypeError(f"{what}: {expected}, got {type(came).__name__}{way_out(came)}")
