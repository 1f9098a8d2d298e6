"""The pieces that arrays are saved in: boxes of them, each a file whose name says where it lies and what is in it.

A box is a part of an array, contiguous in C order but for the parts that several devices hold. So what an append writes
is in few boxes, and boxes that one set of devices saved can be loaded by another.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.opening import need

PIECE = 4 * 2**20  # bytes: a few files for each GB, and little beside what one percent of it is
WORKERS = 4  # threads: hashing, reading and writing let others run, and waiting for a disk takes no core
READ_IN_PLACE = ("cpu",)  # platforms whose arrays NumPy sees without a copy

A = TypeVar("A")
B = TypeVar("B")


class Box(NamedTuple):
    """A part of an array: where it begins, and its shape."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def slices(self, within: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Give the index of the box in the array, or in another box of it that begins at `within`."""
        within = (0,) * len(self.start) if within is None else within
        return tuple(slice(a - w, a - w + n) for a, n, w in zip(self.start, self.shape, within, strict=True))

    def meet(self, other: "Box") -> "Box | None":
        """Give what two boxes share, None for nothing."""
        start = tuple(map(max, self.start, other.start))
        ends = (min(a + n, b + m) for a, n, b, m in zip(*self, *other, strict=True))
        shape = tuple(end - begin for begin, end in zip(start, ends, strict=True))
        return Box(start, shape) if all(n > 0 for n in shape) else None


def block_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the shape of the pieces that a part of an array is cut into: whole along its last axes."""
    block, size = list(shape), itemsize
    for axis in reversed(range(len(shape))):
        if size * shape[axis] > PIECE:
            return (*[1] * axis, max(1, PIECE // size), *block[axis + 1 :])
        size *= shape[axis]
    return tuple(block)


def cut(part: Box, block: Sequence[int]) -> Iterator[Box]:
    """List the pieces of a part, in C order; those at its ends are smaller."""
    starts = [range(a, a + n, max(1, b)) for a, n, b in zip(*part, block, strict=True)]
    ends = [a + n for a, n in zip(*part, strict=True)]
    for start in itertools.product(*starts):
        yield Box(start, tuple(map(min, block, (e - a for a, e in zip(start, ends, strict=True)))))


def parts_of(array: Any) -> list[tuple[Box, Any]]:
    """List the parts of an array that this process saves, each once: those of its devices, or the whole."""
    shards = getattr(array, "addressable_shards", None)
    if shards is None:
        return [(whole(array.shape), array)]
    return [(box_of(shard.index, array.shape), shard.data) for shard in shards if shard.replica_id == 0]


def whole(shape: Sequence[int]) -> Box:
    return Box((0,) * len(shape), tuple(shape))


def box_of(index: Sequence[slice], shape: Sequence[int]) -> Box:
    """Give the box that JAX names by slices."""
    bounds = [part.indices(n)[:2] for part, n in zip(index, shape, strict=True)]
    return Box(tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds))


def committed_sharding(like: Any) -> Any:
    """Return where an array, or one that is described, must be; None if it goes to the default device."""
    if isinstance(like, jax.Array) and not like.committed:
        return None
    return getattr(like, "sharding", None)


def raw(leaf: Any) -> Any:
    """Give a leaf as an array of numbers: keys as their words, Python's numbers as NumPy's."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or hasattr(leaf, "addressable_shards"):
        if not trees.is_key_dtype(leaf.dtype):
            return leaf
        if isinstance(leaf, jax.Array):
            return jax.random.key_data(leaf)
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=getattr(leaf, "sharding", None))
    return np.asarray(leaf)


def read_block(data: Any, box: Box, start: Sequence[int]) -> np.ndarray:
    """Bring a box to the host, contiguous; `data` is the part of the array that begins at `start`."""
    if (
        isinstance(data, jax.Array)
        and next(iter(data.devices())).platform not in READ_IN_PLACE
        and box.shape != data.shape
    ):
        data = _slice(data, [np.int32(a - b) for a, b in zip(box.start, start, strict=True)], box.shape)
        return np.ascontiguousarray(data).reshape(box.shape)
    view = np.asarray(data)[box.slices(start)]  # a CPU's array is read where it lies
    return np.ascontiguousarray(view).reshape(box.shape)


_slice = jax.jit(jax.lax.dynamic_slice, static_argnums=2)


def as_bytes(block: np.ndarray) -> np.ndarray:
    """View a contiguous block as bytes `[n]`."""
    return block.reshape(-1).view(np.uint8)


def digest(block: np.ndarray) -> str:
    """Return 128 bits that tell a block from any other, as 32 hex digits.

    XXH3 is no defence against someone who makes up blocks, nor is any digest that lies beside the data. It finds every
    accident, and keeps up with memory, so that a ring can be compared with what was saved of it in every save.
    """
    xxhash: Any = need("xxhash", "xxhash", "checkpoints", "checkpoint")
    return xxhash.xxh3_128_hexdigest(as_bytes(block).data)


def file_name(leaf: int, box: Box, found: str) -> str:
    """Name the file of a piece: the number of its leaf, where it begins (its member first), and its digest."""
    return f"{leaf}.{'-'.join(map(str, box.start)) or 'all'}.{found}"


def ahead(function: Callable[[A], B], items: Iterable[A], pool: ThreadPoolExecutor) -> Iterator[B]:
    """Apply a function in threads, in order, and never more than a few items ahead, for memory's sake."""
    waiting: list[Future[B]] = []
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > WORKERS:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for each in waiting:
            each.cancel()
