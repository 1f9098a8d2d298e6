"""Running trajectories through a conversion, by several workers for a data set."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from jaxreplay._core import trees
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.datasets.workers import check_sendable, run_in_order, with_progress

Conversion = Callable[[Trajectory], Trajectory]
Wrap = Callable[[Any], Any]
Data = TypeVar("Data", Trajectory, Dataset)


def convert(
    data: Data,
    conversion: Conversion | None = None,
    *,
    wrap: Wrap | None = None,
    env_or_spaces: Any = None,
    workers: int = 1,
    processes: bool = False,
    progress: bool | None = None,
) -> Data:
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
    if conversion is not None and env_or_spaces is not None:
        raise TypeError("env_or_spaces: a conversion takes a trajectory alone; they belong to wrap")
    if conversion is not None:
        if isinstance(data, Trajectory):
            return _check("the conversion", conversion(data))
        if processes and workers > 1:
            way_out = "define it with `def` at the top level of a module, or use threads"
            check_sendable("conversion: it", conversion, way_out)
        results = run_in_order(conversion, data, workers, processes, "episode")
        shown = with_progress(results, data.num_episodes, "episode", progress)
        converted = Dataset(_check(f"episode {i}: the conversion", each) for i, each in enumerate(shown))
    else:
        # By name, when called: recording is above data sets, which know nothing of it but for this.
        record = importlib.import_module("jaxreplay.record")
        if isinstance(data, Trajectory):
            return record.convert_trajectory(data, wrap, env_or_spaces)
        converted = record.convert_dataset(data, wrap, env_or_spaces, workers=workers, progress=progress)
    return Dataset._of(converted._store, data.report)


def _check(what: str, converted: Any) -> Trajectory:
    if not isinstance(converted, Trajectory):
        raise TypeError(f"{what}: expected to get a Trajectory, got {type(converted).__name__}")
    return converted
