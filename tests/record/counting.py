"""Environments whose observations tell the env, episode and step, and which keep a plain record of what happened."""

from __future__ import annotations

import functools
import random
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LONGEST = 9


class Step(tuple):
    """`(observation, action, reward, terminated, truncated, next_observation)` in plain Python."""


def plan(env: int, episode: int) -> tuple[int, bool, bool]:
    """The length and the end of an episode."""
    rng = random.Random(1000 * env + episode)
    return rng.randint(1, LONGEST), *rng.choice([(True, False), (False, True), (True, True)])


class Counting(gymnasium.Env):
    """Hands out the same arrays at every step, unless it `copies`.

    `log` lists its episodes, each a list of steps. `fail_at`: the step, of all, that raises.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(
        self,
        env: int = 0,
        nested: bool = False,
        fail_at: int | None = None,
        render_mode: str | None = None,
        copies: bool = False,
    ):
        self.env_number, self.nested, self.fail_at, self.render_mode = env, nested, fail_at, render_mode
        self.copies = copies
        self.observation_space = nested_space() if nested else spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = nested_action_space() if nested else spaces.Discrete(1000)
        self.episode, self.elapsed, self.total = -1, 0, 0
        self.log: list[list[Any]] = []
        self.box, self.image = np.zeros(3), np.zeros((20, 20), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.elapsed = self.episode + 1, 0
        self.log.append([])
        return self._observation(), {"total": np.int64(-1), "only_at_reset": 1}

    def step(self, action: Any) -> Any:
        if self.total == self.fail_at:
            raise OSError("the simulator is gone")
        before = self._numbers()
        self.elapsed, self.total = self.elapsed + 1, self.total + 1
        length, terminated, truncated = plan(self.env_number, self.episode)
        over = self.elapsed >= length
        reward = self.env_number * 1000 + self.episode * 16 + self.elapsed + 0.5
        ends = (terminated and over, truncated and over)
        self.log[-1].append(Step((before, plain(action), reward, *ends, self._numbers())))
        return self._observation(), reward, *ends, {"total": np.int64(self.total), "deep": {"half": self.total / 2}}

    def render(self) -> Any:
        return f"{self._numbers()}"

    def _numbers(self) -> tuple[int, int, int]:
        return self.env_number, self.episode, self.elapsed

    def _observation(self) -> Any:
        if self.copies:
            self.box, self.image = self.box.copy(), self.image.copy()
        self.box[:] = self._numbers()
        self.image[:] = image(self._numbers())
        return nested_observation(self._numbers(), self.image) if self.nested else self.box


def image(numbers: tuple[int, int, int]) -> int:
    return (7 * numbers[0] + 31 * numbers[1] + 3 * numbers[2]) % 256


def nested_observation(numbers: tuple[int, int, int], picture: np.ndarray) -> dict[str, Any]:
    env, episode, step = numbers
    bits = np.array([episode >> 1 & 1, step & 1], np.int8)
    return {"where": (np.array([env, episode, step]), np.int64(step)), "image": picture, "bits": bits}


def nested_space() -> spaces.Dict:
    where = spaces.Tuple((spaces.MultiDiscrete([100, 10_000, 100]), spaces.Discrete(100)))
    return spaces.Dict(where=where, image=spaces.Box(0, 255, (20, 20), np.uint8), bits=spaces.MultiBinary(2))


def nested_action_space() -> spaces.Dict:
    return spaces.Dict(
        go=spaces.Tuple((spaces.Discrete(9), spaces.MultiDiscrete([4, 5]))), force=spaces.Box(-1, 1, (2,))
    )


def plain(tree: Any) -> Any:
    """Nested arrays as nested Python values, dicts by sorted names."""
    if isinstance(tree, dict):
        return tuple(plain(tree[name]) for name in sorted(tree))
    if isinstance(tree, tuple):
        return tuple(map(plain, tree))
    return np.asarray(tree).tolist()


def numbers_of(observation: Any) -> tuple[int, int, int]:
    """The env, episode and step that an observation tells; every part of it must say the same."""
    if not isinstance(observation, dict):
        return tuple(int(x) for x in np.asarray(observation).ravel()[-3:])  # of stacked ones, the last
    numbers = tuple(int(x) for x in observation["where"][0])
    picture = np.full((20, 20), image(numbers), np.uint8)
    expected = nested_observation(numbers, picture)
    assert plain(observation) == plain(expected)
    return numbers


def makers(num_envs: int, nested: bool = False, fail_at: int | None = None, copies: bool = False) -> list[Any]:
    """Functions that make the environments, and that can be sent to another process. Env 1 is the one that fails."""
    return [
        functools.partial(Counting, env, nested, fail_at if env == 1 else None, copies=copies)
        for env in range(num_envs)
    ]
