"""The map-style dataset of `to_torch_dataset`; a module of its own, because its class needs PyTorch to be defined."""

import contextlib
from collections.abc import Sequence
from typing import Any

from jaxreplay.convert.reading import Table
from jaxreplay.convert.sources import plain
from jaxreplay.convert.stored import StoredTable

Base: Any = object
with contextlib.suppress(ImportError):  # this module can be imported without, and `to_torch_dataset` asks for it first
    from torch.utils.data import Dataset as Base


class Items(Sequence[Any]):
    """B items read together, as a list of nested dicts: `arrays` are their leaves, `[B, ...]` each."""

    def __init__(self, table: Table | StoredTable, numbers: Sequence[int]):
        self.structure, self.arrays, self.length = table.structure, table.read(numbers), len(numbers)
        self.infos = None if table.infos is None else [table.infos[i] for i in numbers]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        at = range(self.length)[number]
        if isinstance(at, range):
            return [self[i] for i in at]
        item = plain(self.structure, lambda column: self.arrays[column][at, ...])
        return item if self.infos is None else item | {"infos": self.infos[at]}

    def stacked(self) -> Any:
        """Give all items in one structure, leaves `[B, ...]`, and the infos as a list."""
        batch = plain(self.structure, self.arrays.__getitem__)
        return batch if self.infos is None else batch | {"infos": self.infos}


class RowsDataset(Base):
    """Items of NumPy arrays, one for each row of a source. `table.time` and `table.env` `[N]` say which row it is."""

    def __init__(self, table: Table | StoredTable):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        """Read one item, leaves `[...]`. Raises IndexError for a number that is none of an item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """Read several items together; a `DataLoader` asks for each batch so."""
        return Items(self.table, indices)
