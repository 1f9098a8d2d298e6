"""Where the nodes of the trees of all envs lie, what they hold, and which of them are lost; see `env_trees`."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxreplay._core.plain import member_of
from jaxreplay.samplers import flat_tree, tiled_tree
from jaxreplay.samplers.sums import FAN_OUT, Tree, sum_children
from jaxreplay.samplers.tiled_tree import LANES


class EnvTrees(struct.PyTreeNode):
    """The trees; T slots, E envs.

    levels: from the leaves up, `[N, E, F]` each: the children of an env's node lie side by side, and so do the nodes
        that one append changes. On a TPU, where a node has 64 children, `[E * rows, 128]`.
    roots: a sum tree over the sums of the envs.
    lost: `[E]` int32, the time before which rows have lost their weight. head, low: int32, a scalar and `[E]`: slots in
        `[low, head)`, counted round the ring from a `low` that may be negative, are not lost.
    tiled: for a TPU. by_child: for a GPU, where what is done child by child is one kernel, and what is done along an
        axis more.
    Those of a stack of buffers have an axis of buffers in front of every array; see `as_one`.
    """

    levels: tuple[jax.Array, ...]
    roots: Tree
    lost: jax.Array
    low: jax.Array
    head: jax.Array
    num_slots: int = struct.field(pytree_node=False)
    tiled: bool = struct.field(pytree_node=False)
    by_child: bool = struct.field(pytree_node=False)

    @functools.cached_property
    def num_envs(self) -> int:
        """E."""
        return self.lost.shape[0]

    @functools.cached_property
    def counts(self) -> list[int]:
        """The number of nodes an env at each level."""
        return count_nodes(self.num_slots, self.node)

    @functools.cached_property
    def node(self) -> int:
        """The number of children of a node."""
        return tiled_tree.NODE if self.tiled else FAN_OUT


def make_trees(num_slots: int, num_envs: int, tiled: bool, by_child: bool) -> EnvTrees:
    """Allocate trees of zeros, of which nothing is lost, every level its own array."""
    counts = count_nodes(num_slots, tiled_tree.NODE if tiled else FAN_OUT)
    if tiled:
        levels = tuple(jnp.zeros((num_envs * -(-n // LANES), LANES), jnp.float32) for n in counts)
    else:
        levels = tuple(jnp.zeros((-(-n // FAN_OUT), num_envs, FAN_OUT), jnp.float32) for n in counts)
    return EnvTrees(
        levels=levels,
        roots=tiled_tree.make_tree(num_envs) if tiled else flat_tree.make_tree(num_envs),
        lost=jnp.zeros((num_envs,), jnp.int32),
        low=jnp.full((num_envs,), -num_slots, jnp.int32),
        head=jnp.zeros((), jnp.int32),
        num_slots=num_slots,
        tiled=tiled,
        by_child=by_child,
    )


def count_nodes(num_slots: int, node: int) -> list[int]:
    counts = [num_slots]
    while counts[-1] > node:
        counts.append(-(-counts[-1] // node))
    return counts


def read_children(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> jax.Array:
    """Read the numbers below nodes `[...]`: `[..., F]`, those that are lost as a whole as zero."""
    width, numbers = trees.node, trees.levels[level]
    if trees.tiled:
        rows = numbers.at[find_row(trees, level, env, node // 2)].get(
            mode="promise_in_bounds", wrap_negative_indices=False
        )
        found = jnp.where((node % 2 == 0)[..., None], rows[..., :width], rows[..., width:])
    else:
        index = _flat_node(trees, level, env, node)
        found = numbers.reshape(-1, width).at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return without_lost(trees, level, env, node, found)


def read_each_child(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> list[jax.Array]:
    """Read what `read_children` does one by one, `[...]` each, which suits GPUs; not from the tiles of a TPU."""
    numbers, index = trees.levels[level].reshape(-1, FAN_OUT), _flat_node(trees, level, env, node)
    wraps, begins, ends = _bounds(trees, level, env)
    found = []
    for i in range(FAN_OUT):
        place = numbers.at[index, jnp.full_like(index, i)]
        number = place.get(mode="promise_in_bounds", wrap_negative_indices=False)
        before, after = node * FAN_OUT + i < begins, node * FAN_OUT + i >= ends
        found.append(jnp.where(jnp.where(wraps, before & after, before | after), 0.0, number))
    return found


def _flat_node(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> jax.Array:
    """Return the index of the children of nodes once all axes before theirs are one."""
    shape = trees.levels[level].shape
    *member, env = _member(trees, level, env)
    index = node * shape[-2] + env
    return index + member[0] * (shape[-3] * shape[-2]) if member else index


def without_lost(trees: EnvTrees, level: int, env: jax.Array | None, node: jax.Array, found: jax.Array) -> jax.Array:
    """Put zero for the children `[..., F]` of nodes that are lost as a whole. env: None for all."""
    wraps, begins, ends = _bounds(trees, level, env)
    first = node * trees.node
    child = lax.broadcasted_iota(jnp.int32, found.shape, found.ndim - 1)
    before, after = child < (begins - first)[..., None], child >= (ends - first)[..., None]
    return jnp.where(jnp.where(wraps[..., None], before & after, before | after), 0.0, found)


def _bounds(trees: EnvTrees, level: int, env: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what bounds an env's lost children at a level: those before the first number and those from the second on.

    Of these it is both where `low` wraps round the ring, the first that is returned, and else either.
    """
    of_envs = lambda x: x if env is None else x[env]  # noqa: E731
    low, head = of_envs(trees.low), of_envs(trees.head) if trees.head.ndim else trees.head
    wraps, bits = low < 0, level * (trees.node.bit_length() - 1)
    low = jnp.where(wraps, low + trees.num_slots, low)
    begins = jnp.where(low < trees.num_slots, low >> bits, trees.counts[level])
    return wraps, begins, jnp.broadcast_to(-(-head >> bits), begins.shape)


