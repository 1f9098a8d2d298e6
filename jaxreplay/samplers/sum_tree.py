"""A sum tree on the device: numbers in leaves, drawn in proportion, in float32 without drift.

Every node above the leaves is recomputed from its children whenever one of them changes, always in the same order, so
that no rounding error outlives the children it came from, and the tree is the same however the leaves were written.
The tree is an array a level, leaves first; node i of a level has the children `FAN_OUT * i` and the next ones of the
level below, and the last level is the children of the root.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

FAN_OUT = 8  # measured against 4, 16 and 32: sums are cheaper, and the tree is not much deeper
RESOLUTION = 2.0**-24  # of a float32 in [0, 1)
MOST = 2.0**100  # what all leaves together may come to
LEAST = 2.0**-100  # of a leaf above zero: a position in it, of 24 bits, is still a normal float32
MARK = 2.0**101

Tree: TypeAlias = tuple[jax.Array, ...]


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
    return _sum(_children(tree[-1]))[0]


def nowhere(tree: Tree) -> int:
    """Return an index past the last leaf: nothing is written there, and zero is read."""
    return tree[0].shape[0]


def get_leaves(tree: Tree, index: jax.Array) -> jax.Array:
    """Read leaves at `[...]`."""
    return tree[0].at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def set_leaves(tree: Tree, index: jax.Array, values: jax.Array) -> Tree:
    """Write leaves `[B]`; where an index comes twice within the tree, the values must be the same."""
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
    order = lax.bitcast_convert_type(jnp.float32(MARK), jnp.int32) + jnp.arange(index.shape[0], dtype=jnp.int32)
    marks = lax.bitcast_convert_type(order, jnp.float32)
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
        levels.append(lax.dynamic_update_slice(level, _sum(_children(children)), (first,)))
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


def draw(tree: Tree, position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at positions `[B]` in [0, 1) of the total; return their indices and numbers.

    bits: `[B]` random uint32. A position has 24 bits, too few for many leaves or very different ones: so what it leaves
    open is drawn anew at every level. A leaf of zero is found only where all are.
    """
    node = jnp.zeros(position.shape, jnp.int32)
    open_part = jnp.full(position.shape, RESOLUTION)  # how coarse `position` is
    value = open_part
    for depth, level in enumerate(reversed(tree)):
        if depth == 0:
            numbers = jnp.broadcast_to(_children(level), (*position.shape, FAN_OUT))
        else:
            numbers = _gather_children(level, node)
        position += open_part * unit(scramble(bits, depth))
        position -= jnp.floor(position)
        before = _sums_before(numbers)
        whole = before[:, -1] + numbers[:, -1]
        target = position * whole
        child, value, start = _last_begun(numbers, before, target)
        node = node * FAN_OUT + child
        share = 1 / jnp.maximum(value, jnp.finfo(jnp.float32).tiny)
        position = (target - start) * share
        open_part = jnp.minimum(RESOLUTION * whole * share, 1.0)
    return node, value


def _last_begun(numbers: jax.Array, before: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find the last of children `[B, F]` above zero that begins at or before the target `[B]`: index, number, start.

    However sums are rounded, there is one wherever any child is above zero; else it is child 0.
    """
    begun = (numbers > 0) & (before <= target[:, None])
    child = jnp.where(begun, jnp.arange(FAN_OUT, dtype=jnp.int32)[None], -1)

    def later(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        is_later = b[0] > a[0]
        return tuple(jnp.where(is_later, y, x) for x, y in zip(a, b, strict=True))

    none = (jnp.int32(-1), jnp.float32(0), jnp.float32(0))
    child, number, start = lax.reduce((child, numbers, before), none, later, (1,))
    return jnp.maximum(child, 0), number, start


def unit(bits: jax.Array) -> jax.Array:
    """Random words as float32 in [0, 1), with all of its 24 bits."""
    return (bits >> 8).astype(jnp.float32) * RESOLUTION


def scramble(bits: jax.Array, depth: int) -> jax.Array:
    """Other random words for each depth: the mixing `lowbias32` (Wellons 2018, "Prospecting for hash functions")."""
    word = bits + jnp.uint32(0x9E3779B9 * (depth + 1) % 2**32)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def _recompute(level: jax.Array, below: jax.Array, node: jax.Array, unique: bool) -> jax.Array:
    """Recompute nodes `[B]` from their children. One that comes twice is written twice, with the same number."""
    sums = _sum(_gather_children(below, node))
    return level.at[node].set(sums, mode="promise_in_bounds", unique_indices=unique, wrap_negative_indices=False)


def _gather_children(level: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[B]`: `[B, F]`."""
    return _children(level).at[node].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _children(level: jax.Array) -> jax.Array:
    return level.reshape(-1, FAN_OUT)


def _sum(children: jax.Array) -> jax.Array:
    """Sum `[N, F]`, one term after the other: a plain sum may add up in another order in each program."""
    before = _sums_before(children)
    return before[:, -1] + children[:, -1]


def _sums_before(numbers: jax.Array) -> jax.Array:
    """Sum what comes before each of `[N, F]`."""
    return lax.reduce_window(numbers, 0.0, lax.add, (1, FAN_OUT), (1, 1), ((0, 0), (FAN_OUT, -1)))
