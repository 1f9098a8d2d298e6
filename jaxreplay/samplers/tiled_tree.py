"""The sum tree in the tiles of a TPU: the same sums and the same draws as `sum_tree`, in rows of 128 lanes.

A TPU reads single words of an array slowly, and rows of 128 well. So two levels of a `sum_tree` are one here: a level
is `[rows, 128]`, a row has two nodes of 64 children each, and the 8 sums between a node and its children are made anew
where they are needed. Every second level of the sum tree is stored, leaves first. The sums are bit for bit the same.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay.samplers.sums import FAN_OUT, Descent, Tree, descend, mark, sum_children

LANES = 128
NODE = FAN_OUT * FAN_OUT


def make_tree(num_leaves: int) -> Tree:
    """Allocate a tree of zeros, every level its own array."""
    levels, count = [], num_leaves
    while True:
        levels.append(jnp.zeros((-(-count // LANES), LANES), jnp.float32))
        if count <= NODE:
            return tuple(levels)
        count = -(-count // NODE)


def total(tree: Tree) -> jax.Array:
    """Return the sum of all leaves."""
    return _sum_nodes(tree[-1][:1, :NODE])[0]


def get_leaves(tree: Tree, index: jax.Array) -> jax.Array:
    """Read leaves at `[...]`; zero past the end."""
    rows = tree[0].at[index // LANES].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    return pick_lane(rows, index % LANES)


def pick_lane(rows: jax.Array, lane: jax.Array) -> jax.Array:
    """Pick one lane of each row `[..., 128]`."""
    is_lane = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1) == lane[..., None]
    return jnp.sum(jnp.where(is_lane, rows, 0.0), -1)


def set_leaves(tree: Tree, index: jax.Array, values: jax.Array) -> Tree:
    """Write leaves `[B]`; where an index comes twice within the tree, the values must be the same."""
    leaves = tree[0].at[index // LANES, index % LANES].set(values, mode="drop", wrap_negative_indices=False)
    levels, node = [leaves], jnp.minimum(index, tree[0].size - 1)
    for level in tree[1:]:
        node = node // NODE
        levels.append(_recompute(level, levels[-1], node))
    return tuple(levels)


def mark_last(tree: Tree, index: jax.Array) -> tuple[Tree, jax.Array]:
    """Tell which of `[B]` indices is the last of its equals, see `sum_tree.mark_last`."""
    marks = mark(index.shape[0])
    leaves = tree[0].at[index // LANES, index % LANES].max(marks, mode="drop", wrap_negative_indices=False)
    marked = (leaves, *tree[1:])
    return marked, get_leaves(marked, index) == marks


def set_block(tree: Tree, start: jax.Array, values: jax.Array) -> Tree:
    """Write neighbouring leaves, from `start` on, which is a multiple of their number."""
    width = values.shape[0]
    if width % LANES == 0:
        rows = values.reshape(-1, LANES)
        leaves = lax.dynamic_update_slice(tree[0], rows, (start // LANES, jnp.int32(0)))
    elif LANES % width == 0:
        leaves = lax.dynamic_update_slice(tree[0], values[None], (start // LANES, start % LANES))
    else:
        index = start + jnp.arange(width, dtype=jnp.int32)
        leaves = tree[0].at[index // LANES, index % LANES].set(values, mode="promise_in_bounds", unique_indices=True)
    return _set_parents(tree, leaves, start, width, tree[0].size)


def set_wrapped(tree: Tree, start: jax.Array, index: jax.Array, values: jax.Array, num_leaves: int) -> Tree:
    """Write the leaves `index` `[N]` that follow `start` round a ring of `num_leaves`."""
    leaves = tree[0].at[index // LANES, index % LANES].set(values, mode="promise_in_bounds", unique_indices=True)
    return _set_parents(tree, leaves, start, index.shape[0], num_leaves)


def descend_all(tree: Tree, at: Descent, bits: jax.Array, depth: int = 0) -> Descent:
    """Go from the root down to the leaves, which are at a depth of their own in a larger tree."""
    for i, level in reversed([*enumerate(tree)]):
        at = descend_node(at, _gather_children(level, at.node), bits, depth + 2 * i)
    return at


def descend_node(at: Descent, children: jax.Array, bits: jax.Array, depth: int, skip: bool = False) -> Descent:
    """Go on to one of 64 children `[B, 64]`: to a group of 8, unless there is but one group, and to one of these."""
    groups = children.reshape(*at.position.shape, FAN_OUT, FAN_OUT)
    if not skip:
        at = descend(at, sum_children(groups), bits, depth + 1)
    group = at.node % FAN_OUT
    children = groups[:, 0]
    for j in range(1, FAN_OUT):
        children = jnp.where((group == j)[:, None], groups[:, j], children)
    return descend(at, children, bits, depth)


def _set_parents(tree: Tree, leaves: jax.Array, start: jax.Array, width: int, num_leaves: int) -> Tree:
    """Recompute what lies above neighbouring leaves, `width` from `start` on, round a ring of `num_leaves`."""
    levels, scale = [leaves], 1
    for level in tree[1:]:
        scale *= NODE
        count = -(-num_leaves // scale)
        touched = min((width - 2) // scale + 3, count)  # parts of nodes at both ends, and where the ring ends
        node = start // scale + jnp.arange(touched, dtype=jnp.int32)
        levels.append(_recompute(level, levels[-1], jnp.where(node >= count, node - count, node)))
    return tuple(levels)


def _recompute(level: jax.Array, below: jax.Array, node: jax.Array) -> jax.Array:
    """Recompute nodes `[B]` from their children. One that comes twice is written twice, with the same number."""
    sums = _sum_nodes(_gather_children(below, node))
    return level.at[node // LANES, node % LANES].set(sums, mode="promise_in_bounds", wrap_negative_indices=False)


def _gather_children(level: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[B]`: `[B, 64]`."""
    rows = level.at[node // 2].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return jnp.where((node % 2 == 0)[:, None], rows[:, :NODE], rows[:, NODE:])


def _sum_nodes(children: jax.Array) -> jax.Array:
    """Sum `[B, 64]` as two levels of a sum tree do."""
    return sum_children(sum_children(children.reshape(-1, FAN_OUT, FAN_OUT)))
