"""What the base environment receives, below all wrappers: seen without changing it."""

from __future__ import annotations

from typing import Any

import gymnasium

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.environment import describe_environment
from jaxreplay.record.actions.record import Episode


class BaseSpy(gymnasium.Wrapper):
    """Notes what reaches the environment it wraps. To everything around it, it is that environment.

    episode: what came since the last reset, but for resets within a step of what is around, when it is `stepping`.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self._environment = describe_environment(env)
        self.restart("the base environment was stepped before a reset")

    def step(self, action: Any) -> Any:
        copied = copy_value("base action", action)
        result = self.env.step(action)
        self.episode.add(copied, *result[1:4])
        return result

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        begun = Episode(self._environment, seed, options)
        result = self.env.reset(seed=seed, options=options)
        if self.stepping:
            self.episode.not_replayable = "a wrapper reset the base environment in the middle of the episode"
        else:
            self.episode = begun
        return result

    @property
    def spec(self) -> Any:
        return self.env.spec

    def __str__(self) -> str:
        return str(self.env)

    def restart(self, problem: str) -> None:
        """Begin an episode that did not begin with a reset."""
        self.episode, self.stepping = Episode(self._environment, not_replayable=problem), False


def insert_spy(outer: Any) -> BaseSpy:
    """Put a spy between the base environment and the innermost wrapper of a stack, and return it."""
    innermost = outer
    while isinstance(innermost.env, gymnasium.Wrapper):
        innermost = innermost.env
    spy = BaseSpy(innermost.env)
    innermost.env = spy
    if innermost.env is not spy:
        raise TypeError(
            f"base_actions: the wrapper {type(innermost).__name__} does not let its environment be replaced"
        )
    return spy


def remove_spy(outer: Any, spy: BaseSpy) -> None:
    """Take the spy out again."""
    wrapper = outer
    while isinstance(wrapper, gymnasium.Wrapper):
        if wrapper.env is spy:
            wrapper.env = spy.env
            return
        wrapper = wrapper.env
