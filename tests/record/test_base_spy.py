"""What reaches the base environment is recorded beside what the agent gave, and nothing else changes."""

from __future__ import annotations

import pathlib
from typing import Any

import gymnasium
import numpy as np

from jaxreplay.record.actions.replay import replay_actions
from jaxreplay.record.actions.wrapper import RecordActions
from tests.datasets.test_values import assert_same
from tests.record.echo import Echo, Lazy, load_all
from tests.record.records import assert_same_record

wrappers = gymnasium.wrappers


def test_base_actions_are_those_behind_the_action_wrappers(tmp_path: pathlib.Path) -> None:
    base = Echo(gymnasium.spaces.Box(-1, 1, (2,), np.float32))
    inner = wrappers.TransformReward(wrappers.ClipAction(wrappers.RescaleAction(base, -2.0, 2.0)), lambda r: 10 * r)
    env = RecordActions(inner, tmp_path, base_actions=True)
    env.reset(seed=3)
    given = [np.array([3, -2], np.float32), np.array([0.5, 1], np.float32)]
    rewards = [env.step(action)[1] for action in given]
    env.close()
    (record,) = load_all(tmp_path)
    assert_same(record.actions, tuple(given))
    assert_same(record.base_actions, tuple(base.seen[1:]))
    assert record.base_actions[0].tolist() == [1, -1]  # pyright: ignore
    assert record.base is not None
    assert record.base.seed == 3
    assert record.rewards.tolist() == rewards == (10 * record.base.rewards).tolist()
    assert record.environment.action_space != record.base.environment.action_space


def test_base_steps_tell_how_many_a_wrapper_took(tmp_path: pathlib.Path) -> None:
    base = Echo()
    env = RecordActions(Lazy(base), tmp_path, base_actions=True)
    for seed in (0, 1):
        env.reset(seed=seed)
        for action in (1, 2, 3):
            env.step(action)
    env.close()
    records = load_all(tmp_path)
    assert len(records) == 2
    for record in records:
        assert record.base is not None
        assert record.base.actions == (0, 0, 2, 2, 3, 3, 4, 4)
        assert record.base_steps is not None
        assert record.base_steps.tolist() == [2, 2, 2, 2]
        clipped = record.clip(2)
        assert clipped.base_actions == (0, 0, 2, 2, 3, 3)
        assert_same_record(record.clip(3), record)


def test_the_spy_is_gone_after_close_and_back_after_another_reset(tmp_path: pathlib.Path) -> None:
    inner = wrappers.TimeLimit(Echo(), 5)
    base = inner.env
    env = RecordActions(inner, tmp_path, base_actions=True)
    assert inner.env is not base
    assert env.unwrapped is base
    outer = RecordActions(env, tmp_path / "outer", base_actions=True)
    outer.reset(seed=0)
    outer.step(8)
    outer.close()
    assert inner.env is base
    outer.reset(seed=1)
    outer.step(8)
    for directory in (tmp_path, tmp_path / "outer"):
        assert [record.base_actions for record in load_all(directory)] == [(8,), (8,)]


class Restarts(gymnasium.Wrapper):
    """Resets the base environment within its second step."""

    def step(self, action: Any) -> Any:
        if action == 2:
            self.env.reset(seed=5)
        return self.env.step(action)


def test_a_base_environment_that_is_reset_within_a_step_is_marked(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Restarts(Echo()), tmp_path, base_actions=True)
    env.reset(seed=0)
    for action in (1, 2, 8):
        env.step(action)
    (record,) = load_all(tmp_path)
    assert record.replayable
    assert record.base is not None
    assert record.base_actions == (1, 2, 8)
    assert record.base.not_replayable == "a wrapper reset the base environment in the middle of the episode"
    assert replay_actions(Restarts(Echo()), record)
