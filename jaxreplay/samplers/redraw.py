"""Drawing again until found, in loops that cost nothing where the first draw finds everything."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core import trees
from jaxreplay._core.rings import Span
from jaxreplay.views import View

FEW_ROUNDS = 8
MANY_ROUNDS = 256

D = TypeVar("D")
Propose = Callable[[jax.Array], tuple[D, jax.Array]]
"""Draws with a key: anything with leaves `[B, ...]`, and which of them are to be kept, `[B]` bool."""

ProposeAfter = Callable[[jax.Array, D, jax.Array], tuple[D, jax.Array]]
"""The same, given what was drawn and found before."""


def rounds(view: View) -> int:
    """Say how often to draw for a view: more often where it refuses rows that can be read."""
    return MANY_ROUNDS if view.refuses else FEW_ROUNDS


def redraw(key: jax.Array, first: Propose[D], *others: tuple[int, Propose[D]]) -> tuple[D, jax.Array]:
    """Draw with `first`, and with others for some rounds each until all is found; return what was drawn and found."""

    def alone(propose: Propose[D]) -> ProposeAfter[D]:
        return lambda key, drawn, found: propose(key)

    return redraw_after(key, first(key), *((count, alone(propose)) for count, propose in others))


def redraw_after(
    key: jax.Array, first: tuple[D, jax.Array], *others: tuple[int, ProposeAfter[D]]
) -> tuple[D, jax.Array]:
    """Draw as `redraw` does, with draws that depend on what was found before.

    Loops rather than branches: under vmap a branch is always taken, a loop only while some batch needs it.
    """

    def again(propose: ProposeAfter[D], carry: tuple[jax.Array, D, jax.Array]) -> tuple[jax.Array, D, jax.Array]:
        round_, drawn, found = carry
        other, other_found = propose(jax.random.fold_in(key, round_), drawn, found)
        return round_ + 1, trees.choose(found, drawn, other), found | other_found

    def unfinished(end: int, carry: tuple[jax.Array, D, jax.Array]) -> jax.Array:
        return (carry[0] < end) & ~jnp.all(carry[2])

    drawn, found = first
    drawn = trees.choose(found, drawn, drawn)  # inside shard_map it varies from the start, as every later draw does
    carry, end = (jnp.int32(1), drawn, found), 1
    for count, propose in others:
        end += count
        carry = lax.while_loop(functools.partial(unfinished, end), functools.partial(again, propose), carry)
    return carry[1], carry[2]


def first_found(tries: int, drawn: D, found: jax.Array) -> tuple[D, jax.Array]:
    """Keep the first found of several draws a row, leaves `[tries * B, ...]` with the draws of a row B apart."""
    each = jax.tree.map(lambda x: x.reshape(tries, -1, *x.shape[1:]), (drawn, found))
    kept, kept_found = jax.tree.map(lambda x: x[0], each)
    for i in range(1, tries):
        other, other_found = jax.tree.map(lambda x: x[i], each)  # noqa: B023
        kept, kept_found = trees.choose(kept_found, kept, other), kept_found | other_found
    return kept, kept_found


def redraw_rows(key: jax.Array, propose: Callable[[jax.Array], Span], view: View) -> Span:
    """Draw rows with `propose`, a function of a key, again and again until all can be read: for a simple sampler."""

    def drawn(key: jax.Array) -> tuple[Any, jax.Array]:
        span = propose(key)
        return span, span.valid

    span, found = redraw(key, drawn, (rounds(view), drawn))
    return span.replace(valid=found)
