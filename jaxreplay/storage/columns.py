"""The columns of an open store: arrays of which only what is asked for is read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.store import objects
from jaxreplay.storage import mapping
from jaxreplay.storage.manifest import Kind


class Runs:
    """Where rows lie that are numbered episode by episode: in runs of consecutive rows of one segment.

    first: `[R + 1]` int64, the number of each run's first row, and of all rows. segment, start: `[R]` int64, which
    segment of the manifest it is in, and where there.
    """

    def __init__(self, first: np.ndarray, segment: np.ndarray, start: np.ndarray) -> None:
        self.first, self.segment, self.start = first, segment, start
        self.ends = first[1:]
        self.before = start - first[:-1]
        self.last: tuple[Any, Any] = None, None

    def __len__(self) -> int:
        return int(self.first[-1])

    def find(self, rows: np.ndarray) -> np.ndarray:
        """Say in which run each row `[B]` int64 is. Raises IndexError for what is no row.

        Columns of one kind are asked for the same rows one after the other, so the last answer is kept, if `rows` is
        read-only: an array that changed since would be read where no rows are.
        """
        asked, run = self.last
        if asked is not rows or rows.flags.writeable:
            if rows.size and rows.view(np.uint64).max() >= len(self):  # without a sign, what is below 0 is too large
                raise IndexError(f"a row is out of range, there are {len(self)}")
            run = self.ends.searchsorted(rows, side="right")
            self.last = rows, run
        return run

    def fit(self, lengths: np.ndarray) -> bool:
        """Tell whether no run goes beyond the rows that its segment has."""
        return bool((self.start + np.diff(self.first) <= lengths[self.segment]).all())


def make_runs(segment: np.ndarray, start: np.ndarray, length: np.ndarray) -> Runs:
    """Make the runs of pieces `[P]` in their order; pieces that follow on in one segment are one."""
    if not length.all():
        used = np.flatnonzero(length)
        segment, start, length = segment[used], start[used], length[used]
    begins = np.ones(len(length), np.bool_)
    begins[1:] = (segment[1:] != segment[:-1]) | (start[1:] != start[:-1] + length[:-1])
    at = np.flatnonzero(begins)
    total = np.cumsum(length)
    first = np.concatenate([[0], total[at[1:] - 1], total[-1:]]) if len(at) else np.zeros(1, np.int64)
    return Runs(first, segment[at], start[at])


class Column:
    """One column `[N, ...]` of an open store. It reads like an array: by slices, which are views where one file has
    them all, and by arrays of row numbers. Pickled, it is the name of the store and its own."""

    def __init__(self, opened: Any, kind: Kind, runs: Runs) -> None:
        self.opened, self.kind, self.runs = opened, kind, runs
        self.dtype, self.shape = kind.dtype, (len(runs), *kind.shape)
        self.ndim = len(self.shape)
        self.is_mapped = kind.stored == "npy" and opened.place.is_mapped
        self._joined: mapping.Joined | None = None  # of all segments, if they are few

    @property
    def nbytes(self) -> int:
        return len(self.runs) * self.kind.row_bytes

    def __reduce__(self) -> Any:
        return _column, (self.opened, self.kind.name)

    def __len__(self) -> int:
        return len(self.runs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        if isinstance(chosen, slice):
            first, last, step = chosen.indices(len(self))
            if step != 1:
                return self.take(np.arange(first, last, step))
            return self._read(first, max(first, last))
        if hasattr(chosen, "__index__") and getattr(chosen, "ndim", 0) == 0:
            at = operator.index(chosen)
            return self.take(np.array([at + len(self) * (at < 0)]))[0]
        return self.take(np.asarray(chosen))

    def take(self, rows: np.ndarray, axis: int | None = 0, out: Any = None, mode: str = "raise") -> np.ndarray:
        """Read rows `[B]`: a new array `[B, ...]`. The arguments are those of `numpy.take`, which calls this."""
        if axis != 0 or out is not None:
            raise ValueError("a stored column is read along its first axis, into a new array")
        rows = np.asarray(rows)
        if rows.ndim == 1 and rows.dtype == np.int64:
            return self._gather(rows)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        return self._gather(rows.reshape(-1).astype(np.int64)).reshape(*rows.shape, *self.kind.shape)

    def take_pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows `[B]` int64 and the ones after them, which mostly lie beside them: at once, where that is so."""
        if self._joined is not None and self.kind.row_bytes and len(rows):
            run = self.runs.find(rows)
            if (self.runs.ends[run] - rows).min() > 1:
                pairs = self._joined.read_pairs(self._begins[run] + rows * self.kind.row_bytes)
                return pairs[:, 0], pairs[:, 1]
        if self.is_mapped:
            return self.take(rows), self.take(rows + 1)
        both = self.take(np.stack([rows, rows + 1], 1))
        return both[:, 0], both[:, 1]

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        if not rows.size:
            return np.empty((0, *self.kind.shape), self.dtype)
        run = self.runs.find(rows)
        if self._joined is None and self.is_mapped and self.opened.may_join:
            self._join_all()
        if self._joined is not None:
            return self._joined.read(self._begins[run] + rows * self.kind.row_bytes)
        segment, row = self.runs.segment[run], self.runs.before[run] + rows
        least = int(segment.min())
        if least == segment.max():
            return self.opened.read(self.kind, least, row)
        if self.is_mapped:
            used, which = np.unique(segment, return_inverse=True)
            return self._join(used.tolist()).gather(which, row)
        each = [segment == s for s in np.unique(segment)]
        asked = [self.opened.start(self.kind, int(segment[mine][0]), row[mine]) for mine in each]
        out = None
        for mine, read in zip(each, asked):
            found = read()
            if out is None:  # not before: where rows are made up, reading them says so
                out = np.empty((len(rows), *self.kind.shape), self.dtype)
            out[mine] = found
        assert out is not None
        return out

    def _join_all(self) -> None:
        try:
            joined = self._join(range(len(self.opened.manifest.segments)))
        except ValueError:  # a file is gone; what is in others can be read
            self.opened.may_join = False
            return
        if self.runs.fit(joined.lengths):
            self._begins = joined.begins[self.runs.segment] + self.runs.before * self.kind.row_bytes
            self._joined = joined

    def _join(self, segments: Iterable[int]) -> mapping.Joined:
        return mapping.Joined([self.opened.map(self.kind.name, segment) for segment in segments])

    def _read(self, first: int, last: int) -> np.ndarray:
        """Read consecutive rows, as a view of the file where they lie in one."""
        if self.kind.stored == "npy" and last > first:
            run = int(np.searchsorted(self.runs.first, first, side="right")) - 1
            if last <= self.runs.first[run + 1]:
                at = int(self.runs.start[run]) + first - int(self.runs.first[run])
                return self.opened.map(self.kind.name, int(self.runs.segment[run]))[at : at + last - first]
        return self._gather(np.arange(first, last))


def _column(opened: Any, name: str) -> Column:
    return opened.column(name)


class Texts:
    """What is kept of each episode beside its arrays, read when it is asked for: an array `[N]` of objects, mostly.

    read: gives the value of an episode by its number in the open store.
    """

    def __init__(self, read: Callable[[int], Any], episodes: np.ndarray) -> None:
        self.read, self.episodes = read, episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, chosen: Any) -> Any:
        if hasattr(chosen, "__index__") and getattr(chosen, "ndim", 0) == 0:
            return self.read(int(self.episodes[chosen]))
        return Texts(self.read, self.episodes[chosen])

    def __iter__(self) -> Iterator[Any]:
        return (self.read(i) for i in self.episodes.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return objects(list(self))

    def copy(self) -> np.ndarray:
        return np.asarray(self)

    def tolist(self) -> list[Any]:
        return list(self)


def nothing(count: int) -> np.ndarray:
    """Make an array of None for each episode, which takes no memory."""
    return np.broadcast_to(objects([None]), (count,))


def is_lazy(columns: Sequence[Any]) -> bool:
    """Tell whether some columns are read from files when they are asked for."""
    return any(not isinstance(column, np.ndarray) for column in columns)
