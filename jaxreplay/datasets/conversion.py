"""Running trajectories through a conversion, by several workers for a data set."""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
from collections.abc import Callable
from typing import Any, overload

from jaxreplay._core import trees
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.progress import with_progress
from jaxreplay.datasets.trajectory import Trajectory

Conversion = Callable[[Trajectory], Trajectory]
Wrap = Callable[[Any], Any]


@overload
def convert(
    data: Trajectory,
    conversion: Conversion | None = None,
    *,
    wrap: Wrap | None = None,
    env_or_spaces: Any = None,
) -> Trajectory: ...
@overload
def convert(
    data: Dataset,
    conversion: Conversion | None = None,
    *,
    wrap: Wrap | None = None,
    env_or_spaces: Any = None,
    workers: int = 1,
    processes: bool = False,
    progress: bool | None = None,
) -> Dataset: ...
def convert(
    data: Any,
    conversion: Conversion | None = None,
    *,
    wrap: Wrap | None = None,
    env_or_spaces: Any = None,
    workers: int = 1,
    processes: bool = False,
    progress: bool | None = None,
) -> Any:
    """Run a trajectory, or every episode of a data set, through a conversion; episodes keep their order.

    conversion: a function from trajectory to trajectory. Or wrap: a function that wraps an environment, to get what
        the wrapped one would have recorded, with env_or_spaces as `record.convert_trajectory` takes them.
    workers: how many at once. Of a conversion: threads, or with `processes` processes that are spawned; then it must be
        a function that they can import, and this pays off if it is slow Python. Of `wrap`: always processes.
    progress: as in `Dataset.load`.

    What is raised for an episode is raised as ValueError naming that; TypeError if the conversion returns anything else
    than a trajectory, ImportError for `wrap` without Gymnasium. The result keeps the data set's `report`.

    >>> import numpy as np
    >>> half = lambda t: t.map_arrays(lambda x: x.astype(np.float16))
    >>> convert(Trajectory(np.zeros((3, 2)), actions=np.zeros((2, 1))), half).observations.dtype
    dtype('float16')
    """
    trees.check_count("workers", workers)
    if not isinstance(data, Trajectory | Dataset):
        raise TypeError(f"convert: expected a Trajectory or a Dataset, got {type(data).__name__}")
    if (conversion is None) == (wrap is None):
        raise TypeError("convert: expected a conversion or wrap, and one of them alone")
    converted: Any
    if conversion is None:
        converted = _convert_wrapped(data, wrap, env_or_spaces, workers, progress)
    elif env_or_spaces is not None:
        raise TypeError("env_or_spaces: a conversion takes a trajectory alone; they belong to wrap")
    elif isinstance(data, Trajectory):
        converted = _check("the conversion", conversion(data))
    else:
        converted = _convert_all(data, conversion, workers, processes, progress)
    if isinstance(data, Dataset):
        converted.report = data.report
    return converted


def _convert_wrapped(data: Any, wrap: Any, env_or_spaces: Any, workers: int, progress: bool | None) -> Any:
    # By name, when called: recording is above data sets, which know nothing of it but for this.
    record = importlib.import_module("jaxreplay.record")
    given = () if env_or_spaces is None else (env_or_spaces,)
    if isinstance(data, Trajectory):
        return record.convert_trajectory(data, wrap, *given)
    return record.convert_dataset(data, wrap, *given, workers=workers, progress=progress)


def _convert_all(
    data: Dataset, conversion: Conversion, workers: int, processes: bool, progress: bool | None
) -> Dataset:
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
