"""Buffers that live on the host: cpprb, Stable-Baselines3, TorchRL and a plain NumPy ring, against calls of ours."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import runs
from benchmarks.contestants import IMAGE, SMALL, Kind, available, filled, stream
from benchmarks.results import Goal, Result, micros
from benchmarks.runs import BATCH
from benchmarks.timing import Run, interleave

FIELDS = ("observation", "action", "reward", "terminated", "next_observation")


class NumPyRing:
    """The least a host buffer does: an array a field, a position, and fancy indexing."""

    name, package = "NumPy ring", "numpy"

    def __init__(self, kind: Kind, capacity: int) -> None:
        self.capacity, self.position, self.rng = capacity, 0, np.random.default_rng(0)
        self.arrays = {name: np.zeros((capacity, *x.shape), x.dtype) for name, x in example(kind).items()}
        for x in self.arrays.values():
            x[...] = 1  # memory that was only zeroed is one page for all until it is written

    def append(self, step: dict[str, np.ndarray]) -> None:
        for name, x in self.arrays.items():
            x[self.position] = step[name]
        self.position = (self.position + 1) % self.capacity

    def sample(self) -> Any:
        index = self.rng.integers(0, self.capacity, BATCH)
        return {name: x[index] for name, x in self.arrays.items()}


class Cpprb:
    """cpprb, in C++."""

    name = package = "cpprb"

    def __init__(self, kind: Kind, capacity: int) -> None:
        shapes = {name: {"shape": x.shape or 1, "dtype": x.dtype} for name, x in example(kind).items()}
        self.buffer = importlib.import_module("cpprb").ReplayBuffer(capacity, shapes)
        block = {name: np.ones((1000, *x.shape), x.dtype) for name, x in example(kind).items()}
        for _ in range(-(-capacity // 1000)):
            self.buffer.add(**block)

    def append(self, step: dict[str, np.ndarray]) -> None:
        self.buffer.add(**step)

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)


class StableBaselines3:
    """The buffer of Stable-Baselines3; its batch is torch tensors."""

    name, package = "Stable-Baselines3", "stable_baselines3"

    def __init__(self, kind: Kind, capacity: int) -> None:
        spaces = importlib.import_module("gymnasium").spaces
        (shape, dtype), make = kind, importlib.import_module("stable_baselines3.common.buffers").ReplayBuffer
        space = spaces.Box(0, 255, shape, dtype)
        self.buffer = make(capacity, space, spaces.Discrete(2), device="cpu", handle_timeout_termination=False)
        self.buffer.observations[...] = 1
        self.buffer.next_observations[...] = 1
        self.buffer.full = True

    def append(self, step: dict[str, np.ndarray]) -> None:
        observation, action, reward, done, following = (step[name][None] for name in FIELDS)
        self.buffer.add(observation, following, action, reward, done, [{}])

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)


class TorchRL:
    """TorchRL's buffer of tensor dicts with its random sampler."""

    name, package = "TorchRL", "torchrl"

    def __init__(self, kind: Kind, capacity: int) -> None:
        data, self.torch = importlib.import_module("torchrl.data"), importlib.import_module("torch")
        self.tensordict = importlib.import_module("tensordict").TensorDict
        self.buffer = data.ReplayBuffer(storage=data.LazyTensorStorage(capacity), batch_size=BATCH)
        block = {name: self.torch.from_numpy(np.ones((1000, *x.shape), x.dtype)) for name, x in example(kind).items()}
        for _ in range(-(-capacity // 1000)):
            self.buffer.extend(self.tensordict(block, batch_size=[1000]))

    def append(self, step: dict[str, np.ndarray]) -> None:
        tensors = {name: self.torch.as_tensor(x) for name, x in step.items()}
        self.buffer.add(self.tensordict(tensors, batch_size=[]))

    def sample(self) -> Any:
        return self.buffer.sample()


def example(kind: Kind) -> dict[str, np.ndarray]:
    """One step, by field."""
    step = stream(kind, ())
    return {name: np.asarray(getattr(step, name)) for name in FIELDS}


def hosts(rounds: int) -> list[Result]:
    """Sample 256 transitions and append one, by calls from Python."""
    return [
        *_compare(SMALL, 2**20, "small", "of 2^20", 100, rounds),
        *_compare(IMAGE, 20_000, "84x84x4 uint8", "of 20,000", 10, rounds),
    ]


def _compare(kind: Kind, capacity: int, what: str, of: str, calls: int, rounds: int) -> list[Result]:
    samples: dict[str, Run] = {}
    appends: dict[str, Run] = {}
    for make in available():
        ours = make(kind, capacity, None, BATCH)
        state = filled(ours, kind, capacity, None)
        samples[ours.name] = runs.sample_calls(ours, state, calls)
        other = jax.tree.map(jnp.copy, state)
        appends[ours.name] = runs.append_calls(ours, other, stream(kind, (calls,)), calls)
    step = example(kind)
    hosts: tuple[Any, ...] = (NumPyRing, Cpprb, StableBaselines3, TorchRL)
    for make in hosts:
        if importlib.util.find_spec(make.package) is None:
            print(f"{make.name} is not installed, and is left out")
            continue
        host = make(kind, capacity)
        samples[host.name] = _repeat(host.sample, calls)
        appends[host.name] = _repeat(functools.partial(host.append, step), calls)
    floor = Goal("NumPy ring", 1 / 1.5)
    return [
        Result(f"sample 256 {what} {of}", "single calls", micros(interleave(samples, rounds), calls), floor),
        Result(f"append one step of one env, {what}", "single calls", micros(interleave(appends, rounds), calls)),
    ]


def _repeat(call: Callable[[], Any], calls: int) -> Run:
    def once() -> None:
        for _ in range(calls):
            call()

    return once
