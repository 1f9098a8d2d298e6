"""A parallel environment in PettingZoo's manner, whose agents come and go; it keeps a record of what happened."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from gymnasium import spaces

NAMES = ["a", "b", "c"]
OBSERVATIONS = spaces.Dict(where=spaces.Box(-1000, 1000, (3,), np.float32), step=spaces.Discrete(100))
ACTIONS = spaces.Discrete(10)


class Crowd:
    """Agents begin in slices 0 to 2 of an episode, and last 1 to 6 steps; an observation tells agent, episode, step.

    `log` lists of each agent its episodes, each a list of `(observation, action, reward, terminated, truncated, next)`.
    leaves: whether some agents vanish without any flag.
    """

    metadata = {"name": "crowd_v0", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, leaves: bool = False) -> None:
        self.possible_agents, self.agents, self.leaves = list(NAMES), [], leaves
        self.log: dict[str, list[list[Any]]] = {name: [] for name in NAMES}
        self.episode, self.seeds = -1, []

    def observation_space(self, agent: str) -> Any:
        return OBSERVATIONS

    def action_space(self, agent: str) -> Any:
        return ACTIONS

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        self.episode, self.slice = self.episode + 1, 0
        rng = random.Random(self.episode)
        self.begin = {name: rng.randint(0, 2) for name in NAMES}
        self.begin[rng.choice(NAMES)] = 0
        self.steps = {name: rng.randint(1, 6) for name in NAMES}
        self.ends = {name: rng.choice([(True, False), (False, True), (False, False)]) for name in NAMES}
        if not self.leaves:
            self.ends = {name: ends if any(ends) else (True, True) for name, ends in self.ends.items()}
        self.done = dict.fromkeys(NAMES, 0)
        self.agents = []
        self._enter()
        return {name: self._see(name) for name in self.agents}, {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        acted, self.slice = list(self.agents), self.slice + 1
        found: list[dict[str, Any]] = [{}, {}, {}, {}, {}]
        for name in acted:
            before = self._numbers(name)
            self.done[name] += 1
            over = self.done[name] == self.steps[name]
            flags = self.ends[name] if over else (False, False)
            reward = 100.0 * NAMES.index(name) + self.episode + self.done[name] / 8
            for part, value in zip(found, (self._see(name), reward, *flags, {"total": self.done[name]})):
                part[name] = value
            ended = flags[0], flags[1] or (over and not flags[0])
            self.log[name][-1].append((before, int(actions[name]), reward, *ended, self._numbers(name)))
        self.agents = [name for name in acted if self.done[name] < self.steps[name]]
        self._enter()
        for name in set(self.agents) - set(acted):
            for part, value in zip(found, (self._see(name), 0.0, False, False, {"total": 0})):
                part[name] = value
        return tuple(found)

    def close(self) -> None:
        self.agents = []

    def render(self) -> None:
        return None

    def _enter(self) -> None:
        """Let those in whose time has come, if the episode is not over before."""
        if self.slice and not self.agents:
            return
        coming = [x for x in NAMES if not self.done[x] and x not in self.agents and self.begin[x] <= self.slice]
        self.agents += coming
        for name in coming:
            self.log[name].append([])

    def _numbers(self, name: str) -> tuple[float, ...]:
        return float(NAMES.index(name)), float(self.episode), float(self.done[name])

    def _see(self, name: str) -> Any:
        return {"where": np.array(self._numbers(name), np.float32), "step": self.done[name]}
