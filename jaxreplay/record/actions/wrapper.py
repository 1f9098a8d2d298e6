"""A wrapper that keeps what it takes to play episodes again: seeds, reset options and actions."""

import copy
import os
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

from jaxreplay.datasets.files.values import copy_value
from jaxreplay.record.actions.files import ActionDirectory
from jaxreplay.record.actions.record import ActionRecord, Episode
from jaxreplay.record.actions.replay import check_environment, describe_environment, require_single
from jaxreplay.record.actions.vector import RecordVectorActions


class BaseSpy(gymnasium.Wrapper):
    """Notes what reaches the environment it wraps: `episode`, since the last reset that came while not `stepping`."""

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
        self.episode, self.stepping = Episode(self._environment, not_replayable=problem), False


def insert_spy(outer: Any) -> BaseSpy:
    """Put a spy between the base environment and the innermost wrapper of a stack, and return it."""
    innermost = outer
    while isinstance(innermost.env, gymnasium.Wrapper):
        innermost = innermost.env
    spy = BaseSpy(innermost.env)
    innermost.env = spy
    if innermost.env is not spy:
        raise TypeError(f"base_actions: {type(innermost).__name__} does not let its environment be replaced")
    return spy


class RecordActions(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Write an `ActionRecord` of each episode into a directory, one file an episode.

    Of a vector environment, in any autoreset mode, or of agents as envs, a `VectorActionRecord` is written of each run,
    from a reset of all envs to the next or to `close`, as one file; it holds the resets of single envs in between.

    directory: made if need be; records already there stay, and numbering continues behind them. Several processes may
        write into one. base_actions: also keep the actions as the base environment receives them, below all wrappers.

    A record is written when its episode ends, or is cut by a reset or `close` in its middle; an episode without a step
    leaves none. Only an episode that was reset with a seed can be replayed: the others are recorded all the same and
    marked, with one warning, and so are those whose reset options are more than numbers, strings, arrays, and dicts and
    lists of them, and those that began without a reset, as around `Autoreset`.

    Raises TypeError for what is no environment, and for an action that is no plain data; OSError where the directory
    cannot be written. A record that could not be written (a full disk) is kept in memory, and tried again at the next
    end, reset or `close`.

    >>> import gymnasium, tempfile, jaxreplay.record as record
    >>> directory = tempfile.mkdtemp()
    >>> env = record.RecordActions(gymnasium.make("CartPole-v1"), directory)
    >>> _ = env.reset(seed=3)
    >>> while not any(env.step(1)[2:4]):
    ...     pass
    >>> env.close()
    >>> record.load_actions(directory)
    [ActionRecord(CartPole-v1, seed=3, 10 steps, return 10, terminated)]
    """

    def __new__(cls, env: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(env, gymnasium.vector.VectorEnv):
            return RecordVectorActions(env, *args, **kwargs)
        return super().__new__(cls)

    def __init__(self, env: Any, directory: str | os.PathLike[str], *, base_actions: bool = False):
        require_single("RecordActions", env)
        gymnasium.utils.RecordConstructorArgs.__init__(self, directory=directory, base_actions=base_actions)
        gymnasium.Wrapper.__init__(self, env)
        self.directory = ActionDirectory(directory)
        self.base_actions = base_actions
        self._environment = describe_environment(env)
        self._spy: BaseSpy | None = insert_spy(self) if base_actions else None
        self._episode: Episode | None = None
        self._base_lengths: list[int] = []  # of the base environment's episode, after the reset and each step
        self._is_finished = False
        self._has_warned = False

    @property
    def record(self) -> ActionRecord | None:
        """The running episode so far, or the last one if none runs; None before the first reset."""
        if self._episode is None:
            return None
        if self._spy is None:
            return self._episode.record()
        base = self._spy.episode.record().first_steps(self._base_lengths[-1])
        return self._episode.record(base, np.diff(np.array(self._base_lengths, np.int64), prepend=0))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment; an episode that was running is written as cut."""
        self._finish()
        if self.base_actions and self._spy is None:  # closed, and used again
            self._spy = insert_spy(self)
        begun = Episode(self._environment, seed, options)
        self._episode = None  # until the reset has worked
        if self._spy is not None:
            self._spy.stepping = False
        result = self.env.reset(seed=seed, options=options)
        self._begin(begun)
        return result

    def step(self, action: Any) -> Any:
        """Step the environment, and write the episode's record if it ends."""
        copied = copy_value("action", action)
        if self._episode is None or self._is_finished:
            problem = "it began without a reset"
            if self._spy is not None:
                self._spy.restart(problem)
            self._begin(Episode(self._environment, not_replayable=problem))
        if self._spy is not None:
            self._spy.stepping = True
        result = self.env.step(action)
        assert self._episode is not None
        self._episode.add(copied, *result[1:4])
        if self._spy is not None:
            self._base_lengths.append(len(self._spy.episode.actions))
        if self._episode.ended:
            self._finish()
        return result

    def close(self) -> None:
        """Write the running episode as cut, and close the environment."""
        try:
            self._finish()
        finally:
            wrapper: Any = self
            while self._spy is not None and isinstance(wrapper, gymnasium.Wrapper):
                if wrapper.env is self._spy:
                    wrapper.env = self._spy.env
                wrapper = wrapper.env
            self._spy = None
            super().close()

    def clone_from(self, other: "RecordActions") -> None:
        """Go on from where `other` is: copy its environment, by `copy.deepcopy`, and its record.

        Both then go on independently. Wrappers around `other` are not copied; an episode that was running here is
        written as cut. Raises ValueError where `other` is of another environment, and TypeError where the environment
        cannot be copied with its state.
        """
        if not isinstance(other, RecordActions):
            raise TypeError(f"clone_from: expected a RecordActions environment, got {type(other).__name__}")
        if other is self:
            return
        if self.base_actions != other.base_actions:
            raise ValueError("clone_from: both must be made with the same base_actions")
        check_environment(other.env, self._environment)
        state = (other._spy, other._episode, other._base_lengths, other._is_finished)
        env, *state = copy_with_state(other.env, *state)
        self._finish()
        replaced, self.env = self.env, env
        self._spy, self._episode, self._base_lengths, self._is_finished = state
        replaced.close()

    def _begin(self, episode: Episode) -> None:
        self._episode, self._is_finished = episode, False
        self._base_lengths = [] if self._spy is None else [len(self._spy.episode.actions)]
        if episode.not_replayable and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"RecordActions: this episode is recorded but cannot be replayed: {episode.not_replayable}. "
                "Reset with a seed to replay it. (Said once; each record says so itself.)",
                stacklevel=3,
            )

    def _finish(self) -> None:
        """Write the record of an episode that has steps and was not yet written, and those that failed before."""
        has_new = self._episode is not None and not self._is_finished and self._episode.actions
        self._is_finished = True
        self.directory.write_when_possible(*([self.record] if has_new and self.record is not None else []))


