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
    """The steps so far; the fields are those of `ActionRecord`.

    seed, options: of the reset that it begins with. not_replayable: why it cannot be replayed, if that is known.
    """

    environment: Environment
    seed: Any = None
    options: Any = None
    not_replayable: str = ""
    actions: list[Any] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    def __post_init__(self) -> None:
        if self.seed is None:
            self.not_replayable = self.not_replayable or "it was reset without a seed"
        else:
            self.seed = operator.index(self.seed)
        options, self.options = self.options, None
        if options is not None and not isinstance(options, Mapping):
            self.not_replayable = self.not_replayable or f"its reset options are no dict but {type(options).__name__}"
        elif options is not None:
            try:
                self.options = copy_value("options", options)
            except TypeError as error:
                self.not_replayable = self.not_replayable or str(error)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def ended(self) -> bool:
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
        """Make the record of the episode so far."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"actions": tuple(self.actions), "rewards": np.array(self.rewards, np.float64)}
        return ActionRecord(**fields, base=base, base_steps=base_steps)
