"""The buffers that are compared, behind one face: filled, appended to and sampled in the same way."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay

SMALL = ((4,), np.float32)
IMAGE = ((84, 84, 4), np.uint8)
FRAME = ((84, 84), np.uint8)
NESTED = {
    "arm": {"position": ((7,), np.float32), "velocity": ((7,), np.float32), "gripper": ((), np.float32)},
    "contact": ((4,), np.bool_),
    "goal": ((3,), np.float32),
    "lidar": ((64,), np.float16),
}
Kind = Any
"""What an observation is: a shape and a dtype, or a dict of kinds by name."""


def observations(kind: Kind, lead: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Random observations with leaves `[*lead, ...]`."""
    if isinstance(kind, dict):
        return {name: observations(part, lead, rng) for name, part in kind.items()}
    shape, dtype = kind
    return jnp.asarray(rng.integers(0, 200, (*lead, *shape), np.uint8), dtype)


def stream(kind: Kind, lead: tuple[int, ...], seed: int = 0, end_rate: float = 0.05) -> replay.Transition:
    """Random steps with leaves `[*lead, ...]`, which end their episodes at a rate."""
    rng = np.random.default_rng(seed)
    observation = observations(kind, lead, rng)
    return replay.Transition(
        observation=observation,
        action=jnp.asarray(rng.integers(0, 2, lead), jnp.int32),
        reward=jnp.asarray(rng.normal(size=lead), jnp.float32),
        terminated=jnp.asarray(rng.random(lead) < end_rate),
        truncated=jnp.zeros(lead, jnp.bool_),
        next_observation=observation,
    )


class Contestant(Protocol):
    """A replay buffer as the benchmarks use it; `state` is its own."""

    name: str

    def start(self) -> Any:
        """An empty buffer."""
        ...

    def step(self, transition: replay.Transition) -> Any:
        """A transition in the form that `append` takes; done outside the clock."""
        ...

    def append(self, state: Any, step: Any) -> Any:
        """Append one step of every env."""
        ...

    def fill(self, state: Any, block: replay.Transition) -> Any:
        """Append a block, leaves `[L, E, ...]` (`[L, ...]`)."""
        ...

    def sample(self, state: Any, key: jax.Array) -> Any:
        """Draw a batch: observation, action, reward, both flags and next observation, and nothing else."""
        ...


class Ours:
    """This library."""

    name = "jaxreplay"
    view: replay.views.View = replay.views.transition()

    def __init__(self, kind: Kind, capacity: int, num_envs: int | None, batch_size: int) -> None:
        self.example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stream(kind, ()))
        self.capacity, self.num_envs, self.batch_size = capacity, num_envs, batch_size

    def start(self) -> replay.Buffer:
        return replay.create(self.example, self.capacity, self.num_envs)

    def step(self, transition: replay.Transition) -> replay.Transition:
        return transition

    def append(self, state: replay.Buffer, step: replay.Transition) -> replay.Buffer:
        return replay.append(state, step)

    def fill(self, state: replay.Buffer, block: replay.Transition) -> replay.Buffer:
        return replay.extend(state, block)

    def sample(self, state: replay.Buffer, key: jax.Array) -> Any:
        data = replay.sample(state, key, self.batch_size, self.view).data
        return (data.observation, data.action, data.reward, data.terminated, data.truncated, data.next_observation)


class OursStacking(Ours):
    """This library, storing single frames and stacking four when it samples."""

    name = "jaxreplay, stacking 4 frames"
    view = replay.views.frame_stack(4)


class OursStackingLast(Ours):
    """The same with the frames on a new last axis."""

    name = "jaxreplay, stacking 4 frames, axis=-1"
    view = replay.views.frame_stack(4, axis=-1)


