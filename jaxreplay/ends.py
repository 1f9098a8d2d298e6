"""Which step ends its episode: flags of the step, named by path, or a function of the user's."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay.types import PyTree, Transition

EpisodeEnd: TypeAlias = tuple[str, ...] | Callable[[PyTree], Any]
"""Paths of bool leaves, or a hashable function of one step. Equal paths make buffers of one structure."""

OF_TRANSITION = ("terminated", "truncated")


def resolve(example: PyTree, episode_end: Any) -> EpisodeEnd | None:
    """Return the flags' paths as a tuple, the function as it is, and a transition's flags for None."""
    if episode_end is None:
        return OF_TRANSITION if isinstance(example, Transition) else None
    if isinstance(episode_end, str):
        return (episode_end,)
    if isinstance(episode_end, Sequence) and episode_end and all(isinstance(path, str) for path in episode_end):
        return tuple(dict.fromkeys(episode_end))
    if not callable(episode_end):
        raise TypeError(f"episode_end: expected a path, several, or a function of one step, got {episode_end!r}")
    try:
        hash(episode_end)
    except TypeError as error:
        what = f"episode_end: expected a hashable function (it shapes the program), got {episode_end!r}"
        raise TypeError(what) from error
    return episode_end


def check(episode_end: EpisodeEnd, layout: Layout) -> None:
    """Raise ValueError unless it says of one step, as a bool scalar, whether its episode ends."""
    if not isinstance(episode_end, tuple):
        _check_function(episode_end, layout)
        return
    leaves, shapes = {leaf.path: leaf for leaf in layout.leaves}, {}
    for path in episode_end:
        below = [other for other in leaves if trees.is_below(other, path)]
        if path not in leaves and below:
            raise ValueError(
                f"episode_end: {path} is a structure, with the leaves {', '.join(below)}; name those that end the "
                "episode if any is set, as episode_end=(...), or give a function: episode_end=lambda step: ..."
            )
        if path not in leaves:
            raise ValueError(f"episode_end: the example has no leaf {path!r}; its leaves: {', '.join(leaves)}")
        shape, dtype = leaves[path].shape, leaves[path].dtype
        if dtype != jnp.bool_:
            named, _ = jax.tree_util.tree_flatten_with_path(layout.one_step())
            keys = named[layout.paths.index(path)][0]
            step = "step" + jax.tree_util.keystr(keys).replace("'", '"')  # as a function names it: step["done"]
            raise ValueError(
                f"episode_end: {path}: expected a bool scalar, got {trees.describe(shape, dtype)}; "
                f"compare it in a function: episode_end=lambda step: {step} > 0"
            )
        shapes |= {path: shape} if shape else {}
    if len(set(shapes.values())) > 1:
        came = ", ".join(f"{path} bool{list(shape)}" for path, shape in shapes.items())
        raise ValueError(
            f"episode_end: flags with axes must have one shape, got {came}; give a function of one step that makes one "
            "bool scalar of them: episode_end=lambda step: ..."
        )


def _check_function(episode_end: Callable[[PyTree], Any], layout: Layout) -> None:
    try:
        ended = jax.eval_shape(episode_end, layout.one_step())
    except (KeyError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(
            f"episode_end: the function raised {type(error).__name__}: {error}; the step's leaves: "
            f"{', '.join(layout.paths)}"
        ) from error
    shape, dtype = getattr(ended, "shape", None), getattr(ended, "dtype", None)
    if shape != () or dtype != jnp.bool_:
        came = type(ended).__name__ if shape is None else trees.describe(shape, dtype)
        way_out = 'compare numbers, as step["done"] > 0, and reduce axes, as jnp.all(step["done"])'
        raise ValueError(f"episode_end: expected a bool scalar for one step, got {came}; {way_out}")


def ended(episode_end: EpisodeEnd, layout: Layout, leaves: Sequence[jax.Array]) -> jax.Array:
    """Say which steps of a block, leaves `[L, E, ...]`, are their episode's last: `[L, E]` bool.

    One of several flags is enough. Flags with axes, as of several agents, end the episode when all along them are set.
    """
    if not isinstance(episode_end, tuple):
        return jax.vmap(jax.vmap(episode_end))(jax.tree.unflatten(layout.treedef, leaves))
    flags = [leaves[layout.paths.index(path)] for path in episode_end]
    ndim = max(flag.ndim for flag in flags)
    flags = [flag.reshape(*flag.shape, *[1] * (ndim - flag.ndim)) for flag in flags]
    return jnp.all(functools.reduce(operator.or_, flags), axis=tuple(range(2, ndim)))


@functools.lru_cache(maxsize=64)
def read_by(episode_end: EpisodeEnd, layout: Layout) -> frozenset[int]:
    """Give the indices of the leaves that decide where episodes end; of a function, those its program reads."""
    if isinstance(episode_end, tuple):
        return frozenset(map(layout.paths.index, episode_end))
    program = jax.make_jaxpr(episode_end)(layout.one_step()).jaxpr
    read = {id(x) for x in (*program.outvars, *(x for equation in program.eqns for x in equation.invars))}
    return frozenset(i for i, x in enumerate(program.invars) if id(x) in read)
