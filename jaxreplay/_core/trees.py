"""Pytrees by path: names for error messages, and checks of what the caller passes, before anything is written."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxreplay.types import PyTree


def paths(tree: PyTree, is_leaf: Any = None) -> list[tuple[str, Any]]:
    """List `(path, leaf)` of a pytree, the path as users write it: `observation.camera`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return [(jax.tree_util.keystr(path, simple=True, separator=".") or "the item", leaf) for path, leaf in flat]


def is_key_dtype(dtype: Any) -> bool:
    """Tell whether a dtype is that of typed PRNG keys."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def describe(shape: Sequence[int], dtype: Any) -> str:
    """Write a shape and dtype the way JAX does: `float32[128,4]`."""
    return f"{dtype}[{','.join(map(str, shape))}]"


def shape_dtype(path: str, leaf: Any) -> tuple[tuple[int, ...], Any]:
    """Return a leaf's shape and dtype as it came, before JAX could cast it.

    Python scalars count as JAX counts them (`1` int32, `1.0` float32). Raises TypeError for what is no array.
    """
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        if is_key_dtype(leaf.dtype):
            return tuple(leaf.shape), leaf.dtype
        dtype = np.dtype(leaf.dtype)
        if dtype.kind in "OUSMmT":
            raise TypeError(f"{path}: expected an array of numbers, got dtype {dtype}")
        return tuple(leaf.shape), dtype
    if isinstance(leaf, bool | int | float | complex):
        return (), np.dtype(jnp.result_type(leaf))
    raise TypeError(f"{path}: expected an array, got {type(leaf).__name__}; convert it to one, or leave it out")


def check_structure(what: str, tree: PyTree, treedef: Any, expected_paths: Sequence[str]) -> list[Any]:
    """Flatten `tree`, or raise ValueError naming the leaves that are missing or unknown."""
    leaves, came = jax.tree.flatten(tree)
    if came == treedef:
        return leaves
    came_paths = [path for path, _ in paths(tree)]
    missing = [path for path in expected_paths if path not in came_paths]
    unknown = [path for path in came_paths if path not in expected_paths]
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += [f"unknown {', '.join(unknown)}"] if unknown else []
    if not problems:
        problems = [f"the containers differ: got {came}, expected {treedef}"]
    raise ValueError(
        f"{what} must have the structure of the example the buffer was created with: {'; '.join(problems)}. "
        f"Expected leaves: {', '.join(expected_paths)}."
    )


def check_leaf(path: str, leaf: Any, shape: tuple[int, ...], dtype: Any, hint: str) -> None:
    """Raise unless a leaf has the shape and the dtype."""
    came_shape, came_dtype = shape_dtype(path, leaf)
    expected, came = describe(shape, dtype), describe(came_shape, came_dtype)
    if came_shape != shape:
        raise ValueError(f"{path}: expected {expected}, got {came}. {hint}")
    if came_dtype != dtype:
        raise TypeError(f"{path}: expected {expected}, got {came}. Nothing is cast silently: convert it first.")
    if type(leaf) is int and not jnp.iinfo(dtype).min <= leaf <= jnp.iinfo(dtype).max:
        raise ValueError(f"{path}: {leaf} does not fit in {dtype}")


def check_key(key: Any) -> None:
    """Raise TypeError unless `key` is one PRNG key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""
    way_out = "pass one key, as jax.random.key(seed) or jax.random.split give it"
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key: expected a PRNG key, got {type(key).__name__}; {way_out}")
    came = describe(key.shape, key.dtype)
    if is_key_dtype(key.dtype):
        if key.shape != ():
            raise TypeError(f"key: expected one PRNG key, got an array of keys {came}; {way_out}")
    elif key.dtype != jnp.uint32 or key.shape != jax.eval_shape(lambda: jax.random.PRNGKey(0)).shape:
        raise TypeError(f"key: expected a PRNG key, got {came}; {way_out}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a static whole number, or raise saying what came."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or isinstance(value, jax.core.Tracer):
        came = "a traced value" if isinstance(value, jax.core.Tracer) else f"{type(value).__name__} {value!r}"
        raise TypeError(f"{name}: expected a Python int (it shapes the program), got {came}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ValueError for a word that is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, allowed))}, got {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """Return a static bool, or raise TypeError saying what came."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name}: expected True or False (it shapes the program), got a traced value")
    if not isinstance(value, bool) and describe(*shape_dtype(name, value)) != "bool[]":
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__} {value!r}")
    return bool(value)


