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
from jaxreplay.datasets.files.d4rl import read_by_name
from jaxreplay.datasets.files.inside import check_folder
from jaxreplay.datasets.files.values import is_number
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

ENDS = "meta/episode_ends"
MOST_COMPRESSED = 2**16  # what Blosc and Zstandard make of zeros; chunks of zeros alone may be left out as well
CODECS = {"blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "delta", "shuffle", "fixedscaleoffset", "crc32"}


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is such a replay buffer."""
    return (path / ".zgroup").is_file() and (path / ENDS / ".zarray").is_file()


def is_zip(names: set[str]) -> bool:
    """Tell by the names of its members whether a zip is such a replay buffer."""
    return f"{ENDS}/.zarray" in names


def read(path: pathlib.Path, columns: Mapping[str, Any] | None, missing_final: str) -> tuple[Store, Report]:
    """Read a replay buffer; `data/action` are the actions, and all other `data` observations, unless `columns` says.

    There are no rewards, no flags, and nothing after an episode's last row. Rows after the last end, which a writer
    that was stopped leaves, are dropped. Raises ValueError naming an array with a codec that is none of `CODECS`:
    others are of other packages, and one of them runs what it reads.
    """
    try:
        import zarr
        from zarr.storage import ZipStore
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: reading it needs zarr: pip install 'jaxreplay[zarr]'") from error
    if path.is_dir():
        check_folder(path)
        files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
        size = sum(file.stat().st_size for file in files.values())
        texts = {name: file.read_bytes() for name, file in files.items() if name.endswith("/.zarray")}
    else:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            texts = {name: archive.read(name) for name in sorted(archive.namelist()) if name.endswith("/.zarray")}
    names = [name.removesuffix("/.zarray") for name in texts]
    for name, text in zip(names, texts.values()):
        _check(name, json.loads(text), size)
    with contextlib.ExitStack() as stack:
        store: Any = path if path.is_dir() else ZipStore(path, mode="r")
        group: Any = zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False)
        if store is not path:
            stack.callback(store.close)
        ends = np.asarray(group[ENDS][...])
        lengths = np.diff(ends, prepend=0)
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or not ends.size or (lengths <= 0).any():
            raise ValueError(
                f"{ENDS}: expected where episodes end, ascending numbers of rows, got {ends.tolist()[:10]}"
            )
        read = lambda name: np.asarray(group[f"data/{name}"][: ends[-1]])  # noqa: E731
        there = [name.removeprefix("data/") for name in names if name.startswith("data/")]
        if columns is None:
            if "action" not in there:
                raise ValueError(f"there is no data/action; pass columns to say what is which of: {', '.join(there)}")
            columns = {"observations": {name: name for name in there if name != "action"}, "actions": "action"}
        episode = np.repeat(np.arange(len(ends)), lengths)
        held, report = read_by_name(there, read, columns, missing_final, {"episode": episode})
        after = max(group[f"data/{name}"].shape[0] for name in jax.tree.leaves(dict(columns))) - len(episode)
        return held, report + Report(dropped_rows=after)


def _check(name: str, metadata: dict[str, Any], size: int) -> None:
    """Raise ValueError for an array that is not only read, or that is far larger than all that there is."""
    for codec in (metadata.get("compressor"), *(metadata.get("filters") or ())):
        if codec and codec["id"] not in CODECS:
            known = ", ".join(sorted(CODECS))
            raise ValueError(f"{name}: its codec {codec['id']!r} is none of {known}; write it with one of them")
    dtype = np.dtype(metadata["dtype"])
    if not is_number(dtype):
        raise ValueError(f"{name}: expected numbers, got dtype {dtype}")
    if math.prod(metadata["shape"]) * dtype.itemsize > MOST_COMPRESSED * size:
        raise ValueError(f"{name}: {trees.describe(metadata['shape'], dtype)} is more than the data set can hold")
