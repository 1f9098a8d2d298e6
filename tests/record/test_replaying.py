"""A replay gives every reward again, or says where it first differs; a wrong environment is refused by name."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxreplay.record.actions.record import ActionRecord
from jaxreplay.record.actions.replay import replay_actions
from jaxreplay.record.actions.wrapper import RecordActions
from tests.extras import library
from tests.record.echo import DISCRETE, Echo, Lazy, load_all, make, play


def recorded(
    env: Any, directory: pathlib.Path, *seeds: int, max_steps: int = 10**6, **kwargs: Any
) -> list[ActionRecord]:
    env, rng = RecordActions(env, directory, **kwargs), np.random.default_rng(0)
    for seed in seeds:
        play(env, rng, max_steps, seed=seed)
    env.close()
    return load_all(directory)


def changed(record: ActionRecord, step: int, action: Any) -> ActionRecord:
    actions = list(record.actions)
    actions[step] = action
    return dataclasses.replace(record, actions=tuple(actions))


@pytest.mark.parametrize("env_id", DISCRETE)
def test_a_replay_gives_every_reward_again(env_id: str, tmp_path: pathlib.Path) -> None:
    env = make(env_id)
    records = recorded(make(env_id), tmp_path, 0, 1, 2, base_actions=True)
    assert len(records) == 3
    for record in records:
        for base in (False, True):
            report = replay_actions(env, record, base=base)
            assert report, str(report)
            assert (report.num_steps, report.episode_return) == (len(record), record.episode_return)
            assert str(report).startswith(f"as recorded: {len(record)} steps played")


def test_a_replay_of_continuous_actions_gives_every_reward_again(tmp_path: pathlib.Path) -> None:
    library("Box2D")
    env = RecordActions(make("LunarLander-v3", continuous=True), tmp_path)
    env.action_space.seed(0)
    env.reset(seed=4)
    while not any(env.step(env.action_space.sample())[2:4]):
        pass
    (record,) = load_all(tmp_path)
    assert record.actions[0].dtype == np.float32
    assert replay_actions(make("LunarLander-v3", continuous=True), record)
    slightly = changed(record, 7, record.actions[7] + np.float32(1e-2))
    report = replay_actions(make("LunarLander-v3", continuous=True), slightly)
    assert report.difference is not None
    assert (report.difference.step, report.difference.what) == (7, "reward")


def first_difference(env: Any, record: ActionRecord, altered: ActionRecord) -> tuple[int, str] | None:
    """Where rewards or ends of the altered actions first differ, played by hand."""
    env.reset(seed=record.seed)
    for step, action in enumerate(altered.actions):
        _, reward, terminated, truncated, _ = env.step(action)
        ends = (record.terminated, record.truncated) if step == len(record) - 1 else (False, False)
        if reward != record.rewards[step]:
            return step, "reward"
        if (terminated, truncated) != ends:
            return step, "end"
    return None


@pytest.mark.parametrize("env_id", DISCRETE)
def test_a_changed_action_is_found_at_the_right_step(env_id: str, tmp_path: pathlib.Path) -> None:
    env = make(env_id)
    (record,) = recorded(make(env_id), tmp_path, 0)
    found = 0
    for place in range(0, len(record), 5):
        altered = changed(record, place, (record.actions[place] + 1) % env.action_space.n)
        report, expected = replay_actions(env, altered), first_difference(env, record, altered)
        difference = report.difference and (report.difference.step, report.difference.what)
        assert difference == expected
        if env_id == "LunarLander-v3" and place < len(record) - 1:
            assert difference == (place, "reward")
        found += expected is not None
    assert found > 1


def test_a_difference_says_by_how_much_and_the_replay_goes_on(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    env.reset(seed=1)
    for action in (1, 2, 3, 8):
        env.step(action)
    (record,) = load_all(tmp_path)
    report = replay_actions(Echo(), changed(record, 1, 5))
    assert not report
    difference = report.difference
    assert difference is not None
    assert (difference.step, difference.what) == (1, "reward")
    assert difference.recorded == record.rewards[1]
    assert difference.got == pytest.approx(record.rewards[1] + 3)
    assert difference.by == pytest.approx(3)
    assert report.num_steps == 4
    assert report.episode_return - report.recorded_return == pytest.approx(3)
    assert "at step 1 the reward was" in str(report)
    assert "by 3" in str(report)


def test_an_end_that_comes_early_late_or_otherwise_is_a_difference(tmp_path: pathlib.Path) -> None:
    env = RecordActions(gymnasium.wrappers.TimeLimit(Echo(), 4), tmp_path)
    env.reset(seed=1)
    for action in (1, 2, 3, 4):
        env.step(action)
    (record,) = load_all(tmp_path)
    report = replay_actions(gymnasium.wrappers.TimeLimit(Echo(), 3), record)
    assert str(report.difference) == "at step 2 the episode was going on when recorded, and is truncated now"
    assert report.num_steps == 3
    report = replay_actions(Echo(), record)
    assert str(report.difference) == "at step 3 the episode was truncated when recorded, and is going on now"
    cut = record.clip(2)
    assert replay_actions(Echo(), cut)
    report = replay_actions(gymnasium.wrappers.TimeLimit(Echo(), 2), cut)
    assert str(report.difference) == "at step 1 the episode was going on when recorded, and is truncated now"


def test_rewards_and_the_return_so_far_may_differ_by_the_tolerance(tmp_path: pathlib.Path) -> None:
    (record,) = recorded(Echo(gymnasium.spaces.Discrete(5)), tmp_path, 0, max_steps=10)
    off = dataclasses.replace(record, rewards=record.rewards + 0.01)
    env = Echo(gymnasium.spaces.Discrete(5))
    assert replay_actions(env, off, tolerance=0.2)
    assert replay_actions(env, off, tolerance=0.005).difference.step == 0  # pyright: ignore
    report = replay_actions(env, off, tolerance=0.035)
    assert report.difference is not None
    assert (report.difference.step, report.difference.what) == (3, "return")
    for tolerance in (-1, float("nan")):
        with pytest.raises(ValueError, match="tolerance: expected a number from 0 on"):
            replay_actions(env, record, tolerance=tolerance)


def test_options_are_given_again_and_not_altered(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    env.reset(seed=0, options={"factor": 3})
    env.step(8)
    (record,) = load_all(tmp_path)
    replayed = Echo()
    assert replay_actions(replayed, record)
    assert replayed.seen[0] == ("reset", 0, {"factor": 3})
    assert not replay_actions(Echo(), dataclasses.replace(record, options=None))


def test_base_actions_replay_on_the_bare_environment(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Lazy(Echo()), tmp_path, base_actions=True)
    env.reset(seed=3)
    for action in (1, 2, 6):
        env.step(action)
    env.close()
    (record,) = load_all(tmp_path)
    base = Echo()
    assert replay_actions(Lazy(base), record, base=True).num_steps == 8
    assert base.seen[1:] == [0, 0, 2, 2, 3, 3, 7, 7]
    assert replay_actions(Lazy(Echo()), record).num_steps == 3
    assert record.base is not None
    assert replay_actions(Echo(), record.base)
    assert str(replay_actions(Echo(), changed(record.base, 0, 1))).startswith("not as recorded: at step 0 the reward")
    with pytest.raises(ValueError, match="the record has no base actions"):
        replay_actions(Echo(), record.base, base=True)


def test_base_actions_that_go_on_behind_an_end_are_marked(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Lazy(Echo()), tmp_path, base_actions=True)
    env.reset(seed=3)
    env.step(7)  # the first of its two steps terminates the base environment
    (record,) = load_all(tmp_path)
    assert record.replayable
    with pytest.raises(ValueError, match="cannot be replayed: it went on after it had ended"):
        replay_actions(Lazy(Echo()), record, base=True)


def test_a_policy_from_a_record_plays_the_same_episode(tmp_path: pathlib.Path) -> None:
    (record,) = recorded(make("CartPole-v1"), tmp_path, 5)
    env, policy, rewards = make("CartPole-v1"), record.as_policy(), []
    observation, _ = env.reset(seed=record.seed)
    ended = False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        rewards.append(reward)
        ended = terminated or truncated
    assert rewards == record.rewards.tolist()


def test_a_replay_can_be_recorded_again(tmp_path: pathlib.Path) -> None:
    (record,) = recorded(make("CartPole-v1"), tmp_path / "a", 5)
    assert replay_actions(RecordActions(make("CartPole-v1"), tmp_path / "b"), record)
    (again,) = load_all(tmp_path / "b")
    assert again.actions == record.actions


def test_a_wrong_environment_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    (record,) = recorded(make("CartPole-v1"), tmp_path / "a", 0)
    with pytest.raises(ValueError, match=r"wrong environment: the record is of CartPole-v1, got Acrobot-v1"):
        replay_actions(gymnasium.make("Acrobot-v1"), record)
    (of_echo,) = recorded(Echo(gymnasium.spaces.Discrete(5)), tmp_path / "b", 0, max_steps=3)
    with pytest.raises(ValueError, match=r"the record's action space is Discrete\(5\), got Discrete\(4\)"):
        replay_actions(Echo(gymnasium.spaces.Discrete(4)), of_echo)
    with pytest.raises(TypeError, match="replay_actions: expected a single environment"):
        replay_actions(gymnasium.make_vec("CartPole-v1", 2), record)


def test_another_making_of_the_environment_is_refused_and_another_rendering_is_not(tmp_path: pathlib.Path) -> None:
    make("LunarLander-v3")
    (record,) = recorded(make("LunarLander-v3", gravity=-5.0), tmp_path, 0)
    with pytest.raises(ValueError, match=r"LunarLander-v3 made with gravity=-5\.0, got one with gravity=its default"):
        replay_actions(make("LunarLander-v3"), record)
    assert replay_actions(make("LunarLander-v3", gravity=-5.0, render_mode="rgb_array"), record)


@pytest.mark.filterwarnings("ignore:RecordActions")
def test_a_record_without_a_seed_is_refused(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    env.reset()
    env.step(8)
    (record,) = load_all(tmp_path)
    with pytest.raises(ValueError, match="the record cannot be replayed: it was reset without a seed"):
        replay_actions(Echo(), record)