def to_int32(name: str, value: Any) -> tuple[Any, Any]:
    """Return whole numbers as int32, and which of them fit in it, None if all must; raise TypeError for others."""
    if type(value) is int and abs(value) >= 2**31:
        value = np.asarray(value)
    shape, dtype = shape_dtype(name, value)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name}: expected int32, got {describe(shape, dtype)}")
    wide = value if isinstance(value, jax.Array) else np.asarray(value)
    narrow = wide.astype(np.int32)
    if jnp.iinfo(dtype).max <= jnp.iinfo(np.int32).max:
        return narrow, None
    return narrow, (narrow.astype(wide.dtype) == wide) & ((narrow < 0) == (wide < 0))


def check_number(name: str, value: Any, least: float = 0.0, most: float = math.inf, way_out: str = "") -> float:
    """Return a static finite number from `least` to `most`, or raise saying what came."""
    wanted = f"a number of at least {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}"
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name}: expected a Python number (it shapes the program), got a traced value{way_out}")
    is_scalar = isinstance(value, np.ndarray | jax.Array) and value.shape == () and value.dtype != jnp.bool_
    if isinstance(value, bool) or not (is_scalar or isinstance(value, numbers.Real)):
        raise TypeError(f"{name}: expected {wanted}, got {type(value).__name__} {value!r}")
    number = float(value)
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return number


def is_concrete(tree: PyTree) -> bool:
    """Tell whether no leaf is being traced, or lies with other processes, so that values can be looked at."""
    return all(_can_be_read(leaf) for leaf in jax.tree.leaves(tree))


def _can_be_read(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def get_part(step: PyTree, part: str) -> PyTree:
    """Return the part of a step at a path of names."""
    for name in part.split("."):
        if isinstance(step, Mapping):  # before its attributes: a key may be called "values"
            step = step[{str(key): key for key in step}[name]]
        elif hasattr(step, name):
            step = getattr(step, name)
        else:
            step = step[int(name) if isinstance(step, list | tuple) else name]
    return step


def has_part(step: PyTree, part: str) -> bool:
    """Tell whether a step has a part at a path of names, be it one without leaves."""
    if any(is_below(path, part) for path, _ in paths(step)):
        return True
    try:
        return not jax.tree.leaves(get_part(step, part))
    except (KeyError, IndexError, ValueError, TypeError):
        return False


def set_part(step: PyTree, part: str, value: PyTree) -> PyTree:
    """Replace the part of a step at a path of names by another of the same structure."""
    leaves = iter(jax.tree.leaves(value))
    named = paths(step)
    return jax.tree.unflatten(
        jax.tree.structure(step), [next(leaves) if is_below(path, part) else leaf for path, leaf in named]
    )


def is_below(path: str, part: str) -> bool:
    """Tell whether the leaf at a path is the part, or in it."""
    return not part or path == part or path.startswith(part + ".")


def longest_parts(named: Sequence[str], parts: Iterable[str]) -> list[str | None]:
    """Find for each path the longest of the parts that it is, or is in; None if it is in none."""
    longest_first = sorted(parts, key=len, reverse=True)
    return [next((part for part in longest_first if is_below(path, part)), None) for path in named]


@functools.partial(jax.jit, inline=True)
def choose(which: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """Take rows of `a` where `which` `[B]`, else those of `b`; pytrees of one structure, leaves `[B, ...]`."""
    return jax.tree.map(lambda x, y: jnp.where(to_rank(which, x.ndim), x, y), a, b)


def to_rank(x: jax.Array, ndim: int) -> jax.Array:
    """Give `x` axes of length 1 at its end, up to `ndim` axes in all."""
    return x.reshape(*x.shape, *[1] * (ndim - x.ndim))
