"""Items on the host: NumPy arrays, and which of their rows each item is made of."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreplay._core.layout import arrange


@dataclasses.dataclass(frozen=True)
class Column:
    """One leaf of N items: item i is `values[index[i]]`, so rows that items share are kept once.

    values: `[M, ...]`. index: `[N]`, or `[N, W]` for items `[W, ...]`; None where M is N and item i is `values[i]`.
    stack, axis: every `stack` of the W are one, along a new axis of the leaf; 0 for none.
    single: the W stacks are one, and have no axis of their own.
    """

    values: np.ndarray
    index: np.ndarray | None = None
    stack: int = 0
    axis: int = 0
    single: bool = False

    def read(self, items: np.ndarray) -> np.ndarray:
        """The leaf of some items `[B]`: a new array `[B, ...]`."""
        got = self.values.take(items if self.index is None else self.index[items], axis=0)
        return arrange(got, self.stack, self.axis, self.single) if self.index is not None else got


@dataclasses.dataclass(frozen=True)
class Table:
    """N items: their structure, with the number of a column as each leaf, and the columns.

    time, env: `[N]` int32, the row that each item was read from. infos: a dict for each item, or None.
    """

    structure: Any
    columns: tuple[Column, ...]
    time: np.ndarray
    env: np.ndarray
    infos: Sequence[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.time)

    def read(self, items: Sequence[int]) -> list[np.ndarray]:
        """Read the leaves of some items, `[B, ...]` each. Raises IndexError for numbers that are none of an item."""
        numbers = np.array([operator.index(item) for item in items], np.int64)
        wrong = numbers[(numbers < -len(self)) | (numbers >= len(self))]
        if wrong.size:
            raise IndexError(f"item {wrong[0]} of {len(self)} items")
        numbers %= len(self)
        return [column.read(numbers) for column in self.columns]


class Items(Sequence[Any]):
    """B items read together, as a list of nested dicts: `arrays` are their leaves, `[B, ...]` each."""

    def __init__(self, structure: Any, arrays: list[np.ndarray], infos: list[dict[str, Any]] | None):
        self.structure, self.arrays, self.infos = structure, arrays, infos

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of {len(self)} items")
        item = fill(self.structure, lambda column: self.arrays[column][number, ...])
        return item if self.infos is None else item | {"infos": self.infos[number]}

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def stacked(self) -> Any:
        """All items in one structure, leaves `[B, ...]`, and the infos as a list."""
        batch = fill(self.structure, self.arrays.__getitem__)
        return batch if self.infos is None else batch | {"infos": self.infos}


def read_items(table: Table, items: Sequence[int]) -> Items:
    """Read some items of a table whose structure is plain."""
    infos = table.infos
    return Items(table.structure, table.read(items), None if infos is None else [infos[item] for item in items])


def fill(structure: Any, fn: Callable[[Any], Any]) -> Any:
    """Replace each leaf of nested dicts, lists and tuples, which may be named, by what `fn` gives; None stays."""
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {name: fill(inner, fn) for name, inner in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(fill(inner, fn) for inner in structure))
    if isinstance(structure, tuple | list):
        return type(structure)(fill(inner, fn) for inner in structure)
    return fn(structure)
