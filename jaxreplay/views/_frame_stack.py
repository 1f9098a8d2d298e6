"""Frame stacks (Mnih et al. 2015): store single frames, sample the last n of them stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay._core.trees import is_below
from jaxreplay.views._transition import transition
from jaxreplay.views.base import At, Columns, Fill, Over, Stack, View, as_columns, check_fill


def frame_stack(n: int, axis: int = 0, fill: str = "edge", parts: str | Iterable[str] | None = None) -> FrameStackView:
    """View each row as its transition with the last n observations stacked, and so its next observation.

    axis: where the frames go in an observation: 0, a new leading axis as Gymnasium's own frame stack gives, costs no
    transpose; -1, a new last one, moves every byte once more.
    fill: what stands before the episode's first held frame: "edge" that frame again, "zero" zeros.
    parts: by path, what to stack; by default all that has a next value. Only such parts can be stacked.

    `observation` and `next_observation` share their frames in one gather, and the next stack of an episode's last step
    holds the true final observation. `compose(frame_stack(4), n_step(3, 0.99))` puts another view over the stacks.
    `init_frames` and `push_frames` make the same stacks while acting.
    Raises ValueError for n < 1, another fill, and, when sampling, parts that cannot be stacked or lack the axis.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> example = {"obs": jnp.int32(0), "next": jnp.int32(0), "end": jnp.bool_(False)}
    >>> buffer = replay.create(example, 8, next_of={"next": "obs"}, episode_end="end")
    >>> steps = {"obs": jnp.arange(5), "next": jnp.array([1, 2, 99, 4, 5]), "end": jnp.arange(5) == 2}
    >>> rows = replay.Rows(time=jnp.array([0, 2, 4]), env=jnp.array([0, 0, 0]))
    >>> batch = replay.take(replay.extend(buffer, steps), rows, replay.views.frame_stack(3)).data
    >>> batch["obs"].tolist(), batch["next"].tolist()
    ([[0, 0, 0], [0, 1, 2], [3, 3, 4]], [[0, 0, 1], [1, 2, 99], [3, 4, 5]])
    """
    trees.check_count("n", n)
    axis = trees.check_count("axis", axis, -(2**30))
    parts = (parts,) if isinstance(parts, str) else parts
    return FrameStackView(int(n), axis, check_fill(fill), None if parts is None else tuple(parts))


@dataclasses.dataclass(frozen=True)
class FrameStackView(Over):
    """See `frame_stack`; `base` is the view that is put over the stacks."""

    n: int
    axis: int
    fill: Fill
    parts: tuple[str, ...] | None
    base: View = dataclasses.field(default_factory=transition)

    def columns(self, layout: Layout) -> Columns:
        asked = self.base.columns(layout)
        stacked, leaves = dict(asked), self._stacked_leaves(layout)
        for (path, follows), part in zip(leaves.items(), trees.longest_parts([*leaves], asked), strict=True):
            if part is None:
                continue
            columns, single = as_columns(asked[part])
            stacks = tuple(self._stack(at, int(follows)) for at in columns if isinstance(at, At))
            if stacks:
                stacked[path] = stacks[0] if single else stacks
        return stacked

    def _stacked_leaves(self, layout: Layout) -> dict[str, bool]:
        """Find the paths of leaves to stack, and whether each follows from another."""
        if not layout.sources:
            raise ValueError("frame_stack: no part of these steps has a next value; create the buffer with next_of")
        parts, followed = layout.sources if self.parts is None else self.parts, layout.followed
        chosen = {i for i, leaf in enumerate(layout.leaves) if any(is_below(leaf.path, part) for part in parts)}
        wrong = sorted({layout.leaves[i].path for i in chosen - followed})
        unknown = [part for part in parts if not any(is_below(path, part) for path in layout.paths)]
        if wrong or unknown or not chosen:
            names = ", ".join([*wrong, *unknown]) or "nothing"
            raise ValueError(f"frame_stack: {names} cannot be stacked; what has a next value: {list(layout.sources)}")
        found = [leaf for i, leaf in enumerate(layout.leaves) if i in chosen or leaf.next_of in chosen]
        for leaf in found:
            self.check_axis(leaf.path, len(leaf.shape))
        return {leaf.path: leaf.next_of is not None for leaf in found}

    def stacks(self, path: str) -> bool:
        """Tell whether the leaf at a path, of what has a next value, is stacked."""
        return self.parts is None or any(is_below(path, part) for part in self.parts)

    def check_axis(self, path: str, ndim: int) -> None:
        """Raise ValueError unless a stack of the leaf has the axis."""
        if not -(ndim + 1) <= self.axis <= ndim:
            raise ValueError(
                f"frame_stack: axis {self.axis} is out of bounds for {path}, which has {ndim} axes, {ndim + 1} when "
                f"stacked; expected {-(ndim + 1)} to {ndim}"
            )

    def _stack(self, at: At, follows: int) -> Stack:
        """Stack the frames up to a step's own, or up to the one after it."""
        back = range(follows - (self.n - 1), follows + 1)
        return Stack(tuple(At(at.steps, at.fill, i, self.fill) for i in back), self.axis)
