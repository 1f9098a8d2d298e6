"""What displays say of arrays: shapes, dtypes and bytes, which are always known, and whether values can be read."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from jaxreplay._core import trees
from jaxreplay._display.panel import Panel, Table, bytes_text

SMALL = 8  # numbers that a short repr still lists


def why_unreadable(tree: Any) -> str:
    """Say why the values of arrays cannot be read on this host; empty where they can."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer):
            return "traced: its values are not known yet"
        if isinstance(leaf, jax.Array):
            if leaf.is_deleted():
                return "donated: its arrays were given to another call"
            if not leaf.is_fully_addressable:
                return "on several hosts: no host reads all of it"
        elif not isinstance(leaf, np.ndarray | np.generic | bool | int | float):
            return "abstract: it has shapes and no values"
    return ""


def fetch(tree: Any) -> Any:
    """Bring small arrays to the host, or give None where their values cannot be read."""
    return None if why_unreadable(tree) else jax.tree.map(np.asarray, jax.device_get(tree))


def num_bytes(leaf: Any) -> int:
    """Count the bytes of an array by its shape and dtype; 0 for what is none."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    return math.prod(shape) * dtype.itemsize if shape is not None and dtype is not None else 0


def describe(leaf: Any) -> str:
    """Write a leaf as `float32[256,4]`, or by its type."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return trees.describe(leaf.shape, leaf.dtype)
    return type(leaf).__name__


def leaves_table(heading: str, named: Sequence[tuple[str, Any]]) -> Table:
    """List leaves with their shapes, dtypes and bytes."""
    rows = [(path, describe(leaf), bytes_text(num_bytes(leaf))) for path, leaf in named]
    return Table(f"{heading}: {total_bytes(named)}", ("leaf", "array", "bytes"), rows)


def total_bytes(named: Sequence[tuple[str, Any]]) -> str:
    return bytes_text(sum(num_bytes(leaf) for _, leaf in named))


def short(value: Any) -> str:
    """Write an array by its values if they are few and known, else by its shape and dtype; no array is read for more.

    >>> short(np.arange(3)), short(np.zeros((2, 9), np.float32))
    ('[0, 1, 2]', 'float32[2,9]')
    """
    if isinstance(value, jax.Array | np.ndarray) and value.size <= SMALL and not trees.is_key_dtype(value.dtype):
        found = fetch(value)
        if found is not None:
            return str(found.tolist())
    return describe(value)


def leaves_text(named: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{path}: {describe(leaf)}" for path, leaf in named)


def show(make: Any, name: str) -> str:
    """Make a panel and write it as HTML. A display never raises: what goes wrong is said in it."""
    try:
        return make().html()
    except Exception as error:
        return Panel(name, [("not shown", f"{type(error).__name__}: {error}")]).html()
