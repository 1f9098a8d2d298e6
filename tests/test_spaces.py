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
