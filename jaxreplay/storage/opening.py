"""An open store: a commit of it, read as episodes. Nothing of the columns is read until it is asked for."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreplay.datasets.files import values
from jaxreplay.datasets.files.opening import naming
from jaxreplay.datasets.store import Chunk, Store, Table
from jaxreplay.datasets.trajectory import PARTS, check_infos
from jaxreplay.storage import compressed, manifest, mapping, npy
from jaxreplay.storage.columns import Column, Texts, make_runs, nothing
from jaxreplay.storage.index import check_ends, check_index, check_sum, observation_rows, offsets
from jaxreplay.storage.manifest import FILE, TERMINATED, TRUNCATED, Kind, Manifest
from jaxreplay.storage.places import Folder, Remote, Rows, place_of


def open_store(path: Any) -> Opened:
    """Open the newest commit of a store, in a folder or at a URL.

    Costs the reading of its manifest and of its index of episodes, whatever the number and size of steps. Raises
    FileNotFoundError where there is none, ValueError naming the file that is damaged.
    """
    place = place_of(path)
    while True:
        text, found = place.manifest()
        try:
            return Opened(place, text, found)
        except ValueError:
            if place.manifest()[0] == text:  # else a writer dropped what was being read
                raise


@functools.lru_cache(maxsize=4)
def open_at(place: str, text: bytes) -> Opened:
    """Open a store at the commit that a manifest's text is of, as another process had it open."""
    found = place_of(place)
    with naming(found.name(FILE)):
        return Opened(found, text, manifest.parse(text))


