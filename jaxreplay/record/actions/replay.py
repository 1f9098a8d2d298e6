"""Playing an action record again, and comparing what comes with what was recorded."""

import dataclasses
import json
import math
import re
from typing import Any

import gymnasium
import numpy as np

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.record import ActionRecord, Environment, VectorActionRecord, end_words
from jaxreplay.record.agents import AgentsAsEnvs


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where a replay first differs from its record.

    step: counted from 0. what: "reward", "return" (the sum so far) or "end". recorded, got: numbers, or how the episode
    stood after that step. by: `got - recorded`; 0 for ends. env: which, of a vector environment.
    """

    step: int
    what: str
    recorded: Any
    got: Any
    by: float
    env: int | None = None

    def __str__(self) -> str:
        of = "" if self.env is None else f" of env {self.env}"
        if self.what == "end":
            return f"at step {self.step} the episode{of} was {self.recorded} when recorded, and is {self.got} now"
        values = f"was {self.recorded!r} when recorded, and is {self.got!r} now"
        return f"at step {self.step} the {self.what}{of} {values}, by {self.by:g}"


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


def replay_actions(
    env: Any, record: ActionRecord | VectorActionRecord, *, tolerance: float = 0.0, base: bool = False
) -> ReplayReport:
    """Play a record in an environment like the recorded one, and compare rewards, return and end step by step.

    env: made and wrapped as the one below `RecordActions` was; it is reset with the record's seed and options, and left
        after the last step played. For a record of a vector environment, one with as many envs and the same autoreset
        mode; returns are then sums over all steps and envs.
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
    if not isinstance(record, VectorActionRecord):
        require_single("replay_actions", env)
    elif not isinstance(env, gymnasium.vector.VectorEnv):
        raise TypeError(f"replay_actions: the record is of a vector environment, got {type(env).__name__}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected a number from 0 on, got {tolerance!r}")
    if base:
        if isinstance(record, VectorActionRecord) or record.base is None:
            raise ValueError(
                "replay_actions: the record has no base actions; record with RecordActions(base_actions=True)"
            )
        env, record = env.unwrapped, record.base
    if record.not_replayable:
        raise ValueError(f"replay_actions: the record cannot be replayed: {record.not_replayable}")
    check_environment(env, record.environment)
    if isinstance(record, VectorActionRecord):
        return _replay_vector(env, record, tolerance)
    env.reset(seed=record.seed, options=copy_value("options", record.options))
    recorded_sum, got_sum, difference, step = 0.0, 0.0, None, -1
    for step, (action, recorded) in enumerate(zip(record.actions, record.rewards.tolist())):
        _, reward, terminated, truncated, _ = env.step(copy_value("action", action))
        got, ended, last = float(reward), (bool(terminated), bool(truncated)), step == len(record) - 1
        recorded_sum, got_sum = recorded_sum + recorded, got_sum + got
        expected = (record.terminated, record.truncated) if last else (False, False)
        numbers = (recorded, got), (recorded_sum, got_sum)
        difference = difference or _compare(step, None, tolerance, *numbers, expected, ended)
        if any(ended):
            break
    return ReplayReport(step + 1, got_sum, record.episode_return, difference)


def _replay_vector(env: Any, record: VectorActionRecord, tolerance: float) -> ReplayReport:
    """Play a record of a vector environment to its end, or up to an end that differs, which leaves the envs apart."""
    recorded_sum, got_sum, difference, step = 0.0, 0.0, None, -1
    for step, action in enumerate(record.actions):
        for reset in (x for x in record.resets if x["step"] == step):
            env.reset(seed=copy_value("seed", reset["seed"]), options=copy_value("options", reset["options"]))
        _, reward, *flags, _ = env.step(copy_value("action", action))
        recorded, got = record.rewards[step], np.array(reward, np.float64)
        recorded_sum, got_sum = recorded_sum + recorded, got_sum + got
        expected, ended = np.stack([record.terminated[step], record.truncated[step]]), np.stack(flags)
        numbers = np.stack([recorded, got]), np.stack([recorded_sum, got_sum])
        for i in range(len(got)):
            answers = (tuple(x[:, i].tolist()) for x in (*numbers, expected, ended))
            difference = difference or _compare(step, i, tolerance, *answers)
        if not np.array_equal(expected, ended):
            break
    return ReplayReport(step + 1, float(np.sum(got_sum)), record.episode_return, difference)


def _compare(
    step: int, env: int | None, tolerance: float, rewards: Any, returns: Any, expected: Any, ended: Any
) -> Difference | None:
    """Find how a step of an env differs, by rewards and returns so far `(recorded, now)`, and how the episode stood."""
    for what, (a, b) in (("reward", rewards), ("return", returns)):
        if not (a == b or (math.isnan(a) and math.isnan(b)) or abs(b - a) <= tolerance):
            return Difference(step, what, a, b, b - a, env)
    if ended == expected:
        return None
    stood, stands = (end_words(*flags).replace("cut", "going on") for flags in (expected, ended))
    return Difference(step, "end", stood, stands, 0.0, env)


def describe_environment(env: Any) -> Environment:
    """Describe an environment in words that do not differ between processes."""
    base, more = env.unwrapped, {}
    spec = getattr(base, "spec", None)
    if isinstance(env, gymnasium.vector.VectorEnv):
        more = {"num_envs": env.num_envs, "autoreset_mode": str(env.metadata.get("autoreset_mode"))}
        spec = base.get_attr("spec")[0] if hasattr(base, "get_attr") else spec
        base = base.env if isinstance(base, AgentsAsEnvs) else base
    kind = type(getattr(base, "unwrapped", base))
    env_id, kwargs = (f"{kind.__module__}:{kind.__qualname__}", {}) if spec is None else (spec.id, spec.kwargs)
    kwargs = kwargs | more
    words = {name: _in_words(value) for name, value in kwargs.items() if name != "render_mode"}
    return Environment(env_id, words, _in_words(env.action_space), _in_words(env.observation_space))


def check_environment(env: Any, recorded: Environment) -> None:
    """Raise ValueError naming what differs, unless the environment is the recorded one, with its space of actions.

    Observations may have another form: they do not change what is replayed.
    """
    came, wrong = describe_environment(env), f"wrong environment: the record is of {recorded.env_id}"
    if came.env_id != recorded.env_id:
        raise ValueError(f"{wrong}, got {came.env_id}")
    for name in sorted(came.kwargs.keys() | recorded.kwargs.keys()):
        mine, its = recorded.kwargs.get(name, "its default"), came.kwargs.get(name, "its default")
        if mine != its:
            raise ValueError(f"{wrong} made with {name}={mine}, got one with {name}={its}")
    if came.action_space != recorded.action_space:
        raise ValueError(
            f"wrong environment: the record's action space is {recorded.action_space}, got {came.action_space}; "
            "give it the wrappers it had below RecordActions"
        )


def require_single(what: str, env: Any) -> None:
    """Raise TypeError unless `env` is a single Gymnasium environment."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise TypeError(
            f"{what}: expected a single environment, got the vector environment {type(env).__name__}; wrap each of its "
            "environments, as in gymnasium.make_vec(..., wrappers=[...])"
        )
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"{what}: expected a gymnasium.Env, got {type(env).__name__}")


def _in_words(value: Any) -> str:
    """Write a space or an argument; of what has no words of its own, its type."""
    if isinstance(value, gymnasium.Space):
        with np.printoptions(precision=8, threshold=1000, edgeitems=3, linewidth=75, suppress=False, legacy=False):
            return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return f"{type(value).__module__}.{type(value).__qualname__}"
