"""Diffusion policy's replay buffers: zarr v2 in a folder or a zip, `data/...` and `meta/episode_ends`."""

import contextlib
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.files.arrays import MOST_REPEATED
from jaxreplay.datasets.files.d4rl import read_by_name
from jaxreplay.datasets.files.inside import check_folder
from jaxreplay.datasets.files.opening import naming, need
from jaxreplay.datasets.files.values import is_number
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

ENDS = "meta/episode_ends"
MOST_TEXT = 2**20  # bytes of what zarr says of an array
FILTERS = {"delta", "shuffle", "fixedscaleoffset", "crc32"}
COMPRESSORS = {"blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd"}  # one alone: several make terabytes of a kilobyte


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is such a replay buffer."""
    return (path / ".zgroup").is_file() and (path / ENDS / ".zarray").is_file()


def read(path: pathlib.Path, columns: Mapping[str, Any] | None, missing_final: str) -> tuple[Store, Report]:
    """Read a replay buffer; `data/action` are the actions, and all other `data` observations, unless `columns` says.

    There are no rewards, no flags, and nothing after an episode's last row. Rows after the last end, which a writer
    that was stopped leaves, are dropped. Raises ValueError naming an array with a codec that is none of `COMPRESSORS`
    and `FILTERS`: others are of other packages, and one of them runs what it reads.
    """
    zarr = need("zarr", "zarr", "zarr", f"{path}: reading it")
    with contextlib.ExitStack() as stack:
        store: Any = path
        if path.is_dir():
            check_folder(path)
            files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
            size = sum(file.stat().st_size for file in files.values())
            open_text = lambda name: files[name].open("rb")  # noqa: E731
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            size, files, open_text = path.stat().st_size, archive.namelist(), archive.open
            store = zarr.storage.ZipStore(path, mode="r")
        most = MOST_REPEATED * size
        names = sorted(name.removesuffix("/.zarray") for name in files if name.endswith("/.zarray"))
        for name in names:
            with naming(name), open_text(f"{name}/.zarray") as file:
                most -= _check(file.read(MOST_TEXT), most)
        group: Any = zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False)
        if store is not path:
            stack.callback(store.close)
        there = [name.removeprefix("data/") for name in names if name.startswith("data/")]
        if columns is None:
            if "action" not in there:
                raise ValueError(f"there is no data/action; pass columns to say what is which of: {', '.join(there)}")
            columns = {"observations": {name: name for name in there if name != "action"}, "actions": "action"}
        count = {name: (*group[f"data/{name}"].shape, 0)[0] for name in there}
        with naming(ENDS):
            ends = np.asarray(group[ENDS][...])
            lengths = np.diff(ends.astype(np.int64), prepend=0)
            if ends.ndim != 1 or ends.dtype.kind not in "iu" or not ends.size or (lengths <= 0).any():
                raise ValueError(f"expected where episodes end, ascending numbers of rows, got {ends.tolist()[:10]}")
            if ends[-1] > max(count.values()):
                raise ValueError(f"the last is {ends[-1]}, and no array has more than {max(count.values())} rows")
        read = lambda name: np.asarray(group[f"data/{name}"][: ends[-1]])  # noqa: E731
        known = {"episode": np.repeat(np.arange(len(ends)), lengths)}
        held, report = read_by_name(there, read, columns, missing_final, known)
        after = max(count[name] for name in jax.tree.leaves(columns)) - int(ends[-1])
        return held, report + Report(dropped_rows=after)


def _check(text: bytes, most: float) -> int:
    """Return the bytes of an array, or raise ValueError for one that is not only read, or is more than there can be."""
    metadata = json.loads(text)
    for codec, known in ((metadata["compressor"], COMPRESSORS), *((x, FILTERS) for x in metadata["filters"] or ())):
        if codec and codec["id"] not in known:
            compressors, filters = (", ".join(sorted(each)) for each in (COMPRESSORS, FILTERS))
            raise ValueError(
                f"its codec {codec['id']!r} is none of {compressors}, after the filters {filters}; write it with one"
            )
    dtype = np.dtype(metadata["dtype"])
    if not is_number(dtype):
        raise ValueError(f"expected numbers, got dtype {dtype}")
    size = dtype.itemsize * max(math.prod(metadata["shape"]), math.prod(metadata["chunks"]))
    if size > most:
        raise ValueError(f"{trees.describe(metadata['shape'], dtype)} is more than the data set can hold")
    return size