class Flashbax:
    """flashbax's flat buffer, which also stores an observation once, and pairs neighbours when it samples."""

    name = "flashbax"

    def __init__(self, kind: Kind, capacity: int, num_envs: int | None, batch_size: int) -> None:
        self.single, self.example = num_envs is None, self.step(stream(kind, ()))
        make = importlib.import_module("flashbax").make_flat_buffer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"max_length": capacity, "min_length": 1, "sample_batch_size": batch_size}
            self.buffer = make(**options, add_sequences=False, add_batch_size=num_envs)
            self.blocks = make(**options, add_sequences=True, add_batch_size=num_envs)

    def start(self) -> Any:
        return self.buffer.init(self.example)

    def step(self, transition: replay.Transition) -> Any:
        names = ("observation", "action", "reward", "terminated", "truncated")
        return {name: getattr(transition, name) for name in names}

    def append(self, state: Any, step: Any) -> Any:
        return self.buffer.add(state, step)

    def fill(self, state: Any, block: replay.Transition) -> Any:
        steps = self.step(block)
        return self.blocks.add(state, steps if self.single else jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps))

    def sample(self, state: Any, key: jax.Array) -> Any:
        pairs = self.buffer.sample(state, key).experience
        return (*self.ordered(pairs.first), pairs.second["observation"])

    def ordered(self, step: Any) -> tuple[Any, ...]:
        return tuple(step[name] for name in ("observation", "action", "reward", "terminated", "truncated"))


class Brax:
    """Brax's uniform queue, which stores both observations of a transition in one row of float32."""

    name = "Brax"

    def __init__(self, kind: Kind, capacity: int, num_envs: int | None, batch_size: int) -> None:
        make = importlib.import_module("brax.training.replay_buffers").UniformSamplingQueue
        self.queue = make(capacity, self.step(stream(kind, ())), batch_size)

    def start(self) -> Any:
        return self.queue.init(jax.random.key(0))

    def step(self, transition: replay.Transition) -> Any:
        names = ("observation", "action", "reward", "terminated", "truncated", "next_observation")
        return {name: getattr(transition, name) for name in names}

    def append(self, state: Any, step: Any) -> Any:
        return self.queue.insert_internal(state, step)

    def fill(self, state: Any, block: replay.Transition) -> Any:
        steps = self.step(block)
        return self.append(state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps))

    def sample(self, state: Any, key: jax.Array) -> Any:
        batch = self.queue.sample_internal(state.replace(key=key))[1]
        return tuple(batch.values())


@functools.cache
def available() -> tuple[type, ...]:
    """The contestants whose packages are installed, ours first; says once what to install for the others."""
    if importlib.util.find_spec("flashbax") is None:
        print("flashbax is not installed, and is left out: pip install -e '.[benchmarks]'")
        return (Ours,)
    return (Ours, Flashbax)


def stacking(capacity: int, num_envs: int, batch_size: int) -> dict[str, tuple[Contestant, Kind]]:
    """Those that give stacks of 4 frames, and the kind of observation they store: frames, or whole stacks."""
    found: dict[str, tuple[Contestant, Kind]] = {}
    for make, kind in [(OursStacking, FRAME), (OursStackingLast, FRAME)] + [(make, IMAGE) for make in available()]:
        contestant: Contestant = make(kind, capacity, num_envs, batch_size)
        found[contestant.name if kind is FRAME else f"{contestant.name}, stored stacks"] = (contestant, kind)
    return found


def filled(contestant: Contestant, kind: Kind, capacity: int, num_envs: int | None, end_rate: float = 0.05) -> Any:
    """A full buffer, written in blocks of at most 16 MB."""
    envs = num_envs or 1
    row_bytes = sum(x.nbytes for x in jax.tree.leaves(stream(kind, ())))
    length = max(1, min(capacity // envs, 2**24 // (row_bytes * envs)))
    block = stream(kind, (length,) if num_envs is None else (length, envs), end_rate=end_rate)
    fill, state = jax.jit(contestant.fill, donate_argnums=0), contestant.start()
    for _ in range(-(-capacity // envs // length)):
        state = fill(state, block)
    return jax.block_until_ready(state)
