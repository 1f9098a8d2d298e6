"""A Gymnasium wrapper, for single and vector environments, that records every step into a buffer."""

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from jaxreplay._core import trees
from jaxreplay.buffer import Buffer
from jaxreplay.record.agents import AgentsAsEnvs
from jaxreplay.record.transitions.recorder import Recorder
from jaxreplay.spaces import check_paths, example_transition
from jaxreplay.storage.writer import Writer


class RecordTransitions:
    """Record every step of an environment, `gymnasium.Env` or `gymnasium.vector.VectorEnv`, as the transition it was.

    env: single or vector, in any autoreset mode, or agents as envs (`AgentsAsEnvs`); what is returned is a
        `gymnasium.Wrapper` or `VectorWrapper`, which stacks with others and changes nothing that passes through. What
        the wrappers below it give is recorded.
    buffer: from `replay.create(replay.example_transition(env, extras), capacity, num_envs)`, with the environment's
        number of envs (None or 1 for a single one). It may hold steps already.
        Its extras, by name, are the fields of each step's `info` that are recorded. If it was created with an
        `episode_data` dict, of its leaves `seed` (-1 without one), `options` (those named there, zeros if not given),
        `return` and `length` are recorded for each episode, an open one's so far; other leaves are left to you.
        Or a `storage.Writer` that has an example of a step and the number of envs: then steps are recorded to disk.
    block: slices staged on the host before one write; by default at most 256, and 8 MiB.
    on_full: "overwrite" the oldest steps, or "raise" `BufferFull` instead of stepping.
    leave_out: entries of a Dict observation that are not recorded, by path, as they were left out of the buffer:
        `replay.example_transition(env, leave_out=("mission",))`. Any other entry that the buffer lacks raises.
    on_cut: "truncate" an episode that a reset cuts short, or "raise" RuntimeError instead of resetting, which names the
        envs in mid-episode. After a step or a reset that raised, a reset is let pass.

    The transition at an episode's end has the true final observation: in NEXT_STEP mode the step that resets is a void
    row, in SAME_STEP mode the final observation is taken from `info`, in DISABLED mode `reset(options={"reset_mask":
    mask})` begins episodes in the marked envs alone. A reset in the middle of an episode makes its last step truncated;
    no row is added. Values are copied at once; only in SAME_STEP mode an environment that hands out the same array at
    every step has overwritten its final observation by then: where that can be seen it raises. Floats are rounded to
    the buffer's dtype; other values that it cannot hold exactly raise.

    When a step or a reset raises (or is interrupted), what was finished is recorded, and the environment must be reset
    before it is stepped again. The recorder is not part of `spec`: `gymnasium.make(env.spec)` does not record.
    When rows are lost, because short episodes' records were overwritten (`max_episodes` of `create`), reading `.buffer`
    warns, once. It cannot be pickled: wrap the vector environment, here, and not the environments in its workers, each
    of which would record into a buffer of its own that this process never sees.
    Raises ValueError or TypeError for a buffer that does not fit the environment.

    >>> import gymnasium, jaxreplay as replay
    >>> from jaxreplay import record
    >>> env = gymnasium.make("CartPole-v1")
    >>> env = record.RecordTransitions(env, replay.create(replay.example_transition(env), 1000))
    >>> observation, info = env.reset(seed=0)
    >>> _ = env.step(0), env.step(1)
    >>> replay.size(env.buffer).item()
    2
    """

    env: Any

    def __new__(cls, env: Any = None, *args: Any, **kwargs: Any) -> "RecordTransitions":
        if cls is RecordTransitions:
            cls = RecordVectorTransitions if isinstance(env, VectorEnv) else RecordEnvTransitions
        return object.__new__(cls)

    def __init__(
        self,
        env: Any,
        buffer: Buffer | Writer,
        *,
        block: int | None = None,
        on_full: str = "overwrite",
        leave_out: Sequence[str] = (),
        on_cut: str = "truncate",
    ) -> None:
        super().__init__(env)  # type: ignore[call-arg]  # the wrapper's
        num_envs = env.num_envs if isinstance(env, VectorEnv) else None
        leave_out, agents = check_paths(leave_out), isinstance(env.unwrapped, AgentsAsEnvs)
        self._recorder = Recorder(buffer, num_envs, autoreset_of(env), block, on_full, leave_out, on_cut, agents)
        _check_spaces(env, self._recorder, leave_out)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RecordTransitions":
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "RecordTransitions cannot be pickled: in another process it would record into a buffer that this one never "
            "sees. Send the environment below it (`env.env`), and record here, around the vector environment: "
            "RecordTransitions(AsyncVectorEnv(...), buffer)"
        )

    @property
    def buffer(self) -> Any:
        """The buffer with every step so far, whenever it is read.

        It stays as it is while you hold it: the next write then copies the rings once. A loop that reads it at each
        step should not keep it: `replay.sample(env.buffer, key, 256)` copies nothing.
        Set it to go on with a changed one, as after `set_priorities` or an update that donates it. Steps since it was
        read go into what is set while they are still staged; once written into the old one they would be lost, and
        setting raises ValueError. So read it after the last step.
        """
        return self._recorder.read()

    @buffer.setter
    def buffer(self, buffer: Any) -> None:
        self._recorder.adopt(buffer)

    def step(self, action: Any) -> Any:
        """Step the environment and record it."""
        self._recorder.begin_step(action)
        answer = self.env.step(action)
        if self._recorder.autoreset == "SameStep" and "final_obs" in answer[4]:
            _check_finals(self.env.unwrapped, answer[4]["final_obs"])
        self._recorder.end_step(*answer)
        return answer

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment; episodes that this cuts short are recorded as truncated."""
        begun = self._recorder.begin_reset(seed, options)
        observation, info = self.env.reset(seed=seed, options=options)
        self._recorder.end_reset(begun, observation)
        return observation, info


class RecordEnvTransitions(RecordTransitions, gymnasium.Wrapper):
    """`RecordTransitions` of a single environment."""

    @property
    def spec(self) -> Any:
        """The environment's: the recorder is no part of it."""
        return self.env.spec


