"""The episode being recorded: what a record is made of, gathered step by step."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.record import ActionRecord, Environment


@dataclasses.dataclass
class Episode:
    """The steps so far; the fields are those of `ActionRecord`."""

    environment: Environment
    seed: int | None
    options: dict[str, Any] | None
    not_replayable: str
    actions: list[Any] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @classmethod
    def begin(cls, environment: Environment, seed: Any, options: Any, problem: str = "") -> Episode:
        """Begin with a reset; `problem` says why the episode cannot be replayed, if that is known."""
        if seed is None:
            problem = problem or "it was reset without a seed"
        else:
            seed = operator.index(seed)
        kept = None
        if options is not None and not isinstance(options, Mapping):
            problem = problem or f"its reset options are no dict but {type(options).__name__}"
        elif options is not None:
            try:
                kept = copy_value("options", options)
            except TypeError as error:
                problem = problem or str(error)
        return cls(environment, seed, kept, problem)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def ended(self) -> bool:
        """Whether the last step ended it."""
        return self.terminated or self.truncated

    def add(self, action: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Add a step; of the action, the caller made a copy."""
        try:
            number = float(reward)
        except (TypeError, ValueError):
            number, self.not_replayable = float("nan"), "its rewards are not single numbers"
        if self.ended:
            self.not_replayable = self.not_replayable or "it went on after it had ended"
        self.actions.append(action)
        self.rewards.append(number)
        self.terminated, self.truncated = bool(terminated), bool(truncated)

    def record(self, base: ActionRecord | None = None, base_steps: np.ndarray | None = None) -> ActionRecord:
        """The episode so far."""
        return ActionRecord(
            actions=tuple(self.actions),
            rewards=np.array(self.rewards, np.float64),
            terminated=self.terminated,
            truncated=self.truncated,
            seed=self.seed,
            options=self.options,
            environment=self.environment,
            not_replayable=self.not_replayable,
            base=base,
            base_steps=base_steps,
        )
