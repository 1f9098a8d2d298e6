"""Drawing without replacement."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.clock import is_last_of_equals
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.random import bounded
from jaxreplay._core.rings import Rings, Span
from jaxreplay.samplers.numbered import held_rows
from jaxreplay.samplers.redraw import FEW_ROUNDS, redraw_after
from jaxreplay.types import Rows
from jaxreplay.views import View


def draw_distinct(key: jax.Array, batch_size: int, rings: Rings, view: View) -> tuple[Span, jax.Array]:
    """Draw rows uniformly, none twice: those that were drawn before are drawn again, which is fair; then by a shuffle.

    In a stream of fair draws, the first B different ones are a uniform set; a few rounds make the stream long enough
    where B is small against the rows there are. Else all rows are shuffled, and what is open takes the first of them
    that can be drawn and are not in the batch yet.
    """
    num_rows, proposed, find = rings.num_slots * rings.num_envs, held_rows(rings), functools.partial(view.find, rings)
    places = jnp.arange(batch_size, dtype=jnp.int32)

    def place(span: Span, valid: jax.Array) -> jax.Array:
        return jnp.where(valid, flat_index(rings, span.slot, span.env), num_rows + rings.num_envs + places)

    def propose(key: jax.Array) -> tuple[Span, jax.Array]:
        number, fair = bounded(key, (batch_size,), proposed.total)
        span = find(proposed.at(number))
        return span, fair & span.valid

    def propose_new(key: jax.Array, before: Span, found: jax.Array) -> tuple[Span, jax.Array]:
        span, valid = propose(key)
        both = jnp.concatenate([place(before, found), place(span, valid) + jnp.where(valid, 0, batch_size)])
        first = is_last_of_equals(both[::-1])[::-1]
        return span, valid & first[batch_size:]

    def shuffle(key: jax.Array, before: Span, found: jax.Array) -> tuple[Span, jax.Array]:
        every = lookup.all_rows(rings)
        order = jax.random.permutation(key, num_rows)
        every = jax.tree.map(lambda x: x[order], every)
        spans = find(every)
        taken = jnp.zeros((num_rows + rings.num_envs,), jnp.bool_).at[place(before, found)].set(True, mode="drop")
        free = spans.valid & ~taken[flat_index(rings, spans.slot, spans.env)]
        order = jnp.argsort(~free, stable=True)
        nth = jnp.cumsum(~found, dtype=jnp.int32) - 1
        chosen = order[jnp.clip(nth, 0, num_rows - 1)]
        rows = jax.tree.map(lambda x: x[chosen], every)
        return find(rows), (nth < jnp.sum(free, dtype=jnp.int32)) & ~found

    none = find(Rows(time=jnp.zeros_like(places), env=jnp.full_like(places, -1)))
    nothing = jnp.zeros((batch_size,), jnp.bool_)
    first = propose_new(key, none, nothing)
    return redraw_after(key, first, (FEW_ROUNDS - 1, propose_new), (1, shuffle))