def sum_nodes(children: jax.Array) -> jax.Array:
    if children.shape[-1] == FAN_OUT:
        return sum_children(children)
    return sum_children(sum_children(children.reshape(*children.shape[:-1], FAN_OUT, FAN_OUT)))


def ends_of_lost(trees: EnvTrees) -> jax.Array:
    """Return the slot of each env's oldest row that is not lost, `[E]`; with the newest rows' it bounds what is."""
    return jnp.clip(jnp.where(trees.low < 0, trees.low + trees.num_slots, trees.low), 0, trees.num_slots - 1)


def find_place(trees: EnvTrees, level: int, env: jax.Array, node: jax.Array) -> tuple[jax.Array, ...]:
    """Return the indices of nodes in the array of a level, of a stack's the buffer first."""
    env, node = jnp.broadcast_arrays(env, node)
    if trees.tiled:
        return (*find_row(trees, level, env, node // LANES), node % LANES)
    *member, env = _member(trees, level, env)
    return (*member, node // FAN_OUT, env, node % FAN_OUT)


def find_row(trees: EnvTrees, level: int, env: jax.Array, row: jax.Array) -> tuple[jax.Array, ...]:
    """Return the indices of rows of an env in the array of a level in the tiles of a TPU."""
    *member, env = _member(trees, level, env)
    num_rows = trees.levels[level].shape[-2] * math.prod(trees.levels[level].shape[:-2])
    return (*member, env * (num_rows // trees.num_envs) + row)


def _member(trees: EnvTrees, level: int, env: jax.Array) -> tuple[jax.Array, ...]:
    """Return an env; of a stack, which buffer it is in, and its number there."""
    if trees.levels[level].ndim == (2 if trees.tiled else 3):
        return (env,)
    return member_of(env, trees.num_envs // trees.levels[level].shape[0])


def set_column(numbers: jax.Array, node: jax.Array, values: jax.Array) -> jax.Array:
    """Write one node's number of all envs, `[E]`."""
    start = (node // FAN_OUT, jnp.int32(0), node % FAN_OUT)
    return lax.dynamic_update_slice(numbers, values[None, :, None], start)
