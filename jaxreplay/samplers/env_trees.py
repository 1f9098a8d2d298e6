"""A sum tree for each env, and one over their sums: rows that lose their episode's record lose their weight at once.

An episode's record is overwritten when a newer episode begins, and all rows of the old one can no longer be read: as
many as the episode was long, in one append. They are the oldest rows of their env. So where the leaves of an env lie
one after the other, in the order of its slots, the lost ones are a range, and all but the nodes at its two ends are
either lost as a whole or not at all. What is lost as a whole is told by its place and counts as zero, whatever is
stored there; the nodes at the ends are recomputed by the append. That is one path an env, however many rows are lost.

The law: a node that is not lost as a whole holds the sum of its children, of which the lost ones count as zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.clock import Clock
from jaxreplay._core.loops import while_needed
from jaxreplay.samplers import flat_tree, tiled_tree
from jaxreplay.samplers.env_nodes import (
    EnvTrees,
    count_nodes,
    ends_of_lost,
    find_place,
    find_row,
    read_children,
    read_each_child,
    set_column,
    sum_nodes,
    without_lost,
)
from jaxreplay.samplers.sums import FAN_OUT, Tree, begin, descend, descend_by_child, mark
from jaxreplay.samplers.tiled_tree import LANES


def as_one(trees: EnvTrees) -> EnvTrees:
    """See the trees of A stacked buffers as those of one buffer of A * E envs, each with a head of its own.

    The levels stay as they are; `find_place` finds an env's buffer in them.
    """
    num_envs = trees.lost.shape[1]
    one = trees.replace(
        lost=trees.lost.reshape(-1),
        low=trees.low.reshape(-1),
        head=jnp.repeat(trees.head, num_envs),
    )
    return one.replace(roots=_make_roots(trees.tiled, _sum_envs(one)))


def apart(one: EnvTrees, before: EnvTrees) -> EnvTrees:
    """Undo `as_one`, which made it of `before`; the arrays of that are written to, also those that are all new."""
    num_buffers, form = before.lost.shape[0], tiled_tree if one.tiled else flat_tree
    of_each = lambda x: x.reshape(num_buffers, -1, *x.shape[1:])  # noqa: E731
    sums = of_each(_sum_envs(one))
    return one.replace(
        roots=jax.vmap(lambda roots, sums: form.set_block(roots, jnp.int32(0), sums))(before.roots, sums),
        lost=of_each(one.lost),
        low=of_each(one.low),
        head=of_each(one.head)[:, 0],
    )


def _make_roots(tiled: bool, sums: jax.Array) -> Tree:
    """Make the tree over the sums of envs."""
    form = tiled_tree if tiled else flat_tree
    return form.set_block(form.make_tree(sums.shape[0]), jnp.int32(0), sums)


def lose_before(trees: EnvTrees, clock: Clock, first: jax.Array) -> tuple[EnvTrees, jax.Array]:
    """Take note that rows before time `first` `[E]` are lost; say in which envs that took weight from some, `[E]`.

    The trees are as they should be once what was appended is written, too.
    """
    oldest = clock.time - clock.held  # times are compared by distance
    known = (trees.lost - oldest >= 0) & (trees.lost - oldest <= clock.held)
    lost = jnp.where(known, trees.lost, oldest)
    moved = first - lost > 0
    lost = jnp.where(moved, first, lost)
    return trees.replace(lost=lost, low=clock.head - (clock.time - lost), head=clock.head), moved


def get_leaves(trees: EnvTrees, index: jax.Array) -> jax.Array:
    """Read the leaves of rows `[...]` that are not lost, by `env * T + slot`; zero past the end."""
    env, slot = index // trees.num_slots, index % trees.num_slots
    if trees.tiled:
        rows, lane = find_row(trees, 0, env, slot // LANES), slot % LANES
        read = trees.levels[0].at[rows].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return tiled_tree.pick_lane(read, lane)
    return (
        trees.levels[0].at[find_place(trees, 0, env, slot)].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    )


def set_leaves(trees: EnvTrees, index: jax.Array, values: jax.Array) -> EnvTrees:
    """Write the leaves `[B]` of rows; where one comes twice, the values must be the same."""
    trees, env, slot = _write(trees, index, values)
    trees = _recompute(trees, env, _above(trees, slot))
    write = tiled_tree.set_leaves if trees.tiled else flat_tree.set_leaves
    return trees.replace(roots=write(trees.roots, env, _sum_envs(trees, env)))


def set_appended(trees: EnvTrees, index: jax.Array, values: jax.Array, moved: jax.Array, at_once: bool) -> EnvTrees:
    """Write the leaves `[B]` that an append changes, the newest slices among them, see `set_slices`."""
    trees, env, slot = _write(trees, index, values)
    if at_once:
        env = jnp.concatenate([env, jnp.arange(trees.num_envs, dtype=jnp.int32)])
        slot = jnp.concatenate([slot, ends_of_lost(trees)])
    return _finish(_recompute(trees, env, _above(trees, slot)), moved, at_once)


def set_of_envs(trees: EnvTrees, index: jax.Array, values: jax.Array, envs: jax.Array) -> EnvTrees:
    """Write the leaves `[B]` that an append to some envs `[N]` of a stack changes; `apart` makes the roots anew."""
    trees, env, slot = _write(trees, index, values)
    envs = jnp.minimum(envs, trees.num_envs - 1)
    env, slot = jnp.concatenate([env, envs]), jnp.concatenate([slot, ends_of_lost(trees)[envs]])
    return _recompute(trees, env, _above(trees, slot))


def set_slices(trees: EnvTrees, slots: jax.Array, values: jax.Array, moved: jax.Array, at_once: bool) -> EnvTrees:
    """Write the leaves `[L, E]` of neighbouring slices, in slots `[L]`, and recompute what their append has changed.

    moved: `[E]`, in which envs rows lost their weight. at_once: recompute for it in all, without a loop that only the
    data can end.
    """
    length, every = slots.shape[0], jnp.arange(trees.num_envs, dtype=jnp.int32)[:, None]
    if length == 1 and not trees.tiled:
        leaves = set_column(trees.levels[0], slots[0], values[0])
    else:
        place = find_place(trees, 0, every, slots[None])
        leaves = trees.levels[0].at[place].set(values.T, unique_indices=True, mode="promise_in_bounds")
    trees = trees.replace(levels=(leaves, *trees.levels[1:]))
    if length == 1 and not at_once:
        return _finish(_recompute_column(trees, slots[0]), moved, at_once)
    nodes, scale = [], 1
    for count in trees.counts[1:]:
        scale *= trees.node
        touched = min((length - 3) // scale + 3, count) if length > 1 else 1  # see `flat_tree.set_wrapped`
        node = slots[0] // scale + jnp.arange(touched, dtype=jnp.int32)
        node = jnp.broadcast_to(jnp.where(node >= count, node - count, node), (trees.num_envs, touched))
        nodes.append(jnp.concatenate([node, (ends_of_lost(trees) // scale)[:, None]], axis=1) if at_once else node)
    return _finish(_recompute(trees, every, nodes), moved, at_once)


def mark_last(trees: EnvTrees, index: jax.Array) -> tuple[EnvTrees, jax.Array]:
    """Tell which of `[B]` rows is the last of its equals, see `sum_tree.mark_last`."""
    marks = mark(index.shape[0])
    place = find_place(trees, 0, index // trees.num_slots, index % trees.num_slots)
    leaves = trees.levels[0].at[place].max(marks, mode="drop", wrap_negative_indices=False)
    marked = trees.replace(levels=(leaves, *trees.levels[1:]))
    return marked, get_leaves(marked, index) == marks


def draw(trees: EnvTrees, position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at positions `[B]` in [0, 1) of the total, see `sum_tree.draw`: first an env, then its row."""
    depth = len(count_nodes(trees.num_slots, FAN_OUT))
    walk = tiled_tree.descend_all if trees.tiled else flat_tree.descend_all
    at = walk(trees.roots, begin(position), bits, depth)
    env, at = at.node, at._replace(node=jnp.zeros_like(at.node))
    for level in reversed(range(len(trees.levels))):
        if trees.by_child:
            at = descend_by_child(at, read_each_child(trees, level, env, at.node), bits, level)
            continue
        children = read_children(trees, level, env, at.node)
        if trees.tiled:
            at = tiled_tree.descend_node(at, children, bits, 2 * level, skip=2 * level + 1 == depth)
        else:
            at = descend(at, children, bits, level)
    return env * trees.num_slots + at.node, at.value


