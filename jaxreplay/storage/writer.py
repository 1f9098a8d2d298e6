"""Writing a store: `Writer`."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.buffer import Buffer, create
from jaxreplay.datasets.files import values
from jaxreplay.datasets.trajectory import PARTS, Trajectory
from jaxreplay.storage.blocks import Blocks, parts_of
from jaxreplay.storage.committing import Committing
from jaxreplay.storage.growing import Pieces
from jaxreplay.storage.manifest import TERMINATED, TRUNCATED
from jaxreplay.storage.places import is_url
from jaxreplay.storage.structure import Structure, check_compress, to_host
from jaxreplay.storage.texts import encode, index_of, store_rows, text_of
from jaxreplay.types import PyTree, Transition

STAGED_BYTES = 2**25  # of blocks of steps that are sorted by episode at a time


class Writer:
    """Write episodes to a store: a folder on disk, for data sets larger than memory and recordings of days.

    path: a folder that does not exist, is empty, or is a store; then what is appended comes after what is there.
    example: one step, a `Transition` as `replay.create` takes it: needed only to record into the writer
        (`RecordTransitions(env, writer)`, `collect`). num_envs: E, of blocks of steps; None for a single stream.
    episode_data: as in `replay.create`, for what a recorder keeps of each episode.
    max_steps: keep the newest steps alone. Whole segments are dropped, so there are up to an eighth more of them.
    commit_every: seconds after which what is appended is committed by itself; None for `commit` and `close` alone.
    segment_bytes: how large the files of a segment become together. compress: columns that are stored otherwise than as
        plain arrays: `{"observation.camera": "png"}`, pictures without loss, or "jpeg", with loss, by Pillow; "video",
        frames with loss, or "video-lossless", by PyAV; "zarr3", any numbers without loss, by TensorStore, after which a
        process cannot fork.

    A commit is whole and lasts: whatever happens later, a `kill -9` or a full disk, the store opens as it was after the
    last one (`Dataset.open`). Readers may come and go. There is one writer at a time, and not two threads of it.
    As a context manager it commits and closes at the end, also when something raises.

    Raises BlockingIOError where another writer has the store, FileExistsError for a folder of other files, ValueError
    or TypeError naming what does not fit the episodes that are there.

    >>> import tempfile, numpy as np
    >>> from jaxreplay.datasets import Dataset, Trajectory
    >>> folder = tempfile.mkdtemp()
    >>> with Writer(folder) as writer:
    ...     for _ in range(3):
    ...         writer.append(Trajectory(np.arange(5.0), actions=np.arange(4), terminated=True))
    >>> dataset = Dataset.open(folder)
    >>> len(dataset), dataset.num_episodes
    (12, 3)
    """

    def __init__(
        self,
        path: Any,
        example: Transition | None = None,
        num_envs: int | None = None,
        *,
        episode_data: PyTree = None,
        max_steps: int | None = None,
        commit_every: float | None = 60.0,
        segment_bytes: int = 2**28,
        compress: Mapping[str, str] | None = None,
    ) -> None:
        if is_url(path):
            raise ValueError(
                f"{path}: a store is written to a folder, and can be read by a URL once it is copied there"
            )
        self.path, self.single = pathlib.Path(path), num_envs is None
        self.num_envs = 1 if num_envs is None else trees.check_count("num_envs", num_envs)
        if max_steps is not None:
            trees.check_count("max_steps", max_steps)
        trees.check_count("segment_bytes", segment_bytes)
        self._interval = math.inf if commit_every is None else trees.check_number("commit_every", commit_every)
        wanted = check_compress(compress)
        self._sources, self._template = list[Any](), None
        if example is not None:
            self._template = self._make_template(example, episode_data)
        elif episode_data is not None:
            raise ValueError("episode_data: it goes with example, for recorders; trajectories have their own")
        self._files = Committing(self.path, max_steps, segment_bytes)
        try:
            about = self._files.manifest
            for name, stored in wanted.items() if about.structure is not None else ():
                if name not in about.kinds or about.kinds[name].stored != stored:
                    raise ValueError(f"compress: {name} is not stored as {stored} in the store that is there")
            self._structure = Structure(about.structure, about.kinds, wanted)
            self._blocks = Blocks(self._structure, self.num_envs, self.single)
            self._next, self._committed = about.next_episode, time.monotonic()
            if self._template is not None:
                step = self._template.rings.layout.one_step()
                self._structure.leaves(parts_of(step), lead=0)
        except BaseException:
            self._files.close()
            raise

    def _make_template(self, example: Any, episode_data: PyTree) -> Buffer:
        if not isinstance(example, Transition):
            raise TypeError(f"example: expected a Transition, got {type(example).__name__}")
        num_envs = None if self.single else self.num_envs
        return create(example, 2 * self.num_envs, num_envs, episode_data=episode_data)

    @property
    def template(self) -> Buffer:
        """An empty buffer of the steps that are written, for recorders. Raises ValueError without an example."""
        if self._template is None:
            raise ValueError(
                f"{self.path}: to record into a writer, give it an example of a step: "
                "Writer(path, replay.example_transition(env), num_envs)"
            )
        return self._template

    @property
    def max_steps(self) -> int | None:
        """How many of the newest steps are kept; None for all."""
        return self._files.max_steps

    @property
    def num_steps(self) -> int:
        """Count the steps in the store, with those that were not committed yet."""
        return self._files.num_steps + self._blocks.num_steps

    def append(self, trajectory: Trajectory) -> None:
        """Append an episode, or the part of one that was recorded. Its arrays may be changed afterwards.

        Raises ValueError or TypeError naming the leaf that is not as in the episodes before, and TypeError for infos
        or episode data that are no plain data; the store is then as it was.
        """
        if not isinstance(trajectory, Trajectory):
            raise TypeError(f"append: expected a Trajectory, got {type(trajectory).__name__}; see extend")
        self._need_open()
        leaves = self._structure.leaves({part: getattr(trajectory, part) for part in PARTS}, lead=1)
        row = sum(kind.row_bytes for kind in self._structure.kinds.values())
        most = self._files.most_steps(row)
        infos = [] if trajectory.infos is None else [values.copy_value("infos", info) for info in trajectory.infos]
        data = encode("episode_data", trajectory.episode_data)
        pieces = []
        for first in range(0, len(trajectory), most):
            last = min(first + most, len(trajectory))
            of_steps = slice(first, last)
            columns = {
                name: to_host(leaf[first : last + 1] if name.startswith("observations") else leaf[of_steps])
                for name, leaf in leaves.items()
            }
            ends = last == len(trajectory)
            flags = ends * (TERMINATED * trajectory.terminated + TRUNCATED * trajectory.truncated)
            texts = text_of(infos[of_steps]) if infos else None, data if ends else None
            sizes = [0 if text is None else len(text) for text in texts]
            files = store_rows(self._structure, columns)
            files |= {name: [text] for name, text in zip(("infos", "episode_data"), texts) if text is not None}
            index = index_of([self._next], [last - first], [flags], [sizes[0]], [sizes[1]])
            pieces.append(Pieces(index, files))
        self._next += 1
        self._files.add(pieces, self._structure, self._next)
        self._commit_if_due()

    def extend(self, steps: Any, mask: Any = None) -> None:
        """Append a block of steps, leaves `[L, E, ...]`, as `replay.extend` does; or a data set, or many trajectories.

        Of a single stream the leaves are `[L, ...]`. mask: `[L, E]` bool; where it is False an env recorded nothing,
        and its open episode is closed. An env's episode goes on from block to block, and from commit to commit.
        """
        if not isinstance(steps, Transition):
            if mask is not None:
                raise ValueError("mask: it goes with a block of steps, a Transition")
            if isinstance(steps, Trajectory) or not isinstance(steps, Iterable):
                raise TypeError(f"extend: expected a Transition, a Dataset or trajectories, got {type(steps).__name__}")
            for trajectory in steps:
                self.append(trajectory)
            return
        self._need_open()
        self._next = self._blocks.add(steps, mask, self._next)
        if self._blocks.num_bytes >= min(STAGED_BYTES, self._files.segment_bytes) or (
            self._blocks.num_rows >= self._files.most_steps(0)
        ):
            self._write_blocks()
        self._commit_if_due()

    def end_episodes(self, mask: Any = None) -> None:
        """End the open episodes of chosen envs, `[E]` bool, after their newest step, as truncated; None for all."""
        self._need_open()
        self._blocks.end_episodes(mask)

    def set_episode_data(self, env: Any, behind: Any, data: PyTree) -> None:
        """Set data, leaves `[B, ...]`, of the episodes that are `behind` `[B]` the newest of their `env` `[B]`.

        behind: 0 for the newest, 1 for the one before it. Those that are not known any more are passed over.
        """
        self._need_open()
        self._blocks.set_data(np.asarray(env).tolist(), np.asarray(behind).tolist(), data)

    def commit(self) -> None:
        """Bring all that was appended to the disk. When this returns, it is there whatever happens.

        An episode that goes on is there as far as it came, unfinished, and grows with later commits. Raises OSError
        where the disk is full; then the store is as after the last commit, and a later commit tries again.
        """
        self._need_open()
        for flush in filter(None, [each() for each in self._sources]):
            flush()
        self._commit()

    def _commit(self) -> None:
        self._write_blocks()
        self._files.commit(self._structure, self._next)
        self._committed = time.monotonic()

    def call_before_commit(self, flush: Callable[[], None]) -> None:
        """Call a method at each `commit` and `close`, by which a recorder hands on what it has staged."""
        self._sources.append(weakref.WeakMethod(flush))

    def close(self) -> None:
        """Commit, and let another writer have the store. Closing again is a no-op."""
        if self._files.closed:
            return
        try:
            self.commit()
        finally:
            self._files.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._files.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Writer cannot be pickled: one process writes; others read, with Dataset.open(writer.path)")

    def __repr__(self) -> str:
        return f"Writer({str(self.path)!r}, {self.num_steps} steps)"

    def _need_open(self) -> None:
        if self._files.closed:
            raise ValueError(f"{self.path}: this writer was closed; make another")

    def _commit_if_due(self) -> None:
        if time.monotonic() - self._committed > self._interval:
            self._commit()

    def _write_blocks(self) -> None:
        """Hand on what is staged of blocks, with what was said of episodes since."""
        pieces = self._blocks.take()
        if pieces is not None:
            self._files.add([pieces], self._structure, self._next)
