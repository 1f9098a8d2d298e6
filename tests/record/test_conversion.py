"""Converting a recording gives what the wrapped environment gives, bit for bit, and says so where it cannot."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.datasets import Dataset
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.record.playback.convert import convert_trajectory
from jaxreplay.record.playback.env import Playback
from tests.extras import library

spaces, wrappers = gymnasium.spaces, gymnasium.wrappers


class Room(gymnasium.Env):
    """Pictures of noise; ends at random. Actions move a hidden place."""

    observation_space = spaces.Box(0, 255, (12, 10, 3), np.uint8)
    action_space = spaces.Box(-3, 3, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.zeros(2, np.float32)
        return self.observe(), {}

    def observe(self) -> Any:
        return self.np_random.integers(256, size=(12, 10, 3)).astype(np.uint8)

    def step(self, action: Any) -> Any:
        self.place = self.place + action
        return self.observe(), float(self.place.sum()), bool(self.np_random.random() < 0.05), False, {}


class House(Room):
    """Nested observations."""

    observation_space = spaces.Dict(
        eyes=spaces.Tuple((Room.observation_space, spaces.Discrete(5))), arm=spaces.Box(-9, 9, (2,), np.float64)
    )

    def observe(self) -> Any:
        return {"eyes": (super().observe(), np.int64(self.np_random.integers(5))), "arm": self.place.astype(np.float64)}


def stacked(values: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.array(x) for x in leaves]), *values)


def run(env: Any, actions: Any, seed: int) -> Trajectory:
    """Step by hand, until the episode ends or the actions are used up."""
    observation, _ = env.reset(seed=seed)
    observations, rewards, flags = [jax.tree.map(np.array, observation)], [], (False, False)
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(jax.tree.map(np.array, observation))
        rewards.append(float(reward))
        flags = (bool(terminated), bool(truncated))
        if any(flags):
            break
    taken = stacked(list(actions[: len(rewards)]))
    return Trajectory(stacked(observations), taken, np.array(rewards), *flags)


def random_actions(env: Any, seed: int, count: int = 60) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def assert_equal(a: Trajectory, b: Trajectory) -> None:
    assert (a.terminated, a.truncated) == (b.terminated, b.truncated)
    for name in ("observations", "actions", "rewards"):
        mine, other = getattr(a, name), getattr(b, name)
        assert jax.tree.structure(mine) == jax.tree.structure(other)
        for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(other)):
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


def cartpole() -> Any:
    return gymnasium.make("CartPole-v1")


def minigrid() -> Any:
    return library("minigrid.wrappers").ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))


def resized(env: Any) -> Any:
    library("cv2")
    return wrappers.ResizeObservation(wrappers.GrayscaleObservation(env), (6, 5))


def stack(env: Any) -> Any:
    return wrappers.FrameStackObservation(env, 4)


def normalized_stack(env: Any) -> Any:
    return stack(wrappers.NormalizeObservation(env))


STACKS: dict[str, tuple[Any, Any]] = {
    "frame stack": (cartpole, stack),
    "frame stack with zeros": (Room, lambda env: wrappers.FrameStackObservation(env, 3, padding_type="zero")),
    "frame stack of nested observations": (House, stack),
    "grey": (Room, lambda env: stack(wrappers.GrayscaleObservation(env))),
    "grey and small": (Room, lambda env: stack(resized(env))),
    "normalised": (cartpole, wrappers.NormalizeObservation),
    "stack of normalised": (cartpole, normalized_stack),
    "normalised stack": (cartpole, lambda env: wrappers.NormalizeObservation(stack(env))),
    "scaled reward": (Room, lambda env: wrappers.TransformReward(env, lambda r: 0.1 * r)),
    "normalised reward": (Room, wrappers.NormalizeReward),
    "shorter": (Room, lambda env: wrappers.TimeLimit(stack(env), 5)),
    "with the time": (cartpole, wrappers.TimeAwareObservation),
    "late": (cartpole, lambda env: wrappers.DelayObservation(env, 2)),
    "flat": (House, wrappers.FlattenObservation),
    "chosen": (House, lambda env: wrappers.FilterObservation(env, ["arm"])),
    "frame stack of a grid": (minigrid, stack),
    "statistics": (cartpole, wrappers.RecordEpisodeStatistics),
    "nothing": (House, lambda env: env),
}


@pytest.mark.parametrize("name", STACKS)
def test_converting_equals_having_run_the_wrapped_environment(name: str) -> None:
    make, wrap = STACKS[name]
    for seed in range(3):
        actions = random_actions(make(), seed)
        recorded = run(make(), actions, seed)
        assert_equal(convert_trajectory(recorded, wrap, make()), run(wrap(make()), actions, seed))


def test_a_cut_recording_stays_cut() -> None:
    recorded = run(cartpole(), [0, 1, 0], 0)
    assert not recorded.ended
    assert_equal(convert_trajectory(recorded, stack, cartpole()), run(stack(cartpole()), [0, 1, 0], 0))
    limited = convert_trajectory(recorded, lambda env: wrappers.TimeLimit(env, 3), cartpole())
    assert limited.truncated


ACTION_WRAPPERS: dict[str, Any] = {
    "rescaled": lambda env: wrappers.RescaleAction(env, -1.0, 1.0),
    "clipped": wrappers.ClipAction,
    "turned": lambda env: wrappers.TransformAction(env, lambda a: -a, env.action_space),
}


@pytest.mark.parametrize("name", ACTION_WRAPPERS)
def test_behind_action_wrappers_the_agents_own_actions_convert(name: str) -> None:
    wrap = ACTION_WRAPPERS[name]
    actions = [np.float32(3) * action for action in random_actions(wrap(Room()), 0)]
    actions = [np.clip(a, -1, 1) if name == "rescaled" else np.clip(a, -9, 9) for a in actions]
    agent = run(wrap(Room()), actions, 1)

    class Seen(gymnasium.Wrapper):
        given: list[Any] = []  # noqa: RUF012  (one class a test)

        def step(self, action: Any) -> Any:
            self.given.append(action)
            return super().step(action)

    run(wrap(Seen(Room())), actions, 1)
    recorded = run(Room(), Seen.given, 1)
    assert_equal(convert_trajectory(recorded, wrap, Room(), agent_actions=agent.actions), agent)
    if name == "clipped":  # what is clipped already is left as it is
        assert_equal(convert_trajectory(recorded, wrap, Room()), dataclasses.replace(agent, actions=recorded.actions))
        return
    with pytest.raises(ValueError, match=r"do not give the recorded actions: step 0 .*give the agent's own, as"):
        convert_trajectory(recorded, wrap, Room())
    with pytest.raises(ValueError, match="agent_actions are of another recording"):
        convert_trajectory(recorded, wrap, Room(), agent_actions=agent.actions * np.float32(0.5))


def skipping(env: Any) -> Any:
    return wrappers.MaxAndSkipObservation(env, 4)


@pytest.mark.parametrize("count", [16, 18])
def test_wrappers_that_repeat_actions_convert_what_was_recorded_with_repeats(count: int) -> None:
    """Four steps become one; of the two that are left over at the end, there is no whole step."""

    class Endless(Room):
        def step(self, action: Any) -> Any:
            return (*super().step(action)[:2], False, False, {})

    chosen = random_actions(Endless(), 0, 5)
    repeated = [chosen[i // 4] for i in range(count)]
    recorded = run(Endless(), repeated, 0)
    expected = run(skipping(Endless()), chosen[:4], 0)
    assert_equal(convert_trajectory(recorded, skipping, Endless()), expected)
    given = stacked(chosen[: -(-count // 4)])
    assert_equal(convert_trajectory(recorded, skipping, Endless(), agent_actions=given), expected)
    with pytest.raises(ValueError, match="do not give the recorded actions"):
        convert_trajectory(run(Endless(), random_actions(Endless(), 0, 8), 0), skipping, Endless())
    with pytest.raises(ValueError, match="agent_actions: 9 given, but the recording ends after 4"):
        convert_trajectory(recorded, skipping, Endless(), agent_actions=stacked([chosen[min(i, 4)] for i in range(9)]))
    extra = dataclasses.replace(recorded, extras={"x": np.zeros(count)})
    with pytest.raises(ValueError, match="extras: the wrappers take several steps for one"):
        convert_trajectory(extra, skipping, Endless())
    with pytest.raises(ValueError, match="did not complete a step within the 3 recorded ones"):
        convert_trajectory(run(Endless(), repeated[:3], 0), skipping, Endless())


def test_extras_infos_and_episode_data_come_along() -> None:
    recorded = run(Room(), random_actions(Room(), 0, 6), 3)
    count = len(recorded)
    full = dataclasses.replace(
        recorded,
        extras={"log_prob": np.arange(count)},
        infos=[{"step": i} for i in range(count)],
        episode_data={"seed": 3},
    )
    short = convert_trajectory(full, lambda env: wrappers.TimeLimit(env, 4), Room())
    assert short.extras["log_prob"].tolist() == [0, 1, 2, 3]
    assert short.infos == [{"step": i} for i in range(4)]
    assert short.episode_data == {"seed": 3}
    assert convert_trajectory(recorded, stack, Room()).infos is None
    counted = convert_trajectory(recorded, wrappers.RecordEpisodeStatistics, Room())
    assert (counted.infos is not None) == recorded.ended
    without = convert_trajectory(dataclasses.replace(recorded, rewards=None), stack, Room())
    assert without.rewards is None


def lake() -> Any:
    return gymnasium.make("FrozenLake-v1")


class Precise(Room):
    """All in float64."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (2,), np.float64)

    def observe(self) -> Any:
        return self.np_random.normal(size=2)


