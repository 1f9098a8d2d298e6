"""RecordActions keeps what was given and what came, of every episode, however it ended, and changes nothing."""

from __future__ import annotations

import copy
import errno
import os
import pathlib
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxreplay.record.actions import files as action_files
from jaxreplay.record.actions.record import ActionRecord
from jaxreplay.record.actions.wrapper import RecordActions
from tests.datasets.test_values import assert_same
from tests.record.echo import DISCRETE, Echo, Lazy, load_all, make, play

wrappers = gymnasium.wrappers


def assert_recorded(record: ActionRecord, steps: list[tuple[Any, ...]]) -> None:
    assert_same(record.actions, tuple(action for action, *_ in steps))
    assert record.rewards.tolist() == [float(reward) for _, reward, *_ in steps]
    assert record.episode_return == sum(float(reward) for _, reward, *_ in steps)
    assert (record.terminated, record.truncated) == tuple(map(bool, steps[-1][2:]))


@pytest.mark.parametrize("env_id", DISCRETE)
def test_every_episode_is_recorded_as_it_was_played(env_id: str, tmp_path: pathlib.Path) -> None:
    env, rng = RecordActions(make(env_id), tmp_path), np.random.default_rng(0)
    played = [play(env, rng, seed=seed) for seed in range(4)]
    env.close()
    records = load_all(tmp_path)
    assert [record.seed for record in records] == [0, 1, 2, 3]
    for record, steps in zip(records, played, strict=True):
        assert_recorded(record, steps)
        assert record.replayable
        assert record.env_id == env_id


def test_nothing_that_passes_through_is_changed(tmp_path: pathlib.Path) -> None:
    bare = make("CartPole-v1", render_mode="rgb_array")
    env = RecordActions(make("CartPole-v1", render_mode="rgb_array"), tmp_path, base_actions=True)
    assert env.render_mode == "rgb_array"
    assert env.env.spec == bare.spec
    for seed in (3, 4):
        for a, b in zip(bare.reset(seed=seed), env.reset(seed=seed)):
            np.testing.assert_array_equal(a, b)
        for _ in range(5):
            results = bare.step(1), env.step(1)
            np.testing.assert_array_equal(results[0][0], results[1][0])
            assert results[0][1:] == results[1][1:]
    assert env.render().shape == bare.render().shape
    assert env.np_random.random() == bare.np_random.random()
    assert type(env.unwrapped) is type(bare.unwrapped)
    env.close()
    assert str(env.env) == str(bare)


def test_a_spec_makes_the_wrapper_again(tmp_path: pathlib.Path) -> None:
    env = RecordActions(make("CartPole-v1"), tmp_path, base_actions=True)
    again = gymnasium.make(env.spec)
    assert isinstance(again, RecordActions)
    assert again.base_actions


def test_the_end_of_each_kind_is_kept(tmp_path: pathlib.Path) -> None:
    env = RecordActions(wrappers.TimeLimit(Echo(), 3), tmp_path)
    env.reset(seed=0)
    env.step(8)  # terminates
    env.reset(seed=1)
    for _ in range(3):  # is truncated
        env.step(1)
    env.reset(seed=2)
    env.step(1)
    env.step(1)
    env.step(8)  # both
    env.reset(seed=3)
    env.step(1)  # is cut by a reset
    env.reset(seed=4)  # has no step
    env.reset(seed=5)
    env.step(1)  # is cut by close
    env.close()
    env.close()
    found = [(record.seed, record.end, len(record)) for record in load_all(tmp_path)]
    assert found == [
        (0, "terminated", 1),
        (1, "truncated", 3),
        (2, "terminated and truncated", 3),
        (3, "cut", 1),
        (5, "cut", 1),
    ]


