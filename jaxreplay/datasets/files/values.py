"""Plain values as JSON and back, exactly: containers, numbers, text and small arrays; data alone."""

from __future__ import annotations

import base64
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

DTYPES = {
    **{name: np.dtype(name) for name in ("bool", "float16", "float32", "float64", "complex64", "complex128")},
    **{f"{kind}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in dir(ml_dtypes)
        if isinstance(getattr(ml_dtypes, name), type) and issubclass(getattr(ml_dtypes, name), np.generic)
    },
}
"""The dtypes that files may name."""


def encode(value: Any, path: str) -> Any:
    """A value as what JSON holds; `decode` undoes it. None, bool, int, str and lists stand for themselves.

    JAX arrays come back as NumPy's. Raises TypeError naming what is no data.
    """
    if value is None or isinstance(value, bool | int | str):
        if isinstance(value, bool | int | str) and type(value) not in (bool, int, str):
            raise TypeError(f"{path}: expected plain data, got {type(value).__name__}")
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) is list:
        return [encode(x, f"{path}.{i}") for i, x in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [encode(x, f"{path}.{i}") for i, x in enumerate(value)]}
    if type(value) is dict:
        pairs = {_check_name(key, path): encode(x, f"{path}.{key}") for key, x in value.items()}
        return {"dict": pairs}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _encode_array(value, path)
    raise TypeError(
        f"{path}: a file holds dicts, tuples, lists, numbers, str and arrays, got {type(value).__name__}; convert it"
    )


def _check_name(key: Any, path: str) -> str:
    if type(key) is not str:
        raise TypeError(f"{path}: a file holds dicts with str keys, got {key!r}")
    return key


def _encode_array(value: Any, path: str) -> Any:
    scalar = isinstance(value, np.generic)
    array = np.asarray(value)
    name = dtype_name(array.dtype, path)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"scalar" if scalar else "array": [name, list(array.shape), data]}


def dtype_name(dtype: Any, path: str) -> str:
    """The name a file gives a dtype, or TypeError."""
    if DTYPES.get(dtype.name) != dtype:
        raise TypeError(f"{path}: expected an array of numbers, got dtype {dtype}")
    return dtype.name


def decode(value: Any) -> Any:
    """Undo `encode`. Raises ValueError for what it did not write."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [decode(x) for x in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("expected a value with its kind")
    ((kind, content),) = value.items()
    if kind == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if kind == "tuple" and isinstance(content, list):
        return tuple(decode(x) for x in content)
    if kind == "dict" and isinstance(content, dict):
        return {key: decode(x) for key, x in content.items()}
    if kind in ("array", "scalar") and isinstance(content, list) and len(content) == 3:
        array = _decode_array(*content)
        return array[()] if kind == "scalar" else array
    raise ValueError(f"expected a value of a known kind, got {str(kind)[:40]!r}")


def _decode_array(name: Any, shape: Any, data: Any) -> np.ndarray:
    dtype, shape = known_dtype(name), known_shape(shape)
    if not isinstance(data, str):
        raise ValueError("expected an array's bytes")
    raw = base64.b64decode(data, validate=True)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array {name}{list(shape)} has {len(raw)} bytes")
    return np.frombuffer(bytearray(raw), dtype).reshape(shape)


def known_dtype(name: Any) -> np.dtype:
    """The dtype a file names, or ValueError."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"expected the name of a dtype, got {str(name)[:40]!r}")
    return DTYPES[name]


def known_shape(shape: Any) -> tuple[int, ...]:
    """The shape a file names, or ValueError."""
    good = isinstance(shape, list) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    if not good:
        raise ValueError(f"expected a shape, got {str(shape)[:40]!r}")
    return tuple(shape)


def is_extended(dtype: Any) -> bool:
    """Whether NumPy knows a dtype only by an extension, so that its own files cannot name it."""
    return np.dtype(dtype).kind == "V" or not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_)
