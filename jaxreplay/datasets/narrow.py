"""64-bit arrays for JAX, which holds 32-bit ones unless told otherwise: refused, or narrowed where nothing is lost."""

from __future__ import annotations

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree


def narrow_tree(tree: PyTree, narrow: bool) -> PyTree:
    """Give the tree with every leaf of a dtype that JAX can hold as it is set up.

    With `narrow`, 64-bit leaves become their 32-bit kin: floats are rounded; a value that does not fit raises
    ValueError. Without, a 64-bit leaf raises TypeError. Both name the leaf.
    """
    leaves = [_narrow(path, leaf, narrow) for path, leaf in trees.paths(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _narrow(path: str, leaf: np.ndarray, narrow: bool) -> np.ndarray:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if dtype == leaf.dtype:
        return leaf
    if not narrow:
        raise TypeError(
            f"{path}: {leaf.dtype} does not fit JAX's 32-bit types. Nothing is cast silently: pass narrow=True for "
            f"{dtype}, or set jax_enable_x64."
        )
    with np.errstate(over="ignore"):
        out = leaf.astype(dtype)
    exact = leaf.dtype.kind in "iu"
    lost = (out != leaf) if exact else (np.isfinite(leaf) & ~np.isfinite(out))
    if lost.any():
        raise ValueError(f"{path}: {leaf[lost].flat[0]} does not fit {dtype}")
    return out
