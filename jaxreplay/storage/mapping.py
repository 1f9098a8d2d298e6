"""Files mapped to memory, a bounded number of them at a time, and rows of several read by one gather."""

import itertools
import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import naming
from jaxreplay.storage import npy
from jaxreplay.storage.manifest import Kind

try:
    import resource
except ImportError:  # Windows
    resource: Any = None

_MAPPED: dict[tuple[str, int], np.ndarray] = {}  # by path and bytes: a file that grew is another one


def most_mapped() -> int:
    """Say how many files may be mapped at once: each keeps a handle open, of which a process has so many."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 512
    return max(16, min(4096, soft // 4)) if soft > 0 else 4096


def map_rows(path: str, kind: Kind, rows: int) -> np.ndarray:
    """Map the first rows of a column's file: a read-only array `[rows, *shape]`, which can be kept.

    Nothing is read but the header. Raises ValueError naming the file where it has not so many rows of this column.
    """
    at = path, rows
    found = _MAPPED.get(at)
    if found is not None and found.dtype == kind.dtype and found.shape[1:] == kind.shape:
        return found
    with naming(path):
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise ValueError(
                "there is no such file any more: it was taken away, or a writer that keeps the newest steps alone "
                "dropped it; open the store again"
            ) from error
        except OSError as error:
            raise ValueError(str(error)) from error
        try:
            begin, size = npy.header_bytes(kind), npy.file_bytes(kind, rows)
            if os.fstat(handle).st_size < size:
                raise ValueError(f"it is cut: expected at least {size} bytes, got {os.fstat(handle).st_size}")
            if npy.rows_in(kind, os.pread(handle, begin, 0)) < rows:
                raise ValueError(f"its header says that it has fewer than the {rows} rows of the manifest")
            if size == begin:
                return np.empty((rows, *kind.shape), kind.dtype)
            mapped = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
        finally:
            os.close(handle)
    array = np.frombuffer(mapped, kind.dtype, count=rows * kind.row_bytes // kind.dtype.itemsize, offset=begin)
    array = array.reshape(rows, *kind.shape)
    while len(_MAPPED) >= most_mapped():  # the oldest goes; who has it keeps it
        _MAPPED.pop(next(iter(list(itertools.islice(_MAPPED, 1))), at), None)
    _MAPPED[at] = array
    return array


class Joined:
    """Arrays `[N, ...]` of one dtype and shape, of which rows are read by one gather, each copied once.

    NumPy gathers from one array alone, and gathering from each and putting the pieces in place copies twice, which took
    1.3 to 1.7 times as long for rows of 7 KB. So all arrays are looked at as one, over the addresses from the first to
    the last of them, with a row at every byte; only addresses of rows are then read.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays, first = list(arrays), arrays[0]
        if any(array.dtype != first.dtype or array.shape[1:] != first.shape[1:] for array in arrays):
            raise ValueError("the arrays are of different kinds")
        self.dtype, self.shape = first.dtype, first.shape[1:]
        self.row_bytes = first.dtype.itemsize * math.prod(self.shape)
        self.lengths = np.array([len(array) for array in arrays])
        if not all(array.flags.c_contiguous for array in arrays):
            raise ValueError("the arrays are not contiguous")
        begins = np.array([array.ctypes.data for array in arrays])
        self.begins = begins - begins.min()
        if self.row_bytes:
            count = int((self.begins + self.lengths * self.row_bytes).max()) - self.row_bytes + 1
            lowest, size = int(begins.min()), self.row_bytes
            self.every = np.asarray(_Bytes(lowest, max(count, 0), size))
            self.pairs = np.asarray(_Bytes(lowest, max(count - size, 0), 2 * size))

    def gather(self, which: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Read rows `[B]`: row `row[i]` of array `which[i]`. Raises IndexError for rows that an array does not have."""
        if ((row < 0) | (row >= self.lengths[which])).any():
            raise IndexError("a row that a file does not have")
        return self.read(self.begins[which] + row * self.row_bytes)

    def read(self, at: np.ndarray) -> np.ndarray:
        """Read rows by how many bytes after the first of all arrays they begin, `[B]`.

        Rows must begin there: anything else gives other bytes, or ends the process.
        """
        if not self.row_bytes or not len(at):
            return np.empty((len(at), *self.shape), self.dtype)
        found = self.every[at].view(self.dtype)
        return found.reshape(len(at), *self.shape) if self.shape else found

    def read_pairs(self, at: np.ndarray) -> np.ndarray:
        """Read rows and those after them, `[B, 2, ...]`, which must be in the same array, as `read` does."""
        return self.pairs[at].view(self.dtype).reshape(len(at), 2, *self.shape)


class _Bytes:
    """Memory from an address on, as NumPy takes it: items of `size` bytes, one at each of `count` bytes."""

    def __init__(self, address: int, count: int, size: int) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (count,),
            "strides": (1,),
            "typestr": f"|V{size}",
            "version": 3,
        }
