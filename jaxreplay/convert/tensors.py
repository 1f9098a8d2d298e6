"""Arrays as PyTorch's tensors, in their containers and with their bits; and the taking apart of containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.containers import need
from jaxreplay.types import PyTree

INFOS = "infos"  # under this name stand dicts of anything, which stay as they are


def to_tensors(batch: PyTree) -> Any:
    """Give the arrays of a batch as tensors, in the containers they are in, without a copy where that is possible.

    JAX arrays pass through DLPack, on their device; they share their memory, so do not write into these tensors. NumPy
    arrays share theirs too, but for those that cannot be written to. Every value keeps its bits: bfloat16 and float8
    become PyTorch's, PRNG keys their words. What stands under "infos" stays as it is, as do texts and None.
    Raises TypeError naming a leaf whose dtype PyTorch lacks, ImportError without PyTorch.
    """
    need("torch", "PyTorch", "torch", "to_tensors")
    return _map("", batch)


def _map(path: str, node: Any) -> Any:
    if node is None or isinstance(node, str | bytes):
        return node
    parts = children(node)
    if parts is None:
        return to_tensor(path, node)
    return rebuild(node, {name: x if name == INFOS else _map(join(path, name), x) for name, x in parts.items()})


def to_tensor(path: str, leaf: Any) -> Any:
    """One leaf as a tensor. Raises TypeError naming it for what cannot be one."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return leaf
    if isinstance(leaf, jax.Array):
        leaf = jax.random.key_data(leaf) if trees.is_key_dtype(leaf.dtype) else leaf
        try:
            return torch.from_dlpack(leaf)
        except Exception as error:  # of several kinds, and other ones in other versions
            raise TypeError(_no_dtype(path, leaf.dtype)) from error
    array = as_array(path, leaf)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()  # PyTorch has no read-only tensors, and no steps backwards
    try:
        if array.dtype.name != "bfloat16" and not array.dtype.name.startswith("float8"):
            return torch.from_numpy(array)
        dtype = getattr(torch, array.dtype.name)  # NumPy has it from ml_dtypes, which PyTorch does not know
        return torch.from_numpy(array.view(np.int16 if dtype.itemsize == 2 else np.uint8)).view(dtype)
    except (TypeError, AttributeError) as error:
        raise TypeError(_no_dtype(path, array.dtype)) from error


def as_array(path: str, leaf: Any) -> np.ndarray:
    """A NumPy array of a leaf, or TypeError naming it."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if isinstance(leaf, bool | int | float | complex | np.generic | jax.Array):
        return np.asarray(leaf)
    raise TypeError(f"{path or 'the item'}: expected an array, a tensor or a number, got {type(leaf).__name__}")


def _no_dtype(path: str, dtype: Any) -> str:
    return f"{path or 'the item'}: PyTorch has no tensors of {dtype}; convert it first, as with views.map"


def children(node: Any) -> dict[Any, Any] | None:
    """The parts of a container by name or number, or None of a leaf."""
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = [field for field in dataclasses.fields(node) if field.metadata.get("pytree_node", True)]
        return {field.name: getattr(node, field.name) for field in fields}
    return None


def rebuild(node: Any, parts: dict[Any, Any]) -> Any:
    """A container like `node` of other parts."""
    if isinstance(node, Mapping):
        return parts
    if isinstance(node, list | tuple):
        values = list(parts.values())
        return type(node)(*values) if hasattr(node, "_fields") else type(node)(values)
    return dataclasses.replace(node, **parts)


def join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
