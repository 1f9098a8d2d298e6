"""Whether two values are the same, and where they first differ."""

import dataclasses
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree

Kind: TypeAlias = tuple[tuple[int, ...], Any]  # a shape and a dtype


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
    found = first_difference(expected, came)
    if found is None:
        return None
    path, *kinds = found
    if not path:
        return f"the containers differ: got {jax.tree.structure(came)}, expected {jax.tree.structure(expected)}"
    wanted, got = (kind and trees.describe(*kind) for kind in kinds)
    return f"{path}: expected {wanted or 'nothing there'}, got {got or 'nothing'}"


def first_difference(expected: PyTree, came: PyTree, skip: int = 0) -> tuple[str, Kind | None, Kind | None] | None:
    """Find the first path at which the shapes or dtypes of two pytrees differ: it, what was expected, and what came.

    The path is empty if the containers alone differ. skip: how many leading axes are not compared.
    """
    (wanted, one), (got, other) = jax.tree.flatten(expected), jax.tree.flatten(came)
    if one == other and all(_kind(a, skip) == _kind(b, skip) for a, b in zip(wanted, got)):
        return None
    known, found = _kinds(expected, skip), _kinds(came, skip)
    path = next((path for path in [*known, *found] if known.get(path) != found.get(path)), "")
    return path, known.get(path), found.get(path)


def _kinds(tree: PyTree, skip: int) -> dict[str, Kind]:
    """Return the kind of each leaf; a path that stands for two, as `a.b` may, gets a number."""
    kinds: dict[str, Kind] = {}
    for path, leaf in trees.paths(tree):
        number = sum(known.split(" (")[0] == path for known in kinds) if path in kinds else 0
        kinds[f"{path} ({number + 1})" if number else path] = _kind(leaf, skip)
    return kinds


def compare(path: str, one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """Say where two values first differ: numbers and arrays in dtype, shape or value, all else by `==`.

    Containers are those of pytrees. A NaN is equal to a NaN. rtol, atol: numbers may differ by `atol + rtol * |other|`.
    Raises ValueError for a tolerance that is negative or NaN.
    """
    if not (rtol >= 0 and atol >= 0):
        raise ValueError(f"rtol, atol: expected numbers of at least 0, got {rtol} and {atol}")
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
    if one is other:
        return None
    if not (_is_numbers(one) and _is_numbers(other)):
        arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
        same = np.array_equal(one, other) if arrays else type(one) is type(other) and bool(np.all(one == other))
        return None if same else f"{path}: {str(one)[:60]!r} and {str(other)[:60]!r}"
    a, b = _to_numpy(one), _to_numpy(other)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{path}: {trees.describe(a.shape, a.dtype)} and {trees.describe(b.shape, b.dtype)}"
    axes, a, b = a.ndim, np.atleast_1d(a), np.atleast_1d(b)
    with np.errstate(all="ignore"):
        differs = (a != b) & ~((a != a) & (b != b))
        if (rtol or atol) and differs.any() and a.dtype.kind not in "bUSMmV":
            differs[differs] = ~_near(a[differs], b[differs], rtol, atol)
    if not differs.any():
        return None
    first = tuple(int(i[0]) for i in np.nonzero(differs))
    where = f"{path}{list(first)}" if axes else path
    return f"{where}: {a[first]} and {b[first]}" + (f" ({differs.sum()} of {a.size} differ)" if axes else "")


def _near(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Tell which numbers are within the tolerances; an infinite one is not. The gap of integers is exact."""
    if a.dtype.kind in "iu":
        unsigned = np.dtype(f"u{a.dtype.itemsize}")
        gap = np.maximum(a, b).astype(unsigned) - np.minimum(a, b).astype(unsigned)
    else:
        wide = {"c": np.complex128, "O": object}.get(a.dtype.kind, np.float64)
        gap = np.abs(a.astype(wide) - b.astype(wide)).astype(np.float64)
    return (gap <= atol + rtol * np.abs(b).astype(np.float64)) & np.isfinite(gap)


def _kind(leaf: Any, skip: int) -> Kind:
    dtype = leaf.dtype if trees.is_key_dtype(leaf.dtype) else leaf.dtype.newbyteorder("=")
    return tuple(leaf.shape[skip:]), dtype


def _is_numbers(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, bool | int | float | complex) or (dtype is not None and getattr(dtype, "kind", "") != "O")


def _to_numpy(leaf: Any) -> np.ndarray:
    is_key = isinstance(leaf, jax.Array) and trees.is_key_dtype(leaf.dtype)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
