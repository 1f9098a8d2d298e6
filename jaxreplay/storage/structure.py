"""Which columns a store has, and which leaf of what is appended goes to which."""

import functools
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files import values
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.storage import compressed
from jaxreplay.storage.manifest import STORED, Kind
from jaxreplay.types import PyTree

OF_STEPS = {"observation": "observations", "action": "actions", "reward": "rewards"}


class Structure:
    """The columns of a store. text, kinds: as in the manifest; made of the first rows that are appended.

    compress: for columns by name, how they are stored.
    """

    def __init__(self, text: dict[str, Any] | None, kinds: dict[str, Kind], compress: dict[str, str]) -> None:
        self.text, self.kinds, self.compress = text, kinds, compress
        self.order = functools.lru_cache(maxsize=64)(self._order)

    def leaves(self, parts: dict[str, PyTree], lead: int) -> dict[str, Any]:
        """List the leaf of each column, `[..., *row]` with `lead` axes before a row's own.

        parts: those of `Trajectory`. Raises ValueError or TypeError naming what is not as in the rows before.
        """
        flat = {part: jax.tree.flatten(parts[part]) for part in PARTS}
        if self.text is None:
            self._define(flat, lead)
        found = {}
        for part, (leaves, treedef) in flat.items():
            for name, at in self.order(part, treedef):
                leaf = found[name] = leaves[at]
                self._check(self.kinds[name], leaf, lead)
        return found

    def _define(self, flat: dict[str, tuple[list[Any], Any]], lead: int) -> None:
        text, kinds = {}, dict[str, Kind]()
        for part, (leaves, treedef) in flat.items():

            def add(path: str, at: int, part: str = part, leaves: list[Any] = leaves) -> str:
                name = values.free_name(f"{part}{path}", kinds)
                kinds[name] = self._kind_of(name, leaves[at], lead)
                return name

            text[part] = values.describe(_containers(part, treedef), add) if leaves else None
        unknown = [name for name in self.compress if name not in kinds]
        if unknown:
            raise ValueError(f"compress: there is no column {unknown[0]!r}; there are {', '.join(kinds)}")
        self.text, self.kinds = text, kinds

    def _kind_of(self, name: str, leaf: Any, lead: int) -> Kind:
        shape, dtype = trees.shape_dtype(name, leaf)
        key = None
        if trees.is_key_dtype(dtype):
            words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
            shape, key, dtype = words.shape, str(dtype), np.dtype(words.dtype)
        if not values.is_number(dtype):
            raise TypeError(f"{name}: expected an array of numbers, got dtype {dtype}")
        kind = Kind(name, dtype.newbyteorder("="), tuple(shape[lead:]), self.compress.get(name, "npy"), key)
        if kind.stored != "npy":
            compressed.check(kind)
        return kind

    def _order(self, part: str, treedef: Any) -> list[tuple[str, int]]:
        """List `(column, number of its leaf)` of a part whose containers are these."""
        assert self.text is not None
        expected, found = self.text[part], list[int]()
        came = values.describe(_containers(part, treedef), lambda path, at: found.append(at) or "")
        came = None if not found else came
        names: list[str] = []
        if came != _blank(expected, names):
            wanted = ", ".join(names) or "nothing"
            raise ValueError(f"{part}: expected the structure of the store's episodes, with {wanted}; got {treedef}")
        return list(zip(names, found, strict=True))

    def _check(self, kind: Kind, leaf: Any, lead: int) -> None:
        shape, dtype = trees.shape_dtype(kind.name, leaf)
        if trees.is_key_dtype(dtype):
            if str(dtype) != kind.key:
                raise TypeError(f"{kind.name}: expected {kind.key or kind.dtype} as in the store, got {dtype}")
            return
        if dtype != kind.dtype or kind.key:
            expected = kind.key or kind.dtype
            raise TypeError(f"{kind.name}: expected {expected} as in the store, got {dtype}. Nothing is cast silently.")
        if tuple(shape[lead:]) != kind.shape:
            came = trees.describe(shape[lead:], dtype)
            raise ValueError(f"{kind.name}: expected {trees.describe(kind.shape, kind.dtype)} a step, got {came}")


def to_host(leaf: Any) -> np.ndarray:
    """Return a leaf as a NumPy array; PRNG keys as their words."""
    if isinstance(leaf, jax.Array) and trees.is_key_dtype(leaf.dtype):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def check_compress(compress: Any) -> dict[str, str]:
    """Return how columns are to be stored, by their names in the store; `observation.x` is `observations.x` there."""
    found = {}
    for path, stored in dict(compress or {}).items():
        head, dot, rest = str(path).partition(".")
        trees.check_choice(f"compress[{path!r}]", stored, STORED)
        found[OF_STEPS.get(head, head) + dot + rest] = stored
    return {name: stored for name, stored in found.items() if stored != "npy"}


def _containers(part: str, treedef: Any) -> Any:
    """Give the containers of a part, with the numbers of its leaves; TypeError for what is none of plain data."""
    return values.copy_value(part, jax.tree.unflatten(treedef, range(treedef.num_leaves)))


def _blank(node: Any, names: list[str]) -> Any:
    """Give a structure with "" for the names of columns, which are listed."""
    return (
        None
        if node is None
        else values.describe(values.build(node, lambda name: name), lambda path, name: names.append(name) or "")
    )
