"""What a store holds, as its manifest says: the one source of truth. Rows of files that it does not count do not exist.

A store is a folder of segments. A segment has one NumPy file a column, `000012.observations.camera.npy`, and three
more: `index`, with a row for each piece of an episode, and `infos` and `episode_data`, the bytes of JSON texts. The
newest segment grows until it is large enough; the others never change.

A piece is T consecutive steps of an episode: T rows of each column of steps, and T + 1 of observations (none if T is
0). An episode is the pieces of one number, in order; it has more than one where it was committed in parts.
"""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import re
import zlib
from typing import Any

import numpy as np

from jaxreplay.datasets.files import archive, atomic, values
from jaxreplay.datasets.files.opening import naming
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.storage import npy

FORMAT, VERSION = "jaxreplay store", 1
FILE = "manifest.json"
LOCK = ".writer-lock"
BEGIN = re.compile(rb'\{"crc32": "([0-9a-f]{8})", "store": ')
END = b"}\n"
SIZES = ".sizes"  # the file with the bytes of each row, of a column of which each row is compressed
NAMES = re.compile(r"(observations|actions|rewards|extras)[\w.~#-]{0,110}", re.ASCII)
SEGMENT_NAMES = re.compile(r"(\d{6,12})\.([\w.~#-]+)\.npy", re.ASCII)
INDEX_COLUMNS = ("episode", "steps", "flags", "infos", "episode_data")
TERMINATED, TRUNCATED = 1, 2
MOST = 2**62
MOST_ROW_BYTES = 2**40
MOST_RATIO = 2**12  # times as many bytes as it takes may a compressed row have: more is a file that was made up


@dataclasses.dataclass(frozen=True)
class Kind:
    """What each row of a column is: its dtype and shape, and how it is stored.

    stored: "npy", as rows of an array; "png", "jpeg" or "zarr3", each row compressed by itself; "video" or
        "video-lossless", each row a packet of H.264.
    key: of PRNG keys, whose words are the rows, the name of their implementation.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    stored: str = "npy"
    key: str | None = None

    @property
    def of_observations(self) -> bool:
        return self.name.startswith("observations")

    @functools.cached_property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @functools.cached_property
    def raw(self) -> np.dtype:
        """The dtype in files: NumPy's own files cannot name an extended one, so they hold its bits."""
        return archive.stored_dtype(self.dtype)


