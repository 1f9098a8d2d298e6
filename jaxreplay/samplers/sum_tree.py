"""A sum tree on the device: numbers in leaves, drawn in proportion, in float32 without drift.

Every node above the leaves is recomputed from its children whenever one of them changes, always in the same order, so
that no rounding error outlives the children it came from, and the tree is the same however the leaves were written.
The tree is an array a level, leaves first; node i of a level has the children `FAN_OUT * i` and the next ones of the
level below, and the last level is the children of the root. On a TPU the same tree lies as `tiled_tree` says.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay.samplers import tiled_tree
from jaxreplay.samplers.sums import FAN_OUT, Tree, begin, descend, mark, sum_children

MOST = 2.0**100  # what all leaves together may come to
LEAST = 2.0**-100  # of a leaf above zero: a position in it, of 24 bits, is still a normal float32


def make_tree(num_leaves: int, tiled: bool = False) -> Tree:
    """Allocate a tree of zeros, every level its own array. tiled: as `tiled_tree`, for TPUs."""
    if tiled:
        return tiled_tree.make_tree(num_leaves)
    levels, count = [], num_leaves
    while True:
        nodes = -(-count // FAN_OUT)
        levels.append(jnp.zeros((nodes * FAN_OUT,), jnp.float32))
        if nodes == 1:
            return tuple(levels)
        count = nodes


def total(tree: Tree) -> jax.Array:
    """Return the sum of all leaves."""
    if _is_tiled(tree):
        return tiled_tree.total(tree)
    return sum_children(_children(tree[-1]))[0]


def nowhere(tree: Tree) -> int:
    """Return an index past the last leaf: nothing is written there, and zero is read."""
    return tree[0].size


def get_leaves(tree: Tree, index: jax.Array) -> jax.Array:
    """Read leaves at `[...]`."""
    if _is_tiled(tree):
        return tiled_tree.get_leaves(tree, index)
    return tree[0].at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def set_leaves(tree: Tree, index: jax.Array, values: jax.Array) -> Tree:
    """Write leaves `[B]`; where an index comes twice within the tree, the values must be the same."""
    if _is_tiled(tree):
        return tiled_tree.set_leaves(tree, index, values)
    leaves = tree[0].at[index].set(values, mode="drop", wrap_negative_indices=False)
    levels, node = [leaves], jnp.minimum(index, nowhere(tree) - 1)
    for level in tree[1:]:
        node = node // FAN_OUT
        levels.append(_recompute(level, levels[-1], node, unique=False))
    return tuple(levels)


def mark_last(tree: Tree, index: jax.Array) -> tuple[Tree, jax.Array]:
    """Tell which of `[B]` indices is the last of its equals, on every kind of device; those nowhere are not.

    Each leaves a mark in its leaf above any number, the later the larger, and the last finds its own. That is a scatter
    and a gather, where a sort would cost more than all the rest. Write to the leaves at once: the marks are in them.
    """
    if _is_tiled(tree):
        return tiled_tree.mark_last(tree, index)
    marks = mark(index.shape[0])
    marked = (tree[0].at[index].max(marks, mode="drop", wrap_negative_indices=False), *tree[1:])
    return marked, get_leaves(marked, index) == marks


def set_block(tree: Tree, start: jax.Array, values: jax.Array) -> Tree:
    """Write neighbouring leaves, from `start` on, which is a multiple of their number: contiguous at every level."""
    if _is_tiled(tree):
        return tiled_tree.set_block(tree, start, values)
    width, scale = values.shape[0], 1
    levels = [lax.dynamic_update_slice(tree[0], values, (start,))]
    for level in tree[1:]:
        scale *= FAN_OUT
        below = levels[-1]
        count = below.shape[0] // FAN_OUT
        if width % scale == 0:
            touched = width // scale
        else:
            touched = 1 if scale % width == 0 else (width + scale - 2) // scale + 1
        touched = min(touched, count)
        first = jnp.minimum(start // scale, count - touched)
        children = lax.dynamic_slice(below, (first * FAN_OUT,), (touched * FAN_OUT,))
        levels.append(lax.dynamic_update_slice(level, sum_children(_children(children)), (first,)))
    return tuple(levels)


def set_wrapped(tree: Tree, start: jax.Array, index: jax.Array, values: jax.Array, num_leaves: int) -> Tree:
    """Write the leaves `index` `[N]` that follow `start` round a ring of `num_leaves`."""
    if _is_tiled(tree):
        return tiled_tree.set_wrapped(tree, start, index, values, num_leaves)
    levels, scale = [tree[0].at[index].set(values, unique_indices=True, mode="promise_in_bounds")], 1
    for level in tree[1:]:
        scale *= FAN_OUT
        count = -(-num_leaves // scale)
        touched = min((index.shape[0] - 3) // scale + 3, count)  # parts of nodes at both ends, and where the ring ends
        node = start // scale + jnp.arange(touched, dtype=jnp.int32)
        node = jnp.where(node >= count, node - count, node)
        levels.append(_recompute(level, levels[-1], node, unique=True))
    return tuple(levels)


def draw(tree: Tree, position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at positions `[B]` in [0, 1) of the total; return their indices and numbers.

    bits: `[B]` random uint32. A position has 24 bits, too few for many leaves or very different ones: so what it leaves
    open is drawn anew at every level. A leaf of zero is found only where all are.
    """
    if _is_tiled(tree):
        return tiled_tree.draw(tree, position, bits)
    at = begin(position)
    for level, numbers in reversed([*enumerate(tree)]):
        is_root = level == len(tree) - 1
        shape = (*position.shape, FAN_OUT)
        children = jnp.broadcast_to(_children(numbers), shape) if is_root else _gather_children(numbers, at.node)
        at = descend(at, children, bits, level)
    return at.node, at.value


def _recompute(level: jax.Array, below: jax.Array, node: jax.Array, unique: bool) -> jax.Array:
    """Recompute nodes `[B]` from their children. One that comes twice is written twice, with the same number."""
    sums = sum_children(_gather_children(below, node))
    return level.at[node].set(sums, mode="promise_in_bounds", unique_indices=unique, wrap_negative_indices=False)


def _gather_children(level: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[B]`: `[B, F]`."""
    return _children(level).at[node].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _children(level: jax.Array) -> jax.Array:
    return level.reshape(-1, FAN_OUT)


def _is_tiled(tree: Tree) -> bool:
    return tree[0].ndim == 2
