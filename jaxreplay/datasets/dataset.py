"""A data set: an immutable collection of episodes in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay._display.arrays import show
from jaxreplay.buffer import Buffer
from jaxreplay.datasets import batches, buffers, columns, joining, split, store, stored
from jaxreplay.datasets import load as loading
from jaxreplay.datasets import select as choosing
from jaxreplay.datasets.batches import Batch
from jaxreplay.datasets.comparing import Comparison
from jaxreplay.datasets.files import episodes as episode_files
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.showing import dataset_panel
from jaxreplay.datasets.store import Store
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.samplers import Sampler, uniform
from jaxreplay.types import Transition
from jaxreplay.views import View


class Dataset:
    """Episodes of one structure, in order; never changed, so what makes a new one shares the arrays of the old.

    Made from trajectories, whose arrays are kept as they are (JAX arrays are brought to the host), by `Dataset.load`,
    and by `Dataset.from_buffer`. Its length is that of its steps. Raises ValueError naming the first trajectory and
    leaf that differ from the first.

    report: what was found and left out when its episodes were loaded, imported or read from a buffer, and what clips
    took; None if it was made otherwise. Filtering, choosing and splitting keep it as it was; extending adds up both.

    >>> import numpy as np
    >>> episode = Trajectory(np.arange(4.0), actions=np.arange(3), terminated=True)
    >>> dataset = Dataset([episode, episode])
    >>> len(dataset), dataset.num_episodes
    (6, 2)
    >>> float(dataset[2]["next_observation"]), dataset[2:4].terminated.tolist()
    (3.0, [True, False])
    """

    def __init__(self, trajectories: Iterable[Trajectory] = ()) -> None:
        self._store = store.make_store(trajectories)
        self._report: Report | None = None

    @classmethod
    def _of(cls, held: Store, report: Report | None = None) -> Dataset:
        made = cls()
        made._store, made._report = held, report
        return made

    @property
    def report(self) -> Report | None:
        return self._report

    @classmethod
    def load(
        cls,
        paths: Any,
        *,
        workers: int = 1,
        progress: bool | None = None,
        on_error: str = "raise",
        allow_pickle: bool = False,
        missing_final: str = "drop",
        columns: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Read files and folders, and those in them, in order of their names: one path, or a list of them.

        The content says which format it is: an own `.npz` (`save`), OGBench's, HDF5 of D4RL or robomimic, a data set
        of Minari, LeRobot, diffusion policy or `imitation`, or, with `allow_pickle`, a pickle, of which only arrays and
        plain containers are made; nothing is ever run. `report` says how episodes end, and what was left out.

        workers: threads that read files at once. progress: a bar; None for one where tqdm is installed.
        on_error: "raise" a ValueError that names the file, or "skip" it, which `report.skipped` tells.
        missing_final: what to do with an episode's last row if the file does not say what followed it: "drop" it, or
            "repeat" its observation as the final one.
        columns: of HDF5, Parquet or `.npz` with one row a step, the names of the parts that `convert.from_numpy` takes,
            nested or not: `{"observations": {"arm": "obs/qpos"}, "actions": "act", "episode": "episode_index"}`.
        """
        return cls._of(*loading.load_store(paths, workers, progress, on_error, allow_pickle, missing_final, columns))

    @classmethod
    def open(cls, path: Any, *, verify: bool = False) -> Dataset:
        """Open a store that `storage.Writer` wrote, as it was after the last commit; it may be larger than memory.

        Arrays stay in their files, and rows are read when they are asked for: memory is bounded by what is touched.
        Opening reads the index of episodes alone; `refresh` shows what was appended since. Pickled, as for workers, it
        is the name of the folder and the commit.
        path: a folder, or the URL of one, `gs://`, `s3://`, `https://` or `file://`, which TensorStore reads: the rows
            of each read are asked for at once, and none are kept.
        verify: read all files, and compare them with their digests; without it that is done to the index alone.

        Raises FileNotFoundError where there is no store, ValueError naming the file that is damaged.
        """
        return cls._of(*stored.open_store(path, verify))

    def refresh(self) -> Dataset:
        """Open the newest commit of the store that this is, with what a writer has appended since; this stays.

        Steps behind an episode that went on have other numbers then. Raises ValueError for a part of a store.
        """
        return self._of(*stored.refresh(self._store))

    @classmethod
    def from_buffer(cls, buffer: Buffer) -> Dataset:
        """Read all episodes of a buffer of `Transition`s, env by env, oldest first: `to_buffer` undone, bit for bit.

        Of an episode whose first steps were overwritten the rest is kept, and one with removed steps is cut in two
        there: `report` counts these rows as dropped. Open episodes, and those that a void row closed, are unfinished.
        Raises TypeError for other steps than `Transition`s.
        """
        return cls._of(*buffers.read_buffer(buffer))

    @classmethod
    def from_transitions(cls, steps: Transition, *, episode: Any = None, infos: Any = None) -> Dataset:
        """Read the episodes of a batch of steps in order, leaves `[N, ...]`: `flatten` undone.

        A piece ends where a step is terminated or truncated, and where its next observation is not the following
        step's observation, bit for bit: a discontinuity, which `report` counts, and the piece is unfinished. Its last
        observation is the true next one; see `validate` for what the steps must be.
        episode: `[N]` int, the number of each step's episode: a piece ends where it changes as well. Without it, an
            unfinished episode is joined with the next if that goes on with its last observation. infos: N dicts.
        Raises TypeError or ValueError naming the leaf that does not fit.

        >>> import numpy as np
        >>> from jaxreplay.datasets import flatten
        >>> episode = Trajectory(np.arange(4.0), actions=np.arange(3), terminated=True)
        >>> [len(t) for t in Dataset.from_transitions(flatten([episode, episode]))]
        [3, 3]
        """
        return cls._of(*joining.join_transitions(steps, episode, infos))

    def save(self, path: Any, one_file_per_episode: bool = False) -> None:
        """Write one `.npz` file, or a folder with one for each episode.

        Atomic: under `path` there is the old or the new, whole; a file that is there is replaced, and folders above are
        made. A folder must not exist, or be empty. What a process that was killed in the middle of saving left there is
        removed by the next save or load, with a warning that names it and its size. Only data are written: dicts
        with str keys, tuples, lists and arrays; infos and episode data may hold numbers and str as well.
        Raises TypeError naming what is none of these, ValueError for no episodes.
        """
        episode_files.save(self._store, path, one_file_per_episode)

    def __len__(self) -> int:
        return self._store.num_steps

    @property
    def num_episodes(self) -> int:
        return self._store.num_episodes

    @property
    def nbytes(self) -> int:
        """Count the bytes of the arrays that it keeps, with steps that were filtered out of a shared array."""
        return sum(x.nbytes for chunk in self._store.chunks for _, x in chunk.columns())

    @property
    def episodes(self) -> choosing.Episodes:
        """Give the episodes, to choose from: `episodes[3]` is a `Trajectory`, `episodes[:8]` a `Dataset`."""
        return choosing.Episodes(self)

    def episode(self, i: int) -> Trajectory:
        """Give episode `i` (negative from the end), as views of its arrays that cannot be written to."""
        return self._store.trajectory(choosing.index("episode", i, self.num_episodes))

    def __iter__(self) -> Iterator[Trajectory]:
        return (self.episode(i) for i in range(self.num_episodes))

    def __getitem__(self, rows: Any) -> Any:
        """Read steps, counted over all episodes in order: an int gives a dict of arrays by `Transition`'s names.

        A slice, `...`, a bool array `[len]` or an int array `[B]` gives a `Transition` of arrays `[B, ...]`, an int
        array of more axes, as `[N, M]`, one of arrays `[N, M, ...]`. `terminated` and `truncated` are True only at an
        episode's last step; `reward` is None and `extras` is {} where there are none. Without steps the arrays are
        `[0, ...]`; the parts of a data set that never had an episode are None.
        """
        if choosing.is_single(rows):
            row = choosing.index("step", rows, len(self))
            step = jax.tree.map(lambda x: x[0], columns.gather(self._store, np.array([row])))
            return {name: getattr(step, name) for name in Transition.__dataclass_fields__}
        return columns.gather(self._store, choosing.indices(rows, len(self), "step", most_axes=32))

    def infos(self, rows: Any = ...) -> list[dict[str, Any]]:
        """List the infos of steps, chosen as in `dataset[rows]`, which holds arrays alone; {} where there are none."""
        rows = [rows] if choosing.is_single(rows) else rows
        return columns.read_infos(self._store, choosing.indices(rows, len(self), "step"))

    def equals(self, other: Dataset, *, rtol: float = 0.0, atol: float = 0.0) -> Comparison:
        """Compare all episodes in order, as `Trajectory.equals` does; what the reports say is no matter."""
        if not isinstance(other, Dataset):
            raise TypeError(f"equals: expected a Dataset, got {type(other).__name__}")
        return Comparison(columns.compare_episodes(self._store, other._store, rtol, atol))

    def append(self, trajectory: Trajectory) -> Dataset:
        """Make a data set with one more episode; nothing that was there is copied."""
        return self.extend([trajectory])

    def extend(self, trajectories: Iterable[Trajectory] | Dataset) -> Dataset:
        """Make a data set with more episodes; nothing that was there is copied."""
        more = trajectories if isinstance(trajectories, Dataset) else Dataset(trajectories)
        both = store.concat([self._store, more._store])
        if self.report is None and more.report is None:
            return self._of(both)
        reports = [one.report or choosing.summarise(one._store) for one in (self, more)]
        return self._of(both, reports[0] + reports[1])

    def compact(self) -> Dataset:
        """Copy it to one piece of memory: batches of many small files or trajectories are then read faster."""
        return self._of(columns.compact(self._store), self.report)

    def random_split(self, key: jax.Array, lengths: Sequence[int | float]) -> tuple[Dataset, ...]:
        """Part it at random by whole episodes; each is in one part, and keeps its place among those.

        lengths: the wished steps of each part, ints that add up to `len`, or fractions that add up to 1. No move of one
        episode to another part, and no swap of two, comes nearer to them in the sum of absolute deviations; the very
        best parting is NP-hard to find. The key decides everything. Raises ValueError for other lengths.
        """
        owner = split.assign(key, self._store.table.length, lengths)
        return tuple(self._of(self._store.take(np.flatnonzero(owner == i)), self.report) for i in range(len(lengths)))

    def filter(
        self,
        predicate: Callable[[Trajectory], bool] | None = None,
        *,
        min_return: float | None = None,
        max_return: float | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> Dataset:
        """Keep episodes for which all that is given holds; bounds are inclusive. Raises ValueError without rewards."""
        bounds = (min_return, max_return), (min_length, max_length)
        return self._of(self._store.take(choosing.keep(self._store, predicate, *bounds)), self.report)

    def clip(self, k: int, kinds: Sequence[str] = ("terminated", "truncated")) -> Dataset:
        """Leave out the last `k` steps of the episodes that ended in one of these ways: their dead ends.

        What they did in the end is then not known, so both flags are False; the observation that followed the last step
        kept is the last. Episodes of `k` steps or fewer are gone. `report` counts all this, beside what was left out
        before, and says how the episodes end now. Nothing is copied.
        """
        kept, report = choosing.clip(self._store, k, kinds)
        return self._of(kept, report if self.report is None else self.report.left_out() + report)

    def to_buffer(
        self,
        num_envs: int | None = None,
        *,
        sampler: Sampler = uniform(),  # noqa: B008  (a frozen dataclass)
        capacity: int | None = None,
        max_episodes: int | None = None,
        narrow: bool = False,
        episode_data: bool | None = None,
    ) -> Buffer:
        """Make a JAX buffer of `Transition`s that holds every step, for sampling, views and samplers inside jit.

        num_envs: E, over how many streams to spread the episodes, the longest first so that all are about as long; None
            for a single stream, which keeps their order. capacity: by default just what is needed; more leaves room to
            append. max_episodes: by default as many as there are.
        narrow: make 64-bit leaves 32-bit ones, where every integer fits; without it they raise TypeError.
        episode_data: whether to keep it. None: if it is numbers of one structure; True: or raise ValueError.

        It goes to the device in one piece, or in pieces of 128 MiB, so that little more memory is needed than the
        buffer's own. An episode that did not end is closed by a void row, and takes one row more: its last step keeps
        both flags False, and the true observation after it. Infos stay behind. Raises ValueError for no episodes.

        >>> import jax, numpy as np, jaxreplay as replay
        >>> episode = Trajectory(np.arange(4.0, dtype=np.float32), actions=np.arange(3, dtype=np.int32))
        >>> buffer = Dataset([episode, episode]).to_buffer()
        >>> int(replay.size(buffer)), replay.sample(buffer, jax.random.key(0), 32).data.action.shape
        (6, (32,))
        """
        return buffers.make_buffer(self._store, num_envs, sampler, capacity, max_episodes, narrow, episode_data)

    def batches(
        self,
        key: jax.Array,
        batch_size: int,
        view: View | None = None,
        epochs: int = 1,
        *,
        drop_remainder: bool = False,
        prefetch: int = 2,
        narrow: bool = False,
        workers: int = 1,
        processes: bool = False,
    ) -> Iterator[Batch]:
        """Go through all steps, in an order that the key decides for each epoch, as `Batch`es on the device.

        Without a view the data are `Transition`s, read on the host, with `prefetch` batches made ahead by a thread and
        sent to the device: the data set may be larger than the device. With a view, the steps are those that it can
        start from. Of a store they are read so too; a data set in memory is brought to the device whole, as by
        `to_buffer`, and a store for sequences across ends and views of episode data. The last batch of an epoch is
        filled up with zeros, `mask` False; or left out, with `drop_remainder`. narrow: as in `to_buffer`.
        workers: threads that read, or with `processes` spawned processes, of a store; the batches are the same.
        """
        options = key, batch_size, view, epochs, drop_remainder, prefetch, narrow, workers, processes
        return batches.make_batches(self._store, *options)

    def __repr__(self) -> str:
        found = self._store.chunks[0].columns() if self._store.chunks else []
        described = ", ".join(f"{path}: {trees.describe(x.shape[1:], x.dtype)}" for path, x in found)
        return f"Dataset({self.num_episodes} episodes, {len(self)} steps; {described})"

    def _repr_html_(self) -> str:
        """Show in a notebook how long episodes are, what they return, how they end, and what their steps hold."""
        return show(lambda: dataset_panel(self._store, self._report, self.nbytes), "Dataset")