def _write(trees: EnvTrees, index: jax.Array, values: jax.Array) -> tuple[EnvTrees, jax.Array, jax.Array]:
    """Write leaves `[B]` alone; return their envs and slots as well."""
    env, slot = index // trees.num_slots, index % trees.num_slots
    leaves = trees.levels[0].at[find_place(trees, 0, env, slot)].set(values, mode="drop", wrap_negative_indices=False)
    return trees.replace(levels=(leaves, *trees.levels[1:])), jnp.minimum(env, trees.num_envs - 1), slot


def _above(trees: EnvTrees, slot: jax.Array) -> list[jax.Array]:
    """Return the nodes above slots, of each level but the leaves."""
    return [slot // trees.node**level for level in range(1, len(trees.levels))]


def _recompute(trees: EnvTrees, env: jax.Array, nodes: list[jax.Array]) -> EnvTrees:
    """Recompute nodes of each level but the leaves. Those that come twice get the same number."""
    for level, node in enumerate(nodes, 1):
        sums = _sum_at(trees, level - 1, env, node)
        numbers = trees.levels[level].at[find_place(trees, level, env, node)]
        written = numbers.set(sums, mode="promise_in_bounds", wrap_negative_indices=False)
        trees = trees.replace(levels=(*trees.levels[:level], written, *trees.levels[level + 1 :]))
    return trees


def _recompute_column(trees: EnvTrees, slot: jax.Array) -> EnvTrees:
    """Recompute what lies above one slot of all envs, by slices, which suit a CPU."""
    for level, node in enumerate(_above(trees, slot), 1):
        below = trees.levels[level - 1]
        found = lax.dynamic_index_in_dim(below, node, keepdims=False)
        children = without_lost(trees, level - 1, None, jnp.broadcast_to(node, trees.low.shape), found)
        written = set_column(trees.levels[level], node, sum_nodes(children))
        trees = trees.replace(levels=(*trees.levels[:level], written, *trees.levels[level + 1 :]))
    return trees


def _finish(trees: EnvTrees, moved: jax.Array, at_once: bool) -> EnvTrees:
    """Recompute the sums of all envs, and before that, unless it is done, what lies above the ends of what is lost.

    Mostly nothing is newly lost, and the loop does not begin; else it has one turn. (Under vmap branches are always
    taken.)
    """
    if not at_once and len(trees.levels) > 1:

        def recompute(carry: tuple[EnvTrees, jax.Array]) -> tuple[EnvTrees, jax.Array]:
            trees, moved = carry
            every = jnp.arange(trees.num_envs, dtype=jnp.int32)
            done = _recompute(trees, every, _above(trees, ends_of_lost(trees)))
            # What the loop does not change, and all that follows from it, XLA would compute before it, and always.
            return done.replace(low=~trees.low), moved & False

        never = moved[0] & False
        trees = jax.tree.map(lambda x: jnp.where(never, x, x), trees)  # inside shard_map, vary as what is recomputed
        done, _ = while_needed(lambda carry: carry[1], recompute, (trees, moved))
        trees = done.replace(low=trees.low)
    write = tiled_tree.set_block if trees.tiled else flat_tree.set_block
    return trees.replace(roots=write(trees.roots, jnp.int32(0), _sum_envs(trees)))


def _sum_envs(trees: EnvTrees, env: jax.Array | None = None) -> jax.Array:
    """Return the sums of envs `[B]`, or of all."""
    if env is None and not (trees.tiled or trees.by_child) and trees.levels[-1].ndim == 3:
        found = trees.levels[-1][0]
        return sum_nodes(without_lost(trees, len(trees.levels) - 1, None, jnp.zeros_like(trees.low), found))
    env = jnp.arange(trees.num_envs, dtype=jnp.int32) if env is None else env
    return _sum_at(trees, len(trees.levels) - 1, env, jnp.zeros_like(env))


def _sum_at(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> jax.Array:
    """Sum what lies below nodes."""
    if trees.by_child:
        return functools.reduce(jnp.add, read_each_child(trees, level, *jnp.broadcast_arrays(env, node)))
    return sum_nodes(read_children(trees, level, env, node))
