"""Some rows of a buffer as a source."""

import functools

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.loops import bisect, vary_as
from jaxreplay._core.rings import Span
from jaxreplay.samplers.numbered import Numbered, draw_uniform, one_over
from jaxreplay.sources.base import Source, read
from jaxreplay.state import Buffer
from jaxreplay.types import Rows, Sample
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
