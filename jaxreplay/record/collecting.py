"""Running a policy in a Gymnasium environment while every step is recorded."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from jaxreplay._core import trees
from jaxreplay._core.clock import Clock
from jaxreplay._episodes import episodes
from jaxreplay.datasets.workers import progress_bar
from jaxreplay.processes import own_part
from jaxreplay.record.transitions.wrapper import RecordTransitions, autoreset_of
from jaxreplay.state import Buffer
from jaxreplay.storage.writer import Writer
from jaxreplay.views import View, init_frames, push_frames

Policy = Callable[[Any, jax.Array], Any]
"""Gives the action for an observation, batched for a vector environment, and a key of its own each time."""

KEYS_AT_ONCE = 32


def collect(
    env: Any,
    policy: Policy,
    buffer: Any = None,
    *,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    key: jax.Array | int = 0,
    seed: int | None = None,
    progress: bool = True,
    leave_out: Sequence[str] = (),
    frames: View | None = None,
) -> Any:
    """Reset an environment, run a policy in it, and return the buffer with every step.

    env: `gymnasium.Env` or `VectorEnv`, in any autoreset mode.
    policy: `policy(observation, key) -> action`, on what `env` gives and takes; batched, `[E, ...]`, for a vector
        environment. Of a Flax network: `functools.partial(act, params)`, with `act` jitted and ending in the action.
    buffer: see `RecordTransitions`; it stays as it is, so one copy is made. Or a `storage.Writer`, to record to disk;
        then that is returned. None where `env` is a `RecordTransitions`,
        or wraps one: then it is recorded there, in place, and wrappers above it are seen by the policy alone.
    num_steps: stop when so many steps were recorded, over all envs; num_episodes: when so many ended. Exactly one of
        them. All envs are stepped together, so a vector environment may go beyond either by less than `num_envs`. The
        first episodes to end are the short ones, and no fair sample: see `collect_episodes`.
    key: of the policy's randomness. seed: of the environment's first reset.
    progress: show a bar, which needs tqdm. leave_out: see `RecordTransitions`; it goes with `buffer`.
    frames: `views.frame_stack(n)`: the policy sees stacks of what is recorded, NumPy arrays `[E, n, ...]`, as this view
        reads them of the single frames that are stored. They do not pass through wrappers above the recorder.

    When anything raises, or is interrupted, what was recorded is in the exception's attribute `buffer`.

    >>> import gymnasium, jaxreplay as replay
    >>> from jaxreplay import record
    >>> env = gymnasium.make("CartPole-v1")
    >>> buffer = replay.create(replay.example_transition(env), 1000)
    >>> to_the_left = lambda observation, key: 0
    >>> buffer = record.collect(env, to_the_left, buffer, num_episodes=3, seed=0, progress=False)
    >>> replay.num_episodes(buffer).item()
    3
    """
    if (num_steps is None) == (num_episodes is None):
        raise ValueError(f"give one of num_steps and num_episodes, got {num_steps} and {num_episodes}")
    name, goal = ("num_steps", num_steps) if num_episodes is None else ("num_episodes", num_episodes)
    goal = trees.check_count(name, goal)
    env, recording = _find_recorder(env, buffer, leave_out)
    del buffer
    count = lambda: getattr(recording._recorder.standing, name)  # noqa: E731
    with _kept(recording), progress_bar(goal, name.removeprefix("num_").removesuffix("s"), progress) as advance:
        steps = _play(env, policy, recording, key, seed, frames)
        next(steps)
        first = before = count()
        while before < first + goal:
            next(steps)
            advance(count() - before)
            before = count()
    return recording.buffer


@dataclasses.dataclass(frozen=True)
class CollectReport:
    """What `collect_episodes` did.

    episodes, steps: recorded. by_env: the episodes of each env. left_out: steps that envs took without being recorded,
        while the last episodes of others went on. whole: the episodes that the buffer still holds from their first
        step; fewer than `episodes` where it was too small, and then no fair sample.
    """

    episodes: int
    steps: int
    by_env: tuple[int, ...]
    left_out: int
    whole: int

    def __str__(self) -> str:
        lost = self.episodes - self.whole
        hint = f"; {lost} were overwritten in whole or in part, so give the buffer more capacity" if lost else ""
        return (
            f"{self.episodes} whole episodes, {self.steps} steps, by env {list(self.by_env)}; "
            f"{self.left_out} steps of envs that had finished were left out{hint}"
        )


def collect_episodes(
    env: Any,
    policy: Policy,
    buffer: Any = None,
    *,
    num_episodes: int,
    key: jax.Array | int = 0,
    seed: int | None = None,
    progress: bool = True,
    leave_out: Sequence[str] = (),
    frames: View | None = None,
) -> tuple[Any, CollectReport]:
    """Record whole episodes, as many as asked for, so that short ones are not over-represented; return a report too.

    The first `num_episodes` episodes to begin are recorded, each to its end, and nothing else: an env whose episode
    ends after so many began is stepped on, but not recorded (its rows are void). Whether an episode is recorded does
    not depend on its own length, so the expected average over those recorded, of their lengths or of anything else, is
    that of the environment, whatever `num_envs`.

    The arguments are those of `collect`. The buffer should have room for the longest env's steps in each env, void rows
    included; the report says whether all are held. A recorder given as `env` must be reset before it is stepped again.

    >>> import gymnasium, jaxreplay as replay
    >>> from jaxreplay import record
    >>> env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    >>> buffer = replay.create(replay.example_transition(env), 1000, num_envs=2)
    >>> left = lambda observation, key: np.zeros(2, int)
    >>> buffer, report = record.collect_episodes(env, left, buffer, num_episodes=3, seed=0, progress=False)
    >>> print(report)
    3 whole episodes, 30 steps, by env [1, 2]; 9 steps of envs that had finished were left out
    """
    goal = trees.check_count("num_episodes", num_episodes)
    env, recording = _find_recorder(env, buffer, leave_out)
    del buffer
    recorder, left_out = recording._recorder, 0
    by_env = np.zeros(recorder.every.size, np.int64)
    with _kept(recording), progress_bar(goal, "episode", progress) as advance:
        steps = _play(env, policy, recording, key, seed, frames)
        next(steps)
        start, kept = recorder.standing, recording.buffer
        if isinstance(kept, Writer) and kept.max_steps is not None:
            raise ValueError("buffer: a writer with max_steps may drop episodes of the sample; give one without")
        began: Any = None if isinstance(kept, Writer) else _clock_of_envs(own_part(kept)).time
        del kept
        begun, counted = min(goal, by_env.size), np.arange(by_env.size) < goal
        recorder.record_only(counted.reshape(recorder.lead))
        try:
            while counted.any():
                left_out += int(np.count_nonzero(~counted))
                next(steps)
                for i in np.flatnonzero(recorder.standing.ended).tolist():
                    by_env[i] += 1
                    counted[i], begun = begun < goal, min(begun + 1, goal)
                    advance(1)
                recorder.record_only(counted.reshape(recorder.lead))
        finally:
            recorder.record_only(None)
    buffer, done = recording.buffer, recorder.standing
    num_steps = done.num_steps - start.num_steps
    if isinstance(buffer, Writer):
        return buffer, CollectReport(goal, num_steps, tuple(by_env.tolist()), left_out, goal)
    part = own_part(buffer)
    found, clock = jax.device_get(episodes(part)), _clock_of_envs(part)
    age = clock.time - found.start  # times may overflow; distances do not
    whole = found.mask & found.ended & (age <= clock.held) & (age <= clock.time - began)
    return buffer, CollectReport(goal, num_steps, tuple(by_env.tolist()), left_out, int(whole.sum()))


def _clock_of_envs(buffer: Buffer) -> Clock:
    """Read the clock of each env, `[E]`; `[1]` where all have one."""
    clock = jax.tree.map(np.atleast_1d, jax.device_get(buffer.rings.clock))
    each = 1 if buffer.stack is None else buffer.stack.num_envs
    return jax.tree.map(lambda x: np.repeat(x, each), clock)


def _find_recorder(env: Any, buffer: Any, leave_out: Sequence[str]) -> tuple[Any, RecordTransitions]:
    """Give the environment, wrapped to record into the buffer if there is one, and the recorder in it."""
    if buffer is None and leave_out:
        raise ValueError("leave_out: it goes with buffer; give it to the RecordTransitions that is there")
    env = recording = env if buffer is None else RecordTransitions(env, buffer, leave_out=leave_out)
    while not isinstance(recording, RecordTransitions):
        if not isinstance(recording, gymnasium.Wrapper | gymnasium.vector.VectorWrapper):
            raise ValueError(f"buffer: expected one to record into, as {env} is no RecordTransitions, nor wraps one")
        recording = recording.env
    return env, recording


def _play(
    env: Any, policy: Policy, recording: RecordTransitions, key: jax.Array | int, seed: int | None, frames: View | None
) -> Iterator[None]:
    """Reset an environment, and step it without end; yield after the reset, and after each step."""
    recorder, many, mode, keys = recording._recorder, isinstance(env, VectorEnv), autoreset_of(env), make_keys(key)
    to_numpy = lambda x: np.asarray(x)[()] if isinstance(x, jax.Array) else x  # noqa: E731
    example = recorder.staging.layout.one_step().observation
    stacks = None if frames is None else init_frames(frames, example, recorder.lead[0] if recorder.lead else None)
    observation, _ = env.reset(seed=seed)
    yield
    while True:
        if stacks is not None:
            stacks = push_frames(stacks, *recorder.show())
            observation = stacks.stacked
        action = jax.tree.map(to_numpy, policy(observation, next(keys)))
        observation, _, terminated, truncated, _ = env.step(action)
        yield
        if mode == "Disabled" and np.any(ended := np.logical_or(terminated, truncated)):
            observation, _ = env.reset(options={"reset_mask": ended}) if many else env.reset()


@contextlib.contextmanager
def _kept(recording: RecordTransitions) -> Iterator[None]:
    """Put what was recorded into whatever is raised."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):
            error.buffer = recording.buffer  # type: ignore[attr-defined]
            error.add_note("what was recorded before is in the attribute `buffer` of this exception")
        raise


def make_keys(key: jax.Array | int) -> Iterator[jax.Array]:
    """Give keys without end, many split at once, because a split outside jit costs more than a step."""
    if isinstance(key, int | np.integer):
        key = jax.random.key(key)
    trees.check_key(key)
    while True:
        key, *found = _split(key)
        yield from found


_split = jax.jit(lambda key: tuple(jax.random.split(key, KEYS_AT_ONCE + 1)))
