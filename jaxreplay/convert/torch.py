"""PyTorch: map-style datasets of steps or windows, both ways, their collate function, and arrays as tensors."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import joined, plain, read_rows
from jaxreplay.convert.stored import StoredTable
from jaxreplay.datasets import Dataset
from jaxreplay.datasets.comparing import compare_kinds
from jaxreplay.datasets.files.d4rl import read_by_name
from jaxreplay.datasets.files.opening import need
from jaxreplay.datasets.files.values import EXTENDED
from jaxreplay.types import PyTree, Transition
from jaxreplay.views import View, transition

if TYPE_CHECKING:
    from jaxreplay.convert.torch_rows import RowsDataset

INFOS = "infos"  # under this name stand dicts of anything, which stay as they are


def to_torch_dataset(
    source: Any,
    view: View = transition(),  # noqa: B008  (a frozen dataclass)
    key: Any = None,
    *,
    narrow: bool = False,
) -> "RowsDataset":
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
    ones: pass `multiprocessing_context="spawn"`. Of a `Dataset.open` nothing is copied: items are read from the disk
    when they are asked for, also in workers, which must then be spawned; JAX computes there what the view computes, and
    the rows are not in `table`.

    Raises ValueError where no row can be read, TypeError for another source, ImportError without PyTorch.
    """
    need("torch", "PyTorch", "torch", "to_torch_dataset")
    from jaxreplay.convert.torch_rows import RowsDataset

    table = read_rows("to_torch_dataset", source, view, key, narrow)
    structure, infos = plain(table.structure), table.infos
    if not isinstance(structure, dict):
        infos = None
    elif infos is not None and INFOS in structure:
        raise ValueError("to_torch_dataset: the items have infos of their own beside the episodes'; rename them")
    if isinstance(table, StoredTable):
        table.structure, table.with_infos = structure, infos is not None
        return RowsDataset(table)
    return RowsDataset(dataclasses.replace(table, structure=structure, infos=infos))


def from_torch(dataset: Any, columns: Mapping[str, Any] | None = None, missing_final: str = "drop") -> Dataset:
    """Read a map-style dataset of steps in order, as `torch.utils.data.Dataset`, into a `Dataset` of episodes.

    Without `columns` its items are as `to_torch_dataset` gives them: dicts by the names of `Transition`, or
    `Transition`s; `reward`, `extras` and `infos` may be absent. They are joined as by `Dataset.from_transitions`.
    columns: of other items, dicts or tuples, the names or numbers of what the parts of `from_numpy` are, nested or not:
        `{"observations": 0, "actions": 1, "episode": "episode_id"}`. missing_final: as in `from_numpy`.

    Leaves are tensors, arrays or numbers, and keep their bits. The `report` of the result says how the episodes end and
    what was left out. Raises TypeError for a dataset without a length, ValueError naming the leaf that does not fit.
    """
    trees.check_choice("missing_final", missing_final, ("drop", "repeat"))
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"from_torch: expected a map-style dataset, with a length, got {type(dataset).__name__}")
    if not len(dataset):
        raise ValueError("from_torch: the dataset is empty")
    if columns is not None:
        there, wanted = list(_children(dataset[0]) or ()), jax.tree.leaves(columns)
        pick = lambda item: {name: x for name, x in (_children(item) or {}).items() if name in wanted}  # noqa: E731
        parts = _stack_items(dataset, pick)
        return joined("from_torch", lambda: read_by_name(there, parts.__getitem__, columns, missing_final))
    infos: list[Any] = []

    def without_infos(item: Any) -> Any:
        if not isinstance(item, Mapping) or INFOS not in item:
            return item
        infos.append(item[INFOS])
        return {name: value for name, value in item.items() if name != INFOS}

    steps = _stack_items(dataset, without_infos)
    if not isinstance(steps, Transition):
        names = [field.name for field in dataclasses.fields(Transition)]
        if not isinstance(steps, dict) or not {*names} - {"reward", "extras"} <= steps.keys() <= {*names}:
            came = ", ".join(map(str, _children(steps) or ())) or type(steps).__name__
            raise ValueError(f"from_torch: expected items by the names {', '.join(names)}, got {came}; pass columns")
        steps = Transition(**({"reward": None} | steps))
    return Dataset.from_transitions(steps, infos=infos or None)


