"""What of a trajectory Minari can hold, and in which form: arrays, spaces, infos, and attributes of episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.files.minari import WRAPPED
from jaxreplay.types import PyTree


def check_arrays(path: str, tree: PyTree) -> Any:
    """Return the arrays that HDF5 holds in dicts and tuples, or raise ValueError naming what is none of these."""
    return _map(path, tree, _check_array)


def _map(path: str, node: Any, fn: Callable[[str, Any], Any]) -> Any:
    if type(node) is dict:
        for name in node:
            _check_name(path, name)
        return {name: _map(f"{path}.{name}", inner, fn) for name, inner in node.items()}
    if type(node) is tuple:
        return tuple(_map(f"{path}.{i}", inner, fn) for i, inner in enumerate(node))
    if isinstance(node, list | tuple) or not hasattr(node, "dtype"):
        raise ValueError(f"{path}: Minari holds dicts and tuples of arrays, got {type(node).__name__}")
    return fn(path, node)


def _check_name(path: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "/" in name or name.strip(".") == "" or "\0" in name:
        raise ValueError(f"{path}: {name!r} cannot be a name in Minari: expected a str without a slash")


def _check_array(path: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" or array.dtype.isbuiltin != 1:
        raise ValueError(f"{path}: Minari has no arrays of {array.dtype}; convert it, or leave it out")
    return array


def check_seed(what: str, seed: Any) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"{what}episode_data.seed: Minari holds a whole number, got {seed!r}")
    return int(seed.__index__())


def attributes(path: str, data: dict[str, Any] | None, nested: bool = False) -> dict[str, Any]:
    """Data of an episode as HDF5 attributes, flat by default, or raise ValueError naming what cannot be one."""
    flat: dict[str, Any] = {}
    for name, value in (data or {}).items():
        _check_name(path, name)
        if isinstance(value, dict):
            if not value:
                raise ValueError(f"{path}.{name}: Minari keeps no empty dicts")
            inner = attributes(f"{path}.{name}", value, nested)
            flat |= {name: inner} if nested else {f"{name}/{key}": item for key, item in inner.items()}
        elif isinstance(value, str | bool | int | float):
            flat[name] = value
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            array = _check_array(f"{path}.{name}", value)
            if array.nbytes > 2**15:  # HDF5 keeps attributes of at most 64 KiB in all
                raise ValueError(f"{path}.{name}: {array.nbytes} bytes are too many for an attribute; put it in extras")
            flat[name] = array
        else:
            raise ValueError(f"{path}.{name}: expected a number, an array or a text, got {type(value).__name__}")
    return flat


def join_infos(what: str, extras: PyTree, infos: Sequence[dict[str, Any]] | None, reset_infos: Any) -> Any:
    """Extras and infos as Minari's infos: extras as they are where that is clear, else each in a group of its own."""
    extras = None if extras is None else check_arrays(f"{what}extras", extras)
    if infos is None and isinstance(extras, dict) and not extras.keys() <= WRAPPED:
        if reset_infos is None:
            return extras
        if _describe(reset_infos) == _describe(jax.tree.map(lambda x: x[0], extras)):  # Minari's own form: T + 1
            return jax.tree.map(
                lambda first, rest: np.concatenate([np.asarray(first)[None], rest]), reset_infos, extras
            )
    groups = {
        "extras": extras,
        "infos": None if infos is None else _stack(f"{what}infos", list(infos)),
        "reset_infos": None if reset_infos is None else _stack(f"{what}episode_data.reset_infos", [reset_infos]),
    }
    return {name: group for name, group in groups.items() if group is not None} or None


def _describe(tree: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(np.shape(x), np.asarray(x).dtype) for x in leaves]


def _stack(path: str, infos: list[Any]) -> Any:
    """T dicts as one of arrays `[T, ...]`, or raise ValueError naming where they do not line up."""
    first = infos[0]
    if isinstance(first, dict):
        for i, info in enumerate(infos):
            if not isinstance(info, dict) or info.keys() != first.keys():
                raise ValueError(
                    f"{path}.{i}: Minari holds infos with the same keys in every step; leave them out, or "
                    "keep what you need in extras"
                )
        for name in first:
            _check_name(path, name)
        return {name: _stack(f"{path}.{name}", [info[name] for info in infos]) for name in first}
    if all(isinstance(info, str) for info in infos):
        return infos
    arrays = [
        np.asarray(info) if isinstance(info, np.ndarray | np.generic | bool | int | float) else None for info in infos
    ]
    kinds = {None if array is None else (array.shape, array.dtype) for array in arrays}
    if len(kinds) > 1 or None in kinds:
        raise ValueError(f"{path}: Minari holds numbers, texts, or arrays of one shape and dtype in every step")
    return _check_array(path, np.stack([array for array in arrays if array is not None]))
