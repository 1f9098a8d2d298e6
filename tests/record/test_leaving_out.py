"""Entries of a Dict observation that are left out of the buffer where that was said; and recorders sent elsewhere."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from tests.extras import library
from tests.record.checking import DISABLED, NEXT, SAME

gymnasium = library("gymnasium")
spaces = gymnasium.spaces


class Missions(gymnasium.Env):
    """Observations with texts, as MiniGrid's; episodes of three steps."""

    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (2,), np.uint8),
        mission=spaces.Text(9),
        robot=spaces.Dict(name=spaces.Text(9), at=spaces.Discrete(100)),
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observe(), 1.0, self.time == 3, False, {}

    def observe(self) -> Any:
        robot = {"name": "robot", "at": np.int64(self.time)}
        return {"image": np.full(2, self.time, np.uint8), "mission": "go", "robot": robot}


LEFT = ("mission", "robot.name")


def buffer_of(env: Any, **options: Any) -> replay.Buffer:
    num_envs = getattr(env, "num_envs", None)
    return replay.create(replay.example_transition(env, leave_out=LEFT), 40, num_envs, max_episodes=40, **options)


def times(buffer: replay.Buffer) -> tuple[list[int], list[int]]:
    rows, mask = replay.rows(buffer)
    data: Any = replay.take(buffer, rows).data
    read = [np.asarray(x["robot"]["at"])[np.asarray(mask)].tolist() for x in (data.observation, data.next_observation)]
    return read[0], read[1]


def test_entries_that_were_named_are_not_recorded_and_the_rest_is() -> None:
    env = record.RecordTransitions(Missions(), buffer_of(Missions()), leave_out=LEFT)
    for _ in range(2):
        env.reset()
        for _ in range(3):
            observation, *_ = env.step(0)
    assert observation["mission"] == "go"  # what passes through is as it was
    assert times(env.buffer) == ([0, 1, 2] * 2, [1, 2, 3] * 2)


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_final_observations_of_vector_environments_leave_the_same_out(mode: Any) -> None:
    env = gymnasium.vector.SyncVectorEnv([Missions], autoreset_mode=mode)
    buffer = record.collect(
        env, lambda observation, key: np.zeros(1, int), buffer_of(env), num_steps=6, progress=False, leave_out=LEFT
    )
    assert times(buffer) == ([0, 1, 2] * 2, [1, 2, 3] * 2)


def test_an_entry_that_the_buffer_lacks_and_nobody_named_is_told() -> None:
    class Numbers(Missions):
        observation_space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))

    buffer = replay.create(replay.example_transition(Numbers(), leave_out=("b",)), 8)
    with pytest.raises(ValueError, match=r"leave out what it lacks, here as well: leave_out=\('b',\)"):
        record.RecordTransitions(Numbers(), buffer)
    with pytest.raises(TypeError, match=r"observation\.mission: Text .* leave_out=\('mission',\)"):
        record.RecordTransitions(Missions(), buffer_of(Missions()))


def test_an_entry_that_the_buffer_has_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="its observation does not fit"):
        record.RecordTransitions(Missions(), buffer_of(Missions()), leave_out=(*LEFT, "image"))


def test_what_to_leave_out_goes_with_the_buffer() -> None:
    env = record.RecordTransitions(Missions(), buffer_of(Missions()), leave_out=LEFT)
    with pytest.raises(ValueError, match="leave_out: it goes with buffer"):
        record.collect(env, lambda observation, key: 0, num_steps=3, leave_out=LEFT)


@pytest.mark.parametrize("many", [False, True])
def test_a_recorder_cannot_be_pickled_and_says_what_to_do(many: bool) -> None:
    inner = gymnasium.vector.SyncVectorEnv([Missions]) if many else Missions()
    env = record.RecordTransitions(inner, buffer_of(inner), leave_out=LEFT)
    with pytest.raises(TypeError, match=r"cannot be pickled: .* record here, around the vector environment"):
        pickle.dumps(env)
    if not many:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(gymnasium.wrappers.TimeLimit(env, 3))


def test_a_deep_copy_of_a_recorder_records_by_itself() -> None:
    env: Any = record.RecordTransitions(Missions(), buffer_of(Missions()), leave_out=LEFT)
    env.reset()
    env.step(0)
    other: Any = copy.deepcopy(env)
    other.step(0)
    assert [int(replay.size(each.buffer)) for each in (env, other)] == [1, 2]