@pytest.mark.parametrize("make", [lake, Precise])
def test_what_was_recorded_into_a_buffer_converts_for_its_environment(make: Any) -> None:
    """Spaces of 64 bits are stored as 32: whole numbers come back as they were, floats as they were rounded."""
    env = make()
    env = record.RecordTransitions(env, replay.create(replay.example_transition(env), 100), block=4)
    by_hand = run(env, random_actions(make(), 0), 3)
    recorded = Dataset.from_buffer(env.buffer).episode(0)
    expected = run(stack(make()), random_actions(make(), 0), 3)
    converted = convert_trajectory(recorded, stack, make())
    assert len(converted) == len(by_hand) > 2
    assert converted.observations.dtype == expected.observations.dtype
    rounded = expected.observations.astype(recorded.observations.dtype).astype(expected.observations.dtype)
    np.testing.assert_array_equal(converted.observations, rounded)
    assert (converted.terminated, converted.truncated) == (by_hand.terminated, by_hand.truncated)
    played = Playback(recorded, make())
    played.reset()
    for action in by_hand.actions:  # in the space's own dtype
        played.step(action)
    narrow = convert_trajectory(recorded, stack)
    np.testing.assert_array_equal(narrow.observations, expected.observations.astype(recorded.observations.dtype))
    assert narrow.observations.dtype == recorded.observations.dtype


