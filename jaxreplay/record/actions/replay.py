"""Playing an action record again, and comparing what comes with what was recorded."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.environment import check_environment, require_single
from jaxreplay.record.actions.record import ActionRecord, end_words


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where a replay first differs from its record.

    step: counted from 0. what: "reward", "return" (the sum so far) or "end". recorded, got: numbers, or how the episode
    stood after that step. by: `got - recorded`; 0 for ends.
    """

    step: int
    what: str
    recorded: Any
    got: Any
    by: float

    def __str__(self) -> str:
        if self.what == "end":
            return f"at step {self.step} the episode was {self.recorded} when recorded, and is {self.got} now"
        values = f"was {self.recorded!r} when recorded, and is {self.got!r} now"
        return f"at step {self.step} the {self.what} {values}, by {self.by:g}"


@dataclasses.dataclass(frozen=True)
class ReplayReport:
    """What a replay found; true where it gave what was recorded.

    num_steps: steps played. episode_return: the sum of their rewards. recorded_return: the record's.
    difference: the first one, or None.
    """

    num_steps: int
    episode_return: float
    recorded_return: float
    difference: Difference | None

    def __bool__(self) -> bool:
        return self.difference is None

    def __str__(self) -> str:
        played = f"{self.num_steps} steps played, return {self.episode_return!r} (recorded {self.recorded_return!r})"
        return f"as recorded: {played}" if self else f"not as recorded: {self.difference}; {played}"


def replay_actions(env: Any, record: ActionRecord, *, tolerance: float = 0.0, base: bool = False) -> ReplayReport:
    """Play a record in an environment like the recorded one, and compare rewards, return and end step by step.

    env: made and wrapped as the one below `RecordActions` was; it is reset with the record's seed and options, and left
        after the last step played.
    tolerance: up to which a reward, or the return so far, may differ.
    base: play `record.base`, the actions as the base environment received them, in `env.unwrapped`.

    It plays until the environment ends the episode or the actions are used up, also behind the first difference. A cut
    record's last step must leave the episode unfinished. Rewards that carry over from earlier episodes, as those of
    `NormalizeReward`, differ.

    Raises ValueError for another environment, a record that is not replayable, or one without base actions.

    >>> import gymnasium, tempfile, jaxreplay.record as record
    >>> env = record.RecordActions(gymnasium.make("CartPole-v1"), tempfile.mkdtemp())
    >>> _ = env.reset(seed=3)
    >>> while not any(env.step(0)[2:4]):
    ...     pass
    >>> print(record.replay_actions(gymnasium.make("CartPole-v1"), env.record))
    as recorded: 9 steps played, return 9.0 (recorded 9.0)
    """
    require_single("replay_actions", env)
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number from 0 on, got {tolerance!r}")
    if base:
        if record.base is None:
            raise ValueError(
                "replay_actions: the record has no base actions; record with RecordActions(base_actions=True)"
            )
        env, record = env.unwrapped, record.base
    if record.not_replayable:
        raise ValueError(f"replay_actions: the record cannot be replayed: {record.not_replayable}")
    check_environment(env, record.environment)
    env.reset(seed=record.seed, options=copy_value("options", record.options))
    recorded_sum, got_sum, difference, step = 0.0, 0.0, None, -1
    for step, (action, recorded) in enumerate(zip(record.actions, record.rewards.tolist())):
        _, reward, terminated, truncated, _ = env.step(copy_value("action", action))
        got, ended, last = float(reward), (bool(terminated), bool(truncated)), step == len(record) - 1
        recorded_sum, got_sum = recorded_sum + recorded, got_sum + got
        expected = (record.terminated, record.truncated) if last else (False, False)
        if difference is None and not _is_near(recorded, got, tolerance):
            difference = Difference(step, "reward", recorded, got, got - recorded)
        if difference is None and not _is_near(recorded_sum, got_sum, tolerance):
            difference = Difference(step, "return", recorded_sum, got_sum, got_sum - recorded_sum)
        if difference is None and ended != expected:
            stood, stands = (end_words(*flags).replace("cut", "going on") for flags in (expected, ended))
            difference = Difference(step, "end", stood, stands, 0.0)
        if any(ended):
            break
    return ReplayReport(step + 1, got_sum, record.episode_return, difference)


def _is_near(a: float, b: float, tolerance: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(b - a) <= tolerance
