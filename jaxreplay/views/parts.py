"""Reading the parts of a batch's `data` without its name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay.types import PyTree


class HasParts:
    """Finds in its `data` what is no field of its own: `batch.observation`, or `batch["obs"]` where that is a dict."""

    data: PyTree
    __iter__ = None  # its items are parts, not rows

    def __getattr__(self, name: str) -> Any:
        own = type(self).__name__
        if name.startswith("_") or name == "data":  # while a copy is made there is no data yet
            raise AttributeError(f"{own} has no attribute {name!r}")
        data = self.data
        if isinstance(data, Mapping | list | jax.Array | np.ndarray) and not dataclasses.is_dataclass(data):
            hint = f"; parts of a dict are items, as [{name!r}]" if isinstance(data, Mapping) else ""
            raise AttributeError(f"{own} has no field {name!r}{hint}")
        return getattr(data, name)

    def __getitem__(self, part: Any) -> Any:
        if isinstance(self.data, jax.Array | np.ndarray):
            raise TypeError(f"{type(self).__name__}: its items are parts of data, which is an array; index .data")
        return self.data[part]
