"""Each row with its episode: which one it is of, where in it, and what the user keeps for it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core.layout import Layout
from jaxreplay._core.records import read_data
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree
from jaxreplay.views._transition import transition
from jaxreplay.views.base import Columns, Over, View, need_episodes
from jaxreplay.views.parts import HasParts


class WithEpisode(HasParts, struct.PyTreeNode):
    """A batch, and the episode of each of its rows; zeros where the sample's `mask` is False.

    data: the batch of the view below. number: `[B]` int32, the episode's number in its env, as in `episodes`.
    index: `[B]` int32, the row's position in its episode, from 0.
    length: `[B]` int32, steps of the episode so far, those overwritten since included.
    episode_data: leaves `[B, ...]`, what `set_episode_data` kept for the episode, zeros where it kept nothing; None if
        the buffer was created without `episode_data`.
    Parts of `data` can be read without its name, as `batch.data.observation`; fields come first.
    """

    data: PyTree
    number: jax.Array
    index: jax.Array
    length: jax.Array
    episode_data: PyTree


def with_episode() -> EpisodeView:
    """View each row as a `WithEpisode`: its transition, and the number, length and data of its episode.

    A goal, a task or a seed is then stored once an episode, not in every step. Put it over another view, as
    `compose(n_step(3, 0.99), with_episode())`, and `map` over it. Raises ValueError, when sampling, for independent
    items.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> example = {"x": jnp.int32(0), "end": jnp.bool_(False)}
    >>> buffer = replay.create(example, 8, episode_end="end", episode_data={"goal": jnp.float32(0)})
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(5), "end": jnp.arange(5) == 2})
    >>> buffer = replay.set_episode_data(buffer, 0, {"goal": jnp.float32(0.5)})
    >>> rows = replay.Rows(time=jnp.array([1, 4]), env=jnp.array([0, 0]))
    >>> batch = replay.take(buffer, rows, replay.views.with_episode()).data
    >>> batch["x"].tolist(), batch.number.tolist(), batch.index.tolist(), batch.length.tolist()
    ([1, 4], [0, 1], [1, 1], [3, 2])
    >>> batch.episode_data["goal"].tolist()
    [0.0, 0.5]
    """
    return EpisodeView()


@dataclasses.dataclass(frozen=True)
class EpisodeView(Over):
    """See `with_episode`; `base` is the view below."""

    base: View = dataclasses.field(default_factory=transition)

    def columns(self, layout: Layout) -> Columns:
        need_episodes(layout, "with_episode()")
        return self.base.columns(layout)

    def narrow(self, rings: Rings, span: Span) -> Span:
        span = self.base.narrow(rings, span)
        if rings.episode_data is None:
            return span
        return span.replace(episode_data=read_data(rings, span.number, span.env, span.valid))

    def batch(self, step: PyTree, span: Span) -> WithEpisode:
        return WithEpisode(
            data=self.base.batch(step, span),
            number=jnp.where(span.valid, span.number, 0),
            index=jnp.where(span.valid, span.index, 0),
            length=jnp.where(span.valid, span.index + span.newest + 1, 0),
            episode_data=span.episode_data,
        )
