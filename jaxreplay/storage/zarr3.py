"""Columns of any numbers, each row of which is a sub-chunk of a zarr v3 shard, compressed without loss by TensorStore.

A shard is written at once, with the places of its sub-chunks at its end, so it cannot grow from commit to commit. A
column's file does: it has the sub-chunks alone, and `.sizes` beside it says where each is. For reading, those that are
asked for and their places become a shard in memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreplay.datasets.files.opening import need
from jaxreplay.storage.manifest import Kind

MOST_ROW_BYTES = 2**30
BLOCK = 2**15  # bytes that are compressed together, so that no row is compressed more than `MOST_RATIO` times
AT_ONCE = 2**25  # bytes of rows in one shard, which is copied while it is made
KEY = "c/0/0"
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": BLOCK}}


def check(kind: Kind) -> None:
    """Raise ValueError unless rows have bytes, and not too many."""
    if not 0 < kind.row_bytes <= MOST_ROW_BYTES:
        raise ValueError(
            f"{kind.name}: zarr3 holds rows of 1 byte to {MOST_ROW_BYTES} bytes; those of "
            f"{kind.dtype}{list(kind.shape)} have {kind.row_bytes}"
        )


def compress_rows(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    """Compress rows `[B, ...]`, each to an array of bytes."""
    count = max(1, AT_ONCE // kind.row_bytes)
    return [each for i in range(0, len(rows), count) for each in _compress(kind, rows[i : i + count])]


def _compress(kind: Kind, rows: np.ndarray) -> list[np.ndarray]:
    words = np.ascontiguousarray(rows).reshape(len(rows), -1).view(_word(kind))
    shard = _open(kind, len(rows), "writing")
    shard.write(words).result()
    stored = np.frombuffer(shard.kvstore.read(KEY).result().value, np.uint8)
    places = stored[-16 * len(rows) :].view("<u8").reshape(-1, 2).astype(np.int64)
    return [stored[begin : begin + size] for begin, size in places.tolist()]


def read_rows(kind: Kind, blobs: Sequence[bytes]) -> np.ndarray:
    """Read rows `[B, ...]` of what each was compressed to. Raises ValueError for damaged ones."""
    for blob in blobs:
        if len(blob) < 16 or int.from_bytes(blob[4:8], "little") != kind.row_bytes:
            raise ValueError(f"a row is not of {kind.row_bytes} bytes")
    sizes = np.array([len(blob) for blob in blobs])
    places = np.stack([np.cumsum(sizes) - sizes, sizes], 1).astype("<u8")
    shard = _open(kind, len(blobs), "reading")
    shard.kvstore.write(KEY, b"".join([*blobs, places.tobytes()])).result()
    words = shard.read().result()
    if kind.dtype == np.bool_ and words.max() > 1:
        raise ValueError("expected bytes 0 and 1")
    return words.view(kind.dtype).reshape(len(blobs), *kind.shape)


def _word(kind: Kind) -> np.dtype:
    """Give the unsigned number that takes the place of a dtype: what is stored are bits, of any dtype."""
    return np.dtype(f"<u{np.gcd(kind.dtype.itemsize, 8)}")


def _open(kind: Kind, count: int, doing: str) -> Any:
    """Make an array of one shard in memory, with a row a sub-chunk."""
    library = need("tensorstore", "TensorStore", "tensorstore", f"{kind.name} as zarr3: {doing} it")
    word = _word(kind)
    shape = [count, kind.row_bytes // word.itemsize]
    sharding = {"chunk_shape": [1, shape[1]], "codecs": [BYTES, ZSTD], "index_codecs": [BYTES], "index_location": "end"}
    metadata = {
        "shape": shape,
        "data_type": word.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "fill_value": 0,
    }
    memory = {"driver": "memory"}
    spec = {"driver": "zarr3", "kvstore": memory, "metadata": metadata, "store_data_equal_to_fill_value": True}
    return library.open(spec, context=library.Context(), create=True).result()