INDEX = Kind("index", np.dtype("<i8"), (len(INDEX_COLUMNS),))
TEXTS = tuple(Kind(name, np.dtype("u1"), ()) for name in ("infos", "episode_data"))


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of a segment: so many rows, and the CRC-32 of their bytes."""

    rows: int
    crc: int = 0


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment: its number, how many steps it has, and its files by the name of their column."""

    number: int
    steps: int
    files: dict[str, Part]

    @property
    def pieces(self) -> int:
        return self.files["index"].rows

    def file(self, name: str) -> str:
        return f"{self.number:06d}.{name}.npy"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A commit of a store.

    structure: for each part of `Trajectory`, its containers as JSON, with names of columns as leaves; None before the
    first episode. next_episode, next_segment: the first numbers that were never used.
    """

    store: str
    commit: int
    structure: dict[str, Any] | None
    kinds: dict[str, Kind]
    segments: tuple[Segment, ...]
    next_episode: int
    next_segment: int

    @property
    def num_steps(self) -> int:
        return sum(segment.steps for segment in self.segments)

    def files_of(self, segment: Segment) -> list[tuple[Kind, Part]]:
        """List the files of a segment."""
        return [(self.file_kind(name), part) for name, part in segment.files.items()]

    def file_kind(self, name: str) -> Kind:
        """Say what the rows of a file are."""
        for kind in (INDEX, *TEXTS):
            if name == kind.name:
                return kind
        if name.endswith(SIZES) and name.removesuffix(SIZES) in self.kinds:
            return Kind(name, np.dtype("<i8"), ())
        kind = self.kinds[name]
        return kind if kind.stored == "npy" else Kind(name, np.dtype("u1"), ())

    def names(self) -> list[str]:
        """List the names of all files that a segment has."""
        names = [INDEX.name, *(text.name for text in TEXTS)]
        for kind in self.kinds.values():
            names += [kind.name] if kind.stored == "npy" else [kind.name, kind.name + SIZES]
        return names


def dump(manifest: Manifest) -> bytes:
    """Write a manifest as JSON, with a CRC-32 of itself at its beginning."""
    text = {
        "format": FORMAT,
        "version": VERSION,
        "id": manifest.store,
        "commit": manifest.commit,
        "structure": manifest.structure,
        "columns": {name: _dump_kind(kind) for name, kind in manifest.kinds.items()},
        "next_episode": manifest.next_episode,
        "next_segment": manifest.next_segment,
    }
    head = json.dumps(text, allow_nan=False)[:-1]
    body = f'{head}, "segments": [{", ".join(_dump_segment(manifest, s) for s in manifest.segments)}]}}'.encode()
    return b'{"crc32": "%08x", "store": %s%s' % (zlib.crc32(body), body, END)


def _dump_kind(kind: Kind) -> dict[str, Any]:
    text = {"dtype": kind.dtype.name, "shape": list(kind.shape), "stored": kind.stored}
    if kind.stored in LOSSY:
        text["lossy"] = True
    return text if kind.key is None else text | {"prng_key": kind.key}


LOSSY = ("jpeg", "video")
STORED = ("npy", "png", "jpeg", "video", "video-lossless", "zarr3")


def _dump_segment(manifest: Manifest, segment: Segment) -> str:
    """Write what is said of a segment; a sealed one is written once."""
    found = vars(segment).get("_text")
    if found is None:
        files = {
            name: {"rows": part.rows, "bytes": npy.file_bytes(manifest.file_kind(name), part.rows), "crc32": part.crc}
            for name, part in segment.files.items()
        }
        found = json.dumps({"number": segment.number, "steps": segment.steps, "files": files})
        object.__setattr__(segment, "_text", found)
    return found


def parse(text: bytes) -> Manifest:
    """Read what `dump` wrote. Whatever else it is given, it raises an Exception, and takes no more memory for it."""
    begin = BEGIN.match(text)
    if begin is None or not text.endswith(END):
        raise ValueError("it is cut or changed, or no manifest of this library")
    body = memoryview(text)[begin.end() : -len(END)]
    if zlib.crc32(body) != int(begin[1], 16):
        raise ValueError("its content does not match its digest: bytes were changed or cut")
    return _read(json.loads(bytes(body)))


def _read(text: Any) -> Manifest:
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"it does not say that this is a {FORMAT}")
    if text.get("version") != VERSION:
        raise ValueError(f"it has version {text.get('version')!r} of the format, this library reads {VERSION}")
    kinds = {name: _read_kind(name, kind) for name, kind in text["columns"].items()}
    structure = text["structure"]
    _check_structure(structure, kinds)
    store, commit = text["id"], _count(text["commit"])
    if not isinstance(store, str) or not re.fullmatch("[0-9a-f]{16}", store):
        raise ValueError("its id is none")
    empty = Manifest(store, commit, structure, kinds, (), _count(text["next_episode"]), _count(text["next_segment"]))
    segments = tuple(_read_segment(empty, each) for each in text["segments"])
    numbers = [segment.number for segment in segments]
    if any(b <= a for a, b in itertools.pairwise(numbers)) or (numbers and numbers[-1] >= empty.next_segment):
        raise ValueError("the numbers of its segments do not rise")
    if segments and structure is None:
        raise ValueError("it has segments without a structure")
    return dataclasses.replace(empty, segments=segments)


def _read_kind(name: str, text: Any) -> Kind:
    dtype = values.EXTENDED[text["dtype"]] if text["dtype"] in values.EXTENDED else np.dtype(text["dtype"])
    shape = tuple(_count(n) for n in text["shape"])
    if not NAMES.fullmatch(name) or name.endswith(SIZES) or not values.is_number(dtype) or len(shape) > 30:
        raise ValueError(f"column {name[:100]!r} is no array of numbers, or has no name of one")
    if text["stored"] not in STORED:
        raise ValueError(f"column {name}: it is stored as {text['stored']!r}, which this library cannot read")
    key = text.get("prng_key")
    if not (key is None or isinstance(key, str)) or math.prod(max(n, 1) for n in shape) > MOST_ROW_BYTES:
        raise ValueError(f"column {name}: a row of shape {shape} is too large")
    return Kind(name, dtype, shape, text["stored"], key)


def _check_structure(structure: Any, kinds: dict[str, Kind]) -> None:
    """Raise ValueError unless each column is in its part of the structure, once."""
    found: list[Any] = []
    if structure is not None:
        if not isinstance(structure, dict) or list(structure) != list(PARTS):
            raise ValueError("its structure has other parts than observations, actions, rewards and extras")
        for part, node in structure.items():
            below: list[Any] = []
            values.build(node, below.append)
            if not all(isinstance(name, str) and name.startswith(part) for name in below):
                raise ValueError(f"the columns of {part} have other names")
            found += below
        if not (structure["observations"] and structure["actions"]):
            raise ValueError("it has no column of observations, or of actions")
        if structure["rewards"] is not None and kinds[structure["rewards"]].shape:
            raise ValueError("rewards are no scalars")
    if sorted(found) != sorted(kinds):
        raise ValueError("its columns are not those of its structure")


def _read_segment(manifest: Manifest, text: Any) -> Segment:
    number, steps = _count(text["number"]), _count(text["steps"])
    files = {name: Part(_count(each["rows"]), _count(each["crc32"])) for name, each in text["files"].items()}
    segment = Segment(number, steps, files)
    if list(files) != manifest.names():
        raise ValueError(f"segment {number} has other files than the columns that are named")
    for name, part in files.items():
        if text["files"][name]["bytes"] != npy.file_bytes(manifest.file_kind(name), part.rows):
            raise ValueError(f"{segment.file(name)}: its bytes and rows do not match")
    return segment


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MOST:
        raise ValueError(f"expected a whole number, got {str(value)[:40]}")
    return value


def read(folder: pathlib.Path) -> tuple[bytes, Manifest]:
    """Read the manifest of a store: `(text, manifest)`. Raises ValueError naming it, or FileNotFoundError."""
    path = folder / FILE
    try:
        text = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    except FileNotFoundError:
        text = None
    if text is None:
        if path.is_symlink() or path.exists():
            raise ValueError(f"{path}: expected a file, not a link or a folder")
        there = "it holds no store" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: {there}: there is no {FILE}")
    with naming(path):
        return text, parse(text)


def write(folder: pathlib.Path, manifest: Manifest) -> bytes:
    """Commit: replace the manifest by this one, which is on the disk when this returns. Return its text."""
    text = dump(manifest)
    with atomic.new_file(folder / FILE) as file:
        file.write(text)
    return text
