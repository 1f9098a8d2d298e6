"""As many whole episodes as asked for, of which none is there because it was short."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from tests.record.checking import DISABLED, NEXT, SAME, buffer_for, recorded_rows
from tests.record.counting import Counting, makers, plan

SyncVectorEnv = gymnasium.vector.SyncVectorEnv


def zeros(observation: Any, key: jax.Array) -> Any:
    return np.zeros(np.shape(observation)[:-1], int)


class Scripted(gymnasium.Env):
    """Episodes of given lengths; one of a single step when these are used up."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lengths: tuple[int, ...]):
        self.lengths = [*lengths][::-1]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.left = self.lengths.pop() if self.lengths else 1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


def schedule(num_envs: int, num_episodes: int, gap: int) -> list[int]:
    """How many episodes of each env are among the first to begin; `gap` slices lie between two of an env."""
    begins = [
        (sum(plan(env, i)[0] + gap for i in range(k)), env) for env in range(num_envs) for k in range(num_episodes)
    ]
    first = sorted(begins)[:num_episodes]
    return [sum(env == e for _, e in first) for env in range(num_envs)]


@pytest.mark.parametrize("num_episodes", [2, 8])
@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_the_first_episodes_to_begin_are_recorded_whole_and_nothing_else(mode: Any, num_episodes: int) -> None:
    env = SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode)
    buffer, report = record.collect_episodes(
        env, zeros, buffer_for(env, 120), num_episodes=num_episodes, progress=False
    )
    wanted = schedule(3, num_episodes, gap=int(mode == NEXT))
    logs = [log[:count] for log, count in zip(env.get_attr("log"), wanted)]
    rows = [tuple(step) for _, step in sorted(recorded_rows(buffer).items(), key=lambda item: item[0][::-1])]
    assert rows == [tuple(step) for log in logs for episode in log for step in episode]
    found = replay.episodes(buffer)
    assert int((found.mask & found.ended).sum()) == int(found.mask.sum()) == num_episodes
    assert (report.episodes, report.whole, report.steps) == (num_episodes, num_episodes, len(rows))
    assert list(report.by_env) == wanted
    if mode == SAME:
        assert report.left_out == int(replay.stats(buffer).void)


def test_a_single_env() -> None:
    env = Counting()
    buffer, report = record.collect_episodes(env, zeros, buffer_for(env, 120), num_episodes=5, progress=False)
    assert report == record.CollectReport(5, sum(plan(0, i)[0] for i in range(5)), (5,), 0, 5)
    assert int(replay.stats(buffer).void) == 0


def test_the_expected_mean_length_is_that_of_the_environment() -> None:
    """Over every way in which two envs may have episodes of 1 or 4 steps, all as likely: exact, with no false alarm.

    Of those that end first, short ones are too many.
    """
    fair, first = [], []
    example = replay.example_transition(Scripted(()))
    for lengths in itertools.product((1, 4), repeat=6):
        for collect, means in ((record.collect_episodes, fair), (record.collect, first)):
            env = SyncVectorEnv([lambda i=i, n=lengths: Scripted(n[3 * i : 3 * i + 3]) for i in range(2)])
            came = collect(env, zeros, replay.create(example, 64, 2), num_episodes=3, progress=False)
            if isinstance(came, tuple):
                means.append(came[1].steps / 3)
            else:
                found = replay.episodes(came)
                means.append(float(np.mean(found.length[np.asarray(found.mask & found.ended)])))
    assert np.mean(fair) == pytest.approx(2.5, abs=1e-12)
    assert np.mean(first) < 2.4


def test_the_report_says_when_the_buffer_was_too_small() -> None:
    env = SyncVectorEnv([lambda: Scripted((3, 3, 3)), lambda: Scripted((9,))], autoreset_mode=SAME)
    buffer = replay.create(replay.example_transition(env), 10, 2)
    buffer, report = record.collect_episodes(env, zeros, buffer, num_episodes=4, progress=False)
    assert (report.episodes, report.steps, report.by_env, report.left_out) == (4, 18, (3, 1), 0)
    assert report.whole == 1  # the third of env 0, which began last
    assert "3 were overwritten in whole or in part, so give the buffer more capacity" in str(report)


def test_a_recorder_must_be_reset_afterwards_and_then_records_all_envs() -> None:
    vector = SyncVectorEnv(makers(3, copies=True), autoreset_mode=SAME)
    env = record.RecordTransitions(vector, buffer_for(vector, 120))
    _, report = record.collect_episodes(env, zeros, num_episodes=2, progress=False)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(3, int))
    env.reset()
    env.step(np.zeros(3, int))
    assert int(replay.size(env.buffer)) == report.steps + 3


def test_what_the_policy_raises_leaves_the_recorder_whole() -> None:
    vector = SyncVectorEnv(makers(3, copies=True), autoreset_mode=SAME)
    env, calls = record.RecordTransitions(vector, buffer_for(vector, 120)), iter(range(99))

    def policy(observation: Any, key: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return zeros(observation, key)

    with pytest.raises(KeyboardInterrupt) as caught:
        record.collect_episodes(env, policy, num_episodes=2, progress=False)
    assert int(replay.size(caught.value.buffer)) == 2  # type: ignore[attr-defined]
    env.reset()
    env.step(np.zeros(3, int))
    assert int(replay.size(env.buffer)) == 5
    with pytest.raises(ValueError, match="num_episodes: expected at least 1"):
        record.collect_episodes(env, policy, num_episodes=0)


def test_stacks_for_acting_go_with_it() -> None:
    env, shapes = SyncVectorEnv(makers(3, copies=True)), set()

    def policy(observation: Any, key: Any) -> Any:
        shapes.add(observation.shape)
        return np.zeros(3, int)

    view = replay.views.frame_stack(2)
    record.collect_episodes(env, policy, buffer_for(env, 120), num_episodes=2, progress=False, frames=view)
    assert shapes == {(3, 2, 3)}
