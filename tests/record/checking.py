"""Drives a recorded environment, and compares the buffer with the plain record that the environments kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode

import jaxreplay as replay
from tests.record.counting import Step, numbers_of, plain

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
EXTRAS = {"total": np.int32(0), "deep": {"half": np.float32(0)}}


def buffer_for(env: Any, slots: int = 40, extras: Any = None, **options: Any) -> replay.Buffer:
    num_envs = env.num_envs if isinstance(env, gymnasium.vector.VectorEnv) else None
    capacity = slots * (num_envs or 1)
    example = replay.example_transition(env, extras)
    return replay.create(example, capacity, num_envs, max_episodes=capacity, **options)


@dataclasses.dataclass
class Drive:
    """What was done: for each slice and env, whether it took a step; and the number of calls to reset."""

    stepped: list[list[bool]] = dataclasses.field(default_factory=list)
    held: list[tuple[replay.Buffer, int]] = dataclasses.field(default_factory=list)


def drive(env: Any, mode: AutoresetMode, steps: int, seed: int = 0, resets: float = 0.03, reads: float = 0.05) -> Drive:
    """Step a recorded env with random actions; now and then reset some or all in mid-episode, and read the buffer."""
    many = isinstance(env, gymnasium.vector.VectorEnv)
    num_envs = env.num_envs if many else 1
    rng, done = np.random.default_rng(seed), Drive()
    env.action_space.seed(seed)
    env.reset(seed=seed)
    ended = np.zeros(num_envs, bool)
    for _ in range(steps):
        done.stepped.append([not (mode == NEXT and over) for over in ended])
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = np.logical_or(terminated, truncated).reshape(num_envs)
        again = ended & (mode == DISABLED)
        if rng.random() < resets:
            again |= rng.random(num_envs) < 0.6
        if again.all() and rng.random() < 0.5:
            env.reset()
            ended[:] = False
        elif again.any():
            env.reset(options={"reset_mask": again.copy()}) if many else env.reset()
            ended &= ~again
        if rng.random() < reads:
            buffer = env.get_wrapper_attr("buffer") if not many else env.buffer
            done.held.append((buffer, int(replay.size(buffer))))
    return done


def expected_rows(logs: Any, stepped: list[list[bool]], num_slots: int, cut_last: Any = None) -> dict[Any, Step]:
    """`{(time, env): step}` of the newest slices; the last step of an episode that a reset cut is truncated."""
    rows = {}
    for env, log in enumerate(logs):
        steps = []
        for number, episode in enumerate(log):
            *start, last = episode or [None]
            steps += start
            if last is not None:
                observation, action, reward, terminated, truncated, following = last
                cut = number < len(log) - 1 and not (terminated or truncated)
                steps.append(Step((observation, action, reward, terminated, truncated or cut, following)))
        taken = iter(steps)
        for time, envs in enumerate(stepped):
            if envs[env]:
                rows[time, env] = next(taken)
        assert next(taken, None) is None
    return {at: step for at, step in rows.items() if at[0] >= len(stepped) - num_slots}


def recorded_rows(buffer: replay.Buffer) -> dict[Any, Step]:
    rows, mask = replay.rows(buffer)
    data = jax.tree.map(np.asarray, _TAKE(buffer, rows).data)
    return {
        (int(rows.time[i]), int(rows.env[i])): step_of(jax.tree.map(lambda x, i=i: x[i], data))
        for i in np.flatnonzero(mask)
    }


_TAKE = jax.jit(replay.take)


def step_of(data: replay.Transition) -> Step:
    flags = bool(data.terminated), bool(data.truncated)
    following = numbers_of(data.next_observation)
    return Step((numbers_of(data.observation), plain(data.action), float(data.reward), *flags, following))


def assert_recorded(buffer: replay.Buffer, logs: Any, done: Drive) -> None:
    """The buffer holds the newest steps that happened: none missing, doubled or shifted."""
    num_slots = buffer.num_slots
    expected, recorded = expected_rows(logs, done.stepped, num_slots), recorded_rows(buffer)
    assert recorded.keys() == expected.keys()
    for at, step in expected.items():
        assert recorded[at] == step, at
    stats = replay.stats(buffer)
    assert (int(stats.time), int(stats.lost)) == (len(done.stepped), 0)
    assert_episodes(buffer, logs, expected)
    for held, size in done.held:
        assert int(replay.size(held)) == size  # still there, and as it was


def assert_episodes(buffer: replay.Buffer, logs: Any, expected: dict[Any, Step]) -> None:
    found = jax.device_get(replay.episodes(buffer))
    if found.mask.ndim == 1:
        found = jax.tree.map(lambda x: x[:, None], found)
    for env, log in enumerate(logs):
        alive = {step[0][1] for (_, e), step in expected.items() if e == env}
        lengths = [len(episode) for number, episode in enumerate(log) if episode and number in alive]
        assert np.asarray(found.length[:, env])[np.asarray(found.mask[:, env])].tolist() == lengths


def assert_extras(buffer: replay.Buffer) -> None:
    """`total` counts the steps of an env, and `deep.half` is half of it."""
    rows, mask = replay.rows(buffer)
    extras = jax.tree.map(lambda x: np.asarray(x)[np.asarray(mask)], _TAKE(buffer, rows).data.extras)
    env = np.asarray(rows.env)[np.asarray(mask)]
    np.testing.assert_array_equal(extras["deep"]["half"], extras["total"] / 2)
    for e in np.unique(env):
        totals = extras["total"][env == e]
        np.testing.assert_array_equal(totals, np.arange(totals[0], totals[0] + len(totals)))
        assert totals[0] >= 1
