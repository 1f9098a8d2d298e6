"""Nested values of one step (actions, reset options): copied as they came, and packed into arrays and plain text.

A value is a dict with string keys, a list or a tuple of values, or a leaf: a NumPy array or scalar of numbers or bools,
a Python bool, int, float or string, or None. JAX arrays become NumPy arrays. Everything else is refused by its path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

KINDS = "biufc"  # of the dtypes that are plain data
PYTHON = {"bool": np.bool_, "int": np.int64, "float": np.float64}
MAX_INT = 2**63 - 1


def copy_value(path: str, value: Any) -> Any:
    """Copy a value, so that nothing done to the original later changes it, or raise TypeError naming the path."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return _copy_array(path, value)
    if value is None or isinstance(value, bool | int | float):
        return _python_scalar(path, value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{path}: a dict's keys must be strings to be recorded, got {name!r}")
        return {name: copy_value(f"{path}.{name}", inner) for name, inner in value.items()}
    if type(value) is list or type(value) is tuple:
        items = [copy_value(f"{path}.{i}", inner) for i, inner in enumerate(value)]
        return items if type(value) is list else tuple(items)
    if hasattr(value, "__array__"):
        return _copy_array(path, value)
    raise TypeError(
        f"{path}: {type(value).__name__} cannot be recorded as plain data; expected NumPy arrays, Python numbers, "
        "strings, or dicts, lists and tuples of them"
    )


def pack(name: str, values: Sequence[Any]) -> tuple[Any, dict[str, np.ndarray]]:
    """Pack copied values into `(text, arrays)`: what JSON can hold, and named arrays `[n, ...]`.

    Values that differ in structure, type, shape or dtype are stacked apart, and `text` says which is which.
    """
    groups: dict[str, tuple[int, list[Any]]] = {}
    which = []
    for value in values:
        number, members = groups.setdefault(_signature(value), (len(groups), []))
        members.append(value)
        which.append(number)
    arrays: dict[str, np.ndarray] = {}
    nodes = []
    for number, members in groups.values():
        nodes.append(_pack_group(f"{name}~{number}" if number else name, members, arrays))
    if len(groups) > 1:
        arrays[f"{name}~which"] = np.array(which, np.int64)
    return {"count": len(values), "groups": nodes}, arrays


def unpack(name: str, text: Any, arrays: dict[str, np.ndarray], count: int, most_nodes: int) -> tuple[Any, ...]:
    """Give back the `count` values that `pack` packed, and take their arrays out of `arrays`.

    Raises ValueError, KeyError or TypeError where text and arrays do not belong together, and where the values would
    have more than `most_nodes` containers and leaves in all, which only text that was made up asks for.
    """
    nodes = text["groups"]
    which = arrays.pop(f"{name}~which") if len(nodes) > 1 else np.zeros(count, np.int64)
    if text["count"] != count or which.shape != (count,) or bool(nodes) != bool(count):
        raise ValueError(f"{name}: expected {count} values, got {text['count']}")
    if count and not (which.min() >= 0 and which.max() < len(nodes)):
        raise ValueError(f"{name}: values of an unknown group")
    sizes = np.bincount(which, minlength=len(nodes)).tolist()
    if sum(size * _num_nodes(node) for node, size in zip(nodes, sizes)) > most_nodes:
        raise ValueError(f"{name}: more values than there is room for in the file")
    readers = [_reader(node, size, arrays) for node, size in zip(nodes, sizes)]
    used = [0] * len(nodes)
    values = []
    for group in which.tolist():
        values.append(readers[group](used[group]))
        used[group] += 1
    return tuple(values)


def _python_scalar(path: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise TypeError(f"{path}: {value} does not fit in 64 bits")
    return int(value)  # a member of an IntEnum becomes its number


def _copy_array(path: str, value: Any) -> Any:
    copied = np.array(value)
    if copied.dtype.kind not in KINDS:
        raise TypeError(f"{path}: expected an array of numbers or bools, got dtype {copied.dtype}; convert it")
    return copied[()] if isinstance(value, np.generic) else copied


def _signature(value: Any) -> str:
    """What two values must share to be stacked."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_signature(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({','.join(map(_signature, value))})"
    if isinstance(value, np.ndarray | np.generic):
        return f"{_kind(value)}{value.dtype.str}{value.shape}"
    return _kind(value)


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return "array"
    if isinstance(leaf, np.generic):
        return "scalar"
    return "none" if leaf is None else type(leaf).__name__


def _pack_group(name: str, members: list[Any], arrays: dict[str, np.ndarray]) -> Any:
    first = members[0]
    if isinstance(first, dict):
        inner = [[key, _pack_group(f"{name}.{key}", [m[key] for m in members], arrays)] for key in first]
        return ["dict", inner]
    if isinstance(first, list | tuple):
        columns = [[m[i] for m in members] for i in range(len(first))]
        return [type(first).__name__, [_pack_group(f"{name}.{i}", c, arrays) for i, c in enumerate(columns)]]
    kind = _kind(first)
    if kind == "none":
        return ["none", ""]
    while name in arrays:  # keys that hold dots can spell the same path
        name += "~"
    if kind == "str":
        arrays[name] = np.frombuffer(json.dumps(members).encode(), np.uint8)
    else:
        # The dtype is named because stacking would change the byte order.
        dtype = first.dtype if kind in ("array", "scalar") else PYTHON[kind]
        arrays[name] = np.stack(members).astype(dtype, copy=False)
    return [kind, name]


def _num_nodes(node: Any) -> int:
    kind, content = node
    children = [child for _, child in content] if kind == "dict" else content if kind in ("list", "tuple") else []
    return 1 + sum(map(_num_nodes, children))


def _reader(node: Any, size: int, arrays: dict[str, np.ndarray]) -> Callable[[int], Any]:
    """Take and check a group's arrays, and return what reads its n-th value."""
    kind, content = node
    if kind == "none":
        return lambda n: None
    if kind == "dict":
        inner = {str(name): _reader(child, size, arrays) for name, child in content}
        return lambda n: {name: read(n) for name, read in inner.items()}
    if kind in ("list", "tuple"):
        parts = [_reader(child, size, arrays) for child in content]
        container = list if kind == "list" else tuple
        return lambda n: container(read(n) for read in parts)
    column = arrays.pop(content)
    if kind == "array" and column.ndim >= 1:
        values: Any = column
    elif kind == "scalar" and column.ndim == 1:
        values = list(column)
    elif kind in PYTHON and column.ndim == 1 and column.dtype == PYTHON[kind]:
        values = column.tolist()
    elif kind == "str":
        values = [_check_string(text) for text in json.loads(column.tobytes())]
    else:
        raise ValueError(f"{content}: expected values of kind {kind!r}, got {column.dtype}{list(column.shape)}")
    if len(values) != size:
        raise ValueError(f"{content}: expected {size} values, got {len(values)}")
    return (lambda n: values[n, ...].copy()) if kind == "array" else (lambda n: values[n])


def _check_string(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"expected a string, got {text!r}")
    return text
