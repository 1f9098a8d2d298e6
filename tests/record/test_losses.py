"""Rows that are lost because short episodes' records were overwritten are told by the recorder and by `collect`."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.record.transitions.ownership import count_lost
from tests.extras import library

gymnasium = library("gymnasium")


class Short(gymnasium.Env):
    """Episodes of as many steps as the action says."""

    observation_space = gymnasium.spaces.Discrete(1000)
    action_space = gymnasium.spaces.Discrete(1000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.time, 1.0, self.time >= action, False, {}


def run(env: Any, episodes: int, length: int) -> None:
    for _ in range(episodes):
        env.reset()
        for _ in range(length):
            env.step(length)


def recorder(max_episodes: int, capacity: int = 64) -> Any:
    buffer = replay.create(replay.example_transition(Short()), capacity, max_episodes=max_episodes)
    return record.RecordTransitions(Short(), buffer)


def test_reading_the_buffer_warns_once_of_a_loss_with_the_way_out() -> None:
    env = recorder(4)
    run(env, 6, 2)
    with pytest.warns(UserWarning, match=r"^4 recorded rows can no longer be read: .* 4 episodes .*max_episodes=64$"):
        env.buffer  # noqa: B018
    run(env, 3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(replay.stats(env.buffer).lost) == 10


def test_a_loss_after_none_was_left_is_told_again() -> None:
    env = recorder(4)
    run(env, 6, 2)
    with pytest.warns(UserWarning, match="4 recorded rows"):
        env.buffer  # noqa: B018
    run(env, 4, 40)  # long ones: nothing is lost now
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(replay.stats(env.buffer).lost) == 0
    run(env, 6, 1)
    with pytest.warns(UserWarning, match="recorded rows can no longer be read"):
        env.buffer  # noqa: B018


def test_collect_warns_of_a_loss() -> None:
    env = gymnasium.vector.SyncVectorEnv([Short, Short])
    buffer = replay.create(replay.example_transition(env), 64, 2, max_episodes=8)
    act = lambda observation, key: np.full(2, 1)  # noqa: E731
    with pytest.warns(UserWarning, match="recorded rows can no longer be read.*max_episodes=64"):
        record.collect(env, act, buffer, num_steps=40, progress=False)


@pytest.mark.parametrize(("max_episodes", "length"), [(64, 1), (4, 30)])
def test_nothing_is_said_where_nothing_is_lost(max_episodes: int, length: int) -> None:
    env = recorder(max_episodes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(env, 8, length)
        assert int(replay.stats(env.buffer).lost) == 0


def test_the_count_of_losses_is_that_of_a_pass_over_the_ring() -> None:
    example = {"x": jnp.int32(0), "done": jnp.bool_(False)}
    buffer, rng, counted = (
        replay.create(example, 96, 3, max_episodes=9, episode_end="done"),
        np.random.default_rng(0),
        [],
    )
    append, clear = jax.jit(replay.append), jax.jit(replay.clear)
    for i in range(150):
        step = {"x": np.full(3, i, np.int32), "done": rng.random(3) < (0.6 if i % 60 < 30 else 0.02)}
        buffer = append(buffer, step, rng.random(3) < 0.9)
        if i == 70:
            buffer = clear(buffer)
        counted.append(int(count_lost(buffer.rings)))
        assert counted[-1] == int(replay.stats(buffer).lost)
    assert 0 in counted
    assert max(counted) > 20
