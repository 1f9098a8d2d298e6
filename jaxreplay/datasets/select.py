"""Which steps and episodes are meant: indices, filters, and episodes without their last steps."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store
from jaxreplay.datasets.trajectory import Trajectory

KINDS = ("terminated", "truncated")


def is_single(chosen: Any) -> bool:
    """Tell whether what was given as an index stands for one element, as an int and an int array without axes do."""
    return hasattr(chosen, "__index__") and getattr(chosen, "ndim", 0) == 0


def index(what: str, i: Any, count: int) -> int:
    """Count an int from `-count` to `count - 1` from 0. Raises IndexError for others, TypeError for what is none."""
    if not is_single(i) or isinstance(i, bool):
        raise TypeError(f"{what}: expected an int, got {type(i).__name__} {i!r}")
    at = int(operator.index(i))
    if not -count <= at < count:
        raise IndexError(f"{what}: {at} is out of range, there are {count}")
    return at % count


def indices(chosen: Any, count: int, what: str, most_axes: int = 1) -> np.ndarray:
    """List what `...`, a slice, a bool array `[count]` or an int array `[B]` chooses, int64 `[B]`.

    An int array may have up to `most_axes` axes, and comes out with them. Raises IndexError for what is out of range,
    ValueError or TypeError for arrays of another kind.
    """
    if chosen is Ellipsis:
        return np.arange(count)
    if isinstance(chosen, slice):
        return np.arange(*chosen.indices(count))
    array = np.asarray(chosen)
    if array.size == 0 and isinstance(chosen, list | tuple):
        array = array.astype(np.int64)
    if array.dtype == np.bool_:
        if array.shape != (count,):
            raise ValueError(f"{what}s: expected a mask bool[{count}], got {trees.describe(array.shape, array.dtype)}")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu" or not 1 <= array.ndim <= most_axes:
        came = trees.describe(array.shape, array.dtype)
        raise TypeError(f"{what}s: expected an int, a slice, a bool array [{count}] or an int array [B], got {came}")
    least = array.min(initial=0)
    if least < -count or array.max(initial=-1) >= count:
        outside = (array >= count) | (array < -count)
        raise IndexError(f"{what}: {array[outside][0]} is out of range, there are {count}")
    array = array.astype(np.int64)
    return array if least >= 0 else np.where(array < 0, array + count, array)


def keep(
    store: Store,
    predicate: Callable[[Trajectory], bool] | None,
    returns_within: tuple[float | None, float | None],
    lengths_within: tuple[int | None, int | None],
) -> np.ndarray:
    """Tell for which episodes all that is given holds, `[N]` bool; see `Dataset.filter`."""
    kept = within(store.table.length, *lengths_within)
    if returns_within != (None, None):
        kept &= within(returns(store, "filter by return"), *returns_within)
    if predicate is not None:
        kept[kept] = [bool(predicate(store.trajectory(i))) for i in np.flatnonzero(kept)]
    return kept


def within(values: np.ndarray, least: float | None, most: float | None) -> np.ndarray:
    """Tell which values are within inclusive bounds, None where there is none."""
    return (values >= (-np.inf if least is None else least)) & (values <= (np.inf if most is None else most))


def returns(store: Store, what: str) -> np.ndarray:
    """Sum the rewards of each episode, float64 `[N]`. Raises ValueError where there are no rewards."""
    if any(chunk.rewards is None for chunk in store.chunks):
        raise ValueError(f"{what}: these episodes have no rewards")
    table = store.table
    spans = zip(table.chunk, table.step, table.step + table.length)
    each = (np.sum(store.chunks[c].rewards[first:last], dtype=np.float64) for c, first, last in spans)
    return np.fromiter(each, np.float64, count=store.num_episodes)


def clip(store: Store, k: int, kinds: Sequence[str]) -> tuple[Store, Report]:
    """Leave out the last k steps of the episodes that ended in one of `kinds`; see `Dataset.clip`."""
    k = trees.check_count("k", k, least=0)
    kinds = kinds if isinstance(kinds, str) else tuple(kinds)
    if isinstance(kinds, str) or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds: expected some of {KINDS}, got {kinds!r}")
    table = store.table
    chosen = np.zeros(store.num_episodes, bool)
    for kind in kinds if k else ():
        chosen |= getattr(table, kind)
    length = table.length - k * chosen
    infos = table.infos.copy()
    for i in np.flatnonzero(chosen & (length > 0)):
        infos[i] = None if infos[i] is None else infos[i][: length[i]]
    flags = {kind: getattr(table, kind) & ~chosen for kind in KINDS}
    clipped = Store(store.chunks, dataclasses.replace(table, length=length, infos=infos, **flags))
    kept = clipped.take(length > 0)
    report = summarise(kept) + Report(
        dropped_rows=store.num_steps - kept.num_steps,
        dropped_episodes=int((length <= 0).sum()),
        clipped_episodes=int((chosen & (length > 0)).sum()),
    )
    return kept, report


def summarise(store: Store) -> Report:
    """Make the part of a report that says what there is."""
    flags = store.table.terminated, store.table.truncated
    terminated, truncated, neither = (int(np.sum(each)) for each in (*flags, ~flags[0] & ~flags[1]))
    return Report(store.num_episodes, store.num_steps, terminated, truncated, unfinished=neither)


class Episodes(Sequence[Trajectory]):
    """The episodes of a data set, to count, go through and choose from."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset.num_episodes

    def __getitem__(self, chosen: Any) -> Any:
        """Choose: an int gives a `Trajectory`; a slice, `...`, a bool array `[N]` or an int array `[B]` a `Dataset`."""
        if is_single(chosen):
            return self._dataset.episode(chosen)
        held = self._dataset._store
        return self._dataset._of(held.take(indices(chosen, len(self), "episode")), self._dataset.report)

    def __repr__(self) -> str:
        return f"Episodes({len(self)} episodes, {len(self._dataset)} steps)"

    def _repr_html_(self) -> str:
        return self._dataset._repr_html_()
