"""Recorded trajectories in the form that Gymnasium wrappers give: played back through them, and recorded anew."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core.trees import check_count
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.datasets.workers import check_sendable, run_in_order, with_progress
from jaxreplay.record.actions.replay import require_single
from jaxreplay.record.playback.env import Form, Playback, PlaybackOver, WrongAction, check_fit, read_form, read_step
from jaxreplay.types import PyTree

Wrap = Callable[[Any], Any]


def convert_trajectory(
    trajectory: Trajectory,
    wrap: Wrap,
    env_or_spaces: Any = None,
    *,
    agent_actions: PyTree = None,
    seed: int | None = None,
) -> Trajectory:
    """Give a trajectory the form in which `wrap(env)` would have recorded it.

    wrap: a function that wraps an environment, `lambda env: FrameStackObservation(env, 4)`. It is called for each
        trajectory, so what wrappers carry from episode to episode, as running statistics, begins anew: set it there.
    env_or_spaces: of what was recorded, see `Playback`; by default boxes of the arrays' shapes and dtypes. Give it
        where wrappers ask for more: bounds of actions, Discrete observations, or a spec.
    agent_actions: what the agent gave to the wrapped environment, leaves `[N, ...]`, if wrappers change actions. The
        recording knows only what came out below them, and checks that this still does. By default the recorded actions
        are given, which is right wherever the wrappers leave these as they are.
    seed: for the reset, if wrappers draw random numbers.

    Wrappers that end an episode early, or take several steps for one, make it shorter; where the recording ends within
    such a step, that step is left out. Extras are kept where each step is one of the recording, and refused elsewhere.
    Infos are those that the wrapped environment gives, without that of the reset.

    Raises ValueError where the wrappers ask for another action than the recorded one, or take no step; TypeError where
    `wrap` returns no environment.

    >>> import gymnasium, numpy as np
    >>> spaces = (gymnasium.spaces.Box(-1, 1, (3,), np.float32), gymnasium.spaces.Discrete(2))
    >>> episode = Trajectory(np.zeros((6, 3), np.float32), np.array([0, 1, 1, 0, 1]), terminated=True)
    >>> stacked = convert_trajectory(episode, lambda env: gymnasium.wrappers.FrameStackObservation(env, 4), spaces)
    >>> stacked.observations.shape, stacked.terminated
    ((6, 4, 3), True)
    """
    playback = Playback(trajectory, env_or_spaces, truncate_cut=False)
    require_single("wrap", env := wrap(playback))
    if env.unwrapped is not playback:
        raise ValueError("wrap: it must wrap the environment that it is given, and return it wrapped")
    count, given = math.inf, agent_actions is not None
    if given:
        check_fit("agent_actions", env.action_space, agent_actions, same_dtype=False)
        count = len(jax.tree.leaves(agent_actions)[0])
    observation, _ = env.reset(seed=seed)
    # Observations and actions are copied, for a wrapper may give the same array again with other values.
    observations, steps, terminated, truncated = [jax.tree.map(np.array, observation)], [], False, False
    try:
        while len(steps) < count and not (playback.is_over or terminated or truncated):
            action = read_step(env.action_space, agent_actions, len(steps)) if given else playback.next_action
            before = playback.position
            observation, reward, terminated, truncated, info = env.step(action)
            if playback.position <= before:
                raise ValueError(f"the wrapped environment took no step of the recording at its step {len(steps)}")
            observations.append(jax.tree.map(np.array, observation))
            steps.append((jax.tree.map(np.array, action), reward, info, playback.position))
    except WrongAction as error:
        hint = "agent_actions are of another recording" if given else "give the agent's own, as agent_actions"
        raise ValueError(f"the wrappers do not give the recorded actions: {error}; {hint}") from error
    except PlaybackOver:  # in the middle of a step that takes several: it is left out
        pass
    if not steps:
        raise ValueError(f"the wrapped environment did not complete a step within the {len(trajectory)} recorded ones")
    actions, rewards, infos, positions = zip(*steps)
    taken = len(steps) + (playback.position > positions[-1])
    if playback.is_over and taken < count < math.inf:
        raise ValueError(f"agent_actions: {count} given, but the recording ends after {len(steps)}")
    if trajectory.extras is not None and positions != tuple(range(1, len(steps) + 1)):
        raise ValueError("extras: the wrappers take several steps for one; leave extras out, or skip no steps")
    stacked = np.asarray(rewards)
    stacked = stacked if np.issubdtype(stacked.dtype, np.floating) else stacked.astype(np.float64)
    return Trajectory(
        observations=jax.tree.map(lambda *x: np.stack(x), *observations),
        actions=jax.tree.map(lambda *x: np.stack(x), *actions),
        rewards=None if trajectory.rewards is None else stacked,
        terminated=bool(terminated),
        truncated=bool(truncated),
        extras=jax.tree.map(lambda x: np.asarray(x)[: len(steps)], trajectory.extras),
        infos=infos if trajectory.infos is not None or any(infos) else None,
        episode_data=trajectory.episode_data,
    )


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
