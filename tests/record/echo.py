"""Environments to record: small ones that show what reached them, and those of packages."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import gymnasium
import numpy as np

from jaxreplay.record.actions.files import load_actions
from jaxreplay.record.actions.record import ActionRecord
from tests.extras import library

DISCRETE = ["CartPole-v1", "LunarLander-v3", "MiniGrid-Empty-5x5-v0"]


def make(env_id: str, **kwargs: Any) -> Any:
    library({"LunarLander-v3": "Box2D", "MiniGrid-Empty-5x5-v0": "minigrid"}.get(env_id, "gymnasium"))
    return gymnasium.make(env_id, **kwargs)


def play(env: Any, rng: np.random.Generator, max_steps: int = 10**6, **reset: Any) -> list[tuple[Any, ...]]:
    """Play an episode of random actions, and return `(action, reward, terminated, truncated)` of each step."""
    env.reset(**reset)
    steps = []
    while len(steps) < max_steps:
        action = rng.integers(env.action_space.n)
        _, *result, _ = env.step(action)
        steps.append((action, *result))
        if result[1] or result[2]:
            break
    return steps


def load_all(directory: pathlib.Path) -> list[ActionRecord]:
    loaded = load_actions(directory)
    assert isinstance(loaded, list)
    return loaded


class Echo(gymnasium.Env):
    """Rewards follow from action, seed and options; an action of 9 raises, one of 8 terminates."""

    observation_space = gymnasium.spaces.Discrete(1000)

    def __init__(self, action_space: Any = None):
        self.action_space = action_space or gymnasium.spaces.Discrete(10)
        self.seen: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen.append(("reset", seed, options))
        self.factor = float((options or {}).get("factor", 1))
        return 0, {}

    def step(self, action: Any) -> Any:
        if self.action_space == gymnasium.spaces.Discrete(10) and action == 9:
            raise RuntimeError("the motor is hot")
        self.seen.append(copy.deepcopy(action))
        number = float(np.sum(action["arm"])) if isinstance(action, dict) else float(np.sum(action))
        return len(self.seen), self.factor * number + self.np_random.random(), number == 8, False, {"seen": action}


class Lazy(gymnasium.Wrapper):
    """Steps twice with one more than the action, after two idle steps in the reset."""

    def reset(self, **kwargs: Any) -> Any:
        self.env.reset(**kwargs)
        self.env.step(0)
        return self.env.step(0)[0], {}

    def step(self, action: Any) -> Any:
        self.env.step(action + 1)
        return self.env.step(action + 1)
