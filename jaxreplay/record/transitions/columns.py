"""From what an environment gives to rows of preallocated arrays: flattening, and casts that lose nothing unseen."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree

WHOLE = frozenset((int, np.int32, np.int64))


class Column:
    """Staged values of one leaf: `array` `[rows, *shape]` with the leaf's own dtype, written one row at a time."""

    def __init__(self, path: str, rows: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.array = np.zeros((rows, *shape), dtype)
        self.is_float = is_floating(dtype)
        # Scalars that NumPy writes without a value changing unseen: of these types, and whole numbers between bounds.
        self.plain: frozenset[type] = frozenset()
        self.least, self.most = 0, -1
        if shape == () and self.dtype == np.bool_:
            self.plain = frozenset((bool, np.bool_))
        elif shape == () and self.is_float:
            self.plain = frozenset((float, np.float64, np.float32))
        elif shape == ():
            self.plain = frozenset((self.dtype.type,))
            if jnp.issubdtype(dtype, jnp.integer):
                self.least, self.most = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)

    def put(self, row: int, value: Any) -> None:
        """Copy a value `[*shape]` into a row. Raises ValueError or TypeError where it does not fit."""
        kind = type(value)
        if kind is np.ndarray:
            known = value.shape == self.shape and (
                value.dtype == self.dtype or (self.is_float and value.dtype.kind == "f")
            )
        else:
            known = kind in self.plain or (kind in WHOLE and self.least <= value <= self.most)
        self.array[row] = value if known else fit(self.path, value, self.shape, self.dtype)

    def put_at(self, row: int, env: int, value: Any) -> None:
        """Copy the value `[*shape[1:]]` of one env."""
        self.array[row, env] = fit(self.path, value, self.shape[1:], self.dtype)


def fit(path: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Give a value as an array of the shape and dtype.

    Floats are rounded to a float dtype, as float64 to float32; into any other dtype only what it holds exactly.
    Raises ValueError or TypeError that names the path.
    """
    came = np.asarray(value)
    if came.dtype.kind in "OUSMm":
        raise TypeError(f"{path}: expected an array of numbers, got dtype {came.dtype} ({type(value).__name__})")
    if came.shape != shape:
        expected = trees.describe(shape, dtype)
        raise ValueError(f"{path}: expected {expected}, got {trees.describe(came.shape, came.dtype)}")
    if came.dtype == dtype:
        return came
    if came.dtype.kind == "i" and np.dtype(dtype).kind == "i":  # the way of most actions, and cheaper
        out = came.astype(dtype)
        exact = out == came
    elif is_floating(came.dtype) and is_floating(dtype):
        return came.astype(dtype)
    else:
        with np.errstate(invalid="ignore"):
            out = came.astype(dtype)
            exact = (out.astype(came.dtype) == came) & ((out < 0) == (came < 0))
    if not exact.all():
        first = came[~exact].ravel()[0] if came.shape else came[()]
        raise ValueError(
            f"{path}: {first} ({came.dtype}) does not fit in {np.dtype(dtype)}, the dtype that the buffer was created "
            "with; create it with a dtype that holds it, or convert it in a wrapper below the recorder"
        )
    return out


def is_floating(dtype: Any) -> bool:
    """Tell whether a dtype is of real floats, those of fewer bits included."""
    return jnp.issubdtype(dtype, jnp.floating)


def leaf_order(example: dict[Any, Any]) -> list[Any]:
    """List the names of a dict in the order in which JAX lists its leaves."""
    return list(example) if isinstance(example, collections.OrderedDict) else sorted(example)


def list_leaves(path: str, example: PyTree, value: Any, leave_out: Collection[str] = ()) -> list[Any]:
    """List the leaves of a value structured like `example`, whose leaves are ints, mostly without a call into JAX.

    Any mapping will do for a dict, and any tuple or list for either. leave_out: paths, as `f"{path}.name"`, of entries
    of dicts that the value may have beside those of the example. Raises ValueError that names the part that differs.
    """
    if isinstance(example, int):
        return [value]
    if isinstance(example, dict):
        names = leaf_order(example)
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: expected a dict of {names}, got {type(value).__name__}")
        if any(name not in value for name in names) or (
            len(value) > len(names) and any(x not in example and f"{path}.{x}" not in leave_out for x in value)
        ):
            raise ValueError(f"{path}: expected a dict of {names}, got {sorted(map(str, value))}")
        return [x for name in names for x in list_leaves(f"{path}.{name}", example[name], value[name], leave_out)]
    if type(example) in (tuple, list):
        if not isinstance(value, tuple | list) or len(value) != len(example):
            came = f"{len(value)}" if isinstance(value, tuple | list) else type(value).__name__
            raise ValueError(f"{path}: expected a tuple of {len(example)}, got {came}")
        parts = enumerate(zip(example, value, strict=True))
        return [x for i, (inner, part) in parts for x in list_leaves(f"{path}.{i}", inner, part, leave_out)]
    leaves, came = jax.tree.flatten(value)
    if came != jax.tree.structure(example):
        raise ValueError(f"{path}: expected the structure {jax.tree.structure(example)}, got {came}")
    return leaves
