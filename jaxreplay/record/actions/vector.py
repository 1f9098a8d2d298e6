"""`RecordActions` of a vector environment: the steps of all envs, from a reset of all to the next."""

import os
import warnings
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.files import ActionDirectory
from jaxreplay.record.actions.record import FLAGS, VectorActionRecord
from jaxreplay.record.actions.replay import describe_environment
from jaxreplay.record.agents import AgentsAsEnvs
from jaxreplay.record.transitions.wrapper import autoreset_of


class RecordVectorActions(VectorWrapper):
    """Write a `VectorActionRecord` of each run into a directory, from a reset of all envs to the next or to `close`."""

    def __init__(self, env: VectorEnv, directory: str | os.PathLike[str], *, base_actions: bool = False):
        if base_actions:
            raise ValueError("base_actions: wrap each environment of the vector environment, with `wrappers=[...]`")
        super().__init__(env)
        self.directory, self._environment = ActionDirectory(directory), describe_environment(env)
        self._voids = autoreset_of(env) == "NextStep"
        self._begin({"step": 0, "seed": None, "options": None}, "it began without a reset")

    def _begin(self, reset: dict[str, Any], problem: str) -> None:
        self._resets, self._problem, self._under_way = [reset], problem, False
        self._actions: list[Any] = []
        self._rows: list[tuple[np.ndarray, ...]] = []
        self._ended = np.zeros(self.num_envs, np.bool_)

    @property
    def record(self) -> VectorActionRecord:
        """The run so far."""
        names = ("rewards", *FLAGS)
        columns = [*zip(*self._rows)] or [()] * len(names)
        given: dict[str, Any] = {"actions": tuple(self._actions), "resets": tuple(self._resets)}
        for name, column in zip(names, columns):
            dtype: Any = np.float64 if name == "rewards" else np.bool_
            given[name] = np.array(column, dtype).reshape(-1, self.num_envs)
        return VectorActionRecord(**given, environment=self._environment, not_replayable=self._problem)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Reset all envs, after the run so far is written, or those of `options["reset_mask"]`, which is kept."""
        mask, problem = np.asarray((options or {}).get("reset_mask", True)), ""
        given = {"step": len(self._actions), "seed": _plain_seed(seed), "options": None}
        try:
            given["options"] = copy_value("options", options)  # before the environment takes the mask out
        except TypeError as error:
            problem = str(error)
        if is_of_all := bool(mask.all()):
            self.directory.write_when_possible(*self._take())
        self._under_way = True
        result = self.env.reset(seed=seed, options=options)
        seeds = given["seed"] if isinstance(given["seed"], list) else [given["seed"]]
        if is_of_all:
            self._begin(given | {"step": 0}, problem or ("it was reset without a seed" if None in seeds else ""))
            if self._problem:
                warnings.warn(
                    f"RecordActions: this run is recorded but cannot be replayed: {self._problem}. Reset with a seed "
                    "to replay it.",
                    stacklevel=2,
                )
        else:
            self._resets.append(given)
            self._problem = self._problem or problem
            self._ended, self._under_way = self._ended & ~mask, False
        return result

    def step(self, actions: Any) -> Any:  # type: ignore[override]  # as Gymnasium names it
        """Step the environments, and keep what was given and what came."""
        copied = copy_value("action", actions)
        if self._under_way:
            self._problem = self._problem or "it went on after a step or a reset that raised"
        self._under_way = True
        answer = self.env.step(actions)
        _, *came, info = answer
        taken = info["acted"] if isinstance(self.unwrapped, AgentsAsEnvs) else ~(self._ended & self._voids)
        reward, terminated, truncated = (np.array(x) for x in came)
        self._actions.append(copied)
        self._rows.append((reward, terminated, truncated, np.array(taken)))
        self._ended, self._under_way = terminated | truncated, False
        return answer

    def close(self, **kwargs: Any) -> None:
        """Write the run so far, and close the environments."""
        try:
            self.directory.write_when_possible(*self._take())
        finally:
            super().close(**kwargs)

    def _take(self) -> list[VectorActionRecord]:
        """Give the run so far if it has a step, and keep none of it."""
        found = [self.record] if self._actions else []
        self._begin({"step": 0, "seed": None, "options": None}, "it began without a reset")
        return found


def _plain_seed(seed: Any) -> Any:
    """Give a seed, or one of each env, as Python's numbers."""
    if seed is None or isinstance(seed, int | np.integer):
        return None if seed is None else int(seed)
    return [_plain_seed(each) for each in seed]
