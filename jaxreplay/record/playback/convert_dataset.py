"""Converting many trajectories, in this process or in several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxreplay._core.trees import check_count
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.progress import with_progress
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.datasets.workers import check_sendable, run_in_order
from jaxreplay.record.playback.convert import Wrap, convert_trajectory
from jaxreplay.record.playback.env import Form, read_form
from jaxreplay.types import PyTree


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
    form = None if env_or_spaces is None else read_form(env_or_spaces)
    if workers > 1:
        way_out = "define it with `def` at the top level of a module, or convert with workers=0"
        check_sendable(f"wrap: {wrap!r}", wrap, way_out)
        way_out = "give plain spaces, (observation_space, action_space)"
        check_sendable("env_or_spaces: its spaces or spec", form, way_out)
    # Sent without the data of its episode, which may be anything; as NumPy arrays, so that workers need no JAX.
    bare = (dataclasses.replace(episode.map_arrays(np.asarray), episode_data=None) for episode in episodes)
    convert = functools.partial(_convert, wrap=wrap, form=form, seed=seed)
    results = run_in_order(convert, zip(bare, actions), workers, True, "trajectory")
    converted = [
        dataclasses.replace(result, episode_data=episode.episode_data)
        for result, episode in zip(with_progress(results, len(episodes), "trajectory", progress), episodes)
    ]
    return Dataset(converted) if isinstance(trajectories, Dataset) else converted


def _convert(job: tuple[Trajectory, PyTree], wrap: Wrap, form: Form | None, seed: int | None) -> Trajectory:
    episode, actions = job
    return convert_trajectory(episode, wrap, form, agent_actions=actions, seed=seed)
