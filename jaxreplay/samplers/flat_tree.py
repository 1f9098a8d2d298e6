"""The sum tree on CPUs and GPUs: an array a level, leaves first; see `sum_tree`."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay.samplers.sums import FAN_OUT, Descent, Tree, descend, mark, sum_children


def make_tree(num_leaves: int) -> Tree:
    """Allocate a tree of zeros, every level its own array."""
    levels, count = [], num_leaves
    while True:
        nodes = -(-count // FAN_OUT)
        levels.append(jnp.zeros((nodes * FAN_OUT,), jnp.float32))
        if nodes == 1:
            return tuple(levels)
        count = nodes


def total(tree: Tree) -> jax.Array:
    """Return the sum of all leaves."""
    return sum_children(_children(tree[-1]))[0]


def get_leaves(tree: Tree, index: jax.Array) -> jax.Array:
    """Read leaves at `[...]`; zero past the end."""
    return tree[0].at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def set_leaves(tree: Tree, index: jax.Array, values: jax.Array) -> Tree:
    """Write leaves `[B]`; where an index comes twice within the tree, the values must be the same."""
    leaves = tree[0].at[index].set(values, mode="drop", wrap_negative_indices=False)
    levels, node = [leaves], jnp.minimum(index, tree[0].shape[0] - 1)
    for level in tree[1:]:
        node = node // FAN_OUT
        levels.append(_recompute(level, levels[-1], node, unique=False))
    return tuple(levels)


def mark_last(tree: Tree, index: jax.Array) -> tuple[Tree, jax.Array]:
    """Tell which of `[B]` indices is the last of its equals, see `sum_tree.mark_last`."""
    marks = mark(index.shape[0])
    marked = (tree[0].at[index].max(marks, mode="drop", wrap_negative_indices=False), *tree[1:])
    return marked, get_leaves(marked, index) == marks


def set_block(tree: Tree, start: jax.Array, values: jax.Array) -> Tree:
    """Write neighbouring leaves, from `start` on, which is a multiple of their number: contiguous at every level."""
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
    levels, scale = [tree[0].at[index].set(values, unique_indices=True, mode="promise_in_bounds")], 1
    for level in tree[1:]:
        scale *= FAN_OUT
        count = -(-num_leaves // scale)
        touched = min((index.shape[0] - 3) // scale + 3, count)  # parts of nodes at both ends, and where the ring ends
        node = start // scale + jnp.arange(touched, dtype=jnp.int32)
        node = jnp.where(node >= count, node - count, node)
        levels.append(_recompute(level, levels[-1], node, unique=True))
    return tuple(levels)


def descend_all(tree: Tree, at: Descent, bits: jax.Array, depth: int = 0) -> Descent:
    """Go from the root down to the leaves, which are at a depth of their own in a larger tree."""
    for level, numbers in reversed([*enumerate(tree)]):
        is_root = level == len(tree) - 1
        shape = (*at.position.shape, FAN_OUT)
        children = jnp.broadcast_to(_children(numbers), shape) if is_root else _gather_children(numbers, at.node)
        at = descend(at, children, bits, depth + level)
    return at


def _recompute(level: jax.Array, below: jax.Array, node: jax.Array, unique: bool) -> jax.Array:
    """Recompute nodes `[B]` from their children. One that comes twice is written twice, with the same number."""
    sums = sum_children(_gather_children(below, node))
    return level.at[node].set(sums, mode="promise_in_bounds", unique_indices=unique, wrap_negative_indices=False)


def _gather_children(level: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[B]`: `[B, F]`."""
    return _children(level).at[node].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _children(level: jax.Array) -> jax.Array:
    return level.reshape(-1, FAN_OUT)
