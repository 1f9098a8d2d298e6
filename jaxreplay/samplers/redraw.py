"""Drawing again what cannot be used, in the way that costs the platform least; the rows drawn are the same on each.

Each place of a batch takes the first of its candidates that can be used. On a CPU they are drawn in turn, in a loop
that mostly does not begin. On a GPU the host waits for the device at every loop whose end only the data decide, so
there, and on a TPU, all candidates are drawn at once. Under a view that refuses rows one loop goes on from there.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core import trees
from jaxreplay._core.rings import Rings, Span
from jaxreplay.views import View

CANDIDATES = 4
ROUNDS = 64  # of so many candidates, under a view that refuses rows

D = TypeVar("D")
Propose = Callable[[jax.Array], tuple[D, jax.Array]]
"""Draws with a key: anything with leaves `[B, ...]`, and which of them can be used, `[B]` bool."""


def redraw(
    key: jax.Array, propose: Propose[D], view: View, at_once: bool, last: Propose[D] | None = None
) -> tuple[D, jax.Array]:
    """Draw with `propose` until all is found: up to `CANDIDATES` times, or `ROUNDS` as often if the view refuses rows.

    at_once: draw all candidates together, without a loop. last: draws what is still missing then, once.
    Returns what was drawn, and which of it was found, `[B]`.
    """

    def candidates(keys: jax.Array) -> tuple[D, jax.Array]:
        return _first_found(*jax.vmap(propose)(keys))

    def next_keys(first: jax.Array | int, count: int) -> jax.Array:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count, dtype=jnp.int32))

    if at_once or view.refuses:
        drawn, found = candidates(jnp.concatenate([key[None], next_keys(1, CANDIDATES - 1)]))
    else:
        again = lambda i: propose(jax.random.fold_in(key, i))  # noqa: E731
        drawn, found = draw_until(CANDIDATES, again, *propose(key))
    if view.refuses:
        more = lambda i: candidates(next_keys(i * CANDIDATES, CANDIDATES))  # noqa: E731
        drawn, found = draw_until(ROUNDS, more, drawn, found)
    if last is None:
        return drawn, found
    # The round is part of the loop's state. With a constant in its place XLA would draw before the loop, and always.
    finish = lambda i: last(jax.random.fold_in(key, ROUNDS * CANDIDATES + i))  # noqa: E731
    if not at_once:
        return draw_until(2, finish, drawn, found)
    other, other_found = finish(1)
    return trees.choose(found, drawn, other), found | other_found


def draw_until(end: int, draw: Callable[[Any], tuple[D, jax.Array]], drawn: D, found: jax.Array) -> tuple[D, Any]:
    """Draw rounds 1 to `end` until all is found. A loop, not a branch: under vmap a branch is always taken."""

    def again(carry: tuple[jax.Array, D, jax.Array]) -> tuple[jax.Array, D, jax.Array]:
        round_, drawn, found = carry
        other, other_found = draw(round_)
        return round_ + 1, trees.choose(found, drawn, other), found | other_found

    never = found[0] & False
    drawn = jax.tree.map(lambda x: jnp.where(never, x, x), drawn)  # inside shard_map, vary as every later draw does
    carry = lax.while_loop(lambda carry: (carry[0] < end) & ~jnp.all(carry[2]), again, (jnp.int32(1), drawn, found))
    return carry[1], carry[2]


def _first_found(drawn: D, found: jax.Array) -> tuple[D, jax.Array]:
    """Keep for each place the first of its candidates that was found; leaves `[N, B, ...]`."""
    kept, kept_found = jax.tree.map(lambda x: x[0], drawn), found[0]
    for i in range(1, found.shape[0]):
        kept = trees.choose(kept_found, kept, jax.tree.map(lambda x: x[i], drawn))  # noqa: B023
        kept_found |= found[i]
    return kept, kept_found


def redraw_rows(key: jax.Array, propose: Callable[[jax.Array], Span], view: View, rings: Rings | None = None) -> Span:
    """Draw rows with `propose`, a function of a key, again and again until all can be read: for a simple sampler.

    rings: those that the rows are of, so that no loop waits for the data where that is dear.
    """

    def drawn(key: jax.Array) -> tuple[Span, jax.Array]:
        span = propose(key)
        return span, span.valid

    span, found = redraw(key, drawn, view, rings is not None and rings.memory.at_once)
    return span.replace(valid=found)
