"""Plain values as JSON and arrays, and back, exactly: data alone.

A value is a dict with string keys, a list or a tuple of values, or a leaf: a NumPy array or scalar of numbers or bools,
a Python bool, int, float or string, or None. JAX arrays become NumPy arrays. Everything else is refused by its path.
"""

import base64
import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

EXTENDED = {
    name: np.dtype(kind)
    for name, kind in vars(ml_dtypes).items()
    if isinstance(kind, type) and issubclass(kind, np.generic) and np.dtype(kind).isbuiltin == 2
}
"""The dtypes that NumPy knows only by an extension, as bfloat16: its own files cannot name them."""

PYTHON = {"bool": np.bool_, "int": np.int64, "float": np.float64}
MOST_TEXT = 64  # characters of JSON that a value may be described with, for each byte of its arrays
FREE_TEXT = 10_000  # and without any
MANY_ARRAYS, FEW = 256, 16  # of more arrays than this, each has to stand for more values than that


def is_extended(dtype: np.dtype) -> bool:
    """Tell whether a dtype is one of `EXTENDED`."""
    return dtype.isbuiltin == 2 and dtype.name in EXTENDED


def is_number(dtype: np.dtype) -> bool:
    """Tell whether arrays of a dtype are plain data."""
    return is_extended(dtype) or dtype.kind in "biufc"


def copy_value(path: str, value: Any) -> Any:
    """Copy a value, so that nothing done to the original later changes it, or raise TypeError naming the path."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return _copy_array(path, value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):  # a member of an IntEnum becomes its number
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{path}: a dict's keys must be strings to be recorded, got {name!r}")
        return {name: copy_value(f"{path}.{name}", inner) for name, inner in value.items()}
    if type(value) is list or type(value) is tuple:
        return type(value)([copy_value(f"{path}.{i}", inner) for i, inner in enumerate(value)])
    if hasattr(value, "__array__"):
        return _copy_array(path, value)
    raise TypeError(
        f"{path}: {type(value).__name__} cannot be recorded as plain data; expected NumPy arrays, Python numbers, "
        "strings, or dicts, lists and tuples of them; convert it"
    )


def _copy_array(path: str, value: Any) -> Any:
    copied = np.array(value)
    if not is_number(copied.dtype):
        raise TypeError(f"{path}: expected an array of numbers or bools, got dtype {copied.dtype}; convert it")
    return copied[()] if isinstance(value, np.generic) else copied


def describe(value: Any, leaf: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return a copied value as JSON: dicts and None as they are, lists and tuples as a list that begins with its kind.

    leaf: gives what stands for a leaf, by its path (`.arm.0`) and itself: anything but None, a dict or such a list.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: describe(inner, leaf, f"{path}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(describe(inner, leaf, f"{path}.{i}") for i, inner in enumerate(value))]
    return leaf(path, value)


def build(node: Any, leaf: Callable[[Any], Any]) -> Any:
    """Undo `describe`; leaf: gives the leaf that a node stands for."""
    if node is None:
        return None
    if isinstance(node, dict):
        return {name: build(inner, leaf) for name, inner in node.items()}
    if isinstance(node, list) and node[:1] in (["list"], ["tuple"]):
        items = [build(inner, leaf) for inner in node[1:]]
        return items if node[0] == "list" else tuple(items)
    return leaf(node)


def write_leaf(path: str, leaf: Any) -> Any:
    """Return a leaf as JSON: what JSON has no word for is a list that begins with its kind."""
    if isinstance(leaf, np.ndarray | np.generic):
        name = leaf.dtype.name if is_extended(leaf.dtype) else leaf.dtype.str
        return [_kind(leaf), name, list(leaf.shape), base64.b64encode(leaf.tobytes()).decode()]
    return ["float", repr(leaf)] if isinstance(leaf, float) and not math.isfinite(leaf) else leaf


def read_leaf(node: Any) -> Any:
    """Undo `write_leaf`. Raises ValueError for what it did not write."""
    if not isinstance(node, list):
        return node
    kind, name, *rest = node
    if kind == "float" and name in ("nan", "inf", "-inf"):
        return float(name)
    dtype = EXTENDED[name] if name in EXTENDED else np.dtype(name)
    if kind not in ("array", "scalar") or not is_number(dtype):
        raise ValueError(f"expected an array of numbers, got {str(kind)[:40]!r} of dtype {dtype}")
    shape, data = rest
    array = np.frombuffer(bytearray(base64.b64decode(data, validate=True)), dtype).reshape(shape)
    return array[()] if kind == "scalar" else array


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return the name if a file can hold it and it is not taken, else one that begins alike."""
    if re.fullmatch(r"[\w.~-]{1,100}", wanted, re.ASCII) and wanted not in taken:
        return wanted
    begin = re.match(r"[a-z_]*", wanted)
    return f"{begin[0] if begin else ''}#{len(taken)}"