def test_a_record_is_on_disk_as_soon_as_its_episode_ends(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    env.reset(seed=0)
    assert env.record is not None
    assert len(env.record) == 0
    env.step(1)
    assert (len(env.record), os.listdir(tmp_path)) == (1, [])
    env.step(8)
    assert [len(record) for record in load_all(tmp_path)] == [2]
    assert len(env.record) == 2


def test_numbering_continues_behind_records_of_earlier_runs(tmp_path: pathlib.Path) -> None:
    for run in range(3):
        env = RecordActions(Echo(), tmp_path)
        for seed in (2 * run, 2 * run + 1):
            env.reset(seed=seed)
            env.step(8)
        env.close()
    assert [record.seed for record in load_all(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_an_action_is_kept_as_it_was_when_it_was_given(tmp_path: pathlib.Path) -> None:
    space = gymnasium.spaces.Dict(arm=gymnasium.spaces.Box(-9, 9, (2,)), grip=gymnasium.spaces.Discrete(2))
    env = RecordActions(Echo(space), tmp_path)
    env.reset(seed=0)
    arm = np.array([1, 2], np.float32)
    given = [
        {"arm": arm, "grip": 1},
        {"grip": np.int64(0), "arm": np.array([0, 3], np.float64)},
        {"arm": arm, "grip": 0},
    ]
    kept = copy.deepcopy(given)
    for action in given:
        env.step(action)
    arm[:] = 5
    env.close()
    assert_same(load_all(tmp_path)[0].actions, tuple(kept))


def test_an_action_that_is_no_plain_data_is_refused_before_the_step(tmp_path: pathlib.Path) -> None:
    inner = Echo()
    env = RecordActions(inner, tmp_path)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="action: object cannot be recorded"):
        env.step(object())
    assert len(inner.seen) == 1


def test_episodes_without_a_seed_are_recorded_and_marked_with_one_warning(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    env.reset(seed=0)
    env.step(8)
    with pytest.warns(UserWarning, match="cannot be replayed: it was reset without a seed") as caught:
        env.reset()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(8)
        for _ in range(2):
            env.reset()
            env.step(8)
    records = load_all(tmp_path)
    assert [(record.seed, record.replayable) for record in records] == [(0, True)] + [(None, False)] * 3
    assert records[1].not_replayable == "it was reset without a seed"


def test_reset_options_are_kept_where_they_are_plain_data(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    options = {"factor": np.float32(2), "goal": [1, (2, "x")], "mask": np.array([True])}
    env.reset(seed=0, options=options)
    env.step(8)
    with pytest.warns(UserWarning, match=r"options\.factor: Strange cannot be recorded as plain data"):
        env.reset(seed=1, options={"factor": Strange()})
    env.step(8)
    first, second = load_all(tmp_path)
    assert_same(first.options, options)
    assert first.replayable
    assert (second.options, second.replayable, len(second)) == (None, False, 1)


class Strange:
    def __float__(self) -> float:
        return 3.0


def test_an_episode_that_began_without_a_reset_is_marked(tmp_path: pathlib.Path) -> None:
    env = RecordActions(wrappers.Autoreset(Echo()), tmp_path, base_actions=True)
    env.reset(seed=0)
    env.step(1)
    env.step(8)
    with pytest.warns(UserWarning, match="began without a reset"):
        env.step(3)  # is not taken: the wrapper resets instead
    env.step(2)
    env.step(8)
    first, second = load_all(tmp_path)
    assert (first.actions, first.replayable) == ((1, 8), True)
    assert (second.actions, second.replayable) == ((3, 2, 8), False)
    assert (second.base_actions, second.base_steps.tolist()) == ((2, 8), [0, 0, 1, 1])  # pyright: ignore
    assert not second.base.replayable  # pyright: ignore


def test_an_environment_that_raises_loses_nothing_recorded_before(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Lazy(Echo()), tmp_path, base_actions=True)
    env.reset(seed=0)
    env.step(1)
    env.step(2)
    with pytest.raises(RuntimeError, match="the motor is hot"):
        env.step(8)
    env.reset(seed=1)
    env.step(3)
    env.close()
    first, second = load_all(tmp_path)
    assert (first.actions, first.end, first.base_actions) == ((1, 2), "cut", (0, 0, 2, 2, 3, 3))
    assert second.actions == (3,)


def test_a_reset_that_raises_begins_no_episode(tmp_path: pathlib.Path) -> None:
    class Fails(Echo):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if seed == 1:
                raise RuntimeError("no connection")
            return super().reset(seed=seed, options=options)

    env = RecordActions(Fails(), tmp_path)
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(RuntimeError, match="no connection"):
        env.reset(seed=1)
    assert env.record is None
    env.close()
    assert [record.seed for record in load_all(tmp_path)] == [0]


def test_a_full_disk_raises_and_the_record_is_written_when_there_is_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    env = RecordActions(Echo(), tmp_path)
    env.reset(seed=0)
    env.step(8)
    env.reset(seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(action_files.os, "fsync", full)
        with pytest.raises(OSError, match=f"No space left on device.*{tmp_path}"):
            env.step(8)
        with pytest.raises(OSError, match="No space left"):
            env.reset(seed=2)
        with pytest.raises(OSError, match="No space left"):
            env.close()
        assert len(load_all(tmp_path)) == 1
    env.reset(seed=2)
    env.step(8)
    env.close()
    assert [record.seed for record in load_all(tmp_path)] == [0, 1, 2]


def test_rewards_that_are_no_numbers_are_recorded_as_not_replayable(tmp_path: pathlib.Path) -> None:
    class Vector(Echo):
        def step(self, action: Any) -> Any:
            return 0, np.zeros(2), True, False, {}

    env = RecordActions(Vector(), tmp_path)
    env.reset(seed=0)
    env.step(1)
    assert load_all(tmp_path)[0].not_replayable == "its rewards are not single numbers"


def test_what_is_no_single_environment_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"base_actions: wrap each environment of the vector environment"):
        RecordActions(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"), tmp_path, base_actions=True)
    with pytest.raises(TypeError, match=r"expected a gymnasium\.Env, got int"):
        RecordActions(3, tmp_path)


def test_the_environments_of_a_vector_environment_share_a_directory(tmp_path: pathlib.Path) -> None:
    vector = gymnasium.vector.SyncVectorEnv([lambda: RecordActions(Echo(), tmp_path) for _ in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vector.reset(seed=5)
        for _ in range(4):
            vector.step(np.array([1, 2, 8]))
        vector.close()
    records = load_all(tmp_path)
    assert sorted(len(record) for record in records) == [1, 1, 4, 4]
    assert [record.seed for record in records if len(record) == 4] == [5, 6]
