"""A sum tree on the device: numbers in leaves, drawn in proportion, in float32 without drift.

Every node above the leaves is recomputed from its children whenever one of them changes, always in the same order, so
that no rounding error outlives the children it came from, and the tree is the same however the leaves were written.
The tree is an array a level, leaves first; node i of a level has the children `FAN_OUT * i` and the next ones of the
level below, and the last level is the children of the root. On a TPU the same tree lies as `tiled_tree` says. Where
rows can lose their episode's record, each env has a tree of its own, see `env_trees`.
"""

from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import jax

from jaxreplay.samplers import env_trees, flat_tree, tiled_tree
from jaxreplay.samplers.env_nodes import EnvTrees
from jaxreplay.samplers.sums import Tree, begin

MOST = 2.0**100  # what all leaves together may come to
LEAST = 2.0**-100  # of a leaf above zero: a position in it, of 24 bits, is still a normal float32

AnyTree: TypeAlias = Tree | EnvTrees
Form = TypeVar("Form", Tree, EnvTrees, AnyTree)


def make_tree(num_leaves: int, tiled: bool = False) -> Tree:
    """Allocate a tree of zeros, every level its own array. tiled: as `tiled_tree`, for TPUs."""
    return tiled_tree.make_tree(num_leaves) if tiled else flat_tree.make_tree(num_leaves)


def total(tree: AnyTree) -> jax.Array:
    """Return the sum of all leaves."""
    roots = tree.roots if isinstance(tree, EnvTrees) else tree
    return _form(roots).total(roots)


def nowhere(tree: AnyTree) -> int:
    """Return an index past the last leaf: nothing is written there, and zero is read."""
    return tree.num_envs * tree.num_slots if isinstance(tree, EnvTrees) else tree[0].size


def get_leaves(tree: AnyTree, index: jax.Array) -> jax.Array:
    """Read leaves at `[...]`."""
    return _form(tree).get_leaves(tree, index)


def set_leaves(tree: Form, index: jax.Array, values: jax.Array) -> Form:
    """Write leaves `[B]`; where an index comes twice within the tree, the values must be the same."""
    return _form(tree).set_leaves(tree, index, values)


def mark_last(tree: Form, index: jax.Array) -> tuple[Form, jax.Array]:
    """Tell which of `[B]` indices is the last of its equals, on every kind of device; those nowhere are not.

    Each leaves a mark in its leaf above any number, the later the larger, and the last finds its own. That is a scatter
    and a gather, where a sort would cost more than all the rest. Write to the leaves at once: the marks are in them.
    """
    return _form(tree).mark_last(tree, index)


def set_block(tree: Tree, start: jax.Array, values: jax.Array) -> Tree:
    """Write neighbouring leaves, from `start` on, which is a multiple of their number: contiguous at every level."""
    return _form(tree).set_block(tree, start, values)


def set_wrapped(tree: Tree, start: jax.Array, index: jax.Array, values: jax.Array, num_leaves: int) -> Tree:
    """Write the leaves `index` `[N]` that follow `start` round a ring of `num_leaves`."""
    return _form(tree).set_wrapped(tree, start, index, values, num_leaves)


def draw(tree: AnyTree, position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the leaves at positions `[B]` in [0, 1) of the total; return their indices and numbers.

    bits: `[B]` random uint32. A position has 24 bits, too few for many leaves or very different ones: so what it leaves
    open is drawn anew at every level. A leaf of zero is found only where all are.
    """
    if isinstance(tree, EnvTrees):
        return env_trees.draw(tree, position, bits)
    at = _form(tree).descend_all(tree, begin(position), bits)
    return at.node, at.value


def _form(tree: Any) -> ModuleType:
    """Return the functions for the form that a tree has."""
    if isinstance(tree, EnvTrees):
        return env_trees
    return tiled_tree if tree[0].ndim == 2 else flat_tree
