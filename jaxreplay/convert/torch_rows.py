"""The map-style dataset of `to_torch_dataset`; a module of its own, because its class needs PyTorch to be defined."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from jaxreplay.convert.tables import Items, Table, read_items

Base: Any = object
with contextlib.suppress(ImportError):  # this module can be imported without, and `to_torch_dataset` asks for it first
    from torch.utils.data import Dataset as Base


class RowsDataset(Base):
    """Items of NumPy arrays, one for each row of a source. `table.time` and `table.env` `[N]` say which row it is."""

    def __init__(self, table: Table):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        """One item, leaves `[...]`. Raises IndexError for a number that is none of an item."""
        return read_items(self.table, [index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """Several items, read together; a `DataLoader` asks for each batch so."""
        return read_items(self.table, indices)
