"""Examples from Gymnasium's spaces fit what the environments give."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from tests.extras import library

gymnasium = library("gymnasium")
spaces = gymnasium.spaces


class Env(gymnasium.Env):
    """An environment of given spaces."""

    def __init__(self, observation_space: Any, action_space: Any):
        self.observation_space, self.action_space = observation_space, action_space


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype.name), tree)


def test_nested_spaces_of_every_kind() -> None:
    observation = spaces.Dict(
        camera=spaces.Box(0, 255, (4, 4, 3), np.uint8),
        arm=spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.MultiBinary(3))),
    )
    example = replay.example_transition(Env(observation, spaces.MultiDiscrete([3, 4])), {"log_prob": jnp.float32(0)})
    assert shapes(example.observation) == {
        "arm": (((2,), "float32"), ((3,), "int8")),
        "camera": ((4, 4, 3), "uint8"),
    }
    assert shapes(example.action) == ((2,), "int32")
    assert shapes(example.extras) == {"log_prob": ((), "float32")}
    buffer = replay.create(example, 8, 2)
    step = jax.tree.map(lambda x: jnp.zeros((2, *x.shape), x.dtype), example)
    assert int(replay.size(replay.append(buffer, step))) == 2


def test_single_and_vector_environments_give_the_same_example() -> None:
    single = gymnasium.make("CartPole-v1")
    vector = gymnasium.make_vec("CartPole-v1", num_envs=3)
    assert replay.example_transition(single) == replay.example_transition(vector)
    assert shapes(replay.example_transition(single).action) == ((), "int32")
    observation, _ = vector.reset(seed=0)
    buffer = replay.create(replay.example_transition(vector), 12, 3)
    flags = np.zeros(3, bool)
    step = replay.Transition(observation, np.zeros(3, np.int32), np.zeros(3, np.float32), flags, flags, observation)
    assert int(replay.size(replay.append(buffer, step))) == 3


def test_a_space_without_a_fixed_shape_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"observation\.text: Text has samples of no fixed shape"):
        replay.example_transition(Env(spaces.Dict(text=spaces.Text(5)), spaces.Discrete(2)))


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Env(spaces.Discrete(2), spaces.Discrete(2))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxreplay\[gym\]'"):
        replay.example_transition(env)


class Space:
    """A space as gymnax has them: classes of its own, told by what they have."""

    def __init__(self, **fields: Any):
        self.__dict__.update(fields)


def box(*shape: int, dtype: Any = jnp.float32) -> Space:
    return Space(low=0, high=1, shape=shape, dtype=dtype)


class GymnaxEnv:
    """Spaces are methods of the parameters, of which those of actions have a default."""

    default_params = 3

    def observation_space(self, params: int) -> Space:
        agents = Space(spaces=(box(2, dtype=jnp.uint8), Space(n=4)))
        return Space(
            spaces={"grid": box(params, params), "agents": agents, "time": Space(n=9, shape=(), dtype=jnp.int32)}
        )

    def action_space(self, params: int | None = None) -> Space:
        return Space(n=5, shape=(), dtype=jnp.int32)


def test_spaces_of_gymnax_are_methods_of_its_parameters() -> None:
    example = replay.example_transition(GymnaxEnv())
    agents = (((2,), "uint8"), ((), "int32"))
    assert shapes(example.observation) == {"grid": ((3, 3), "float32"), "agents": agents, "time": ((), "int32")}
    assert shapes(example.action) == ((), "int32")
    assert replay.example_transition(GymnaxEnv(), params=7).observation["grid"].shape == (7, 7)
    assert replay.capacity(replay.create(example, 8, 2)) == 8


def test_spaces_of_gymnax_need_no_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert replay.example_transition(GymnaxEnv()).action.shape == ()


def test_what_is_no_space_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"observation\.a: Space has samples of no fixed shape"):
        replay.example_transition(Env(Space(spaces={"a": Space(low=0)}), spaces.Discrete(2)))


def nested_with_texts() -> Any:
    inner = spaces.Dict(name=spaces.Text(5), at=spaces.Box(0, 1, (2,)))
    return spaces.Dict(image=spaces.Box(0, 255, (2, 2), np.uint8), mission=spaces.Text(9), robot=inner)


def test_entries_of_an_observation_are_left_out_by_path() -> None:
    env = Env(nested_with_texts(), spaces.Discrete(2))
    example = replay.example_transition(env, leave_out=("mission", "robot.name"))
    expected = {"image": ((2, 2), "uint8"), "robot": {"at": ((2,), "float32")}}
    assert shapes(example.observation) == shapes(example.next_observation) == expected


def test_a_text_says_how_to_leave_it_out() -> None:
    env: Any = Env(nested_with_texts(), spaces.Discrete(2))
    with pytest.raises(
        TypeError, match=r"observation\.robot\.name: Text .* leave it out, with leave_out=\('robot.name',"
    ):
        replay.example_transition(env, leave_out=("mission",))
    text = spaces.Text(5)
    for one in (Env(text, spaces.Discrete(2)), Env(spaces.Discrete(2), text)):
        with pytest.raises(TypeError, match=r"Tuple space$"):
            replay.example_transition(one)


def test_paths_to_leave_out_that_are_none() -> None:
    env: Any = Env(spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(3)), spaces.Discrete(2))
    wrong: Any
    for wrong, error, message in (
        (("c",), ValueError, "leave_out: there is no c in the observation, which has: a, b"),
        (("a", "b"), ValueError, r"leave_out: \('a', 'b'\) leaves nothing of the observation"),
        ("a", TypeError, "leave_out: expected paths of the observation, as .* got 'a'"),
        (3, TypeError, "leave_out: expected paths"),
        ((3,), TypeError, "leave_out: expected paths"),
    ):
        with pytest.raises(error, match=message):
            replay.example_transition(env, leave_out=wrong)
