"""Uniform sampling: every row with the same probability, exactly."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.rings import Rings, Span
from jaxreplay.samplers.distinct import draw_distinct
from jaxreplay.samplers.numbered import Numbered, draw_uniform, held_rows, one_over, readable_rows
from jaxreplay.types import Rows
from jaxreplay.views import View


def uniform(replacement: bool = True) -> Uniform:
    """Give every row that can be read, and that the view can start from, the same probability.

    Rows are drawn from the whole ring, and drawn again where they are void, removed or refused by the view; one round
    is the common case. What a few rounds leave open is drawn by rank among the rows that can be read, so a batch is
    always filled where the view takes any row. For a view that refuses most rows, up to 256 are tried for each, and the
    sample's `mask` says what could not be filled.

    replacement: False draws no row twice in a batch: every set of B rows has the same probability. Where fewer than B
    rows can be drawn, each comes once, and the rest has `mask` False; a batch that is not small against the rows there
    are costs a pass over the ring.
    """
    return Uniform(trees.check_flag("replacement", replacement))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """See `uniform`."""

    replacement: bool = True

    def init(self, num_slots: int, num_envs: int) -> tuple[()]:
        return ()

    def on_write(self, state: tuple[()], rings: Rings, slots: jax.Array, valid: jax.Array) -> tuple[()]:
        return state

    def on_write_member(
        self, state: tuple[()], rings: Rings, member: jax.Array, slots: jax.Array, valid: jax.Array
    ) -> tuple[()]:
        return state

    def on_remove(self, state: tuple[()], rings: Rings, rows: Rows) -> tuple[()]:
        return state

    def draw(
        self, state: tuple[()], rings: Rings, key: jax.Array, batch_size: int, view: View
    ) -> tuple[Span, jax.Array]:
        readable, look_up = readable_rows(rings), functools.partial(view.look_up, rings)
        if self.replacement:
            at_once = rings.memory.at_once
            held = held_rows(rings)
            starts = Numbered(held.total, lambda number: view.to_start(rings, held.at(number)))
            span, found = draw_uniform(key, batch_size, starts, readable, look_up, view, at_once)
        else:
            rows, found = draw_distinct(key, batch_size, rings, view, readable)
            span, startable = look_up(rows)
            found &= startable
        return span.replace(valid=found), jnp.broadcast_to(one_over(readable.total), (batch_size,))

    def probability(self, state: tuple[()], rings: Rings, span: Span) -> jax.Array:
        return jnp.broadcast_to(one_over(readable_rows(rings).total), span.time.shape)
