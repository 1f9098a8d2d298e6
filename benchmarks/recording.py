"""What recording adds to an environment loop: microseconds a step of one CartPole, and a step and env of 64."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np

import jaxreplay as replay
from benchmarks.results import Goal, Result
from benchmarks.timing import Run, interleave, subtract
from jaxreplay import record

CAPACITY = 2**17
Add = Callable[[Any, Any, Any, Any, Any, Any], None]
"""Takes observation, action, reward, terminated, truncated and next observation."""


def recording(rounds: int) -> list[Result]:
    """Record a random agent's steps, beside loops that add them to something else, and one that keeps nothing."""
    results = []
    for num_envs, steps, goal in ((None, 4000, 10.0), (64, 1000, 1.0)):
        loops = {name: _loop(num_envs, steps, make) for name, make in _contestants(num_envs).items()}
        seconds = interleave(loops, rounds)
        bare, each = seconds.pop("bare loop"), steps * (num_envs or 1)
        net = {name: [1e6 * s / each for s in subtract(values, bare)] for name, values in seconds.items()}
        net["the goal"] = [goal] * rounds
        raw = {name: [1e6 * s / each for s in values] for name, values in (seconds | {"bare loop": bare}).items()}
        title = "record a step of CartPole" if num_envs is None else f"record a step and env of {num_envs} CartPoles"
        results.append(Result(title, "added to a bare loop", net, Goal("the goal", 1.0), raw=raw))
    return results


def _make_env(num_envs: int | None) -> Any:
    if num_envs is None:
        return gymnasium.make("CartPole-v1")
    return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")


def _loop(num_envs: int | None, steps: int, make: Callable[[Any], tuple[Any, Add | None, Callable[[], Any]]]) -> Run:
    """A run of so many steps of an env; what has to be waited for is waited for."""
    env, add, finish = make(_make_env(num_envs))
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, steps) if num_envs is None else rng.integers(0, 2, (steps, num_envs))

    def run() -> Any:
        observation, _ = env.reset(seed=0)
        for action in actions:
            following, reward, terminated, truncated, _ = env.step(action)
            if add is not None:
                add(observation, action, reward, terminated, truncated, following)
            observation = following
            if num_envs is None and (terminated or truncated):
                observation, _ = env.reset()
        return finish()

    return run


def _contestants(num_envs: int | None) -> dict[str, Callable[[Any], Any]]:
    found = {"jaxreplay": lambda env: _ours(env, num_envs), "Python lists": _lists}
    if importlib.util.find_spec("flashbax"):
        found["flashbax"] = lambda env: _flashbax(env, num_envs)
    if importlib.util.find_spec("stable_baselines3"):
        found["Stable-Baselines3"] = lambda env: _stable_baselines(env, num_envs or 1)
    return found | {"bare loop": lambda env: (env, None, lambda: None)}


def _ours(env: Any, num_envs: int | None) -> Any:
    env = record.RecordTransitions(env, replay.create(replay.example_transition(env), CAPACITY, num_envs))
    return env, None, lambda: env.buffer.rings.clock


def _lists(env: Any) -> Any:
    lists: tuple[list[Any], ...] = tuple([] for _ in range(6))

    def add(*step: Any) -> None:
        for values, value in zip(lists, step):
            values.append(value)

    def finish() -> None:
        for values in lists:
            values.clear()

    return env, add, finish


def _flashbax(env: Any, num_envs: int | None) -> Any:
    """Its flat buffer, a jitted add that donates, a call a step. It stores no next observation."""
    make = importlib.import_module("flashbax").make_flat_buffer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = make(CAPACITY, min_length=1, sample_batch_size=1, add_sequences=False, add_batch_size=num_envs)
    example = replay.example_transition(env)
    names = ("observation", "action", "reward", "terminated", "truncated")
    zeros = {name: np.zeros(getattr(example, name).shape, getattr(example, name).dtype) for name in names}
    state, append = [buffer.init(zeros)], jax.jit(buffer.add, donate_argnums=0)

    def add(*step: Any) -> None:
        leaves = {name: np.asarray(value, zeros[name].dtype) for name, value in zip(names, step)}
        state[0] = append(state[0], leaves)

    return env, add, lambda: state[0]


def _stable_baselines(env: Any, num_envs: int) -> Any:
    """Its NumPy ring, without the special case for timeouts, which needs `info` in a form of its own."""
    buffers = importlib.import_module("stable_baselines3.common.buffers")
    spaces = [
        getattr(env, f"single_{name}_space", None) or getattr(env, f"{name}_space")
        for name in ("observation", "action")
    ]
    ring = buffers.ReplayBuffer(CAPACITY, *spaces, device="cpu", n_envs=num_envs, handle_timeout_termination=False)
    infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def add(observation: Any, action: Any, reward: Any, terminated: Any, truncated: Any, following: Any) -> None:
        ring.add(observation, following, np.asarray(action), np.asarray(reward), np.asarray(terminated), infos)

    return env, add, lambda: None


def keys(rounds: int) -> list[Result]:
    """A key a step outside jit: as `collect` makes them, and by the obvious ways."""
    count, made = 512, {}
    start = jax.random.key(0)
    stream = importlib.import_module("jaxreplay.record.collecting").make_keys(start)
    made["as collect does"] = lambda: list(itertools.islice(stream, count))
    made["split, then iterated"] = lambda: list(jax.random.split(start, count))
    made["fold_in each time"] = lambda: [jax.random.fold_in(start, i) for i in range(count)]
    seconds = interleave(made, rounds)
    micros = {name: [1e6 * s / count for s in values] for name, values in seconds.items()}
    return [Result("a key for each step", "single calls", micros)]
