"""A bounded pool: results in order, few jobs in flight, each sent by itself, and failures with their number."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory, convert, workers
from jaxreplay.datasets.workers import run_in_order
from tests.datasets.episodes import all_same, simple


def double(x: int) -> int:
    return 2 * x


def die(x: int) -> int:
    os._exit(3)


@pytest.mark.parametrize(("count", "processes"), [(1, False), (1, True), (3, False), (2, True)])
def test_results_come_in_the_order_of_the_jobs(count: int, processes: bool) -> None:
    assert list(run_in_order(double, range(30), count, processes, "job")) == list(range(0, 60, 2))
    assert list(run_in_order(double, [], count, processes, "job")) == []
    found = run_in_order(abs, [1, "no", 2], count, processes, "job")
    assert next(found) == 1
    with pytest.raises(ValueError, match="job 1: TypeError: bad operand"):
        next(found)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match="a worker died at job 0 or before: the script needs `if __name__ == "):
        list(run_in_order(die, range(3), 2, True, "job"))


def test_a_data_set_is_given_out_a_few_episodes_at_a_time() -> None:
    taken, done, most = 0, 0, 0

    class Counted(Dataset):
        def __iter__(self) -> Iterator[Trajectory]:
            nonlocal taken, most
            for episode in super().__iter__():
                taken += 1
                most = max(most, taken - done)
                yield episode

    def convert_one(trajectory: Trajectory) -> Trajectory:
        nonlocal done
        time.sleep(0.001)
        done += 1
        return trajectory

    episodes = [simple(1 + i % 3) for i in range(60)]
    all_same(convert(Counted(episodes), convert_one, workers=2, progress=False), episodes)
    assert done == taken == 60
    assert most <= 2 * workers.AHEAD + 1


def negate(trajectory: Trajectory) -> Trajectory:
    return trajectory.map_arrays(np.negative)


def test_a_job_carries_one_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Weighing(ThreadPoolExecutor):
        def __init__(self, count: int, context: Any) -> None:
            super().__init__(count)

        def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Any:
            sizes.append(len(pickle.dumps((function, arguments, more))))
            return super().submit(function, *arguments, **more)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Weighing)
    episodes = [Trajectory(np.zeros((11, 1000)), actions=np.zeros(10), terminated=True) for _ in range(20)]
    convert(Dataset(episodes).compact(), negate, workers=2, processes=True, progress=False)
    assert len(sizes) == 20
    assert max(sizes) < 1.1 * 11 * 1000 * 8


def test_what_cannot_be_sent_to_processes_is_named() -> None:
    with pytest.raises(TypeError, match=r"conversion: it cannot be sent to workers .*at the top level of a module"):
        convert(Dataset([simple(3)]), lambda t: t, workers=2, processes=True)
