"""Windows: the steps at given offsets around a row, with a mask."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.episode_numbers import VOID
from jaxreplay._core.gather import gather_leaf
from jaxreplay._core.layout import Layout
from jaxreplay._core.lookup import find_slots, own_word
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree, Rows
from jaxreplay.views.base import At, Columns, Fill, View, check_fill, need_episodes
from jaxreplay.views.parts import HasParts


class Window(HasParts, struct.PyTreeNode):
    """Steps around each row: `data`, the stored structure with leaves `[B, W, ...]`, and `mask` `[B, W]` bool.

    `mask` says which steps are of the row's episode and still held. Parts of `data` can be read without its name, as
    `batch.data.observation`, or `batch.data["obs"]` of a dict; fields come first.
    """

    data: PyTree
    mask: jax.Array


def window(
    past: int,
    future: int,
    fill: str | None = "edge",
    *,
    episode_id: str | None = None,
    episode_end: str | Sequence[str] | None = None,
) -> OffsetsView:
    """View each row with the `past` steps before it and the `future` steps after it: a `Window`, W = past + 1 + future.

    fill: what stands where the mask is False: "edge" the nearest held step of the same episode, "zero" zeros, None
    anything. episode_id, episode_end: see `offsets`. Raises ValueError for negative lengths, another fill, and, when
    sampling, more steps than the ring holds.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 8, episode_end="end")
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(6), "end": jnp.arange(6) == 3})
    >>> rows = replay.Rows(time=jnp.array([1, 3]), env=jnp.array([0, 0]))
    >>> batch = replay.take(buffer, rows, replay.views.window(2, 1)).data
    >>> batch["x"].tolist(), batch.mask.tolist()
    ([[0, 0, 1, 2], [1, 2, 3, 3]], [[False, True, True, True], [True, True, True, False]])
    """
    past, future = trees.check_count("past", past, 0), trees.check_count("future", future, 0)
    return offsets(range(-past, future + 1), fill, episode_id=episode_id, episode_end=episode_end)


def offsets(
    steps: Sequence[int],
    fill: str | None = "edge",
    *,
    episode_id: str | None = None,
    episode_end: str | Sequence[str] | None = None,
) -> OffsetsView:
    """View each row through the steps at these offsets from it: a `Window`, see `window`.

    episode_id, episode_end: parts of the steps, by path, that say where episodes are, instead of the buffer's own
        record of them: a number that neighbouring steps of one episode share, or flags (one or several) of which any is
        set at the step that ends an episode. So windows work over independent items that were stored in order, and over
        sections of episodes; where next observations are stored, windows stay in the buffer's own episodes as well.
        Void rows end an episode too. All steps from the first offset to the last are looked at.
    Raises ValueError unless the offsets rise and include 0, and for both an id and an end.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "id": jnp.int32(0)}, 8)
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(6), "id": jnp.array([7, 7, 7, 9, 9, 9])})
    >>> rows = replay.Rows(time=jnp.array([2, 3]), env=jnp.array([0, 0]))
    >>> view = replay.views.offsets((-2, 0, 1), episode_id="id")
    >>> replay.take(buffer, rows, view).data["x"].tolist()
    [[0, 2, 2], [3, 3, 4]]
    """
    steps = tuple(trees.check_count("offsets", step, -(2**30)) for step in steps)
    if 0 not in steps or list(steps) != sorted(set(steps)):
        raise ValueError(f"offsets: expected rising numbers that include 0, as (-8, -4, 0), got {steps}")
    if episode_id is not None and episode_end is not None:
        raise ValueError("offsets: give episode_id or episode_end, not both")
    ends = (episode_end,) if isinstance(episode_end, str) else tuple(episode_end or ())
    return OffsetsView(steps, check_fill(fill), episode_id, ends)


@dataclasses.dataclass(frozen=True)
class OffsetsView(View):
    """See `offsets`."""

    steps: tuple[int, ...]
    fill: Fill
    episode_id: str | None
    episode_end: tuple[str, ...]

    @property
    def reach(self) -> int:
        return self.steps[-1] - self.steps[0] + 1

    def columns(self, layout: Layout) -> Columns:
        if self.steps != (0,) and self.episode_id is None and not self.episode_end:
            need_episodes(layout, f"offsets({self.steps}) without episode_id or episode_end")
        return {"": tuple(At(step, self.fill) for step in self.steps)}

    def narrow(self, rings: Rings, span: Span) -> Span:
        if self.episode_id is None and not self.episode_end:
            return span
        first, last = self.steps[0], self.steps[-1]
        around = jnp.arange(first, last + 1, dtype=jnp.int32)[None]  # [1, N]
        time = span.time[:, None] + around
        slot, env, held = find_slots(rings, Rows(time, jnp.broadcast_to(span.env[:, None], time.shape)))
        there = held & (own_word(rings, slot, env, 0) != VOID)
        read = functools.partial(_read_scalar, rings, slot=slot, env=env)
        if self.episode_id is not None:
            number = read(self.episode_id)
            same = number == number[:, -first, None]
            before, after = there & same, there & same
        else:
            goes_on = ~functools.reduce(jnp.logical_or, [read(part).astype(jnp.bool_) for part in self.episode_end])
            before, after = there & goes_on, there.at[:, 1:].set(there[:, 1:] & goes_on[:, :-1])
        reach = _run(before[:, :-first][:, ::-1]), _run(after[:, 1 - first :])
        if rings.layout.followed:  # a next observation is known within the buffer's own episodes alone
            reach = jnp.minimum(reach[0], span.before), jnp.minimum(reach[1], span.after)
        return span.replace(before=jnp.where(span.valid, reach[0], 0), after=jnp.where(span.valid, reach[1], 0))

    def batch(self, step: PyTree, span: Span) -> Window:
        steps = jnp.array([self.steps], jnp.int32)
        inside = (steps >= -span.before[:, None]) & (steps <= span.after[:, None])
        return Window(data=step, mask=inside & span.valid[:, None])


def _run(x: jax.Array) -> jax.Array:
    """Count the True before the first False, `[B]` of `[B, N]`."""
    return jnp.sum(jnp.cumprod(x.astype(jnp.int32), axis=1), axis=1, dtype=jnp.int32)


def _read_scalar(rings: Rings, part: str, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Read a stored scalar leaf; raises ValueError where it is none."""
    for index, leaf in enumerate(rings.layout.leaves):
        if leaf.path == part and leaf.shape == () and leaf.next_of is None:
            return gather_leaf(rings, index, slot, env)
    scalars = [leaf.path for leaf in rings.layout.leaves if leaf.shape == () and leaf.next_of is None]
    raise ValueError(f"offsets: {part!r} is no stored scalar; these are: {', '.join(scalars) or 'none'}")
