"""End to end: the main job's steps a second, with this library, with flashbax in the same agent, and with no replay."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import warnings
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import jaxreplay as replay
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import Run, interleave
from jaxreplay.demo import dqn

SETTINGS = dqn.Settings(n_step=1, capacity=131_072)  # flashbax's flat buffer has single steps
STEPS = 4000


class Constant:
    """No replay at all: the agent learns from the same batch for ever, which is the floor."""

    def create(self, example: Any, capacity: int, num_envs: int, **options: Any) -> Any:
        batch = jax.tree.map(lambda x: jnp.zeros((SETTINGS.batch_size, *x.shape), x.dtype), example)
        return dqn_batch(batch)

    def append(self, buffer: Any, transition: Any) -> Any:
        return jax.lax.optimization_barrier(buffer)  # so that the compiler cannot take it as always the same

    def sample(self, buffer: Any, key: jax.Array, batch_size: int, view: Any) -> Any:
        return Batch(buffer)


class ConstantInTurn(Constant):
    """The same, but learning waits for the step, as it must where the batch may hold it: not side by side with it.

    A barrier would not do: the compiler drops it before it orders the work. So zeros that are made of the step, which
    the compiler cannot know to be zeros, are added to the batch.
    """

    def append(self, buffer: Any, transition: Any) -> Any:
        zero = 0.0 * sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(transition))
        return jax.tree.map(lambda x: x + jnp.asarray(zero).astype(x.dtype), buffer)


class Flashbax:
    """flashbax's flat buffer."""

    def create(self, example: Any, capacity: int, num_envs: int, **options: Any) -> Any:
        make = importlib.import_module("flashbax").make_flat_buffer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.buffer = make(
                max_length=capacity, min_length=1, sample_batch_size=SETTINGS.batch_size, add_batch_size=num_envs
            )
        return self.buffer.init(self.fields(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)))

    def fields(self, step: Any) -> Any:
        return {name: getattr(step, name) for name in ("observation", "action", "reward", "terminated")}

    def append(self, buffer: Any, transition: Any) -> Any:
        return self.buffer.add(buffer, self.fields(transition))

    def sample(self, buffer: Any, key: jax.Array, batch_size: int, view: Any) -> Any:
        pairs = self.buffer.sample(buffer, key).experience
        step = replay.Transition(
            **pairs.first, truncated=pairs.first["terminated"], next_observation=pairs.second["observation"]
        )
        return Batch(dqn_batch(step))


@dataclasses.dataclass
class Batch:
    """A sample as the agent reads it."""

    data: Any

    @property
    def rows(self) -> None:
        return None


def dqn_batch(step: Any) -> replay.views.NStepTransition:
    """Single steps as the agent learns from them."""
    discount = jnp.where(step.terminated, 0.0, SETTINGS.discount).astype(jnp.float32)
    return replay.views.NStepTransition(step.observation, step.action, step.reward, discount, step.next_observation)


def run_agent(library: Any) -> Run:
    """Train the main job's agent for some steps, with the buffer's functions replaced; ours, if None."""
    names = () if library is None else ("create", "append", "sample")
    patches = [mock.patch.object(dqn.replay, name, getattr(library, name)) for name in names]
    for patch in patches:
        patch.start()
    try:
        state = dqn.start(SETTINGS, jax.random.key(0))
        train = jax.jit(lambda state: dqn.train(SETTINGS, state, STEPS), donate_argnums=0)
        train = train.lower(state).compile()
    finally:
        for patch in patches:
            patch.stop()
    held = [state]

    def once() -> Any:
        held[0], metrics = train(held[0])
        return metrics

    return once


def agent(rounds: int) -> list[Result]:
    """One training step of the main job: 16 CartPoles, a batch of 128, single-step double DQN."""
    loops = {"jaxreplay": run_agent(None)}
    if importlib.util.find_spec("flashbax") is not None:
        loops["flashbax"] = run_agent(Flashbax())
    loops["a constant batch"] = run_agent(Constant())
    loops["a constant batch, in turn"] = run_agent(ConstantInTurn())
    times = micros(interleave(loops, rounds), STEPS)
    title = "a training step of the main job, 16 envs"
    return [Result(title, "in lax.scan", times, Goal("a constant batch", 1 / 1.1))]
