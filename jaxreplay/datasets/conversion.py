"""Running trajectories through a conversion, by several workers for a data set."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from typing import Any, overload

from jaxreplay import trees
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.progress import with_progress
from jaxreplay.datasets.trajectory import Trajectory

Conversion = Callable[[Trajectory], Trajectory]


@overload
def convert(data: Trajectory, conversion: Conversion) -> Trajectory: ...
@overload
def convert(
    data: Dataset, conversion: Conversion, *, workers: int = 1, processes: bool = False, progress: bool | None = None
) -> Dataset: ...
def convert(
    data: Any, conversion: Conversion, *, workers: int = 1, processes: bool = False, progress: bool | None = None
) -> Any:
    """Run a trajectory, or every episode of a data set, through a function from trajectory to trajectory.

    Episodes keep their order. workers: how many at once: threads, or with `processes` processes that are spawned; then
    the conversion must be a function that they can import, and pays off if it is slow Python. progress: as in
    `Dataset.load`. What it raises for an episode is raised as ValueError naming that; TypeError if it returns anything
    else than a trajectory. (`record.convert_trajectory` makes a conversion of an environment's wrappers.)

    >>> import numpy as np
    >>> half = lambda t: t.map_arrays(lambda x: x.astype(np.float16))
    >>> convert(Trajectory(np.zeros((3, 2)), actions=np.zeros((2, 1))), half).observations.dtype
    dtype('float16')
    """
    trees.check_count("workers", workers)
    if isinstance(data, Trajectory):
        return _check("the conversion", conversion(data))
    if not isinstance(data, Dataset):
        raise TypeError(f"convert: expected a Trajectory or a Dataset, got {type(data).__name__}")
    episodes, count = iter(data), data.num_episodes
    if workers == 1:
        return Dataset(with_progress(map(_Numbered(conversion), range(count), episodes), count, "episode", progress))
    # Spawned, because a fork after JAX has started its threads can hang.
    with (
        concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        if processes
        else concurrent.futures.ThreadPoolExecutor(workers)
    ) as pool:
        converted = pool.map(_Numbered(conversion), range(count), episodes)
        return Dataset(with_progress(converted, count, "episode", progress))


class _Numbered:
    """A conversion that says which episode failed."""

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion

    def __call__(self, i: int, trajectory: Trajectory) -> Trajectory:
        try:
            converted = self.conversion(trajectory)
        except Exception as error:
            raise ValueError(f"episode {i}: {type(error).__name__}: {error}") from error
        return _check(f"episode {i}: the conversion", converted)


def _check(what: str, converted: Any) -> Trajectory:
    if not isinstance(converted, Trajectory):
        raise TypeError(f"{what}: expected to get a Trajectory, got {type(converted).__name__}")
    return converted