def _stack_items(dataset: Any, pick: Callable[[Any], PyTree]) -> Any:
    """Stack what is picked of each item, leaves `[N, ...]`."""
    count = len(dataset)
    columns: list[np.ndarray] = []
    treedef: Any = None
    for i in range(count):
        item = pick(dataset[i])
        leaves, came = [_from_tensor(path, leaf) for path, leaf in trees.paths(item)], jax.tree.structure(item)
        if treedef is None:
            treedef, columns = came, [np.empty((count, *leaf.shape), leaf.dtype) for leaf in leaves]
        if came != treedef:
            raise ValueError(f"from_torch: item {i}: expected the containers of the first, {treedef}, got {came}")
        like = [column[0] for column in columns]
        if problem := compare_kinds(*(jax.tree.unflatten(treedef, each) for each in (like, leaves))):
            raise ValueError(f"from_torch: item {i}: {problem}, as in the first")
        for column, leaf in zip(columns, leaves, strict=True):
            column[i] = leaf
    return jax.tree.unflatten(treedef, columns)


def _from_tensor(path: str, leaf: Any) -> np.ndarray:
    if not hasattr(leaf, "detach"):
        return _as_array(path, leaf)
    import torch

    tensor = leaf.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in EXTENDED:
        return tensor.numpy()
    return tensor.view(torch.int16 if tensor.itemsize == 2 else torch.uint8).numpy().view(EXTENDED[name])


def collate(items: Sequence[Any]) -> Any:
    """Stack items into one batch of tensors `[B, ...]` in their containers; the `collate_fn` of a `DataLoader`.

    items: of `to_torch_dataset`, or any items of one structure: dicts, dataclasses as `Transition`, lists and tuples of
    arrays (NumPy's, JAX's, tensors, numbers). What stands under "infos" becomes a list, one entry an item, as do texts.
    See `to_tensors` for dtypes. Items of `to_torch_dataset` were read together, and their batch is not copied again.
    Raises ValueError or TypeError naming the part that cannot be stacked.
    """
    need("torch", "PyTorch", "torch", "collate")
    from jaxreplay.convert.torch_rows import Items

    if isinstance(items, Items):
        return to_tensors(items.stacked())
    if not len(items):
        raise ValueError("collate: expected at least one item, got none")
    return _convert("", list(items), _stack, keep=list)


def to_tensors(batch: PyTree) -> Any:
    """Give the arrays of a batch as tensors, in the containers they are in, without a copy where that is possible.

    JAX arrays pass through DLPack, on their device; they share their memory, so do not write into these tensors. NumPy
    arrays share theirs too, but for those that cannot be written to. Every value keeps its bits: bfloat16 and float8
    become PyTorch's, PRNG keys their words. What stands under "infos" stays as it is, as do texts and None.
    Raises TypeError naming a leaf whose dtype PyTorch lacks, ImportError without PyTorch.
    """
    need("torch", "PyTorch", "torch", "to_tensors")
    return _convert("", [batch], lambda path, leaves: _to_tensor(path, leaves[0]), keep=lambda nodes: nodes[0])


