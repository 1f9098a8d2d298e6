"""Eight seeds in one program: every workload under `vmap`, as when agents are trained side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxreplay as replay
from benchmarks import runs
from benchmarks.contestants import SMALL, available, filled, stacking, stream
from benchmarks.prioritized import compiled_contestants, cycle
from benchmarks.results import Goal, Result, micros
from benchmarks.slices import END_RATE, LENGTH, NUM_ENVS, readers
from benchmarks.timing import Run, interleave

SEEDS, STEPS = 8, 2**17  # steps of small things that are kept for each seed
Step = Callable[..., tuple[Any, jax.Array]]
"""Of a state, a transition, a key and the number 1: the next state, and a number that needs the batch."""


def seeds(rounds: int) -> list[Result]:
    """Append and sample, n-step, sequences, frame stacks, and the prioritized cycle."""
    results = []
    for title, loops, length in (_small(), *_slices(), _stacks(), _cycle()):
        times = micros(interleave(loops, rounds), length)
        results.append(Result(f"{SEEDS} seeds: {title}", "vmap in lax.scan", times, Goal(list(loops)[-1], 1.0)))
    return results


def _small() -> tuple[str, dict[str, Run], int]:
    length, loops = 300, {}
    for make in available():
        contestant = make(SMALL, STEPS, 16, 256)

        def step(state: Any, x: Any, key: jax.Array, once: jax.Array, of: Any = contestant) -> tuple[Any, jax.Array]:
            state = of.append(state, x)
            return state, runs.peek(of.sample(state, key), once)

        steps = contestant.step(stream(SMALL, (length, 16)))
        loops[contestant.name] = seeds_scan(step, filled(contestant, SMALL, STEPS, 16), steps, length)
    return "append 16 envs, then sample 256, small", loops, length


def _slices() -> list[tuple[str, dict[str, Run], int]]:
    length, capacity, out = 100, STEPS // NUM_ENVS * NUM_ENVS, []
    for title, view, batch_size, steps in (
        ("n-step transitions, n = 5, 256", replay.views.n_step(5, 0.99), 256, 6),
        ("complete sequences of 80 steps, 64", replay.views.sequence(LENGTH), 64, LENGTH),
    ):
        loops = {}
        for name, contestant in readers(view, steps, capacity, batch_size).items():
            state = filled(contestant, SMALL, capacity, NUM_ENVS, END_RATE)
            loops[name] = seeds_scan(reading(contestant.sample), state, None, length)
        out.append((title, loops, length))
    return out


def _stacks() -> tuple[str, dict[str, Run], int]:
    length, capacity, loops = 10, 2000, {}
    for name, (contestant, kind) in stacking(capacity, NUM_ENVS, 64).items():
        state = filled(contestant, kind, capacity, NUM_ENVS)
        loops[name] = seeds_scan(reading(contestant.sample), state, None, length)
    return "sample 64 stacks of 4 frames of 84x84 uint8", loops, length


def _cycle() -> tuple[str, dict[str, Run], int]:
    length, loops = 100, {}
    for contestant in compiled_contestants(STEPS):

        def step(state: Any, x: Any, key: jax.Array, once: jax.Array, of: Any = contestant) -> tuple[Any, jax.Array]:
            state, drawn = cycle(of, state, x, key)
            return state, runs.peek(drawn, once)

        steps = contestant.step(stream(SMALL, (length, 128)))
        loops[contestant.name] = seeds_scan(step, filled(contestant, SMALL, STEPS, 128), steps, length)
    return "prioritized: append 128 envs, sample 256, update 256", loops, length


def reading(sample: Callable[[Any, jax.Array], Any]) -> Step:
    """A step that draws a batch and nothing else."""
    return lambda state, x, key, once: (state, runs.peek(sample(state, key), once))


def seeds_scan(step: Step, state: Any, steps: Any, length: int) -> Run:
    """Do a step again and again for copies of one state, each with keys of its own, in one compiled loop, in place."""

    def run(states: Any, xs: Any, once: jax.Array) -> tuple[Any, jax.Array]:
        each = jax.vmap(step, in_axes=(0, None, 0, None))
        return jax.lax.scan(lambda states, x: each(states, *x, once), states, xs)

    keys = jax.random.split(jax.random.key(0), (length, SEEDS))
    compiled = jax.jit(run, donate_argnums=0)
    held = [jax.tree.map(lambda x: jnp.stack([x] * SEEDS), state)]

    def once() -> Any:
        held[0], numbers = compiled(held[0], (steps, keys), jnp.int32(1))
        return numbers

    return once
