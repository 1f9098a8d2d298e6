"""Actions of vector environments and agents: the steps of each are kept, and replay exactly in each autoreset mode."""

from __future__ import annotations

import dataclasses
import errno
import pathlib
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxreplay import record
from jaxreplay.record.actions import files as action_files
from jaxreplay.record.actions.files import from_bytes, to_bytes
from tests.record.checking import DISABLED, NEXT, SAME
from tests.record.echo import Echo, load_all
from tests.record.parallel import Crowd

SyncVectorEnv = gymnasium.vector.SyncVectorEnv


def vector_of(mode: Any, num_envs: int = 3) -> Any:
    return SyncVectorEnv([Echo] * num_envs, autoreset_mode=mode)


def drive(env: Any, mode: Any, steps: int = 40, seed: int = 7, cuts: float = 0.1) -> None:
    """Random actions, of which one in nine ends an episode; now and then envs are reset in mid-episode."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed, options={"factor": 2.0})
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(rng.integers(0, 9, 3))
        again = (terminated | truncated) & (mode == DISABLED)
        if mode != SAME:
            again |= rng.random(3) < cuts
        if again.any() and not again.all():
            env.reset(seed=[11, 12, 13], options={"reset_mask": again.copy()})
        elif again.any():
            env.reset(seed=seed, options={"factor": 3.0})


def recorded(directory: pathlib.Path, mode: Any) -> Any:
    env = record.RecordActions(vector_of(mode), directory)
    drive(env, mode)
    seen = env.unwrapped.get_attr("seen")
    env.close()
    return load_all(directory), seen


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_every_step_of_every_env_is_kept_and_replays_exactly(mode: Any, tmp_path: pathlib.Path) -> None:
    records, seen = recorded(tmp_path, mode)
    assert sum(map(len, records)) == 40
    for i in range(3):
        played = [int(action[i]) for r in records for action, took in zip(r.actions, r.taken[:, i]) if took]
        assert played == [int(action) for action in seen[i] if not isinstance(action, tuple)]
    assert any(r.terminated.any() for r in records)
    assert all(r.taken.all() for r in records) == (mode != NEXT)
    assert mode == SAME or any(len(r.resets) > 1 for r in records)
    for each in records:
        assert isinstance(each, record.VectorActionRecord)
        report = record.replay_actions(vector_of(mode), each)
        assert report, str(report)
        assert (report.num_steps, report.episode_return) == (len(each), each.episode_return)
        assert record.replay_actions(vector_of(mode), each.clip(2))


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_changed_action_is_found_in_its_step_and_env(mode: Any, tmp_path: pathlib.Path) -> None:
    found, _ = recorded(tmp_path, mode)
    each = max(found, key=len)
    step = next(t for t in range(len(each)) if each.taken[t, 1] and not each.terminated[t, 1])
    actions = [np.copy(action) for action in each.actions]
    actions[step][1] = (actions[step][1] + 1) % 8
    report = record.replay_actions(vector_of(mode), dataclasses.replace(each, actions=tuple(actions)))
    assert not report
    difference = report.difference
    assert difference is not None
    assert (difference.step, difference.env, difference.what) == (step, 1, "reward")
    assert f"at step {step} the reward of env 1 was" in str(report)
    actions[step][1] = 8
    ended = dataclasses.replace(each, actions=tuple(actions), rewards=each.rewards * np.nan)
    report = record.replay_actions(vector_of(mode), ended, tolerance=np.inf)
    assert report.num_steps == step + 1  # behind an end that differs, the envs are not where they were


def test_agents_replay_exactly_and_absent_ones_take_no_step(tmp_path: pathlib.Path) -> None:
    crowd, rng = Crowd(), np.random.default_rng(0)
    env = record.RecordActions(record.AgentsAsEnvs(crowd), tmp_path)
    env.reset(seed=3)
    for _ in range(50):
        env.step(rng.integers(0, 10, 3))
    env.close()
    (found,) = load_all(tmp_path)
    for i, name in enumerate(crowd.possible_agents):
        wanted = [step[1] for episode in crowd.log[name] for step in episode]
        assert [int(a[i]) for a, took in zip(found.actions, found.taken[:, i]) if took] == wanted
    assert not found.taken.all()
    assert record.replay_actions(record.AgentsAsEnvs(Crowd()), found)
    assert found.env_id == "tests.record.parallel:Crowd"


def test_a_file_gives_back_what_was_saved_and_refuses_what_does_not_fit(tmp_path: pathlib.Path) -> None:
    (first, *_), _ = recorded(tmp_path, DISABLED)
    again = from_bytes(to_bytes(first))
    assert to_bytes(again) == to_bytes(first)
    for name in ("rewards", "terminated", "truncated", "taken"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert repr(again).startswith("VectorActionRecord(gymnasium.vector.sync_vector_env:SyncVectorEnv, 3 envs, seed=7, ")
    with pytest.raises(ValueError, match=r"taken: expected bool\[\d+,E\], got bool\[1,3\]"):
        dataclasses.replace(first, taken=first.taken[:1])


def test_a_run_without_a_seed_is_marked_and_what_was_not_written_is_written_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = record.RecordActions(vector_of(SAME), tmp_path)
    with pytest.warns(UserWarning, match="this run is recorded but cannot be replayed: it was reset without a seed"):
        env.reset(seed=[1, None, 3])
    env.step(np.zeros(3, int))
    env.reset(seed=[1, 2, 3])
    assert len(load_all(tmp_path)) == 1
    env.step(np.ones(3, int))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(action_files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            env.reset(seed=4)
    env.reset(seed=5)
    env.step(np.zeros(3, int))
    with pytest.raises(RuntimeError, match="the motor is hot"):
        env.step(np.array([1, 9, 1]))
    env.step(np.zeros(3, int))
    env.close()
    found = load_all(tmp_path)
    assert [r.replayable for r in found] == [False, True, False]
    assert found[2].not_replayable == "it went on after a step or a reset that raised"
    assert record.replay_actions(vector_of(SAME), found[1])
    with pytest.raises(ValueError, match="cannot be replayed: it was reset without a seed"):
        record.replay_actions(vector_of(SAME), found[0])
    with pytest.raises(ValueError, match="made with autoreset_mode="):
        record.replay_actions(vector_of(NEXT), found[1])
    with pytest.raises(ValueError, match="made with num_envs=3, got one with num_envs=2"):
        record.replay_actions(vector_of(SAME, 2), found[1])
    with pytest.raises(TypeError, match="the record is of a vector environment, got Echo"):
        record.replay_actions(Echo(), found[1])
