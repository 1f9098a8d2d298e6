"""To PyTorch: a map-style dataset of steps or windows, and its collate function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxreplay.convert.containers import need
from jaxreplay.convert.sources import plain_rows
from jaxreplay.convert.tables import Items
from jaxreplay.convert.tensors import INFOS, as_array, children, join, rebuild, to_tensor, to_tensors
from jaxreplay.views import View, transition

if TYPE_CHECKING:
    from jaxreplay.convert.torch_rows import RowsDataset


def to_torch_dataset(
    source: Any,
    view: View = transition(),  # noqa: B008  (a frozen dataclass)
    key: Any = None,
    *,
    narrow: bool = False,
) -> RowsDataset:
    """Read a source through a view into a map-style `torch.utils.data.Dataset`, for a `DataLoader` with `collate`.

    source: a buffer, a `subset` of one, or a `Dataset`. key: for a view that draws, as `hindsight`.
    narrow: make 64-bit leaves of a `Dataset` 32-bit ones, as `Dataset.to_buffer` does. Without it `transition()` gives
    them as they are, and for any other view, which JAX makes, they raise TypeError.
    Item i is what `take` gives of the i-th row that can be read and that the view can start from, in order of time and
    then env, as nested dicts (lists and tuples stay) of NumPy arrays. PRNG keys come as their words. Where the episodes
    of a `Dataset` have infos and the item is a dict, its "infos" is the row's. `table.time` and `table.env` `[N]` of
    the result say which row each item is.

    The source is copied to the host when this is called, and later changes of it do not show. The copy holds each
    stored value that the view reads once, also where windows or stacks overlap: their items are gathered by NumPy when
    they are asked for, by 4 bytes for each row and step of the view. Only what a view computes is kept for each item.
    JAX computes nothing after that, so workers are safe; each spawned one receives a copy of all. JAX warns of forked
    ones: pass `multiprocessing_context="spawn"`.

    Raises ValueError where no row can be read, TypeError for another source, ImportError without PyTorch.
    """
    need("torch", "PyTorch", "torch", "to_torch_dataset")
    from jaxreplay.convert.torch_rows import RowsDataset

    return RowsDataset(plain_rows("to_torch_dataset", source, view, key, narrow))


def collate(items: Sequence[Any]) -> Any:
    """Stack items into one batch of tensors `[B, ...]` in their containers; the `collate_fn` of a `DataLoader`.

    items: of `to_torch_dataset`, or any items of one structure: dicts, dataclasses as `Transition`, lists and tuples of
    arrays (NumPy's, JAX's, tensors, numbers). What stands under "infos" becomes a list, one entry an item, as do texts.
    See `to_tensors` for dtypes. Items of `to_torch_dataset` were read together, and their batch is not copied again.
    Raises ValueError or TypeError naming the part that cannot be stacked.
    """
    need("torch", "PyTorch", "torch", "collate")
    if isinstance(items, Items):
        return to_tensors(items.stacked())
    if not len(items):
        raise ValueError("collate: expected at least one item, got none")
    return _collate("", list(items))


def _collate(path: str, items: list[Any]) -> Any:
    first = items[0]
    if first is None or isinstance(first, str | bytes):
        if any(type(item) is not type(first) for item in items):
            kinds = sorted({type(item).__name__ for item in items})
            raise TypeError(f"collate: {path or 'the items'}: expected one type, got {', '.join(kinds)}")
        return None if first is None else items
    every = [children(item) for item in items]
    parts = every[0]
    if parts is None:
        return _stack(path, items)
    stacked = {}
    for name in parts:
        values = [other[name] for other in every if other is not None and other.keys() == parts.keys()]
        if len(values) < len(items):
            known = ", ".join(map(str, parts))
            raise ValueError(f"collate: {path or 'the items'}: expected the parts of the first in all: {known}")
        stacked[name] = values if name == INFOS else _collate(join(path, name), values)
    return rebuild(first, stacked)


def _stack(path: str, leaves: list[Any]) -> Any:
    import torch

    shapes = {tuple(getattr(leaf, "shape", ())) for leaf in leaves}
    if len(shapes) > 1:
        came = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"collate: {path or 'the items'}: expected one shape, got {came}")
    on_host = not all(isinstance(leaf, torch.Tensor | jax.Array) for leaf in leaves)
    arrays: list[Any] = [as_array(path, leaf) if on_host else to_tensor(path, leaf) for leaf in leaves]
    dtypes = {str(array.dtype) for array in arrays}
    if len(dtypes) > 1:
        raise TypeError(f"collate: {path or 'the items'}: expected one dtype, got {', '.join(sorted(dtypes))}")
    if on_host:
        return to_tensor(path, np.stack(arrays))
    dtype = arrays[0].dtype
    if str(dtype).startswith("torch.float8"):  # which PyTorch does not stack
        return torch.stack([array.view(torch.uint8) for array in arrays]).view(dtype)
    return torch.stack(arrays)
