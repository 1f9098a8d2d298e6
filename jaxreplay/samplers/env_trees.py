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
from flax import struct
from jax import lax

from jaxreplay._core.clock import Clock
from jaxreplay._core.loops import while_needed
from jaxreplay.samplers import flat_tree, tiled_tree
from jaxreplay.samplers.sums import FAN_OUT, Tree, begin, descend, mark, sum_children
from jaxreplay.samplers.tiled_tree import LANES


class EnvTrees(struct.PyTreeNode):
    """The trees; T slots, E envs.

    levels: from the leaves up, `[E, N]` each, or on a TPU, where a node has 64 children, `[E * rows, 128]`.
    roots: a sum tree over the sums of the envs.
    lost: `[E]` int32, the time before which rows have lost their weight. head, low: int32, a scalar and `[E]`: slots in
        `[low, head)`, counted round the ring from a `low` that may be negative, are not lost.
    """

    levels: tuple[jax.Array, ...]
    roots: Tree
    lost: jax.Array
    low: jax.Array
    head: jax.Array
    num_slots: int = struct.field(pytree_node=False)
    tiled: bool = struct.field(pytree_node=False)

    @functools.cached_property
    def num_envs(self) -> int:
        """E."""
        return self.lost.shape[0]

    @functools.cached_property
    def counts(self) -> list[int]:
        """The number of nodes an env at each level."""
        return _counts(self.num_slots, self.node)

    @functools.cached_property
    def node(self) -> int:
        """The number of children of a node."""
        return tiled_tree.NODE if self.tiled else FAN_OUT


