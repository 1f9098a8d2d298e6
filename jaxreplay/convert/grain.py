"""To Grain: a data source with random access."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxreplay.convert.reading import Table
from jaxreplay.convert.sources import read_rows
from jaxreplay.convert.stored import StoredTable
from jaxreplay.datasets.files.opening import need
from jaxreplay.types import PyTree
from jaxreplay.views import View, transition


def to_grain_source(
    source: Any,
    view: View = transition(),  # noqa: B008  (a frozen dataclass)
    key: Any = None,
    *,
    narrow: bool = False,
) -> "GrainSource":
    """Read a source through a view into a data source for Grain, as `grain.MapDataset.source` and `DataLoader` take.

    source, key, narrow: as in `to_torch_dataset`, which copies the source to the host in the same way.
    Item i is what `take` gives of the i-th row that can be read and that the view can start from, in order of time and
    then env: the view's own structure (a `Transition`, a `Window`) with NumPy arrays as leaves, so that a batch goes
    into a jitted step as it is. PRNG keys come as their words, and infos are left out, for they are no arrays.

    The result can be pickled, and each of Grain's worker processes receives a copy, of a store on disk its name alone.
    Iterators over it are checkpointed by Grain's `get_state` and `set_state`; a `DataLoader` refuses the state of one
    over other data, which it tells by the `repr` of the source.

    Raises ValueError where no row can be read, TypeError for another source, ImportError without Grain.
    """
    need("grain", "Grain", "grain", "to_grain_source")
    return GrainSource(read_rows("to_grain_source", source, view, key, narrow))


class GrainSource:
    """Items of NumPy arrays, one for each row of a source. `table.time` and `table.env` `[N]` say which row it is."""

    def __init__(self, table: Table | StoredTable):
        self.table = table
        self._fingerprint = table.fingerprint()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> PyTree:
        """Read one item, leaves `[...]`. Raises IndexError for a number that is none of an item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PyTree]:
        arrays = self.table.read(indices)
        item = lambda n: jax.tree.map(lambda column: arrays[column][n, ...], self.table.structure)  # noqa: E731
        return [item(n) for n in range(len(indices))]

    _getitems = __getitems__  # the name by which Grain asks for several

    def __repr__(self) -> str:
        return f"GrainSource({len(self)} items, {self._fingerprint:08x})"
