"""`load`: check by name what was saved, then read it piece by piece to where it is to be."""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.checkpoint import fitting, manifest, pieces
from jaxreplay.checkpoint.manifest import MANIFEST, PIECES, Leaf, Manifest
from jaxreplay.checkpoint.pieces import Box
from jaxreplay.datasets.files.opening import naming
from jaxreplay.types import PyTree


def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Load what `save` saved, bit for bit, onto the devices of `like`.

    like: what was saved, or its shapes, `jax.eval_shape(make)`: then no second buffer takes memory while this one is
        read, which needs no more than its own and a few pieces of 4 MiB. Its values are not read. Shapes with a
        `sharding`, or arrays that have one, say where each part goes: as many devices as there are now. NumPy arrays
        and Python's numbers come back as such.

    If a buffer in `like` has another capacity or `max_episodes`, or lies as another platform wants it, the saved one is
    read whole and copied as `replay.resize` does: the newest rows that fit, with their times. That takes memory for
    both. Where the capacity is the same, the same key draws the same rows.

    Raises FileNotFoundError for no checkpoint, and ValueError naming all that differs, before any piece is read. A
    piece that was changed, cut or lost is a ValueError that names its file.
    """
    folder = pathlib.Path(path)
    while True:
        try:
            saved = manifest.read(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f"{folder / MANIFEST}: there is no checkpoint, or none that was committed"
            ) from error
        wanted = fitting.as_saved(folder / MANIFEST, saved, like)
        try:
            return fitting.fit(_read_all(folder, saved, wanted), like)
        except (ValueError, FileNotFoundError) as error:
            if _is_replaced(folder, saved):  # its pieces went while they were read
                continue
            if isinstance(error, FileNotFoundError):
                raise ValueError(f"{error.filename}: it is missing; the checkpoint is damaged") from error
            raise


def _is_replaced(folder: pathlib.Path, saved: Manifest) -> bool:
    try:
        return manifest.read(folder) != saved
    except (OSError, ValueError):
        return False


def _read_all(folder: pathlib.Path, saved: Manifest, wanted: PyTree) -> PyTree:
    """Read all leaves to where those of `wanted` are."""
    leaves, structure = jax.tree.flatten(wanted)
    raw = [pieces.raw(leaf) for leaf in leaves]
    with naming(folder / MANIFEST):
        for leaf, like in zip(saved.leaves, raw, strict=True):
            manifest.check_cover(folder / MANIFEST, leaf, like.shape)
    for number, (leaf, like) in enumerate(zip(saved.leaves, raw, strict=True)):
        for box, name in leaf.files(number):
            _check_size(folder / PIECES / name, box.size * np.dtype(like.dtype).itemsize)
    with ThreadPoolExecutor(pieces.WORKERS) as pool:
        found = []
        for number, (leaf, like) in enumerate(zip(saved.leaves, raw, strict=True)):
            reader = _Reader(folder / PIECES, number, leaf, np.dtype(like.dtype), pool)
            found.append(_restore(reader, like, leaves[number]))
    return jax.tree.unflatten(structure, found)


def _check_size(path: pathlib.Path, size: int) -> None:
    came = os.stat(path).st_size
    if came != size:
        raise ValueError(f"{path}: expected {size} bytes, got {came}: it was cut or changed")


class _Reader:
    """The pieces of one leaf, read ahead by threads, each checked against its digest."""

    def __init__(
        self, folder: pathlib.Path, number: int, leaf: Leaf, dtype: np.dtype, pool: ThreadPoolExecutor
    ) -> None:
        self.folder, self.number, self.leaf, self.dtype, self.pool = folder, number, leaf, dtype, pool

    def read(self, target: Box) -> Iterator[tuple[Box, np.ndarray]]:
        """Give what the pieces have of a box: where it is in the array, and its values."""
        found = [(box, digest) for part in self.leaf.parts if target.meet(part.box) for box, digest in part.pieces()]
        read = functools.partial(self._read_one, target)
        yield from pieces.ahead(read, [each for each in found if target.meet(each[0])], self.pool)

    def _read_one(self, target: Box, piece: tuple[Box, str]) -> tuple[Box, np.ndarray]:
        box, digest = piece
        path = self.folder / pieces.file_name(self.number, box, digest)
        block = np.empty(box.shape, self.dtype)
        with open(path, "rb", buffering=0) as file:
            view = pieces.as_bytes(block).data
            while len(view):
                count = file.readinto(view)
                if not count:
                    raise ValueError(f"{path}: it was cut")
                view = view[count:]
        if pieces.digest(block) != digest:
            raise ValueError(f"{path}: its content does not match its digest: bytes were changed")
        _check_values(path, block)
        shared = target.meet(box)
        assert shared is not None
        return shared, block[shared.slices(box.start)]


def _check_values(path: pathlib.Path, block: np.ndarray) -> None:
    """Raise ValueError for bytes that are no values of their type, which only someone made up."""
    if block.dtype == np.bool_:
        bad = block.size and block.view(np.uint8).max() > 1
    elif block.dtype.name in ("int4", "uint4", "int2", "uint2"):
        bad = (pieces.as_bytes(block.astype(np.int8).astype(block.dtype)) != pieces.as_bytes(block)).any()
    else:
        return
    if bad:
        raise ValueError(f"{path}: it has bytes that are no {block.dtype.name}")


def _restore(reader: _Reader, like: Any, leaf: Any) -> Any:
    """Make a leaf like `leaf`, whose form in numbers is `like`."""
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        values = np.empty(like.shape, like.dtype)
        for box, block in reader.read(pieces.whole(like.shape)):
            values[box.slices()] = block
        if isinstance(leaf, np.ndarray):
            return values
        return values[()] if isinstance(leaf, np.generic) else values.item()
    array = _restore_array(reader, like)
    return jax.random.wrap_key_data(array, impl=leaf.dtype._impl.name) if trees.is_key_dtype(leaf.dtype) else array


def _restore_array(reader: _Reader, like: Any) -> jax.Array:
    """Fill the part of each device of this process."""
    sharding = pieces.committed_sharding(like)
    if sharding is None:
        return _fill(reader, pieces.whole(like.shape), None)
    index = sharding.addressable_devices_indices_map(like.shape)
    parts = [_fill(reader, pieces.box_of(slices, like.shape), device) for device, slices in index.items()]
    return jax.make_array_from_single_device_arrays(like.shape, sharding, parts)


def _fill(reader: _Reader, target: Box, device: Any) -> jax.Array:
    """Fill an array on a device piece by piece, in place, so that it lies in memory once.

    Floats of at most 16 bits move as the integers of their bits: some compilers move them as 32-bit numbers, which
    loses the payload of a NaN.
    """
    dtype = reader.dtype
    bits = dtype.itemsize <= 2 and jnp.issubdtype(dtype, jnp.floating)
    moved = np.dtype(f"uint{8 * dtype.itemsize}") if bits else dtype
    array: Any = None
    for box, block in reader.read(target):
        if box == target:
            return jax.device_put(np.ascontiguousarray(block).reshape(box.shape), device)
        if array is None:
            array = jnp.zeros(target.shape, moved, device=device)
        start = [np.int32(a - b) for a, b in zip(box.start, target.start, strict=True)]
        array = _write(array, np.ascontiguousarray(block).view(moved), start)
        array.block_until_ready()  # else pieces are read faster than they are written, and wait in memory
    if array is None:
        return jnp.zeros(target.shape, dtype, device=device)
    return _as_floats(array, dtype) if bits else array


@functools.partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, block: jax.Array, start: Sequence[jax.Array]) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, block, start)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=1)
def _as_floats(array: jax.Array, dtype: Any) -> jax.Array:
    return jax.lax.bitcast_convert_type(array, dtype)