def copy_with_state(env: Any, *more: Any) -> tuple[Any, ...]:
    """Copy an environment and what goes with it by `copy.deepcopy`, or raise TypeError naming the class that cannot.

    `gymnasium.utils.EzPickle` copies an environment by its constructor's arguments, which would lose its state unsaid.
    """
    name, layers = type(env.unwrapped).__name__, [env]
    while layers[-1] is not env.unwrapped and hasattr(layers[-1], "env"):
        layers.append(layers[-1].env)
    for layer in layers:
        kind: Any = type(layer)
        by_arguments = isinstance(layer, EzPickle) and kind.__setstate__ is EzPickle.__setstate__
        if by_arguments and not hasattr(kind, "__deepcopy__"):
            raise TypeError(
                f"{kind.__name__} cannot be copied with its state: it copies itself by its constructor's arguments "
                "alone (gymnasium.utils.EzPickle); replay its record in another environment instead"
            )
    try:
        copied = copy.deepcopy((env, *more))
    except Exception as error:  # whatever a member of the environment raises
        raise TypeError(f"{name} cannot be copied with its state: {error}") from error
    generators = [vars(base.unwrapped).get("_np_random") for base in (env, copied[0])]
    before, after = [repr(found and found.bit_generator.state) for found in generators]
    if before != after:
        raise TypeError(f"{name} cannot be copied with its state: the copy's randomness differs")
    return copied
