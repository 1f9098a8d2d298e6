"""Which rows have weight in the sum tree: those that the view can start from, and that kept their episode's record.

A row that a view such as `sequence(80)` cannot start from yet has weight zero, and its priority waits in `kept`. A
later step of its episode, or the episode's end, makes it usable: `View.completes` says which steps may.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core import lookup
from jaxreplay._core.clock import age
from jaxreplay._core.lookup import flat_index
from jaxreplay._core.rings import Rings
from jaxreplay.samplers import env_trees, sum_tree
from jaxreplay.samplers.sum_tree import AnyTree, EnvTrees
from jaxreplay.types import Rows
from jaxreplay.views import View


def may_wait(view: View | None) -> bool:
    """Tell whether rows wait for a view. Raises ValueError for a view that does not say what they wait for."""
    if view is None or not view.refuses:
        return False
    if view.completes is None:
        raise ValueError(f"prioritized: {view} refuses rows, and its `completes` does not say when it stops")
    return True


def weigh_newest(
    tree: AnyTree, kept: jax.Array, rings: Rings, length: int, view: View, envs: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the leaves of the newest `length` slices, and of the older rows that they complete, with their weights.

    Rows that the view cannot start from get weight zero. All is to be written at once: between two writes of the leaves
    XLA would copy them. envs: those that were written `[N]`, of one clock; None for all.
    """
    assert view.completes is not None
    envs = jnp.arange(rings.num_envs, dtype=jnp.int32) if envs is None else envs
    now, length = rings.clock.of(envs[0]).time, min(length, rings.num_slots)
    new = now - length + jnp.arange(length, dtype=jnp.int32)
    if min(view.completes) < length:  # some of the new rows may be usable at once
        earlier = {step + i for step in view.completes for i in range(length)} - {*range(length)}
        time = jnp.concatenate([new, now - 1 - jnp.array(sorted(earlier), jnp.int32)])
        return weights_of(tree, kept, rings, _rows_of(envs, time), view)
    if view.grid > 1:
        first = new[0] - max(view.completes)
        earlier = first + -first % view.grid + jnp.arange(0, length, view.grid, dtype=jnp.int32)
    else:
        steps = {step + i for step in view.completes for i in range(length)}
        earlier = now - 1 - jnp.array(sorted(steps), jnp.int32)
    index, weights = weights_of(tree, kept, rings, _rows_of(envs, earlier), view)
    zeroed = leaf_index(tree, rings, *lookup.find_slots(rings, _rows_of(envs, new)))
    zeros = jnp.zeros(zeroed.shape, jnp.float32)
    return jnp.concatenate([zeroed, index]), jnp.concatenate([zeros, weights])


def weights_of(tree: AnyTree, kept: jax.Array, rings: Rings, rows: Rows, view: View) -> tuple[jax.Array, jax.Array]:
    """Return the leaves of rows `[B]`, and the weight that is kept for them, zero if the view cannot start there."""
    index = leaf_index(tree, rings, *lookup.find_slots(rings, rows))
    weight = kept.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    return index, jnp.where(view.find(rings, rows).valid, weight, 0.0)


def _rows_of(envs: jax.Array, time: jax.Array) -> Rows:
    """List the rows of envs `[N]` at times `[M]`."""
    time, env = jnp.broadcast_arrays(time[:, None], envs[None])
    return Rows(time=time.ravel(), env=env.ravel())


def follow(tree: AnyTree, rings: Rings, length: int) -> tuple[AnyTree, jax.Array | None]:
    """Take note that an append of `length` slices moved the newest rows, and which rows lost their record by it.

    Returns in which envs some did, `[E]`; None where none ever does. None does but where an episode has begun.
    """
    if not isinstance(tree, EnvTrees):
        return tree, None
    began = age(rings.clock, rings.envs.start) <= length
    return env_trees.lose_before(tree, rings.clock, rings.clock.time - lookup.oldest_recorded(rings, began))


def write_slices(tree: AnyTree, rings: Rings, slots: jax.Array, weights: jax.Array, moved: jax.Array | None) -> AnyTree:
    """Write the weights `[L, E]` of slices that were appended, in slots `[L]`. moved: see `follow`."""
    if isinstance(tree, EnvTrees):
        assert moved is not None
        return env_trees.set_slices(tree, slots, weights, moved, rings.memory.at_once)
    start = slots[0] * rings.num_envs
    if slots.shape[0] == 1:
        return sum_tree.set_block(tree, start, weights[0])
    index = flat_index(rings, slots[:, None], jnp.arange(rings.num_envs, dtype=jnp.int32)[None]).ravel()
    return sum_tree.set_wrapped(tree, start, index, weights.ravel(), rings.num_slots * rings.num_envs)


def keep_slices(tree: AnyTree, kept: jax.Array, rings: Rings, slots: jax.Array, weights: jax.Array) -> jax.Array:
    """Write the weights `[L, E]` of slices that were appended to those that are kept, in the order of the leaves."""
    if slots.shape[0] == 1 and not isinstance(tree, EnvTrees):
        return lax.dynamic_update_slice(kept, weights[0], (slots[0] * rings.num_envs,))
    slot, env = jnp.broadcast_arrays(slots[:, None], jnp.arange(rings.num_envs, dtype=jnp.int32)[None])
    index = leaf_index(tree, rings, slot, env, jnp.ones(slot.shape, jnp.bool_)).ravel()
    return kept.at[index].set(weights.ravel(), unique_indices=True, mode="promise_in_bounds")


def write_appended(
    tree: AnyTree, rings: Rings, index: jax.Array, weights: jax.Array, moved: jax.Array | None
) -> AnyTree:
    """Write leaves `[B]` that an append changes, the newest slices among them. moved: see `follow`."""
    if isinstance(tree, EnvTrees):
        assert moved is not None
        return env_trees.set_appended(tree, index, weights, moved, rings.memory.at_once)
    return sum_tree.set_leaves(tree, index, weights)


def leaf_index(tree: AnyTree, rings: Rings, slot: jax.Array, env: jax.Array, known: jax.Array) -> jax.Array:
    """Return the leaves of rows; an index past the last leaf where they are not known."""
    index = env * rings.num_slots + slot if isinstance(tree, EnvTrees) else flat_index(rings, slot, env)
    return jnp.where(known, index, sum_tree.nowhere(tree))


def place_of(tree: AnyTree, rings: Rings, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `(slot, env)` of leaves; that of some row for one that is past the last."""
    if isinstance(tree, EnvTrees):
        return index % rings.num_slots, jnp.minimum(index // rings.num_slots, rings.num_envs - 1)
    return jnp.minimum(index // rings.num_envs, rings.num_slots - 1), index % rings.num_envs
