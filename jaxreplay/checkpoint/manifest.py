"""The manifest of a checkpoint: what it holds, by name, and which pieces. To replace it is to commit.

It is one line of JSON and one with its CRC-32. Names of files are made of its numbers and digests, so that it can name
none outside of its folder.
"""

import json
import math
import pathlib
import re
import zlib
from typing import Any, NamedTuple

from jaxreplay._core import trees
from jaxreplay.checkpoint.pieces import Box, cut, file_name
from jaxreplay.datasets.files.atomic import new_file

FORMAT, VERSION = "jaxreplay checkpoint", 1
MANIFEST, PIECES, LOCK = "checkpoint.json", "pieces", "lock"
DIGEST = re.compile(r"[0-9a-f]{32}")


class Part(NamedTuple):
    """A part of an array, as one device held it: its box, the shape of its pieces, and their digests in order."""

    box: Box
    block: tuple[int, ...]
    digests: list[str]

    def pieces(self) -> list[tuple[Box, str]]:
        return list(zip(cut(self.box, self.block), self.digests, strict=True))


class Leaf(NamedTuple):
    """A leaf: its path, its dtype and shape as JAX writes them, and its parts."""

    path: str
    kind: str
    parts: list[Part]

    def files(self, number: int) -> list[tuple[Box, str]]:
        """List its pieces and the names of their files."""
        return [(box, file_name(number, box, found)) for part in self.parts for box, found in part.pieces()]


class Manifest(NamedTuple):
    """buffers: the facts of each buffer, by its path. leaves: all leaves in order."""

    buffers: dict[str, Any]
    leaves: list[Leaf]

    def names(self) -> set[str]:
        """Name all files."""
        return {name for number, leaf in enumerate(self.leaves) for _, name in leaf.files(number)}


class Damaged(ValueError):
    """A manifest that was cut or changed, or made up."""


def write(folder: pathlib.Path, manifest: Manifest) -> None:
    """Commit a manifest: under its name is the one before or this one, whatever happens."""
    write_text(folder / MANIFEST, {"format": FORMAT, "version": VERSION, **manifest._asdict()})


def write_text(path: pathlib.Path, content: Any) -> None:
    """Write JSON and its CRC-32, all at once."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    with new_file(path) as file:
        file.write(text + f"\n{zlib.crc32(text):08x}\n".encode())


def read_text(path: pathlib.Path) -> Any:
    """Undo `write_text`. Raises Damaged where a byte was changed or is missing."""
    text, _, end = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    if end != f"{zlib.crc32(text):08x}".encode():
        raise Damaged(f"{path}: it is cut or changed: its content does not match the digest at its end")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: it is no manifest of a checkpoint: {error}") from error


def read(folder: pathlib.Path) -> Manifest:
    """Read a manifest and check its form. Raises FileNotFoundError for none, and ValueError naming the file."""
    path = folder / MANIFEST
    content = read_text(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"{path}: it does not say that this is a {FORMAT}")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path}: it has version {content.get('version')!r} of the format, this library reads {VERSION}; "
            "use the library that saved it, or a newer one"
        )
    try:
        leaves = [Leaf(str(path), str(kind), parse_parts(parts)) for path, kind, parts in content["leaves"]]
        buffers = content["buffers"]
        if not all(isinstance(x, dict) for x in (buffers, *buffers.values())):
            raise TypeError("buffers: expected their facts")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path}: it is no manifest of a checkpoint: {error}") from error
    return Manifest(buffers, leaves)


def parse_parts(parts: Any) -> list[Part]:
    """Check what stands for the parts of a leaf. Raises ValueError or TypeError for what `write` does not write."""
    found = []
    for (start, shape), block, digests in parts:
        sizes = [*start, *shape, *block]
        if not (len(start) == len(shape) == len(block)) or not all(type(n) is int and n >= 0 for n in sizes):
            raise ValueError("expected boxes of whole numbers")
        if any(n and not b for n, b in zip(shape, block, strict=True)):
            raise ValueError("expected pieces that are not empty")
        count = math.prod(-(-n // b) if n else 0 for n, b in zip(shape, block, strict=True))
        if len(digests) != count or not all(isinstance(x, str) and DIGEST.fullmatch(x) for x in digests):
            raise ValueError(f"expected {count} digests")
        found.append(Part(Box(tuple(start), tuple(shape)), tuple(block), digests))
    return found


def check_cover(path: pathlib.Path, leaf: Leaf, shape: tuple[int, ...]) -> None:
    """Raise Damaged unless the parts of a leaf cover an array of this shape, each place of it once."""
    boxes = {part.box for part in leaf.parts if len(part.box.start) == len(shape)}
    axes = [sorted({(box.start[i], box.shape[i]) for box in boxes}) for i in range(len(shape))]
    ends = [0] * len(shape)
    for axis, intervals in enumerate(axes):
        for start, length in intervals:
            if start == ends[axis]:
                ends[axis] += length
    regular = all(sum(n for _, n in intervals) == size for intervals, size in zip(axes, shape, strict=True))
    count = math.prod(map(len, axes))
    if tuple(ends) != tuple(shape) or not regular or not len(boxes) == len(leaf.parts) == count:
        raise Damaged(f"{path}: {leaf.path}: its parts do not make up an array {trees.describe(shape, 'of')}")
