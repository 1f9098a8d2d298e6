"""Recorded trajectories in the form that Gymnasium wrappers give: played back through them, and recorded anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.record.actions.environment import require_single
from jaxreplay.record.playback.env import Playback, PlaybackOver, WrongAction, check_fit, read_step
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
    env = _check_wrapped(wrap(playback), playback)
    given = None if agent_actions is None else _AgentActions(env.action_space, agent_actions)
    try:
        played = _play(env, playback, given, seed)
    except WrongAction as error:
        hint = "give the agent's own, as agent_actions" if given is None else "agent_actions are of another recording"
        raise ValueError(f"the wrappers do not give the recorded actions: {error}; {hint}") from error
    if not played.actions:
        raise ValueError(f"the wrapped environment did not complete a step within the {len(trajectory)} recorded ones")
    if given is not None and playback.is_over and len(played.actions) + played.is_cut_within < given.count:
        raise ValueError(f"agent_actions: {given.count} given, but the recording ends after {len(played.actions)}")
    return _as_trajectory(played, trajectory)


@dataclasses.dataclass
class _Played:
    """What the wrapped environment gave; `positions` are the steps of the recording after each."""

    observations: list[Any] = dataclasses.field(default_factory=list)
    actions: list[Any] = dataclasses.field(default_factory=list)
    rewards: list[Any] = dataclasses.field(default_factory=list)
    infos: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    is_cut_within: bool = False


class _AgentActions:
    """Actions of the wrapped environment's space, one after the other."""

    def __init__(self, space: Any, tree: PyTree):
        self.space, self.tree = space, tree
        check_fit("agent_actions", space, tree, same_dtype=False)
        self.count = len(jax.tree.leaves(tree)[0])

    def __getitem__(self, step: int) -> Any:
        return read_step(self.space, self.tree, step)


def _play(env: Any, playback: Playback, given: _AgentActions | None, seed: int | None) -> _Played:
    played = _Played()
    observation, _ = env.reset(seed=seed)
    played.observations.append(_copy(observation))
    while not (playback.is_over or played.terminated or played.truncated):
        if given is not None and len(played.actions) == given.count:
            break
        action = playback.next_action if given is None else given[len(played.actions)]
        before = playback.position
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except PlaybackOver:  # in the middle of a step that takes several
            played.is_cut_within = True
            break
        if playback.position <= before:
            raise ValueError(f"the wrapped environment took no step of the recording at its step {len(played.actions)}")
        played.observations.append(_copy(observation))
        played.actions.append(_copy(action))
        played.rewards.append(float(reward) if isinstance(reward, int) else reward)
        played.infos.append(info)
        played.positions.append(playback.position)
        played.terminated, played.truncated = bool(terminated), bool(truncated)
    return played


def _as_trajectory(played: _Played, recorded: Trajectory) -> Trajectory:
    count = len(played.actions)
    extras = recorded.extras
    if extras is not None:
        if played.positions != list(range(1, count + 1)):
            raise ValueError("extras: the wrappers take several steps for one; leave extras out, or skip no steps")
        extras = jax.tree.map(lambda x: np.asarray(x)[:count], extras)
    return Trajectory(
        observations=_stack(played.observations),
        actions=_stack(played.actions),
        rewards=None if recorded.rewards is None else _as_floats(played.rewards),
        terminated=played.terminated,
        truncated=played.truncated,
        extras=extras,
        infos=played.infos if recorded.infos is not None or any(played.infos) else None,
        episode_data=recorded.episode_data,
    )


def _check_wrapped(env: Any, playback: Playback) -> Any:
    require_single("wrap", env)
    if env.unwrapped is not playback:
        raise ValueError("wrap: it must wrap the environment that it is given, and return it wrapped")
    return env


def _copy(value: Any) -> Any:
    """Copy an observation or action, for a wrapper may give the same array again with other values."""
    if isinstance(value, Mapping):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_copy(inner) for inner in value)
    return np.array(value)


def _stack(values: list[Any]) -> PyTree:
    first = values[0]
    if isinstance(first, dict):
        return {name: _stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(_stack([value[i] for value in values]) for i in range(len(first)))
    return np.stack(values)


def _as_floats(rewards: list[Any]) -> np.ndarray:
    stacked = np.asarray(rewards)
    return stacked if np.issubdtype(stacked.dtype, np.floating) else stacked.astype(np.float64)
