"""The actions of one episode, gathered step by step, and what can be made of them: a shorter record, and a policy."""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from jaxreplay._core.trees import check_count, describe
from jaxreplay.datasets.files.values import copy_value


@dataclasses.dataclass(frozen=True)
class Environment:
    """Which environment a record is of, in words: what a replay compares.

    env_id: `spec.id`, or the class where there is no spec. kwargs: what it was made with, as text.
    """

    env_id: str
    kwargs: dict[str, str]
    action_space: str
    observation_space: str


@dataclasses.dataclass(frozen=True, eq=False)
class ActionRecord:
    """The actions of an episode of T steps, and what it takes to play it again.

    actions: T of them, each as the agent gave it; `np.stack(record.actions)` gives `[T, ...]` where they are arrays.
    rewards: `[T]` float64. terminated, truncated: how it ended; neither where it was cut by a reset or `close`.
    seed, options: what the environment was reset with.
    not_replayable: why it cannot be played again; empty where it can.
    base: the same episode as the base environment saw it, below all wrappers, if that was asked for; itself a record.
    base_steps: `[T + 1]` int64, how many steps the base environment took in the reset and in each step.
    """

    actions: tuple[Any, ...]
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    seed: int | None
    options: dict[str, Any] | None
    environment: Environment
    not_replayable: str = ""
    base: Self | None = None
    base_steps: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.actions)
        if self.rewards.shape != (count,) or self.rewards.dtype != np.float64:
            raise ValueError(f"rewards: expected float64[{count}], got {self.rewards.dtype}{list(self.rewards.shape)}")
        if (self.base is None) != (self.base_steps is None):
            raise ValueError("base and base_steps go together")
        base, steps = self.base, self.base_steps
        if base is None or steps is None:
            return
        if steps.shape != (count + 1,) or (steps < 0).any() or int(steps.sum()) != len(base):
            raise ValueError("base_steps: they do not add up to the steps of base")

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        return (
            f"ActionRecord({self.environment.env_id}, seed={self.seed}, {len(self)} steps, "
            f"return {self.episode_return:g}, {self.end})"
        )

    @property
    def env_id(self) -> str:
        """The environment's id."""
        return self.environment.env_id

    @property
    def base_actions(self) -> tuple[Any, ...] | None:
        """The actions as the base environment received them, or None where they were not recorded."""
        return None if self.base is None else self.base.actions

    @property
    def episode_return(self) -> float:
        """The sum of the rewards, in their order."""
        return float(sum(self.rewards.tolist()))

    @property
    def replayable(self) -> bool:
        """Whether `replay_actions` can play it again."""
        return not self.not_replayable

    @property
    def end(self) -> str:
        """How it ended: "terminated", "truncated", "terminated and truncated" or "cut"."""
        return end_words(self.terminated, self.truncated)

    def clip(self, max_steps: int) -> Self:
        """Give its first `max_steps` steps, marked as cut; the record itself if it is no longer than that.

        Raises ValueError or TypeError unless `max_steps` is a whole number from 1 on.
        """
        return self.first_steps(check_count("max_steps", max_steps))

    def first_steps(self, count: int) -> Self:
        """Do as `clip`, also for no step at all."""
        if len(self) <= count:
            return self
        base, base_steps = self.base, self.base_steps
        if base is not None and base_steps is not None:
            base_steps = base_steps[: count + 1]
            base = base.first_steps(int(base_steps.sum()))
        shorter = {"actions": self.actions[:count], "rewards": self.rewards[:count], "base_steps": base_steps}
        return dataclasses.replace(self, terminated=False, truncated=False, base=base, **shorter)

    def as_policy(self) -> Callable[..., Any]:
        """Make a policy `policy(observation, key=None)` that gives the recorded actions one after the other.

        It looks at nothing but its own count, so it is good for one episode. Raises ValueError after the last action.
        """
        remaining = iter(self.actions)

        def policy(observation: Any, key: Any = None) -> Any:
            for action in remaining:
                return copy_value("action", action)
            raise ValueError(
                f"as_policy: the record has {len(self)} actions, and all were given ({self.end}); make another "
                "policy for another episode"
            )

        return policy


@dataclasses.dataclass(frozen=True, eq=False)
class VectorActionRecord:
    """The actions of the E envs, or agents, of a vector environment, in T steps from a reset of all.

    actions: T of them, batched, each as the agent gave it.
    rewards: `[T, E]` float64. terminated, truncated: `[T, E]` bool. All as they came.
    taken: `[T, E]` bool, whether an env took the step: not one that was reset by it, nor an absent agent.
    resets: the reset of all that it begins with, and those of single envs in between: `{"step", "seed", "options"}`
        each, the number of steps before it, and what it was given, `reset_mask` among the options.
    not_replayable: why it cannot be played again; empty where it can.
    """

    actions: tuple[Any, ...]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    taken: np.ndarray
    resets: tuple[dict[str, Any], ...]
    environment: Environment
    not_replayable: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.actions), *self.rewards.shape[1:2])
        for name, dtype in (("rewards", np.float64), ("terminated", bool), ("truncated", bool), ("taken", bool)):
            came = getattr(self, name)
            if came.shape != shape or came.dtype != dtype or len(shape) != 2:
                expected = f"{np.dtype(dtype)}[{shape[0]},E]"
                raise ValueError(f"{name}: expected {expected}, got {describe(came.shape, came.dtype)}")

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        seed, (_, num_envs) = self.resets[0]["seed"] if self.resets else None, self.rewards.shape
        episodes = int(np.count_nonzero(self.terminated | self.truncated))
        return (
            f"VectorActionRecord({self.environment.env_id}, {num_envs} envs, seed={seed}, {len(self)} steps, "
            f"{episodes} episodes ended)"
        )

    @property
    def env_id(self) -> str:
        """The environment's id."""
        return self.environment.env_id

    @property
    def episode_return(self) -> float:
        """The sum of the rewards of all envs, each env's in their order."""
        return float(np.sum(sum(self.rewards, np.zeros(self.rewards.shape[1]))))

    @property
    def replayable(self) -> bool:
        """Whether `replay_actions` can play it again."""
        return not self.not_replayable

    def clip(self, max_steps: int) -> Self:
        """Give its first `max_steps` steps; raises ValueError or TypeError unless that is a whole number from 1 on."""
        count = check_count("max_steps", max_steps)
        arrays = {name: getattr(self, name)[:count] for name in ("actions", "rewards", *FLAGS)}
        return dataclasses.replace(self, **arrays, resets=tuple(x for x in self.resets if x["step"] < count))


FLAGS = ("terminated", "truncated", "taken")


def end_words(terminated: bool, truncated: bool) -> str:
    """Say how an episode ended."""
    return " and ".join(["terminated"] * terminated + ["truncated"] * truncated) or "cut"


@dataclasses.dataclass
class Episode:
    """The steps of an episode that is being recorded; the fields are those of `ActionRecord`.

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
        problem, options, self.options = "", self.options, None
        try:
            if options is not None and not isinstance(options, Mapping):
                raise TypeError(f"its reset options are no dict but {type(options).__name__}")
            self.options = copy_value("options", options)
        except TypeError as error:
            problem = str(error)
        if self.seed is None:
            problem = "it was reset without a seed"
        else:
            self.seed = operator.index(self.seed)
        self.not_replayable = self.not_replayable or problem

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated

    def add(self, action: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Add a step, and a copy of its action that the caller made."""
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
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"actions": tuple(self.actions), "rewards": np.array(self.rewards, np.float64)}
        return ActionRecord(**fields, base=base, base_steps=base_steps)