class RecordVectorTransitions(RecordTransitions, gymnasium.vector.VectorWrapper):
    """`RecordTransitions` of a vector environment."""

    def step(self, actions: Any) -> Any:  # type: ignore[override]  # as Gymnasium names it
        """Step the environments and record it."""
        return super().step(actions)


def autoreset_of(env: Any) -> str:
    """Tell when the env resets itself, as a value of `AutoresetMode`."""
    if not isinstance(env, VectorEnv):
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, gymnasium.wrappers.Autoreset):
                return AutoresetMode.NEXT_STEP.value
            env = env.env
        return AutoresetMode.DISABLED.value
    mode = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode).value
    except ValueError:
        raise ValueError(
            f"metadata['autoreset_mode'] of {env} is {mode!r}; set it to the gymnasium.vector.AutoresetMode that the "
            "environment follows: without it, the final observations cannot be told"
        ) from None


def _check_finals(vector: Any, finals: Any) -> None:
    """Raise where a final observation lies in an array of `SyncVectorEnv` that the reset wrote to just after."""
    for env, (final, now) in enumerate(zip(finals, getattr(vector, "_env_obs", ()), strict=False)):
        pairs = [] if final is None else zip(jax.tree.leaves(final), jax.tree.leaves(now), strict=False)
        if any(isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b) for a, b in pairs):
            raise ValueError(
                f"env {env} hands out the same array at every step, so in SAME_STEP mode its reset overwrote the final "
                "observation before it could be recorded; wrap it so that it copies, or use another autoreset mode"
            )


def _check_spaces(env: Any, recorder: Recorder, leave_out: Sequence[str]) -> None:
    """Raise ValueError unless the buffer's steps have the structure and the shapes of the environment's spaces."""
    example = example_transition(env, leave_out=leave_out)
    for name, columns in (("observation", recorder.staging.observation), ("action", recorder.staging.action)):
        wanted = {
            f"{name}.{path}" if path != "the item" else name: x.shape for path, x in trees.paths(getattr(example, name))
        }
        given = {column.path: column.shape[len(recorder.lead) :] for column in columns}
        if wanted != given:
            missing = tuple(path.removeprefix(f"{name}.") for path in wanted if path not in given)
            left = name == "observation" and missing and given.items() <= wanted.items()
            raise ValueError(
                f"buffer: its {name} does not fit the environment's space: expected shapes {wanted}, got {given}; "
                "create it with replay.create(replay.example_transition(env), ...)"
                + (f", or leave out what it lacks, here as well: leave_out={missing}" if left else "")
            )
