"""Windows: the steps at given offsets around a row, with a mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay import trees
from jaxreplay.layout import Layout
from jaxreplay.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import At, Columns, Fill, check_fill


class Window(struct.PyTreeNode):
    """Steps around each row: `data`, the stored structure with leaves `[B, W, ...]`, and `mask` `[B, W]` bool.

    `mask` says which steps are of the row's episode and still held.
    """

    data: PyTree
    mask: jax.Array


def window(past: int, future: int, fill: str | None = "edge") -> OffsetsView:
    """View each row with the `past` steps before it and the `future` steps after it: a `Window`, W = past + 1 + future.

    fill: what stands where the mask is False: "edge" the nearest held step of the same episode, "zero" zeros, None
    anything. Raises ValueError for negative lengths, another fill, and, when sampling, more steps than the ring holds.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 8, episode_end=lambda s: s["end"])
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(6), "end": jnp.arange(6) == 3})
    >>> rows = replay.Rows(time=jnp.array([1, 3]), env=jnp.array([0, 0]))
    >>> batch = replay.take(buffer, rows, replay.views.window(2, 1)).data
    >>> batch.data["x"].tolist(), batch.mask.tolist()
    ([[0, 0, 1, 2], [1, 2, 3, 3]], [[False, True, True, True], [True, True, True, False]])
    """
    past, future = trees.check_count("past", past, 0), trees.check_count("future", future, 0)
    return offsets(range(-past, future + 1), fill)


def offsets(steps: Sequence[int], fill: str | None = "edge") -> OffsetsView:
    """View each row through the steps at these offsets from it: a `Window`, see `window`.

    Raises ValueError unless the offsets rise and include 0.
    """
    steps = tuple(int(step) for step in steps)
    if 0 not in steps or list(steps) != sorted(set(steps)):
        raise ValueError(f"offsets: expected rising numbers that include 0, as (-8, -4, 0), got {steps}")
    return OffsetsView(steps, check_fill(fill))


@dataclasses.dataclass(frozen=True)
class OffsetsView:
    """See `offsets`."""

    steps: tuple[int, ...]
    fill: Fill

    @property
    def reach(self) -> int:
        return self.steps[-1] - self.steps[0] + 1

    def columns(self, layout: Layout) -> Columns:
        return {"": tuple(At(step, self.fill) for step in self.steps)}

    def usable(self, span: Span) -> None:
        return None

    def batch(self, step: PyTree, span: Span) -> Window:
        steps = jnp.array(self.steps, jnp.int32)
        inside = (steps >= -span.before[:, None]) & (steps <= span.after[:, None])
        return Window(data=step, mask=inside & span.valid[:, None])