def make_trees(num_slots: int, num_envs: int, tiled: bool) -> EnvTrees:
    """Allocate trees of zeros, of which nothing is lost, every level its own array."""
    counts = _counts(num_slots, tiled_tree.NODE if tiled else FAN_OUT)
    if tiled:
        levels = tuple(jnp.zeros((num_envs * -(-n // LANES), LANES), jnp.float32) for n in counts)
    else:
        levels = tuple(jnp.zeros((num_envs, -(-n // FAN_OUT) * FAN_OUT), jnp.float32) for n in counts)
    return EnvTrees(
        levels=levels,
        roots=tiled_tree.make_tree(num_envs) if tiled else flat_tree.make_tree(num_envs),
        lost=jnp.zeros((num_envs,), jnp.int32),
        low=jnp.full((num_envs,), -num_slots, jnp.int32),
        head=jnp.zeros((), jnp.int32),
        num_slots=num_slots,
        tiled=tiled,
    )


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
        rows, lane = _row(trees, 0, env, slot // LANES), slot % LANES
        read = trees.levels[0].at[rows].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return tiled_tree.pick_lane(read, lane)
    return trees.levels[0].at[env, slot].get(mode="fill", fill_value=0, wrap_negative_indices=False)


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
        slot = jnp.concatenate([slot, _ends(trees)])
    return _finish(_recompute(trees, env, _above(trees, slot)), moved, at_once)


def set_slices(trees: EnvTrees, slots: jax.Array, values: jax.Array, moved: jax.Array, at_once: bool) -> EnvTrees:
    """Write the leaves `[L, E]` of neighbouring slices, in slots `[L]`, and recompute what their append has changed.

    moved: `[E]`, in which envs rows lost their weight. at_once: recompute for it in all, without a loop that only the
    data can end.
    """
    length, every = slots.shape[0], jnp.arange(trees.num_envs, dtype=jnp.int32)[:, None]
    if length == 1 and not trees.tiled:
        leaves = lax.dynamic_update_slice(trees.levels[0], values.T, (jnp.int32(0), slots[0]))
    else:
        place = _place(trees, 0, every, slots[None])
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
        nodes.append(jnp.concatenate([node, (_ends(trees) // scale)[:, None]], axis=1) if at_once else node)
    return _finish(_recompute(trees, every, nodes), moved, at_once)


def mark_last(trees: EnvTrees, index: jax.Array) -> tuple[EnvTrees, jax.Array]:
    """Tell which of `[B]` rows is the last of its equals, see `sum_tree.mark_last`."""
    marks = mark(index.shape[0])
    place = _place(trees, 0, index // trees.num_slots, index % trees.num_slots)
    leaves = trees.levels[0].at[place].max(marks, mode="drop", wrap_negative_indices=False)
    marked = trees.replace(levels=(leaves, *trees.levels[1:]))
    return marked, get_leaves(marked, index) == marks


def draw(trees: EnvTrees, position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at positions `[B]` in [0, 1) of the total, see `sum_tree.draw`: first an env, then its row."""
    depth = len(_counts(trees.num_slots, FAN_OUT))
    walk = tiled_tree.descend_all if trees.tiled else flat_tree.descend_all
    at = walk(trees.roots, begin(position), bits, depth)
    env, at = at.node, at._replace(node=jnp.zeros_like(at.node))
    for level in reversed(range(len(trees.levels))):
        children = _children(trees, level, env, at.node)
        if trees.tiled:
            at = tiled_tree.descend_node(at, children, bits, 2 * level, skip=2 * level + 1 == depth)
        else:
            at = descend(at, children, bits, level)
    return env * trees.num_slots + at.node, at.value


def _counts(num_slots: int, node: int) -> list[int]:
    counts = [num_slots]
    while counts[-1] > node:
        counts.append(-(-counts[-1] // node))
    return counts


def _write(trees: EnvTrees, index: jax.Array, values: jax.Array) -> tuple[EnvTrees, jax.Array, jax.Array]:
    """Write leaves `[B]` alone; return their envs and slots as well."""
    env, slot = index // trees.num_slots, index % trees.num_slots
    leaves = trees.levels[0].at[_place(trees, 0, env, slot)].set(values, mode="drop", wrap_negative_indices=False)
    return trees.replace(levels=(leaves, *trees.levels[1:])), jnp.minimum(env, trees.num_envs - 1), slot


def _above(trees: EnvTrees, slot: jax.Array) -> list[jax.Array]:
    """Return the nodes above slots, of each level but the leaves."""
    return [slot // trees.node**level for level in range(1, len(trees.levels))]


def _recompute(trees: EnvTrees, env: jax.Array, nodes: list[jax.Array]) -> EnvTrees:
    """Recompute nodes of each level but the leaves. Those that come twice get the same number."""
    for level, node in enumerate(nodes, 1):
        sums = _sum_nodes(_children(trees, level - 1, env, node))
        numbers = trees.levels[level].at[_place(trees, level, env, node)]
        written = numbers.set(sums, mode="promise_in_bounds", wrap_negative_indices=False)
        trees = trees.replace(levels=(*trees.levels[:level], written, *trees.levels[level + 1 :]))
    return trees


def _recompute_column(trees: EnvTrees, slot: jax.Array) -> EnvTrees:
    """Recompute what lies above one slot of all envs, by slices, which suit a CPU."""
    for level, node in enumerate(_above(trees, slot), 1):
        below = trees.levels[level - 1]
        found = lax.dynamic_slice(below, (jnp.int32(0), node * FAN_OUT), (trees.num_envs, FAN_OUT))
        env = jnp.arange(trees.num_envs, dtype=jnp.int32)
        children = _without_lost(trees, level - 1, env, jnp.broadcast_to(node, env.shape), found)
        written = lax.dynamic_update_slice(trees.levels[level], _sum_nodes(children)[:, None], (jnp.int32(0), node))
        trees = trees.replace(levels=(*trees.levels[:level], written, *trees.levels[level + 1 :]))
    return trees


def _finish(trees: EnvTrees, moved: jax.Array, at_once: bool) -> EnvTrees:
    """Recompute the sums of all envs, and before that, unless it is done, what lies above the ends of what is lost.

    Mostly nothing is newly lost, and the loop does not begin; else it has one turn. (Under vmap branches are always
    taken.)
    """
    env = jnp.arange(trees.num_envs, dtype=jnp.int32)
    if not at_once and len(trees.levels) > 1:

        def recompute(carry: tuple[EnvTrees, jax.Array]) -> tuple[EnvTrees, jax.Array]:
            trees, moved = carry
            every = jnp.arange(trees.num_envs, dtype=jnp.int32)
            return _recompute(trees, every, _above(trees, _ends(trees))), moved & False

        never = moved[0] & False
        trees = jax.tree.map(lambda x: jnp.where(never, x, x), trees)  # inside shard_map, vary as what is recomputed
        trees, _ = while_needed(lambda carry: carry[1], recompute, (trees, moved))
    write = tiled_tree.set_block if trees.tiled else flat_tree.set_block
    return trees.replace(roots=write(trees.roots, jnp.int32(0), _sum_envs(trees, env)))


def _sum_envs(trees: EnvTrees, env: jax.Array) -> jax.Array:
    """Return the sums of envs `[B]`."""
    return _sum_nodes(_children(trees, len(trees.levels) - 1, env, jnp.zeros_like(env)))


def _children(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[...]`: `[..., F]`, those that are lost as a whole as zero."""
    width, numbers = trees.node, trees.levels[level]
    if trees.tiled:
        rows = numbers.at[_row(trees, level, env, node // 2)].get(mode="promise_in_bounds", wrap_negative_indices=False)
        found = jnp.where((node % 2 == 0)[..., None], rows[..., :width], rows[..., width:])
    else:
        of_node = env * (numbers.shape[1] // width) + node
        found = numbers.reshape(-1, width).at[of_node].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return _without_lost(trees, level, env, node, found)


def _without_lost(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array, found: jax.Array) -> jax.Array:
    """Put zero for the children `[..., F]` of nodes that are lost as a whole."""
    width, scale = trees.node, trees.node**level
    child = (node * width)[..., None] + jnp.arange(width, dtype=jnp.int32).reshape((1,) * node.ndim + (width,))
    first = child * scale
    last = jnp.minimum(first + (scale - 1), trees.num_slots - 1)
    low, head = trees.low[env][..., None], trees.head
    wraps = low < 0
    before_low, after_head = last < jnp.where(wraps, low + trees.num_slots, low), first >= head
    lost = jnp.where(wraps, before_low & after_head, before_low | after_head)
    return jnp.where(lost, 0.0, found)


def _sum_nodes(children: jax.Array) -> jax.Array:
    if children.shape[-1] == FAN_OUT:
        return sum_children(children)
    return sum_children(sum_children(children.reshape(*children.shape[:-1], FAN_OUT, FAN_OUT)))


def _ends(trees: EnvTrees) -> jax.Array:
    """Return the slot of each env's oldest row that is not lost, `[E]`; with the newest rows' it bounds what is."""
    return jnp.clip(jnp.where(trees.low < 0, trees.low + trees.num_slots, trees.low), 0, trees.num_slots - 1)


def _place(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the indices of nodes in the array of a level."""
    env, node = jnp.broadcast_arrays(env, node)
    return (_row(trees, level, env, node // LANES), node % LANES) if trees.tiled else (env, node)


def _row(trees: EnvTrees, level: int, env: jax.Array, row: jax.Array) -> jax.Array:
    """Return the rows of an env in the array of a level in the tiles of a TPU."""
    return env * (trees.levels[level].shape[0] // trees.num_envs) + row
