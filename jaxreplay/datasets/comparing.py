"""Whether two values are the same, and where they first differ."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came of a comparison: True as a bool if nothing differs; printed, the first difference.

    difference: where two values first differ and what each has there; None if they do not.
    """

    difference: str | None = None

    def __bool__(self) -> bool:
        return self.difference is None

    def __str__(self) -> str:
        return self.difference or "they are equal"


def compare_kinds(expected: PyTree, came: PyTree) -> str | None:
    """Say where the shapes, dtypes or containers of two pytrees of arrays first differ; byte orders are no matter."""
    wanted, got = ({path: _kind(leaf) for path, leaf in trees.paths(tree)} for tree in (expected, came))
    for path in [*wanted, *got]:
        if path not in wanted:
            return f"{path}: expected nothing there, got {got[path]}"
        if wanted[path] != got.get(path):
            return f"{path}: expected {wanted[path]}, got {got.get(path, 'nothing')}"
    one, other = jax.tree.structure(expected), jax.tree.structure(came)
    return None if one == other else f"the containers differ: got {other}, expected {one}"


def compare(path: str, one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """Say where two values first differ: numbers and arrays in dtype, shape or value, all else by `==`.

    Containers are those of pytrees. A NaN is equal to a NaN. rtol, atol: numbers may differ by `atol + rtol * |other|`.
    """
    mine, theirs = (jax.tree.structure(tree) for tree in (one, other))
    if mine == theirs:
        pairs = zip(trees.paths({path: one}), jax.tree.leaves(other), strict=True)
        return next((text for (at, a), b in pairs if (text := _compare_leaves(at, a, b, rtol, atol))), None)
    known, found = ([at for at, _ in trees.paths({path: tree})] for tree in (one, other))
    for only, where, elsewhere in ((known, found, "in the first alone"), (found, known, "in the second alone")):
        if missing := [at for at in only if at not in where]:
            return f"{missing[0]}: it is {elsewhere}"
    return f"{path}: the containers differ: {mine} and {theirs}"


def _compare_leaves(path: str, one: Any, other: Any, rtol: float, atol: float) -> str | None:
    if not (_is_numbers(one) and _is_numbers(other)):
        same = one is other or (type(one) is type(other) and bool(np.all(one == other)))
        return None if same else f"{path}: {str(one)[:60]!r} and {str(other)[:60]!r}"
    if one is other:
        return None
    a, b = _to_numpy(one), _to_numpy(other)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{path}: {trees.describe(a.shape, a.dtype)} and {trees.describe(b.shape, b.dtype)}"
    with np.errstate(all="ignore"):
        differs = (a != b) & ~((a != a) & (b != b))
        if (rtol or atol) and differs.any() and a.dtype.kind not in "bUSMm":
            wide = np.complex128 if a.dtype.kind == "c" else np.float64
            gap = np.abs(a[differs].astype(wide) - b[differs].astype(wide))
            differs[differs] = ~(gap <= atol + rtol * np.abs(b[differs].astype(wide)))
    if not differs.any():
        return None
    first = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(differs)))[: a.ndim]
    where = f"{path}{list(first)}" if first else path
    return f"{where}: {a[first]} and {b[first]}" + (f" ({differs.sum()} of {a.size} differ)" if first else "")


def _kind(leaf: Any) -> str:
    return trees.describe(leaf.shape, leaf.dtype if trees.is_key_dtype(leaf.dtype) else leaf.dtype.newbyteorder("="))


def _is_numbers(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, bool | int | float | complex) or (dtype is not None and getattr(dtype, "kind", "") != "O")


def _to_numpy(leaf: Any) -> np.ndarray:
    is_key = isinstance(leaf, jax.Array) and trees.is_key_dtype(leaf.dtype)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
