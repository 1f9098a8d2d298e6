"""Items that are read from a store on disk when they are asked for; a process that gets them reopens it."""

import multiprocessing
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay.convert.reading import check_numbers
from jaxreplay.datasets import Dataset
from jaxreplay.datasets.columns import gather, narrow_tree
from jaxreplay.datasets.viewing import NeedsRings, Viewed
from jaxreplay.types import PyTree
from jaxreplay.views import View
from jaxreplay.views._transition import TransitionView


class StoredTable:
    """N items, as `reading.Table` has them, of a data set on disk: only what is asked for is read.

    Pickled, it is the name of the store and the view. A worker process computes on its CPU what the view computes.
    Raises ValueError where there is no item, NeedsRings for a view that reads more than rows.
    """

    def __init__(self, dataset: Dataset, view: View, narrow: bool) -> None:
        self.dataset, self.view, self.narrow, self.with_infos = dataset, view, narrow, True
        self._open()
        if not len(self):
            raise ValueError(f"{view} can start from none of the {len(dataset)} rows")
        leaves, treedef = jax.tree.flatten(self._read(np.zeros(1, np.int64)))
        self.structure: PyTree = jax.tree.unflatten(treedef, range(len(leaves)))

    def _open(self) -> None:
        self.viewed, self.steps = None, None
        if not isinstance(self.view, TransitionView):
            self.viewed = Viewed(self.dataset._store, self.view, self.narrow)
            if self.view.num_bits:
                raise NeedsRings("a view that draws draws for all rows at once")
            if self.view.refuses:
                every = np.arange(len(self.dataset))
                self.steps = every[self.viewed.starts(every)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in self.__dict__.items() if name not in ("viewed", "steps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if multiprocessing.parent_process() is not None:  # several workers cannot share an accelerator
            jax.config.update("jax_platforms", "cpu")
        self._open()

    def __len__(self) -> int:
        return len(self.dataset) if self.steps is None else len(self.steps)

    @property
    def infos(self) -> "Infos | None":
        infos = self.dataset._store.table.infos
        known = self.with_infos and (not isinstance(infos, np.ndarray) or any(x is not None for x in infos))
        return Infos(self) if known else None

    def numbers(self, items: np.ndarray) -> np.ndarray:
        """Say which step of the data set each item is."""
        return items if self.steps is None else self.steps[items]

    def _read(self, items: np.ndarray) -> PyTree:
        steps = self.numbers(items)
        if self.viewed is None:
            return narrow_tree(gather(self.dataset._store, steps), self.narrow)
        spare = np.full((1 << (len(steps) - 1).bit_length()) - len(steps), -1)  # so that few programs are compiled
        data, _ = self.viewed.read(np.append(steps, spare))
        return jax.tree.map(lambda x: np.array(x[: len(steps)]), data)

    def read(self, items: Sequence[int]) -> list[np.ndarray]:
        """Read the leaves of some items, `[B, ...]` each. Raises IndexError for numbers that are none of an item."""
        numbers = check_numbers(items, len(self))
        leaves = jax.tree.leaves(self._read(numbers if len(numbers) else np.zeros(1, np.int64)))
        return [leaf[: len(numbers)] for leaf in leaves]

    def fingerprint(self) -> int:
        """Make a number that tells stores, commits, views and what was chosen of them apart."""
        table, origin = self.dataset._store.table, self.dataset._store.origin
        about = repr((repr(self.structure), repr(self.view), len(self), origin and origin.text))
        return zlib.crc32(np.ascontiguousarray(table.step).tobytes(), zlib.crc32(about.encode()))


class Infos(Sequence[dict[str, Any]]):
    """The infos of each item."""

    def __init__(self, table: StoredTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, item: Any) -> Any:
        at = range(len(self))[item]
        if isinstance(at, range):
            return [self[i] for i in at]
        return self.table.dataset.infos([int(self.table.numbers(np.array([at]))[0])])[0]
