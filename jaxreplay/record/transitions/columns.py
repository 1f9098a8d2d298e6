"""From what an environment gives to rows of preallocated arrays: flattening, and casts that lose nothing unseen."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree

Flatten = Callable[[Any], Sequence[Any]]
"""Gives the leaves of a value in the order of JAX."""


_WHOLE = frozenset((int, np.int32, np.int64))


class Column:
    """Staged values of one leaf: `array` `[rows, *shape]` with the leaf's own dtype, written one row at a time."""

    def __init__(self, path: str, rows: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.array = np.zeros((rows, *shape), dtype)
        self.plain = _plain_types(dtype) if shape == () else frozenset()
        whole = shape == () and jnp.issubdtype(dtype, jnp.integer)
        self.least, self.most = (int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)) if whole else (0, -1)

    def put(self, row: int, value: Any) -> None:
        """Copy a value `[*shape]` into a row. Raises ValueError or TypeError where it does not fit."""
        if type(value) is np.ndarray:
            known = value.dtype == self.dtype and value.shape == self.shape
        else:
            known = type(value) in self.plain or (type(value) in _WHOLE and self.least <= value <= self.most)
        self.array[row] = value if known else fit(self.path, value, self.shape, self.dtype)

    def put_at(self, row: int, env: int, value: Any) -> None:
        """Copy the value `[*shape[1:]]` of one env."""
        self.array[row, env] = fit(self.path, value, self.shape[1:], self.dtype)

    def renew(self) -> None:
        """Take a new array: what was handed to JAX may be read later, so no written row is used again."""
        self.array = np.empty_like(self.array)


def _plain_types(dtype: Any) -> frozenset[type]:
    """The types of scalars that NumPy writes to a dtype without a value changing unseen."""
    if np.dtype(dtype) == np.bool_:
        return frozenset((bool, np.bool_))
    return frozenset((float, np.float64, np.float32)) if is_floating(dtype) else frozenset((np.dtype(dtype).type,))


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
    if is_floating(came.dtype) and is_floating(dtype):
        return came.astype(dtype)
    if came.dtype.kind == "i" and np.dtype(dtype).kind == "i":  # the way of most actions, and cheaper
        out = came.astype(dtype)
        exact = out == came
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
    """The names of a dict in the order in which JAX lists its leaves."""
    return list(example) if isinstance(example, collections.OrderedDict) else sorted(example)


def flattener(path: str, example: PyTree, leave_out: Sequence[str] = ()) -> Flatten:
    """Make a function that lists the leaves of values structured like `example`, without a call into JAX.

    Any mapping will do for a dict, and any tuple or list for either. leave_out: paths, as `f"{path}.name"`, of entries
    of dicts that values may have beside those of the example. The function raises ValueError that names the part whose
    structure differs.
    """
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(example)):
        return lambda value: (value,)
    if isinstance(example, dict):
        inner = [(name, flattener(f"{path}.{name}", example[name], leave_out)) for name in leaf_order(example)]
        beside = frozenset(left.removeprefix(f"{path}.") for left in leave_out if left.startswith(f"{path}."))
        return lambda value: _flatten_dict(path, inner, value, beside)
    if type(example) in (tuple, list):
        parts = [flattener(f"{path}.{i}", part, leave_out) for i, part in enumerate(example)]
        return lambda value: _flatten_tuple(path, parts, value)
    treedef = jax.tree.structure(example)
    return lambda value: _flatten_other(path, treedef, value)


def _flatten_dict(path: str, inner: list[tuple[str, Flatten]], value: Any, beside: frozenset[str]) -> list[Any]:
    if not isinstance(value, Mapping) or (value.keys() - beside if beside else value.keys()) != {
        name for name, _ in inner
    }:
        came = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"{path}: expected a dict of {[name for name, _ in inner]}, got {came}")
    return [leaf for name, flatten in inner for leaf in flatten(value[name])]


def _flatten_tuple(path: str, parts: list[Flatten], value: Any) -> list[Any]:
    if not isinstance(value, tuple | list) or len(value) != len(parts):
        came = f"{len(value)}" if isinstance(value, tuple | list) else type(value).__name__
        raise ValueError(f"{path}: expected a tuple of {len(parts)}, got {came}")
    return [leaf for flatten, part in zip(parts, value, strict=True) for leaf in flatten(part)]


def _flatten_other(path: str, treedef: Any, value: Any) -> list[Any]:
    leaves, came = jax.tree.flatten(value)
    if came != treedef:
        raise ValueError(f"{path}: expected the structure {treedef}, got {came}")
    return leaves
