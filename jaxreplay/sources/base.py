"""What a source is: something that rows are drawn and read from."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.rings import Rings, Span
from jaxreplay.state import Buffer
from jaxreplay.types import Rows, Sample, SourceRows
from jaxreplay.views import View

VIEW = 2**32 - 1  # what is folded into a sample's key for the view's own draws; no round of redraws is that one


class Source(struct.PyTreeNode):
    """A pytree that holds its buffers as they are, and reads them as one. Rows are flat, `[B]`."""

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers, in the order of `SourceRows.source`."""
        raise NotImplementedError

    def size(self) -> jax.Array:
        """Count the rows that can be read, int32."""
        raise NotImplementedError

    def every_row(self) -> tuple[Any, jax.Array]:
        """List all rows `[N]`, and which can be read; see `replay.rows`."""
        raise NotImplementedError

    def ordered(self) -> Any:
        """Number the rows that can be read, oldest first: `samplers.numbered.Numbered`."""
        raise NotImplementedError

    def starts(self, rows: Any, view: View) -> jax.Array:
        """Tell which rows a view can start from, `[B]`."""
        raise NotImplementedError

    def sample(self, key: jax.Array, batch_size: int, view: View) -> Sample:
        """Draw rows and read them; see `replay.sample`."""
        raise NotImplementedError

    def take(self, rows: Any, view: View, key: jax.Array | None) -> Sample:
        """Read given rows; see `replay.take`."""
        raise NotImplementedError


def read(
    rings: Rings, span: Span, probability: jax.Array, view: View, key: jax.Array | None, source: int | None = None
) -> Sample:
    """Read the rows of a span through a view; their addresses are those in buffer number `source`, if it is given."""
    rows = Rows(time=span.time, env=jnp.where(span.valid, span.env, -1))
    span = draw_bits(span, view, key)
    return Sample(
        data=view.read(rings, span),
        rows=rows if source is None else as_source_rows(rows, source),
        probability=jnp.where(span.valid, probability, 0.0),
        mask=span.valid,
    )


def draw_bits(span: Span, view: View, key: jax.Array | None) -> Span:
    """Give a span the random words that the view needs, from the key of a sample."""
    if not view.num_bits or key is None:
        return span
    bits = jax.random.bits(jax.random.fold_in(key, VIEW), (*span.valid.shape, view.num_bits), jnp.uint32)
    return span.replace(bits=bits)


def as_source_rows(rows: Rows | SourceRows, source: int) -> SourceRows:
    """Address rows of a source whose first buffer is number `source`."""
    if isinstance(rows, SourceRows):
        return rows.replace(source=rows.source + source)
    return SourceRows(source=jnp.full_like(rows.time, source), time=rows.time, env=rows.env)


def check_alike(samples: Sequence[Sample]) -> None:
    """Raise ValueError unless samples have the same leaves: a view may read what sources need not have in common."""
    first, *others = [
        {(path, trees.describe(x.shape[1:], x.dtype)) for path, x in trees.paths(s.data)} for s in samples
    ]
    for i, other in enumerate(others, 1):
        if other != first:
            came, expected = (
                ", ".join(f"{path} {x}" for path, x in sorted(xs)) or "nothing" for xs in (other - first, first - other)
            )
            raise ValueError(
                f"source {i} gives other leaves than source 0: through with_episode() all sources must keep the same "
                f"episode_data; got {came}, expected {expected}"
            )


def merge(samples: Sequence[Sample]) -> Sample:
    """Merge samples of which at most one has a real row in each place of the batch."""
    check_alike(samples)
    chosen = samples[0]
    for sample in samples[1:]:
        chosen = trees.choose(sample.mask, sample, chosen)
    return chosen
