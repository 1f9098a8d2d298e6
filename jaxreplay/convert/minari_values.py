"""What of a trajectory Minari can hold, and in which form: arrays, spaces, infos, and attributes of episodes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.files.minari import WRAPPED
from jaxreplay.types import PyTree


def check_arrays(path: str, node: Any) -> Any:
    """Return the arrays that HDF5 holds in dicts and tuples, or raise ValueError naming what is none of these."""
    if type(node) is dict:
        return {_check_name(path, name): check_arrays(f"{path}.{name}", inner) for name, inner in node.items()}
    if type(node) is tuple:
        return tuple(check_arrays(f"{path}.{i}", inner) for i, inner in enumerate(node))
    if isinstance(node, list | tuple) or not hasattr(node, "dtype"):
        raise ValueError(f"{path}: Minari holds dicts and tuples of arrays, got {type(node).__name__}")
    array = np.asarray(node)
    if array.dtype.kind not in "biufc" or array.dtype.isbuiltin != 1:
        raise ValueError(f"{path}: Minari has no arrays of {array.dtype}; convert it, or leave it out")
    return array


def _check_name(path: str, name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name or name.strip(".") == "" or "\0" in name:
        raise ValueError(f"{path}: {name!r} cannot be a name in Minari: expected a str without a slash")
    return name


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
            array = check_arrays(f"{path}.{name}", value)
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
        form = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype))
        if form(reset_infos) == form(jax.tree.map(lambda x: x[0], extras)):  # Minari's own form: T + 1
            return jax.tree.map(lambda x, rest: np.concatenate([np.asarray(x)[None], rest]), reset_infos, extras)
    groups = {
        "extras": extras,
        "infos": None if infos is None else _stack(f"{what}infos", list(infos)),
        "reset_infos": None if reset_infos is None else _stack(f"{what}episode_data.reset_infos", [reset_infos]),
    }
    return {name: group for name, group in groups.items() if group is not None} or None


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
        return {_check_name(path, name): _stack(f"{path}.{name}", [info[name] for info in infos]) for name in first}
    if all(isinstance(info, str) for info in infos):
        return infos
    plain = all(isinstance(info, np.ndarray | np.generic | bool | int | float) for info in infos)
    arrays = [np.asarray(info) for info in infos] if plain else []
    if len({(array.shape, array.dtype) for array in arrays}) != 1:
        raise ValueError(f"{path}: Minari holds numbers, texts, or arrays of one shape and dtype in every step")
    return check_arrays(path, np.stack(arrays))