@pytest.mark.parametrize("name", ["frame stack", "grey", "flat of arrays", "stack of normalised", "nothing"])
def test_converting_without_spaces_is_the_same_for_spaces_of_arrays(name: str) -> None:
    make, wrap = (Precise, wrappers.FlattenObservation) if name == "flat of arrays" else STACKS[name]
    recorded = run(make(), random_actions(make(), 0), 0)
    assert_equal(convert_trajectory(recorded, wrap), convert_trajectory(recorded, wrap, make()))


class Reused(gymnasium.ObservationWrapper):
    """Gives the same array every time."""

    def __init__(self, env: Any):
        super().__init__(env)
        self.array = np.zeros(env.observation_space.shape, np.float32)

    def observation(self, observation: Any) -> Any:
        self.array[:] = observation
        return self.array


def test_a_wrapper_may_give_the_same_array_every_time() -> None:
    recorded = run(cartpole(), [0, 1, 0, 1], 0)
    assert_equal(convert_trajectory(recorded, Reused, cartpole()), recorded)


class Blurred(gymnasium.ObservationWrapper):
    def observation(self, observation: Any) -> Any:
        return observation + self.np_random.normal(size=4).astype(np.float32)


def test_wrappers_that_draw_numbers_follow_the_seed() -> None:
    recorded = run(cartpole(), [0, 1, 0, 1], 0)
    first, again, other = (
        convert_trajectory(recorded, lambda env: Blurred(env), cartpole(), seed=seed) for seed in (1, 1, 2)
    )
    assert_equal(first, again)
    assert (first.observations != other.observations).all()


class Idle(gymnasium.Wrapper):
    def step(self, action: Any) -> Any:
        return self.env.unwrapped.reset()[0], 0.0, False, False, {}


def broken(env: Any) -> Any:
    raise ZeroDivisionError("no stack")


def test_what_wrap_may_not_do() -> None:
    recorded = run(cartpole(), [0, 1, 0, 1], 0)
    with pytest.raises(ValueError, match="wrap: it must wrap the environment that it is given"):
        convert_trajectory(recorded, lambda env: cartpole(), cartpole())
    with pytest.raises(TypeError, match=r"wrap: expected a gymnasium\.Env, got NoneType"):
        convert_trajectory(recorded, lambda env: None, cartpole())
    with pytest.raises(ValueError, match="took no step of the recording at its step 0"):
        convert_trajectory(recorded, lambda env: Idle(env), cartpole())
