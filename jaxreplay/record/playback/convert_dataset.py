"""Converting many trajectories, in this process or in several."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from jaxreplay._core.trees import check_count
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.progress import with_progress
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.record.playback.convert import Wrap, convert_trajectory
from jaxreplay.record.playback.env import Form, read_form
from jaxreplay.types import PyTree

AHEAD = 4  # trajectories given out for each worker, so that none waits for work, and few wait in memory
Job = tuple[Trajectory, PyTree]
Spaces = Form | None  # None: those that can be told from each trajectory


def convert_dataset(
    trajectories: Dataset | Iterable[Trajectory],
    wrap: Wrap,
    env_or_spaces: Any = None,
    *,
    agent_actions: Sequence[PyTree] | None = None,
    seed: int | None = None,
    workers: int = 0,
    progress: bool | None = None,
) -> Any:
    """Convert every trajectory, see `convert_trajectory`; a `Dataset` for a `Dataset`, else a list, in the same order.

    agent_actions: one tree for each trajectory, if needed.
    workers: processes; with 0 or 1 it is done in this one. They are spawned, and use NumPy alone: `wrap` must be a
        function at the top level of a module, and a script that calls this needs `if __name__ == "__main__":`.
    progress: whether to show a bar; None: if tqdm is installed.

    Raises ValueError naming the number of the first trajectory that fails, and TypeError where `wrap` or the spaces
    cannot be sent to workers.
    """
    workers = check_count("workers", workers, least=0)
    episodes = list(trajectories)
    actions = [None] * len(episodes) if agent_actions is None else list(agent_actions)
    if len(actions) != len(episodes):
        raise ValueError(f"agent_actions: expected one for each of {len(episodes)} trajectories, got {len(actions)}")
    form, jobs = None if env_or_spaces is None else read_form(env_or_spaces), zip(episodes, actions)
    convert = _in_process if workers < 2 else _in_workers
    results = with_progress(convert(jobs, wrap, form, seed, workers), len(episodes), "trajectory", progress)
    converted = [
        dataclasses.replace(result, episode_data=episode.episode_data) for result, episode in zip(results, episodes)
    ]
    return Dataset(converted) if isinstance(trajectories, Dataset) else converted


def _in_process(jobs: Iterable[Job], wrap: Wrap, form: Spaces, seed: int | None, workers: int) -> Iterator[Trajectory]:
    for i, (episode, actions) in enumerate(jobs):
        try:
            yield convert_trajectory(episode, wrap, form, agent_actions=actions, seed=seed)
        except Exception as error:  # whatever wrappers raise, say where
            raise _failed(i, error) from error


def _in_workers(jobs: Iterable[Job], wrap: Wrap, form: Spaces, seed: int | None, workers: int) -> Iterator[Trajectory]:
    settings = _pickle(wrap, form, seed)
    context = multiprocessing.get_context("spawn")  # a fork after JAX has started threads can hang
    waiting: deque[Future[Trajectory]] = deque()
    done = 0
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(settings,))
    try:
        for episode, actions in jobs:
            bare = dataclasses.replace(episode.map_arrays(np.asarray), episode_data=None)
            waiting.append(pool.submit(_convert_in_worker, bare, actions))
            if len(waiting) >= AHEAD * workers:
                yield _result(done, waiting.popleft())
                done += 1
        while waiting:
            yield _result(done, waiting.popleft())
            done += 1
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(i: int, future: Future[Trajectory]) -> Trajectory:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a worker died at trajectory {i} or before: the script needs `if __name__ == '__main__':`, and wrap "
            "must be in a module that workers can import, not in a notebook; or convert with workers=0"
        ) from error
    except Exception as error:
        raise _failed(i, error) from error


def _failed(i: int, error: Exception) -> ValueError:
    return ValueError(f"trajectory {i}: {type(error).__name__}: {error}")


def _pickle(wrap: Wrap, form: Spaces, seed: int | None) -> bytes:
    try:
        pickle.dumps(wrap)
    except Exception as error:  # pickle raises errors of several kinds
        raise TypeError(
            f"wrap: {wrap!r} cannot be sent to workers ({error}); define it with `def` at the top level of a module, "
            "or convert with workers=0"
        ) from error
    try:
        return pickle.dumps((wrap, form, seed))
    except Exception as error:
        raise TypeError(
            f"env_or_spaces: its spaces or spec cannot be sent to workers ({error}); give plain spaces, "
            "(observation_space, action_space)"
        ) from error


_settings: tuple[Wrap, Spaces, int | None] | None = None


def _start_worker(settings: bytes) -> None:
    global _settings
    _settings = pickle.loads(settings)


def _convert_in_worker(episode: Trajectory, actions: PyTree) -> Trajectory:
    assert _settings is not None
    wrap, form, seed = _settings
    return convert_trajectory(episode, wrap, form, agent_actions=actions, seed=seed)