def _convert(
    path: str, nodes: list[Any], leaf: Callable[[str, list[Any]], Any], keep: Callable[[list[Any]], Any]
) -> Any:
    """Convert what stands at a path of several items: their leaves by `leaf`; texts and infos are given by `keep`."""
    first = nodes[0]
    if first is None or isinstance(first, str | bytes):
        if any(type(node) is not type(first) for node in nodes):
            kinds = sorted({type(node).__name__ for node in nodes})
            raise TypeError(f"collate: {path or 'the items'}: expected one type, got {', '.join(kinds)}")
        return None if first is None else keep(nodes)
    every = [_children(node) for node in nodes]
    parts, converted = every[0], {}
    if parts is None:
        return leaf(path, nodes)
    for name in parts:
        values = [other[name] for other in every if other is not None and other.keys() == parts.keys()]
        if len(values) < len(nodes):
            known = ", ".join(map(str, parts))
            raise ValueError(f"collate: {path or 'the items'}: expected the parts of the first in all: {known}")
        below = f"{path}.{name}" if path else str(name)
        converted[name] = keep(values) if name == INFOS else _convert(below, values, leaf, keep)
    if isinstance(first, list | tuple):
        values = converted.values()
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    return converted if isinstance(first, Mapping) else dataclasses.replace(first, **converted)


def _children(node: Any) -> dict[Any, Any] | None:
    """Give the parts of a container by name or number, or None of a leaf."""
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = [field for field in dataclasses.fields(node) if field.metadata.get("pytree_node", True)]
        return {field.name: getattr(node, field.name) for field in fields}
    return None


def _stack(path: str, leaves: list[Any]) -> Any:
    import torch

    shapes = {tuple(getattr(leaf, "shape", ())) for leaf in leaves}
    if len(shapes) > 1:
        came = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"collate: {path or 'the items'}: expected one shape, got {came}")
    on_host = not all(isinstance(leaf, torch.Tensor | jax.Array) for leaf in leaves)
    arrays: list[Any] = [_as_array(path, leaf) if on_host else _to_tensor(path, leaf) for leaf in leaves]
    dtypes = {str(array.dtype) for array in arrays}
    if len(dtypes) > 1:
        raise TypeError(f"collate: {path or 'the items'}: expected one dtype, got {', '.join(sorted(dtypes))}")
    if on_host:
        return _to_tensor(path, np.stack(arrays))
    dtype = arrays[0].dtype
    if str(dtype).startswith("torch.float8"):  # which PyTorch does not stack
        return torch.stack([array.view(torch.uint8) for array in arrays]).view(dtype)
    return torch.stack(arrays)


def _to_tensor(path: str, leaf: Any) -> Any:
    import torch

    if isinstance(leaf, torch.Tensor):
        return leaf
    array = leaf if isinstance(leaf, jax.Array) else _as_array(path, leaf)
    try:
        if isinstance(array, jax.Array) and array.dtype.name.startswith("float8"):  # older ones have no DLPack of them
            return torch.from_dlpack(array.view(np.uint8)).view(getattr(torch, array.dtype.name))
        if isinstance(array, jax.Array):
            return torch.from_dlpack(jax.random.key_data(array) if trees.is_key_dtype(array.dtype) else array)
        if not array.flags.writeable or min(array.strides, default=0) < 0:
            array = array.copy()  # PyTorch has no read-only tensors, and no steps backwards
        if array.dtype.name != "bfloat16" and not array.dtype.name.startswith("float8"):
            return torch.from_numpy(array)
        dtype = getattr(torch, array.dtype.name)  # NumPy has it from ml_dtypes, which PyTorch does not know
        return torch.from_numpy(array.view(np.int16 if dtype.itemsize == 2 else np.uint8)).view(dtype)
    except Exception as error:  # of several kinds, and other ones in other versions
        no_dtype = f"PyTorch has no tensors of {array.dtype}; convert it first, as with views.map"
        raise TypeError(f"{path or 'the item'}: {no_dtype}") from error


def _as_array(path: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    if isinstance(leaf, bool | int | float | complex | np.generic | jax.Array):
        return np.asarray(leaf)
    raise TypeError(f"{path or 'the item'}: expected an array, a tensor or a number, got {type(leaf).__name__}")