def pack(name: str, values: Sequence[Any], arrays: dict[str, Any]) -> Any:
    """Add copied values to `arrays`, as arrays `[n, ...]` named after their paths, and return the rest as JSON.

    Values that differ in structure, type, shape or dtype are stacked apart; one more array says which is which. Where
    that would be very many arrays, values that few others are like are written as text.
    """
    groups: dict[str, tuple[Any, list[list[Any]]]] = {}  # by signature, the first value and the leaves of each
    signatures = []
    for value in values:
        leaves: list[Any] = []
        signature = repr(describe(value, functools.partial(_sign, leaves)))
        groups.setdefault(signature, (value, []))[1].append(leaves)
        signatures.append(signature)
    crowded = sum(len(members[0]) for _, members in groups.values()) > MANY_ARRAYS
    stacked = [group for group in groups.items() if not crowded or len(group[1][1]) > FEW * len(group[1][1][0])]
    before, nodes, short = set(arrays), [], -FREE_TEXT
    for number, (_, (value, members)) in enumerate(stacked):
        prefix, columns = f"{name}~{number}" if number else name, zip(*members)
        nodes.append(describe(value, lambda path, leaf: _add(f"{prefix}{path}", _kind(leaf), next(columns), arrays)))  # noqa: B023
        short += len(json.dumps(nodes[-1])) * len(members)
    text = {"count": len(values), "groups": nodes, "rest": None, "which": None, "room": None}
    numbers = {signature: number for number, (signature, _) in enumerate(stacked)}
    if len(stacked) < len(groups):
        rest = [describe(value, write_leaf) for value, each in zip(values, signatures) if each not in numbers]
        text["rest"] = free_name(f"{name}~rest", arrays)
        arrays[text["rest"]] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    if len(groups) > 1 and stacked:
        text["which"] = free_name(f"{name}~which", arrays)
        arrays[text["which"]] = np.array([numbers.get(each, len(stacked)) for each in signatures], np.int64)
    short -= MOST_TEXT * sum(arrays[each].nbytes for each in arrays.keys() - before)
    if short > 0:  # for `unpack` makes no more of a file than its size allows
        text["room"] = free_name(f"{name}~room", arrays)
        arrays[text["room"]] = np.zeros(short // MOST_TEXT + 1, np.uint8)
    return text


def _sign(leaves: list[Any], path: str, leaf: Any) -> str:
    """Collect a leaf, and return what another must share to be stacked with it."""
    leaves.append(leaf)
    if not isinstance(leaf, np.ndarray | np.generic):
        return type(leaf).__name__
    return f"{_kind(leaf)} {leaf.dtype.num} {leaf.dtype.byteorder} {leaf.shape}"


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return "array"
    return "scalar" if isinstance(leaf, np.generic) else type(leaf).__name__


def _add(path: str, kind: str, leaves: Sequence[Any], arrays: dict[str, Any]) -> str:
    """Add the leaves at one path of all values as one array, and return what tells its name and their kind."""
    name, first = free_name(path, arrays), leaves[0]
    if kind in ("array", "scalar"):
        arrays[name] = np.stack(leaves).astype(first.dtype, copy=False)  # stacking alone would change the byte order
    elif kind == "str" or (kind == "int" and not all(-(2**63) <= leaf < 2**63 for leaf in leaves)):
        arrays[name] = np.frombuffer(json.dumps(leaves).encode(), np.uint8)
    else:
        arrays[name] = np.array(leaves, PYTHON[kind])
    return f"{kind}:{name}"


def unpack(text: Any, arrays: dict[str, np.ndarray], count: int) -> list[Any]:
    """Give back the `count` values that `pack` packed, and take their arrays out of `arrays`.

    Raises ValueError, KeyError or TypeError where text and arrays do not belong together, and where the values would
    be many more than their arrays hold, which only text that was made up asks for.
    """
    nodes, before = text["groups"], dict(arrays)
    kinds = len(nodes) + (text["rest"] is not None)
    if text["count"] != count or bool(kinds) != bool(count) or (kinds > 1) != (text["which"] is not None):
        raise ValueError(f"expected {count} values, got {text['count']}")
    sizes, which = [count], None
    if text["which"] is not None:
        which = arrays.pop(text["which"])
        if which.shape != (count,) or which.min() < 0 or which.max() >= kinds:
            raise ValueError("values of an unknown group")
        sizes = np.bincount(which, minlength=kinds).tolist()
    if text["room"] is not None:
        arrays.pop(text["room"])
    columns = []
    for node, size in zip(nodes, sizes):
        leaves: list[str] = []
        build(node, leaves.append)
        columns.append({leaf: iter(_read_column(leaf, size, arrays)) for leaf in leaves})
    allowed = FREE_TEXT + MOST_TEXT * sum(before[name].nbytes for name in before.keys() - arrays.keys())
    if sum(len(json.dumps(node)) * size for node, size in zip(nodes, sizes)) > allowed:
        raise ValueError("more values than there is room for in the file")
    readers = [_read_group(*group) for group in zip(nodes, sizes, columns)]
    if text["rest"] is not None:
        rest = json.loads(arrays.pop(text["rest"]).tobytes())
        if len(rest) != sizes[-1]:
            raise ValueError(f"expected {sizes[-1]} values as text, got {len(rest)}")
        readers.append(build(node, read_leaf) for node in rest)
    return [next(readers[group]) for group in ([0] * count if which is None else which.tolist())]


def _read_group(node: Any, size: int, columns: dict[str, Iterator[Any]]) -> Iterator[Any]:
    return (build(node, lambda leaf: next(columns[leaf])) for _ in range(size))


def _read_column(leaf: str, size: int, arrays: dict[str, np.ndarray]) -> Sequence[Any]:
    """Take and check the array of a leaf, and return the leaf's values."""
    kind, _, name = leaf.partition(":")
    column = arrays.pop(name)
    values: Sequence[Any]
    if kind == "array" and column.ndim >= 1:
        values = [column[i, ...].copy() for i in range(len(column))]
    elif kind == "scalar" and column.ndim == 1:
        values = list(column)
    elif kind in PYTHON and column.ndim == 1 and column.dtype == PYTHON[kind]:
        values = column.tolist()
    elif kind in ("str", "int") and column.dtype == np.uint8:
        values = json.loads(column.tobytes())
        if not isinstance(values, list) or any(type(value).__name__ != kind for value in values):
            raise ValueError(f"{name}: expected a list of {kind}")
    else:
        raise ValueError(f"{name}: expected values of kind {kind!r}, got {column.dtype}{list(column.shape)}")
    if len(values) != size:
        raise ValueError(f"{name}: expected {size} values, got {len(values)}")
    return values
