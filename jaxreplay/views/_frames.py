"""The frames of a `frame_stack` while acting: the same stacks, made of observations as they come."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay._core import trees
from jaxreplay._core.layout import from_raw, to_raw
from jaxreplay.types import PyTree, Transition
from jaxreplay.views._frame_stack import FrameStackView
from jaxreplay.views.base import View


class Frames(struct.PyTreeNode):
    """The last n frames of each env; see `init_frames`.

    stacked: an observation with its frames stacked as the view reads them, leaves `[E, n, ...]`, `[n, ...]` for a
        single stream. What the view does not stack is the newest, `[E, ...]`.
    fresh: `[E]` bool, whether an env has no frame yet.
    """

    stacked: PyTree
    fresh: jax.Array | np.ndarray
    view: FrameStackView = struct.field(pytree_node=False)
    part: str = struct.field(pytree_node=False)


def init_frames(view: View, example: PyTree, num_envs: int | None = None, part: str = "observation") -> Frames:
    """Begin to stack frames for acting, as a `frame_stack` view stacks them for learning; there are none yet.

    view: `views.frame_stack(...)`, the one that `sample` reads with. An n-step or window view composed over it is
        ignored; a `map`, `select` or `with_episode` over it is refused.
    example: the observation of one env, arrays or `jax.ShapeDtypeStruct`, as in the example of `create`.
    num_envs: E, or None for a single stream. part: the observation's path in a stored step, as `view.parts` name it.

    The stacks are those that the view reads for the same rows, bit for bit, as long as the ring holds their frames.
    Store single frames, and show the policy `frames.stacked`; `rollout` and `collect` do so with `frames=`. For
    `jax.shard_map` make the frames of all devices outside, as a buffer, and split them over their first axis.
    Raises TypeError for another view and a whole transition, ValueError where nothing is to be stacked or the axis is
    out of bounds.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> frames = replay.views.init_frames(replay.views.frame_stack(3), jnp.float32(0), num_envs=2)
    >>> for observation, reset in (([1.0, 5.0], [True, True]), ([2.0, 6.0], [False, True])):
    ...     frames = replay.views.push_frames(frames, jnp.array(observation), jnp.array(reset))
    >>> frames.stacked.tolist()
    [[1.0, 1.0, 2.0], [6.0, 6.0, 6.0]]
    """
    if not isinstance(view, FrameStackView):
        raise TypeError(
            f"view: expected views.frame_stack(...), got {view!r}; give the frame_stack alone, without a map, "
            "select or with_episode over it"
        )
    if isinstance(example, Transition):
        raise TypeError("example: expected an observation, got a Transition; pass example.observation")
    lead = () if num_envs is None else (trees.check_count("num_envs", num_envs),)
    zeros, chosen = [], 0
    for path, leaf in trees.paths(example):
        shape, dtype = trees.shape_dtype(path, leaf)
        if view.stacks(_path_in(part, path)):
            view.check_axis(_path_in(part, path), len(shape))
            axis, chosen = view.axis % (len(shape) + 1), chosen + 1
            shape = (*shape[:axis], view.n, *shape[axis:])
        shape, is_key = (*lead, *shape), trees.is_key_dtype(dtype)
        words = jax.eval_shape(to_raw, jax.ShapeDtypeStruct(shape, dtype)) if is_key else None
        zeros.append(np.zeros(shape, dtype) if words is None else from_raw(jnp.zeros(words.shape, words.dtype), dtype))
    if not chosen:
        has = [x for x, _ in trees.paths(example)]
        raise ValueError(
            f"view: {view} stacks nothing of {part!r}, which has: {has}; part= names the observation in a stored step"
        )
    return Frames(jax.tree.unflatten(jax.tree.structure(example), zeros), np.ones(lead, np.bool_), view, part)


def push_frames(frames: Frames, observation: PyTree, reset: Any = None) -> Frames:
    """Push the newest observation of every env, leaves `[E, ...]`, and give the stacks that end with it.

    reset: `[E]` bool, where an observation begins an episode; an env's first one does so anyway. Before an episode's
        first frame stands what the view fills with.

    A pure function, in jit as well; of NumPy arrays alone it gives NumPy arrays, and dispatches nothing.
    Raises ValueError or TypeError for another structure, shape or dtype than the example's.
    """
    if not isinstance(frames, Frames):
        raise TypeError(f"frames: expected what init_frames gives, got {type(frames).__name__}")
    view, lead = frames.view, frames.fresh.shape
    held, treedef = jax.tree.flatten(frames.stacked)
    paths = [path for path, _ in trees.paths(frames.stacked)]
    leaves = trees.check_structure(frames.part, observation, treedef, paths)
    if reset is not None:
        trees.check_leaf("reset", reset, lead, np.dtype(np.bool_), "It marks the envs, [E], whose episodes begin.")
    on_host = not any(isinstance(x, jax.Array) for x in (*held, *leaves, frames.fresh, reset))
    axes: list[int | None] = []
    for path, old, new in zip(paths, held, leaves, strict=True):
        full, shape = _path_in(frames.part, path), list(old.shape)
        axis = len(lead) + view.axis % (old.ndim - len(lead)) if view.stacks(full) else None
        if axis is not None:
            del shape[axis]
        trees.check_leaf(full, new, tuple(shape), old.dtype, "Push what every env shows, [E, ...].")
        axes.append(axis)
    push = functools.partial(_push_all, np) if on_host else _push_on_device
    stacks, fresh = push(held, leaves, frames.fresh, reset, tuple(axes), view.fill)
    return frames.replace(stacked=jax.tree.unflatten(treedef, stacks), fresh=fresh)


def _push_all(xp: Any, held: Any, leaves: Any, fresh: Any, reset: Any, axes: tuple[int | None, ...], fill: str) -> Any:
    begins = fresh if reset is None else xp.logical_or(fresh, reset)
    each = zip(held, leaves, axes, strict=True)
    stacks = [new if axis is None else _push(xp, old, new, begins, axis, fill) for old, new, axis in each]
    return stacks, xp.zeros_like(fresh)


_push_on_device = jax.jit(functools.partial(_push_all, jnp), static_argnames=("axes", "fill"), inline=True)


def _push(xp: Any, stack: Any, new: Any, begins: Any, axis: int, fill: str) -> Any:
    """Drop the oldest frame of a stack, or all of it where an episode `begins`, and put the new one at its end."""
    dtype, n = stack.dtype, stack.shape[axis]
    stack, new = (xp.asarray(x, dtype) for x in (stack, new))
    if xp is jnp:  # bit for bit
        stack, new = to_raw(stack), to_raw(new)
    new = xp.expand_dims(new, axis)
    along = [1] * stack.ndim
    along[axis] = n
    is_newest = (np.arange(n) == n - 1).reshape(along)
    begins = begins.reshape(*begins.shape, *[1] * (stack.ndim - begins.ndim))
    # Selected, not concatenated: XLA on a CPU loses the payload of a NaN where it concatenates.
    older = xp.take(stack, np.minimum(np.arange(1, n + 1), n - 1), axis)
    stack = xp.where(is_newest, new, xp.where(begins, new if fill == "edge" else xp.zeros_like(new), older))
    return from_raw(stack, dtype) if xp is jnp else stack


def _path_in(part: str, path: str) -> str:
    return part if path == "the item" else f"{part}.{path}"