class Opened:
    """A commit of a store in a place. Pickled, it is the place's name and the manifest: never any data."""

    def __init__(self, place: Folder | Remote, text: bytes, found: Manifest) -> None:
        self.place, self.text, self.manifest = place, text, found
        self._asked: dict[tuple[str, int], tuple[str, Kind, int]] = {}
        place.check(found)
        with naming(place.name(FILE)):
            self._build()

    def __reduce__(self) -> Any:
        return open_at, (str(self.place), self.text)

    def whole(self) -> Store:
        """Give all its episodes."""
        return Store(self._chunks, self.table, origin=self)

    def refresh(self) -> Opened:
        """Open the newest commit of the same store. Raises ValueError where another store lies there now."""
        newest = open_store(str(self.place))
        if newest.manifest.store != self.manifest.store:
            raise ValueError(f"{self.place}: another store was written there since this one was opened")
        return self if newest.text == self.text else newest

    def path(self, segment: int, name: str) -> str:
        """Name a file of the segment with this number in the manifest."""
        return self.place.name(self.manifest.segments[segment].file(name))

    def map(self, name: str, segment: int) -> Any:
        """Give a file of a segment as an array `[rows, ...]`: mapped, or of what it is asked for, see `places.Rows`."""
        at = self._asked.get((name, segment))
        if at is None:
            found = self.manifest.segments[segment]
            at = self._asked[name, segment] = found.file(name), self.manifest.file_kind(name), found.files[name].rows
        return self.place.rows(*at)

    @functools.cached_property
    def may_join(self) -> bool:
        """Whether so few files are there that all can stay mapped."""
        return (
            self.place.is_mapped
            and len(self.manifest.segments) * len(self.manifest.names()) <= mapping.most_mapped() // 2
        )

    def read(self, kind: Kind, segment: int, rows: np.ndarray) -> np.ndarray:
        """Read rows `[B]` of a column in one segment."""
        return self.start(kind, segment, rows)()

    def start(self, kind: Kind, segment: int, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Ask for them, where that is done before they are waited for; return a function that reads them."""
        found = self.map(kind.name, segment)
        if kind.stored == "npy":
            return found.start(rows) if isinstance(found, Rows) else lambda: np.take(found, rows, axis=0)
        ends = self._ends(kind, segment)

        def read() -> np.ndarray:
            with naming(self.path(segment, kind.name)):
                return compressed.read_rows(kind, found, ends, rows)

        return read

    def column(self, name: str) -> Column:
        kind = self.manifest.kinds[name]
        return Column(self, kind, self._observation_runs if kind.of_observations else self._step_runs)

    def _ends(self, kind: Kind, segment: int) -> np.ndarray:
        """Say where each compressed row of a segment ends among its bytes."""
        found = self._compressed.get((kind.name, segment))
        if found is None:
            name = kind.name + manifest.SIZES
            sizes = self._read_checked(segment, name)
            total = self.manifest.segments[segment].files[kind.name].rows
            with naming(self.path(segment, name)):
                found = self._compressed[kind.name, segment] = check_sum(sizes, total)
        return found

    def _read_checked(self, segment: int, name: str) -> np.ndarray:
        """Read a file of the index whole, and check its digest."""
        about = self.manifest.segments[segment]
        kind, part = self.manifest.file_kind(name), about.files[name]
        with naming(self.path(segment, name)), self.place.open(about.file(name)) as file:
            begin = npy.header_bytes(kind)
            if npy.rows_in(kind, file.read(begin)) < part.rows:
                raise ValueError("its header says that it has fewer rows than the manifest")
            data = np.empty((part.rows, *kind.shape), kind.dtype)
            if file.readinto(data.reshape(-1).view(np.uint8).data) != data.nbytes:  # type: ignore[attr-defined]
                raise ValueError("it is cut")
            if zlib.crc32(data) != part.crc:  # type: ignore[arg-type]
                raise ValueError("its content does not match its digest: bytes were changed")
        return data

    def _build(self) -> None:
        """Make the table of episodes, and of where their rows lie, from the index of pieces.

        There may be millions of pieces: arrays are let go as soon as they have served.
        """
        found = self._read_pieces()
        episode, steps, flags, segment = found
        self._compressed: dict[tuple[str, int], np.ndarray] = {}
        order: Any = slice(None)
        if (episode[1:] < episode[:-1]).any():
            order = np.argsort(episode, kind="stable")
            episode, steps, flags, segment = (x[order] for x in found)
        begins = np.ones(len(episode), np.bool_)
        begins[1:] = episode[1:] != episode[:-1]
        del episode
        first = np.flatnonzero(begins)
        del begins
        whole = len(first) == len(steps)  # each episode is one piece
        length = steps if whole or not len(first) else np.add.reduceat(steps, first)
        if not whole:
            check_ends(first, steps, flags)
            flags = np.bitwise_or.reduceat(flags, first)
        held = np.flatnonzero(length)
        every = slice(None) if len(held) == len(length) else held
        self._step_runs = make_runs(segment, offsets(found[1], found[3])[order], steps)
        starts = offsets(found[1] + (found[1] > 0), found[3])[order]
        self._observation_runs = make_runs(segment, starts, observation_rows(first, steps, length))
        del starts, found
        self._pieces = (order, segment, np.append(first, len(steps)), steps) if self._texts else None
        infos, data = (
            nothing(len(held)) if self._texts is None or not self._texts[i][1].any() else Texts(read, held)
            for i, read in enumerate((self.read_infos, self.read_episode_data))
        )
        del held, first, segment
        length, flags = length[every], flags[every]
        step = np.cumsum(length) - length
        self.table = Table(
            chunk=np.broadcast_to(np.int64(0), (len(length),)),
            observation=step + np.arange(len(length)),
            step=step,
            length=length,
            terminated=(flags & TERMINATED) > 0,
            truncated=(flags & TRUNCATED) > 0,
            infos=infos,  # type: ignore[arg-type]
            episode_data=data,  # type: ignore[arg-type]
        )
        self._chunks = self._make_chunks()

    def _read_pieces(self) -> tuple[np.ndarray, ...]:
        """Read the index: of each piece its episode, steps, flags and segment, `[P]`; and where its texts are."""
        segments = self.manifest.segments
        counts = [segment.pieces for segment in segments]
        episode, steps = (np.empty(sum(counts), np.int64) for _ in range(2))
        flags, sizes = np.empty(sum(counts), np.uint8), None
        last = 0
        for number, (about, count) in enumerate(zip(segments, counts)):
            pieces = self._read_checked(number, "index")
            check_index(self.manifest, about, pieces)
            rows = slice(last, last + count)
            episode[rows], steps[rows], flags[rows] = pieces[:, 0], pieces[:, 1], pieces[:, 2]
            if sizes is None and pieces[:, 3:].any():
                sizes = np.zeros((2, sum(counts)), np.int64)
            if sizes is not None:
                sizes[:, rows] = pieces[:, 3:].T
            last += count
        segment = np.repeat(np.arange(len(segments), dtype=np.int32), counts)
        self._texts = None if sizes is None else [(offsets(size, segment), size) for size in sizes]
        return episode, steps, flags, segment

    def _make_chunks(self) -> tuple[Chunk, ...]:
        structure = self.manifest.structure
        if structure is None:
            return ()
        parts = {part: values.build(structure[part], self.column) for part in PARTS}
        if parts["rewards"] is not None and not jnp.issubdtype(parts["rewards"].dtype, np.floating):
            raise ValueError("rewards are no floating numbers")
        return (Chunk(**parts),)

    def read_infos(self, episode: int) -> Any:
        """Read the infos of an episode, by its number among those with pieces: a list of dicts, or None."""
        found = self._read_texts(episode, 0)
        if all(text is None for text, _ in found):
            return None
        infos = []
        for text, steps in found:
            infos += check_infos([{}] * steps if text is None else text, steps)
        return infos

    def read_episode_data(self, episode: int) -> Any:
        """Read what is kept of an episode: what was said last."""
        found = [text for text, _ in self._read_texts(episode, 1) if text is not None]
        return found[-1] if found else None

    def _read_texts(self, episode: int, which: int) -> list[tuple[Any, int]]:
        """Read one of the two texts of each piece of an episode, None where it has none, and the piece's steps."""
        assert self._texts is not None
        assert self._pieces is not None
        order, segments, first, steps = self._pieces
        start, size = self._texts[which]
        name, found = manifest.TEXTS[which].name, []
        for piece in range(int(first[episode]), int(first[episode + 1])):
            at = piece if isinstance(order, slice) else int(order[piece])
            begin, count, segment = int(start[at]), int(size[at]), int(segments[piece])
            value = None
            if count:
                with naming(self.path(segment, name)):
                    text = self.map(name, segment)[begin : begin + count].tobytes()
                    value = values.build(json.loads(text), values.read_leaf)
            found.append((value, int(steps[piece])))
        return found
