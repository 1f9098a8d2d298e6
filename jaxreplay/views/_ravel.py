"""Batches as flat vectors, and steps made of such vectors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree
from jaxreplay.views._compose import MapView, get_part, map


def ravel(*parts: str, dtype: Any = None) -> MapView:
    """Flatten a batch to vectors `[B, D]`, for a model of plain numbers; `unravel` makes steps of them.

    parts: by path, in the order in which they stand in the vector; by default the whole batch. The leaves of a part
        come in JAX's order (fields as declared, keys of a dict sorted), each row by row, as `jnp.ravel` gives it.
    dtype: what to cast all leaves to, as `jnp.float32`. By default nothing is cast, and all must have one dtype.

    Put it over another view, as `compose(frame_stack(4), ravel("observation"))`. Raises ValueError, when sampling, for
    parts that are not there and for several dtypes, and TypeError for PRNG keys, and complex numbers cast to real ones.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> example = {"obs": jnp.zeros((2, 2)), "action": jnp.int32(0)}
    >>> buffer = replay.append(replay.create(example, 8), {"obs": jnp.eye(2), "action": 7})
    >>> view = replay.views.ravel("obs", "action", dtype=jnp.float32)
    >>> vectors = replay.take(buffer, replay.newest(buffer, 1), view).data
    >>> vectors.tolist()
    [[1.0, 0.0, 0.0, 1.0, 7.0]]
    >>> step = replay.views.unravel(example, vectors[0], "obs", "action")
    >>> step["action"].item(), step["obs"].tolist()
    (7, [[1.0, 0.0], [0.0, 1.0]])
    """
    if not all(isinstance(part, str) for part in parts):
        raise TypeError(f"ravel: expected names of parts, as ravel('observation', 'action'), got {parts}")
    return map(_Ravel(parts, None if dtype is None else jnp.dtype(dtype)))


def unravel(example: PyTree, vectors: jax.Array, *parts: str) -> PyTree:
    """Make a step, or many, of vectors `[..., D]` as `ravel` makes them of transitions: leaves `[..., *shape]`.

    example: one step of one env, arrays or `jax.ShapeDtypeStruct`, as for `create`.
    parts: those that were given to `ravel`; a dict of them comes back, as `put` takes it. Without, a whole step, as
    `append` and `extend` take it.
    Numbers are cast to the dtypes of the example; for integers and bool they are rounded first. So what the dtype of
    the vectors can hold comes back bit for bit. Raises ValueError for another D and for parts that are not there, and
    TypeError for PRNG keys.
    """
    chosen = _choose("unravel: the example", example, parts)
    described = [(path, *trees.shape_dtype(path, leaf)) for part in chosen for path, leaf in trees.paths(part)]
    sizes = [math.prod(shape) for _, shape, _ in described]
    came, dtype = trees.shape_dtype("vectors", vectors)
    if came[-1:] != (sum(sizes),):
        numbers = ", ".join(f"{size} of {path}" for (path, _, _), size in zip(described, sizes, strict=True))
        expected = f"expected {sum(sizes)} numbers on the last axis ({numbers})"
        raise ValueError(f"vectors: {expected}, got {trees.describe(came, dtype)}")
    pieces = jnp.split(jnp.asarray(vectors), np.cumsum(sizes)[:-1], axis=-1)
    leaves = iter(
        [
            _cast(path, piece, kind).reshape(*came[:-1], *shape)
            for (path, shape, kind), piece in zip(described, pieces, strict=True)
        ]
    )
    made = [jax.tree.map(lambda _: next(leaves), part) for part in chosen]
    return {name: value for part in made for name, value in part.items()} if parts else made[0]


@dataclasses.dataclass(frozen=True)
class _Ravel:
    """The function of `ravel`."""

    parts: tuple[str, ...]
    dtype: Any

    def __call__(self, batch: PyTree) -> jax.Array:
        named = [pair for part in _choose("ravel: the batch", batch, self.parts) for pair in trees.paths(part)]
        if not named:
            raise ValueError(
                f"ravel: expected arrays, and {list(self.parts) or 'the batch'} have none; leave these parts out"
            )
        kinds = {str(leaf.dtype): path for path, leaf in named}
        if self.dtype is None and len(kinds) > 1:
            came = ", ".join(f"{path} {kind}" for kind, path in kinds.items())
            raise ValueError(
                f"ravel: expected one dtype, got {came}; cast all, as ravel(dtype=jnp.float32), or pick parts"
            )
        cast = [_cast(path, leaf, self.dtype or leaf.dtype) for path, leaf in named]
        return jnp.concatenate([x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in cast], axis=-1)


def _choose(what: str, tree: PyTree, parts: tuple[str, ...]) -> list[PyTree]:
    """List the parts, each as a dict of one, so that paths begin with its name; or the whole."""
    return [{part: get_part(what, tree, part)} for part in parts] if parts else [tree]


def _cast(path: str, x: jax.Array, dtype: Any) -> jax.Array:
    """Cast numbers, those for integers and bool rounded."""
    is_lossy = jnp.issubdtype(x.dtype, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating)
    if trees.is_key_dtype(x.dtype) or trees.is_key_dtype(dtype) or is_lossy:
        raise TypeError(f"{path}: {x.dtype} cannot be cast to {dtype}; leave it out by naming the other parts")
    if not jnp.issubdtype(x.dtype, jnp.inexact) or jnp.issubdtype(dtype, jnp.inexact):
        return x.astype(dtype)
    return jnp.round(x).astype(dtype)
