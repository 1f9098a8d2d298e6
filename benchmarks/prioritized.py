"""Prioritized replay: append, sample, update, and the three in one step, against flashbax, cpprb and TorchRL."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxreplay as replay
from benchmarks import runs
from benchmarks.contestants import SMALL, Flashbax, Kind, Ours, filled, stream
from benchmarks.results import Goal, Result, micros
from benchmarks.runs import BATCH
from benchmarks.timing import Run, interleave

STEPS, NUM_ENVS, EXPONENT = 2**20, 128, 0.6


class OursPrioritized(Ours):
    """This library, drawing by priorities."""

    def start(self) -> replay.Buffer:
        sampler = replay.samplers.prioritized(EXPONENT)
        return replay.create(self.example, self.capacity, self.num_envs, sampler=sampler)

    def draw(self, state: replay.Buffer, key: jax.Array) -> tuple[Any, Any, Any]:
        """A batch, the address of each row, and its probability."""
        batch = replay.sample(state, key, self.batch_size, self.view)
        data = batch.data
        fields = (data.observation, data.action, data.reward, data.terminated, data.truncated, data.next_observation)
        return fields, batch.rows, batch.probability

    def update(self, state: replay.Buffer, rows: replay.Rows, priorities: jax.Array) -> replay.Buffer:
        return replay.set_priorities(state, rows, priorities)


class FlashbaxPrioritized(Flashbax):
    """flashbax's prioritised flat buffer."""

    def __init__(self, kind: Kind, capacity: int, num_envs: int | None, batch_size: int) -> None:
        self.single, self.example = num_envs is None, self.step(stream(kind, ()))
        make = importlib.import_module("flashbax").make_prioritised_flat_buffer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"max_length": capacity, "min_length": 1, "sample_batch_size": batch_size}
            options |= {"priority_exponent": EXPONENT, "add_batch_size": num_envs}
            self.buffer = make(**options, add_sequences=False)
            self.blocks = make(**options, add_sequences=True)

    def draw(self, state: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        batch = self.buffer.sample(state, key)
        pairs = batch.experience
        return (*self.ordered(pairs.first), pairs.second["observation"]), batch.indices, batch.probabilities

    def update(self, state: Any, rows: Any, priorities: jax.Array) -> Any:
        return self.buffer.set_priorities(state, rows, priorities)


class Cpprb:
    """cpprb's prioritized buffer, in C++; all is a call."""

    name = "cpprb"

    def __init__(self) -> None:
        shapes = {"obs": {"shape": 4}, "act": {"dtype": np.int32}, "rew": {}, "next_obs": {"shape": 4}, "done": {}}
        self.buffer = importlib.import_module("cpprb").PrioritizedReplayBuffer(STEPS, shapes, alpha=EXPONENT)
        for i in range(0, STEPS, 2**16):
            self.append(host_steps(2**16, seed=i))

    def append(self, steps: dict[str, np.ndarray]) -> None:
        self.buffer.add(**steps)

    def sample(self) -> tuple[Any, np.ndarray]:
        batch = self.buffer.sample(BATCH, beta=0.4)
        return batch, batch["indexes"]

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        self.buffer.update_priorities(index, priorities)


class TorchRL:
    """TorchRL's tensor-dict buffer with its prioritized sampler, in C++; all is a call."""

    name = "TorchRL"

    def __init__(self) -> None:
        data, self.torch = importlib.import_module("torchrl.data"), importlib.import_module("torch")
        self.tensordict = importlib.import_module("tensordict").TensorDict
        self.buffer = data.ReplayBuffer(
            storage=data.LazyTensorStorage(STEPS),
            sampler=data.PrioritizedSampler(STEPS, alpha=EXPONENT, beta=0.4),
            batch_size=BATCH,
        )
        for i in range(0, STEPS, 2**16):
            self.append(host_steps(2**16, seed=i))

    def append(self, steps: dict[str, np.ndarray]) -> None:
        tensors = {name: self.torch.from_numpy(x) for name, x in steps.items()}
        self.buffer.extend(self.tensordict(tensors, batch_size=[len(steps["rew"])]))

    def sample(self) -> tuple[Any, Any]:
        batch, info = self.buffer.sample(return_info=True)
        return batch, info["index"]

    def update(self, index: Any, priorities: np.ndarray) -> None:
        self.buffer.update_priority(index, self.torch.from_numpy(priorities))


def host_steps(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random small steps on the host."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(count, 4)).astype(np.float32)
    return {
        "obs": observation,
        "act": rng.integers(0, 2, (count, 1)).astype(np.int32),
        "rew": rng.normal(size=(count, 1)).astype(np.float32),
        "next_obs": observation,
        "done": np.zeros((count, 1), np.float32),
    }


@functools.cache
def host_contestants() -> list[Any]:
    """Those that are installed and live outside JAX, full."""
    made = []
    for make, package in ((Cpprb, "cpprb"), (TorchRL, "torchrl")):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed, and is left out: pip install -e '.[benchmarks]'")
            continue
        try:
            made.append(make())
        except RuntimeError as error:  # as TorchRL's, built for another PyTorch
            print(f"{package} does not work with what is installed, and is left out: {error}")
    return made


def compiled_contestants(capacity: int = STEPS) -> list[Any]:
    """Ours and flashbax, where it is installed."""
    makes: list[Any] = [OursPrioritized]
    if importlib.util.find_spec("flashbax") is not None:
        makes.append(FlashbaxPrioritized)
    return [make(SMALL, capacity, NUM_ENVS, BATCH) for make in makes]


def update_scan(contestant: Any, state: Any, length: int) -> Run:
    """Give new priorities to drawn rows again and again, in one compiled loop, in place."""
    draws = jax.jit(jax.vmap(contestant.draw, in_axes=(None, 0)))
    rows = draws(state, jax.random.split(jax.random.key(2), 50))[1]
    priorities = jax.random.uniform(jax.random.key(3), (50, BATCH))

    def body(state: Any, i: jax.Array) -> tuple[Any, None]:
        chosen = jax.tree.map(lambda x: x[i % 50], rows)
        return contestant.update(state, chosen, priorities[i % 50]), None

    run = jax.jit(lambda state: lax.scan(body, state, jnp.arange(length))[0], donate_argnums=0)
    held = [state]

    def once() -> Any:
        held[0] = run(held[0])
        return held[0]

    return once


def cycle(contestant: Any, state: Any, step: Any, key: jax.Array) -> tuple[Any, Any]:
    """Append, draw, and give the drawn rows new priorities; the batch and its probabilities as well."""
    state = contestant.append(state, step)
    batch, rows, probability = contestant.draw(state, key)
    return contestant.update(state, rows, jnp.abs(batch[2]) + 1e-3), (batch, probability)


def cycle_scan(contestant: Any, state: Any, steps: Any, length: int) -> Run:
    """The cycle, again and again in one compiled loop."""

    def body(carry: tuple[Any, jax.Array], x: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, None]:
        state, total = carry
        step, key, once = x
        state, drawn = cycle(contestant, state, step, key)
        return (state, total + runs.peek(drawn, once)), None

    run = jax.jit(lambda state, xs: lax.scan(body, (state, jnp.float32(0)), xs)[0], donate_argnums=0)
    xs = (contestant.step(steps), jax.random.split(jax.random.key(1), length), jnp.ones(length, jnp.int32))
    held = [state]

    def once() -> Any:
        held[0], total = run(held[0], xs)
        return total

    return once


def update_calls(contestant: Any, state: Any, calls: int) -> Run:
    """Give new priorities by calls from Python, in place, each waited for."""
    draw = jax.jit(contestant.draw)
    rows = [draw(state, key)[1] for key in jax.random.split(jax.random.key(2), 50)]
    priorities = [jax.random.uniform(key, (BATCH,)) for key in jax.random.split(jax.random.key(3), calls)]
    run, held = jax.jit(contestant.update, donate_argnums=0), [state]

    def once() -> Any:
        for chosen, values in zip(itertools.cycle(rows), priorities, strict=False):
            held[0] = jax.block_until_ready(run(held[0], chosen, values))
        return held[0]

    return once


def cycle_calls(contestant: Any, state: Any, steps: Any, calls: int) -> Run:
    """Append, draw and update by one call from Python each."""
    append, update = (jax.jit(f, donate_argnums=0) for f in (contestant.append, contestant.update))
    draw, held, keys = jax.jit(contestant.draw), [state], list(jax.random.split(jax.random.key(1), calls))
    each = [jax.tree.map(lambda x, i=i: x[i], contestant.step(steps)) for i in range(calls)]
    priorities = jax.random.uniform(jax.random.key(3), (BATCH,))

    def once() -> Any:
        for step, key in zip(each, keys, strict=True):
            state = append(held[0], step)
            _, rows, _ = draw(state, key)
            held[0] = jax.block_until_ready(update(state, rows, priorities))
        return held[0]

    return once


def host_runs(contestant: Any, calls: int) -> dict[str, Run]:
    """The same for a buffer on the host."""
    steps, priorities = host_steps(NUM_ENVS), np.random.default_rng(0).random(BATCH, np.float32)
    rows = itertools.cycle([contestant.sample()[1] for _ in range(50)])

    def repeat(operation: Callable[[], Any]) -> Run:
        return lambda: [operation() for _ in range(calls)][-1]

    def cycle() -> None:
        contestant.append(steps)
        contestant.update(contestant.sample()[1], priorities)

    return {
        "append": repeat(lambda: contestant.append(steps)),
        "sample": repeat(lambda: contestant.sample() and None),
        "update": repeat(lambda: contestant.update(next(rows), priorities)),
        "cycle": repeat(cycle),
    }


TITLES = {
    "append": "prioritized: append one step of 128 envs",
    "sample": "prioritized: sample 256 of 2^20",
    "update": "prioritized: update 256 of 2^20",
    "cycle": "prioritized: append 128 envs, sample 256, update 256",
}
SCAN_GOALS = {"append": 4.0, "sample": 1.0, "update": 1.0, "cycle": 3.0}
CALL_GOALS = {"sample": 1.0, "update": 1.0}


def prioritized(rounds: int) -> list[Result]:
    """Append, sample, update and the cycle, in a loop and as calls; then ours by the number of leaves."""
    length, calls = 500, 200
    steps = stream(SMALL, (length, NUM_ENVS))
    scans: dict[str, dict[str, Run]] = {name: {} for name in TITLES}
    single: dict[str, dict[str, Run]] = {name: {} for name in TITLES}
    for contestant in compiled_contestants():
        state, name = filled(contestant, SMALL, STEPS, NUM_ENVS), contestant.name
        copy = functools.partial(jax.tree.map, jnp.copy, state)
        scans["append"][name] = runs.append_scan(contestant, copy(), steps)
        scans["sample"][name] = runs.sample_scan(contestant.draw, state, length)
        scans["update"][name] = update_scan(contestant, copy(), length)
        scans["cycle"][name] = cycle_scan(contestant, copy(), steps, length)
        single["append"][name] = runs.append_calls(contestant, copy(), steps, calls)
        single["sample"][name] = runs.draw_calls(contestant.draw, state, calls)
        single["update"][name] = update_calls(contestant, copy(), calls)
        single["cycle"][name] = cycle_calls(contestant, copy(), steps, calls)
    for contestant in host_contestants():
        for name, run in host_runs(contestant, calls).items():
            single[name][contestant.name] = run
    results = []
    for name, title in TITLES.items():
        times = micros(interleave(scans[name], rounds), length)
        results.append(Result(title, "in lax.scan, consumer included", times, Goal("flashbax", SCAN_GOALS[name])))
        goal = Goal("cpprb", CALL_GOALS[name]) if name in CALL_GOALS else None
        results.append(Result(title, "single calls", micros(interleave(single[name], rounds), calls), goal))
    return results + by_leaves(rounds)


def by_leaves(rounds: int) -> list[Result]:
    """Ours with 2^14, 2^20 and 2^24 leaves; rows are small, so that memory holds the largest."""
    length = 500
    loops: dict[str, dict[str, Run]] = {"append": {}, "sample": {}, "update": {}}
    for exponent in (24, 20, 14):  # the largest first: the others are compared with it
        contestant, name = OursPrioritized(SMALL, 2**exponent, NUM_ENVS, BATCH), f"2^{exponent} leaves"
        state = filled(contestant, SMALL, 2**exponent, NUM_ENVS)
        loops["sample"][name] = runs.sample_scan(contestant.draw, state, length)
        other = jax.tree.map(jnp.copy, state)
        loops["append"][name] = runs.append_scan(contestant, other, stream(SMALL, (length, NUM_ENVS)))
        loops["update"][name] = update_scan(contestant, jax.tree.map(jnp.copy, state), length)
    goal = Goal("2^14 leaves", 1 / 1.5)
    return [
        Result(f"prioritized: {name} by leaves", "in lax.scan", micros(interleave(loop, rounds), length), goal)
        for name, loop in loops.items()
    ]
