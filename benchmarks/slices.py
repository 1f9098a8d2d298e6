"""Reading several steps a row: n-step transitions, windows for action chunking, and sequences of 80 steps."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from benchmarks import runs
from benchmarks.contestants import SMALL, Flashbax, Ours, filled, stream
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import Run, interleave, subtract

NUM_ENVS, LENGTH, END_RATE = 10, 80, 1 / 500
SEQUENCES = 64  # sequences of 80 a batch


class Reading(Ours):
    """This library, reading through a view."""

    def __init__(self, view: replay.views.View, capacity: int, batch_size: int) -> None:
        super().__init__(SMALL, capacity, NUM_ENVS, batch_size)
        self.view = view

    def sample(self, state: replay.Buffer, key: jax.Array) -> Any:
        return replay.sample(state, key, self.batch_size, self.view).data


class FlashbaxSequences(Flashbax):
    """flashbax's trajectory buffer: so many steps in a row of one env, across ends and resets."""

    def __init__(self, length: int, capacity: int, batch_size: int) -> None:
        self.single, self.example = False, None
        make = importlib.import_module("flashbax").make_trajectory_buffer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.buffer = self.blocks = make(
                add_batch_size=NUM_ENVS,
                sample_batch_size=batch_size,
                sample_sequence_length=length,
                period=1,
                min_length_time_axis=1,
                max_length_time_axis=capacity // NUM_ENVS,
            )

    def start(self) -> Any:
        return self.buffer.init(self.step(stream(SMALL, ())))

    def sample(self, state: Any, key: jax.Array) -> Any:
        return self.buffer.sample(state, key).experience


def readers(view: replay.views.View, steps: int, capacity: int, batch_size: int) -> dict[str, Any]:
    """Ours with a view, and flashbax with so many steps in a row, where it is installed."""
    found: dict[str, Any] = {"jaxreplay": Reading(view, capacity, batch_size)}
    if importlib.util.find_spec("flashbax") is not None:
        found["flashbax"] = FlashbaxSequences(steps, capacity, batch_size)
    return found


def views(rounds: int) -> list[Result]:
    """n-step transitions, windows of 16 and complete sequences of 80, of 2^20 small steps in episodes of about 500."""
    capacity, length = 10 * 2**16, 300
    n_step, window = replay.views.n_step(5, 0.99), replay.views.window(8, 7)
    results = []
    for title, view, batch_size, steps, goal in (
        ("n-step transitions, n = 5, 256", n_step, 256, 6, 1.0),
        ("windows of 16 steps, 256", window, 256, 16, 1.0),
        ("complete sequences of 80 steps, 64", replay.views.sequence(LENGTH), SEQUENCES, LENGTH, 3.0),
    ):
        loops, single, batch = {}, {}, None
        for name, contestant in readers(view, steps, capacity, batch_size).items():
            state = filled(contestant, SMALL, capacity, NUM_ENVS, END_RATE)
            loops[name] = runs.sample_scan(contestant.sample, state, length)
            single[name] = runs.sample_calls(contestant, state, 50)
            batch = jax.jit(contestant.sample)(state, jax.random.key(0)) if batch is None else batch
        floor = runs.consume_scan(jax.tree.map(lambda x: jnp.concatenate([x, x]), batch), length, count=batch_size)
        raw = micros(interleave(loops | {"consumer": floor}, rounds), length)
        net = {name: subtract(values, raw["consumer"]) for name, values in raw.items() if name != "consumer"}
        results.append(Result(title, "in lax.scan", net, Goal("flashbax", goal), raw=raw))
        results.append(Result(title, "single calls", micros(interleave(single, rounds), 50)))
    return results


def slices_by_capacity(rounds: int) -> list[Result]:
    """Complete sequences of 80 by the number of stored steps, against TorchRL's SliceSampler, as single calls."""
    calls, single = 20, {}
    for capacity in (10**7, 10**5):  # the largest first: the others are compared with it
        ours = Reading(replay.views.sequence(LENGTH), capacity, SEQUENCES)
        state = filled(ours, SMALL, capacity, NUM_ENVS, END_RATE)
        single[f"jaxreplay, {capacity:,} steps"] = runs.sample_calls(ours, state, calls)
    if importlib.util.find_spec("torchrl") is not None:
        for capacity in (10**7, 10**5):
            single[f"TorchRL, {capacity:,} steps"] = torchrl_slices(capacity, calls)
    goal = Goal("jaxreplay, 100,000 steps", 1 / 1.5)
    title = "complete sequences of 80 steps, 64, by capacity"
    return [Result(title, "single calls", micros(interleave(single, rounds), calls), goal)]


def torchrl_slices(capacity: int, calls: int) -> Run:
    """Draw 64 slices of 80 steps with TorchRL, as its documents show for a buffer that is filled once."""
    data, torch = importlib.import_module("torchrl.data"), importlib.import_module("torch")
    tensordict = importlib.import_module("tensordict").TensorDict
    buffer = data.ReplayBuffer(
        storage=data.LazyTensorStorage(capacity),
        sampler=data.SliceSampler(slice_len=LENGTH, traj_key="episode", strict_length=True),
        batch_size=SEQUENCES * LENGTH,
    )
    rng = np.random.default_rng(0)
    for first in range(0, capacity, 10**6):
        count = min(10**6, capacity - first)
        ends = rng.random(count) < END_RATE
        steps = {
            "observation": rng.normal(size=(count, 4)).astype(np.float32),
            "action": rng.integers(0, 2, count).astype(np.int32),
            "reward": rng.normal(size=count).astype(np.float32),
            "terminated": ends,
            "episode": first + np.cumsum(ends) - ends,
        }
        buffer.extend(tensordict({name: torch.from_numpy(x) for name, x in steps.items()}, batch_size=[count]))
    return lambda: [buffer.sample() for _ in range(calls)][-1]["reward"].sum().item()
