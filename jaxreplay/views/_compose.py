"""Views over views: columns of a batch, any pure function of it, and their chaining."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.layout import from_raw, to_raw
from jaxreplay._core.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views._episode import EpisodeView
from jaxreplay.views._frame_stack import FrameStackView
from jaxreplay.views._hindsight import HindsightView
from jaxreplay.views._transition import TransitionView, transition
from jaxreplay.views.base import Over, View, check_view


def map(fn: Callable[[Any], Any]) -> MapView:
    """Apply a pure function to the batch. Give the same function each time: another one compiles anew.

    Leaves `[B, ...]` of what it gives are zeros where the sample's `mask` is False, as in any batch.
    """
    if not callable(fn):
        raise TypeError(f"map: expected a function of the batch, got {type(fn).__name__}")
    return MapView(fn)


def select(*parts: str) -> MapView:
    """Keep parts of the batch, by path: a dict of them, `{"observation": ..., "extras.log_prob": ...}`.

    What is not kept is not read. Raises ValueError for no parts, and, when sampling, for parts that are not there.
    """
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"select: expected names of parts, as select('observation', 'action'), got {parts}")
    return MapView(_Select(parts))


def compose(*views: View) -> View:
    """Chain views, the first is applied first: `compose(frame_stack(4), n_step(3, 0.99), select("reward"))`.

    `frame_stack` goes under the one view that says which steps to read (`n_step`, `window`, `sequence`); `map`,
    `select` and `with_episode` go over it, or over `hindsight`. Raises ValueError, when built, for a chain without a
    meaning.
    """
    if not views:
        raise ValueError("compose: expected at least one view")
    chain = check_view(views[0])
    for view in views[1:]:
        chain = _over(chain, check_view(view))
    return chain


@dataclasses.dataclass(frozen=True)
class MapView(Over):
    """See `map`; `base` is the view whose batch is mapped."""

    fn: Callable[[Any], Any]
    base: View = dataclasses.field(default_factory=transition)

    def batch(self, step: PyTree, span: Span) -> PyTree:
        base = self.base.batch(step, span)
        zeros = {id(leaf) for leaf in jax.tree.leaves(base)}  # where a row is not valid: what is passed on as it came
        return jax.tree.map(lambda x: x if id(x) in zeros else _zero_unless(span.valid, x), self.fn(base))


@dataclasses.dataclass(frozen=True)
class _Select:
    """The function of `select`."""

    parts: tuple[str, ...]

    def __call__(self, batch: PyTree) -> dict[str, PyTree]:
        return {part: get_part("select: the batch", batch, part) for part in self.parts}


def get_part(what: str, tree: PyTree, part: str) -> PyTree:
    """Return a part of a batch or a step, or raise ValueError naming those that there are."""
    try:
        return trees.get_part(tree, part)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        there = ", ".join(path for path, _ in trees.paths(tree))
        raise ValueError(f"{what} has no {part!r}; it has: {there}") from error


def _zero_unless(valid: jax.Array, x: Any) -> Any:
    """Give `x` `[B, ...]` with zeros where `valid` `[B]` is False; what has other axes, as it is."""
    if jnp.shape(x)[:1] != valid.shape:
        return x
    x = jnp.asarray(x)
    if trees.is_key_dtype(x.dtype):
        return from_raw(_zero_unless(valid, to_raw(x)), x.dtype)
    return trees.choose(valid, x, jnp.zeros_like(x))


def _over(under: View, view: View) -> View:
    """Put a view over another."""
    if isinstance(view, FrameStackView | EpisodeView) and getattr(under, "across", False):
        raise ValueError(f"compose: {view} over {under}: its steps are of several episodes")
    if isinstance(view, MapView | EpisodeView) and isinstance(view.base, TransitionView):
        return dataclasses.replace(view, base=under)
    if isinstance(under, FrameStackView) and isinstance(under.base, TransitionView) and not _modifies(view):
        if getattr(view, "across", False):
            raise ValueError(f"compose: {view} over {under}: stacks of its steps would cross the ends of episodes")
        return dataclasses.replace(under, base=view)
    raise ValueError(
        f"compose: {view} over {under} has no meaning: frame_stack comes first, then at most one of n_step, "
        "window, offsets and sequence, then map, select and with_episode; hindsight has only these over it"
    )


def _modifies(view: View) -> bool:
    """Tell whether a view changes what another reads or gives, and so cannot say itself which steps to read."""
    return isinstance(view, MapView | EpisodeView | FrameStackView | HindsightView)
