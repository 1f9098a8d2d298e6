"""A playback gives a trajectory again, step by step, to whoever takes its actions, and to nobody else."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.record.playback.env import Playback, PlaybackOver, WrongAction
from tests.datasets.test_values import assert_same

spaces = gymnasium.spaces
OBSERVATION = spaces.Dict(
    camera=spaces.Box(0, 255, (2, 2), np.uint8),
    arm=spaces.Tuple((spaces.Box(-1, 1, (), np.float64), spaces.Discrete(9))),
)
ACTION = spaces.Dict(move=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.MultiDiscrete([3, 3]))


def nested(steps: int = 3, **changes: Any) -> Trajectory:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "observations": {
            "camera": rng.integers(256, size=(steps + 1, 2, 2)).astype(np.uint8),
            "arm": (rng.random(steps + 1), rng.integers(9, size=steps + 1)),
        },
        "actions": {
            "move": rng.random((steps, 2)).astype(np.float32),
            "mode": rng.integers(3, size=(steps, 2)),
        },
        "rewards": rng.random(steps),
        "terminated": True,
        "infos": [{"step": i, "list": [i]} for i in range(steps)],
    }
    return Trajectory(**(fields | changes))


def action_at(trajectory: Trajectory, step: int) -> Any:
    return {name: trajectory.actions[name][step] for name in ("move", "mode")}


def test_a_trajectory_comes_back_step_by_step() -> None:
    trajectory = nested()
    env = Playback(trajectory, (OBSERVATION, ACTION))
    for _ in range(2):  # and again after a reset
        observation, info = env.reset(seed=1)
        assert info == {}
        for step in range(3):
            assert OBSERVATION.contains(observation)
            assert_same(observation["camera"], trajectory.observations["camera"][step])
            assert_same(observation["arm"][1], trajectory.observations["arm"][1][step])
            observation, reward, terminated, truncated, info = env.step(action_at(trajectory, step))
            assert (reward, terminated, truncated) == (trajectory.rewards[step], step == 2, False)
            assert info == {"step": step, "list": [step]}
        assert observation["arm"][0] == trajectory.observations["arm"][0][3]
        assert env.is_over


def test_what_is_done_to_an_observation_or_info_changes_nothing() -> None:
    trajectory = nested()
    first = trajectory.observations["camera"][0].copy()
    env = Playback(trajectory, (OBSERVATION, ACTION))
    for _ in range(2):
        observation, _ = env.reset()
        assert_same(observation["camera"], first)
        observation["camera"][:] = 0
        info = env.step(action_at(trajectory, 0))[4]
        assert info["list"] == [0]
        info["list"].append(1)


def test_the_next_action_is_the_one_that_is_taken() -> None:
    trajectory = nested()
    env = Playback(trajectory, (OBSERVATION, ACTION))
    env.reset()
    taken = 0
    while not env.is_over:
        assert_same(env.next_action, action_at(trajectory, taken))
        env.step(env.next_action)
        taken += 1
    assert taken == len(trajectory)


def test_truncation_is_played_back_and_a_trajectory_without_an_end_is_cut() -> None:
    ends = {}
    for name, changes, cut in (
        ("truncated", {"terminated": False, "truncated": True}, True),
        ("cut", {"terminated": False}, True),
        ("open", {"terminated": False}, False),
    ):
        env = Playback(nested(1, **changes), (OBSERVATION, ACTION), truncate_cut=cut)
        env.reset()
        _, _, terminated, truncated, info = env.step(env.next_action)
        ends[name] = (terminated, truncated, info.get("playback_cut", False))
    assert ends == {"truncated": (False, True, False), "cut": (False, True, True), "open": (False, False, False)}


def test_without_rewards_and_infos_there_are_zeros_and_empty_ones() -> None:
    env = Playback(nested(rewards=None, infos=None), (OBSERVATION, ACTION))
    env.reset()
    assert env.step(env.next_action)[1:] == (0.0, False, False, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"move": np.array([9, 9], np.float32)},
            r"step 1 was recorded with action\.move \[.*\], got \[9\. 9\.\]; a playback takes its",
        ),
        ({"move": np.zeros(3)}, r"step 1 was recorded with action\.move"),
        ({"mode": "left"}, r"recorded with action\.mode .*got left"),
        ({"mode": None}, r"recorded with action\.mode .*got None"),
        ({"speed": 1}, "step 1: action: expected a dict of .*, got a dict of mode, move, speed"),
    ],
)
def test_another_action_than_the_recorded_one_is_refused(changes: Any, message: str) -> None:
    trajectory = nested()
    env = Playback(trajectory, (OBSERVATION, ACTION))
    env.reset()
    env.step(action_at(trajectory, 0))
    with pytest.raises(WrongAction, match=message):
        env.step(action_at(trajectory, 1) | changes)
    env.step(action_at(trajectory, 1))  # it stands where it stood


def test_values_of_actions_count_and_their_types_do_not() -> None:
    trajectory = Trajectory(np.zeros(4, np.int64), np.array([0, 1, 2]), terminated=True)
    env = Playback(trajectory, (spaces.Discrete(3), spaces.Discrete(3)))
    env.reset()
    env.step(0)
    env.step(jnp.int32(1))
    with pytest.raises(WrongAction, match="step 2 was recorded with action 2, got 1"):
        env.step(np.int8(1))
    env.step(np.float64(2))


def test_steps_before_a_reset_and_behind_the_end_are_refused() -> None:
    env = Playback(nested(1), (OBSERVATION, ACTION))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before the first step"):
        env.step(0)
    env.reset()
    env.step(env.next_action)
    with pytest.raises(PlaybackOver, match="all 1 steps of the trajectory were played; call reset"):
        env.step(0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"camera": np.zeros((4, 2, 3), np.uint8)},
            ValueError,
            r"observations\.camera: expected uint8\[4,2,2\] by its space",
        ),
        ({"camera": np.zeros((4, 2, 2))}, TypeError, r"observations\.camera: expected uint8 by its space, got float64"),
        ({"arm": (np.zeros(4),)}, ValueError, r"observations\.arm: expected a tuple of 2, got tuple of 1"),
        ({"arm": np.zeros((4, 2))}, ValueError, r"observations\.arm: expected a tuple of 2, got ndarray"),
        ({"arm": (np.zeros(4), {"x": np.zeros(4)})}, ValueError, r"observations\.arm\.1: expected an array"),
        ({"wrist": np.zeros(4)}, ValueError, r"observations: expected a dict of .*, got a dict of arm, camera, wrist"),
    ],
)
def test_observations_that_do_not_fit_the_space_are_named(changes: Any, error: Any, message: str) -> None:
    trajectory = nested()
    with pytest.raises(error, match=message):
        Playback(nested(observations=trajectory.observations | changes), (OBSERVATION, ACTION))


def test_actions_that_do_not_fit_the_space_are_named() -> None:
    with pytest.raises(ValueError, match=r"actions\.move: expected float32\[3,4\] by its space, got float32\[3,2\]"):
        Playback(nested(), (OBSERVATION, spaces.Dict({**ACTION.spaces, "move": spaces.Box(-1, 1, (4,), np.float32)})))
    with pytest.raises(TypeError, match=r"observations: Text has elements of no fixed shape"):
        Playback(nested(), (spaces.Text(5), ACTION))


def test_spaces_come_from_an_environment_single_or_vector_or_a_pair() -> None:
    trajectory = Trajectory(np.zeros((3, 4), np.float32), np.array([0, 1]))
    single, vector = gymnasium.make("CartPole-v1"), gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    for form in (single, vector):
        env = Playback(trajectory, form)
        assert env.observation_space == single.observation_space
        assert env.action_space == single.action_space
        assert env.spec.max_episode_steps == 500
    inferred = Playback(trajectory)
    assert inferred.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)
    assert (inferred.action_space.shape, inferred.action_space.dtype) == ((), np.int64)
    for wrong in (3, (single.observation_space,), (4, 5)):
        with pytest.raises(TypeError, match=r"env_or_spaces: expected a gymnasium\.Env or \(observation_space, action"):
            Playback(trajectory, wrong)


def test_a_playback_without_spaces_gives_the_recorded_arrays() -> None:
    trajectory = nested()
    trajectory.observations["flags"] = [np.array([[True], [False], [True], [True]])]
    env = Playback(trajectory)
    assert env.observation_space["camera"] == spaces.Box(0, 255, (2, 2), np.uint8)
    observation, _ = env.reset()
    for step in range(3):
        assert env.observation_space.contains(observation)
        assert env.action_space.contains(env.action_space.sample())
        for name in ("camera", "arm", "flags"):
            mine, recorded = observation[name], trajectory.observations[name]
            pairs = [(mine, recorded)] if name == "camera" else list(zip(mine, recorded, strict=True))
            for a, b in pairs:
                assert (a.dtype, a.tolist()) == (b.dtype, b[step].tolist())
        observation = env.step(env.next_action)[0]
    with pytest.raises(TypeError, match=r"actions: no Gymnasium space can be told from complex64; give the spaces"):
        Playback(Trajectory(np.zeros((3, 1)), np.zeros(2, np.complex64)))
    with pytest.raises(TypeError, match=r"observations\.x: no Gymnasium space can be told from bfloat16"):
        Playback(Trajectory({"x": jnp.zeros((3, 1), jnp.bfloat16)}, np.zeros(2)))


def test_what_was_recorded_as_32_bits_is_played_in_64_bit_spaces() -> None:
    observations = {"n": np.array([1, 2, 2**31 - 1], np.int32), "x": np.array([[0.1], [0.2], [0.3]], np.float32)}
    trajectory = Trajectory(observations, np.array([0.1, 0.7], np.float32))
    space = spaces.Dict(n=spaces.Discrete(2**40), x=spaces.Box(-1, 1, (1,), np.float64))
    env = Playback(trajectory, (space, spaces.Box(-1, 1, (), np.float64)))
    observation, _ = env.reset()
    assert space.contains(observation)
    assert (type(observation["n"]), observation["n"]) == (np.int64, 1)
    assert (observation["x"].dtype, observation["x"].item()) == (np.float64, float(np.float32(0.1)))
    env.step(np.float64(0.1))  # what float32 makes of it was recorded
    for near in (np.float64(0.7000001), np.float64(0.6)):
        with pytest.raises(WrongAction):
            env.step(near)
    assert env.step(np.float32(0.7))[0]["n"] == 2**31 - 1
    for dtype, narrow in ((np.float64, np.float16), (np.int64, np.int16), (np.int64, np.uint32), (np.float32, float)):
        with pytest.raises(TypeError, match=f"observations: expected {np.dtype(dtype)} by its space"):
            Playback(
                Trajectory(np.zeros((3, 1), narrow), np.zeros(2)), (spaces.Box(0, 1, (1,), dtype), spaces.Discrete(2))
            )


def test_jax_arrays_are_played_back_as_numpy_arrays() -> None:
    trajectory = Trajectory(jnp.zeros((3, 4)), jnp.array([0, 1]), rewards=jnp.ones(2))
    env = Playback(trajectory, gymnasium.make("CartPole-v1"))
    assert type(env.reset()[0]) is np.ndarray
    assert env.step(0)[1].dtype == np.float32


def test_gymnasiums_own_checks_pass() -> None:
    trajectory = nested()
    env = gymnasium.wrappers.PassiveEnvChecker(Playback(trajectory, (OBSERVATION, ACTION)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # most of what it finds is a warning
        env.reset()
        for step in range(3):
            env.step(action_at(trajectory, step))
