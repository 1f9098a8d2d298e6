"""Spaces of arrays whose environment is not known."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxreplay.types import PyTree


def infer_space(path: str, tree: PyTree) -> Any:
    """Make a Gymnasium space of the shape and dtype of one step of `[T, ...]`: dicts, tuples and lists of boxes.

    A Box has the bounds of its dtype, and none for floats, because what an environment allows cannot be told from what
    happened in it: whole numbers do not become Discrete. Raises TypeError naming the leaf of any other dtype than bool,
    whole numbers, and float16 to float64.

    >>> import numpy as np
    >>> infer_space("observations", {"camera": np.zeros((3, 2, 2), np.uint8), "speed": np.zeros(3)})
    Dict('camera': Box(0, 255, (2, 2), uint8), 'speed': Box(-inf, inf, (), float64))
    """
    from gymnasium import spaces

    if isinstance(tree, dict):
        return spaces.Dict({name: infer_space(f"{path}.{name}", inner) for name, inner in tree.items()})
    if isinstance(tree, tuple | list):
        return spaces.Tuple([infer_space(f"{path}.{i}", inner) for i, inner in enumerate(tree)])
    dtype = getattr(tree, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or dtype.itemsize > 8:
        came = type(tree).__name__ if dtype is None else dtype
        raise TypeError(f"{path}: no Gymnasium space can be told from {came}; give the spaces, or convert it")
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    shape = tree.shape[1:]
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype.type)
