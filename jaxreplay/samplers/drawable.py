"""Which rows have weight in the sum tree: those that the view can start from, and that kept their episode's record.

A row that a view such as `sequence(80)` cannot start from yet has weight zero, and its priority waits in `kept`. A
later step of its episode, or the episode's end, makes it usable: `View.completes` says which steps may.
"""

import jax
import jax.numpy as jnp

from jaxreplay._core import lookup
from jaxreplay._core.clock import Clock, age, oldest, slot_of_age
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.loops import while_needed
from jaxreplay._core.rings import Rings
from jaxreplay.samplers import sum_tree
from jaxreplay.samplers.sums import Tree
from jaxreplay.types import Rows
from jaxreplay.views import View

LOST_AT_ONCE = 8  # slices of rows that lose their weight in one pass of a loop


def may_wait(view: View | None) -> bool:
    """Tell whether rows wait for a view. Raises ValueError for a view that does not say what they wait for."""
    if view is None or not view.refuses:
        return False
    if view.completes is None:
        raise ValueError(f"prioritized: {view} refuses rows, and its `completes` does not say when it stops")
    return True


def weigh_newest(tree: Tree, kept: jax.Array, rings: Rings, length: int, view: View) -> Tree:
    """Give the newest `length` slices, and the older rows that they complete, the weight that is kept for them.

    Rows that the view cannot start from get weight zero. All is written at once: between two writes of the leaves XLA
    would copy them.
    """
    assert view.completes is not None
    now, length = rings.clock.time, min(length, rings.num_slots)
    new = now - length + jnp.arange(length, dtype=jnp.int32)
    if min(view.completes) < length:  # some of the new rows may be usable at once
        earlier = {step + i for step in view.completes for i in range(length)} - {*range(length)}
        time = jnp.concatenate([new, now - 1 - jnp.array(sorted(earlier), jnp.int32)])
        return sum_tree.set_leaves(tree, *weights_of(tree, kept, rings, _all_envs(rings, time), view))
    if view.grid > 1:
        first = new[0] - max(view.completes)
        earlier = first + -first % view.grid + jnp.arange(0, length, view.grid, dtype=jnp.int32)
    else:
        steps = {step + i for step in view.completes for i in range(length)}
        earlier = now - 1 - jnp.array(sorted(steps), jnp.int32)
    index, weights = weights_of(tree, kept, rings, _all_envs(rings, earlier), view)
    zeroed = leaf_index(tree, rings, *lookup.find_slots(rings, _all_envs(rings, new)))
    index = jnp.concatenate([zeroed, index])
    return sum_tree.set_leaves(tree, index, jnp.concatenate([jnp.zeros(zeroed.shape, jnp.float32), weights]))


def weights_of(tree: Tree, kept: jax.Array, rings: Rings, rows: Rows, view: View) -> tuple[jax.Array, jax.Array]:
    """Return the leaves of rows `[B]`, and the weight that is kept for them, zero if the view cannot start there."""
    index = leaf_index(tree, rings, *lookup.find_slots(rings, rows))
    weight = kept.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    return index, jnp.where(view.find(rings, rows).valid, weight, 0.0)


def _all_envs(rings: Rings, time: jax.Array) -> Rows:
    """List the rows of all envs at times `[N]`."""
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)[None]
    return Rows(*(x.ravel() for x in jnp.broadcast_arrays(time[:, None], env)))


def forget_lost(tree: Tree, rings: Rings, lost: jax.Array) -> tuple[Tree, jax.Array]:
    """Set the weight of rows whose episode's record was overwritten to zero, from time `lost` `[E]` on.

    Returns the tree and the new `lost`. Each row is visited once in its life, some slices of all envs at a time. Mostly
    there are none, and the loop does nothing.
    """
    if not rings.num_records or rings.num_records >= rings.num_slots:  # then no row ever loses its record
        return tree, lost
    first_held = oldest(rings.clock)
    first = rings.clock.time - lookup.oldest_recorded(rings)  # times are compared by distance
    known = (lost - first_held >= 0) & (lost - first_held <= rings.clock.held)

    def unfinished(carry: tuple[Tree, jax.Array, jax.Array, Clock]) -> jax.Array:
        _, lost, first, _ = carry
        return first - lost > 0

    def close(carry: tuple[Tree, jax.Array, jax.Array, Clock]) -> tuple[Tree, jax.Array, jax.Array, Clock]:
        tree, lost, first, clock = carry
        time = lost[None] + jnp.arange(LOST_AT_ONCE, dtype=jnp.int32)[:, None]
        slot = slot_of_age(clock, jnp.clip(age(clock, time), 1, clock.held), rings.num_slots)
        index = slot * first.shape[0] + jnp.arange(first.shape[0], dtype=jnp.int32)[None]
        index = jnp.where(first[None] - time > 0, index, sum_tree.nowhere(tree)).ravel()
        tree = sum_tree.set_leaves(tree, index, jnp.zeros(index.shape, jnp.float32))
        return tree, lost + jnp.clip(first - lost, 0, LOST_AT_ONCE), first, clock

    lost, never = jnp.where(known, lost, first_held), first[0] < first[0]
    tree, lost = jax.tree.map(lambda x: jnp.where(never, x, x), (tree, lost))  # vary as `first` does, see vary_as
    tree, lost, _, _ = while_needed(unfinished, close, (tree, lost, first, rings.clock))
    return tree, lost


def leaf_index(tree: Tree, rings: Rings, slot: jax.Array, env: jax.Array, known: jax.Array) -> jax.Array:
    """Return the leaves of rows; an index past the last leaf where they are not known."""
    return jnp.where(known, flat_index(rings, slot, env), sum_tree.nowhere(tree))
