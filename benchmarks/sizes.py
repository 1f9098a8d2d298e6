"""What changes with the size of things: batches, envs, blocks, structures, and seeds under vmap; and compile time."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxreplay as replay
from benchmarks import runs
from benchmarks.contestants import IMAGE, SMALL, Kind, available, filled, stream
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import Run, interleave

FEW_ROUNDS = 7


def batches(rounds: int) -> list[Result]:
    """Sample small transitions of 2^20, and images of 20,000, in batches of 32 to 16,384."""
    results = []
    for kind, capacity, num_envs, sizes in ((SMALL, 2**20, 128, (32, 2048, 16_384)), (IMAGE, 20_000, 10, (32, 2048))):
        for size in sizes:
            length = max(4, (200_000 if kind is SMALL else 4000) // size)
            loops = {}
            for make in available():
                contestant = make(kind, capacity, num_envs, size)
                state = filled(contestant, kind, capacity, num_envs)
                loops[contestant.name] = runs.sample_scan(contestant.sample, state, length)
            title = f"sample {size:,} {'small' if kind is SMALL else 'of 84x84x4 uint8'}"
            times = micros(interleave(loops, min(rounds, FEW_ROUNDS)), length)
            results.append(Result(title, "in lax.scan, consumer included", times, Goal("flashbax", 1.0)))
    return results


def appends(rounds: int) -> list[Result]:
    """Append one step of 4096 envs, and one of 32 with images; extend by a rollout of 32 steps of 128 envs."""
    results = []
    for title, kind, capacity, num_envs, length in (
        ("append one step of 4096 envs, small", SMALL, 2**20, 4096, 500),
        ("append one step of 32 envs, 84x84x4 uint8", IMAGE, 20_000, 32, 20),
    ):
        capacity = capacity // num_envs * num_envs
        steps, loops = stream(kind, (length, num_envs)), {}
        for make in available():
            contestant = make(kind, capacity, num_envs, 32)
            loops[contestant.name] = runs.append_scan(contestant, filled(contestant, kind, capacity, num_envs), steps)
        times = micros(interleave(loops, rounds), length)
        results.append(Result(title, "in lax.scan", times, Goal("flashbax", 1.0)))
    loops, blocks = {}, stream(SMALL, (100, 32, 128))
    for make in available():
        contestant = make(SMALL, 2**20, 128, 32)
        loops[contestant.name] = _extend_scan(contestant, filled(contestant, SMALL, 2**20, 128), blocks)
    times = micros(interleave(loops, rounds), 100)
    return [*results, Result("extend by 32 steps of 128 envs, small", "in lax.scan", times, Goal("flashbax", 1.0))]


def _extend_scan(contestant: Any, state: Any, blocks: Any) -> Run:
    """Append block after block, leaves `[N, L, E, ...]`, in one compiled loop."""
    run = jax.jit(lambda s, xs: jax.lax.scan(lambda s, x: (contestant.fill(s, x), None), s, xs)[0], donate_argnums=0)
    held = [state]

    def once() -> Any:
        held[0] = run(held[0], blocks)
        return held[0]

    return once


def seeds(rounds: int) -> list[Result]:
    """Append 16 envs, then sample 256, small, for 8 seeds in one program; 2^17 steps are kept for each."""
    count, length, loops = 8, 300, {}
    steps = stream(SMALL, (length, 16))
    for make in available():
        contestant = make(SMALL, 2**17, 16, 256)
        state = filled(contestant, SMALL, 2**17, 16)
        state = jax.tree.map(lambda x: jnp.stack([x] * count), state)
        loops[contestant.name] = _seeds_scan(contestant, state, contestant.step(steps), length, count)
    times = micros(interleave(loops, rounds), length)
    return [Result("8 seeds: append 16 envs, then sample 256, small", "vmap in lax.scan", times, Goal("flashbax", 1.0))]


def _seeds_scan(contestant: Any, state: Any, steps: Any, length: int, count: int) -> Run:
    def step(state: Any, x: Any, key: jax.Array, once: jax.Array) -> tuple[Any, jax.Array]:
        state = contestant.append(state, x)
        return state, runs.peek(contestant.sample(state, key), once)

    def run(state: Any, xs: Any, once: jax.Array) -> tuple[Any, jax.Array]:
        each = jax.vmap(step, in_axes=(0, None, 0, None))
        return jax.lax.scan(lambda state, x: each(state, x[0], x[1], once), state, xs)

    keys = jax.random.split(jax.random.key(0), (length, count))
    compiled, held = jax.jit(run, donate_argnums=0), [state]

    def once() -> Any:
        held[0], out = compiled(held[0], (steps, keys), jnp.int32(1))
        return out

    return once


def compilation(rounds: int) -> list[Result]:
    """Seconds to trace and compile `append` and `sample` of a structure of 20 leaves, and the lines of the programs."""
    seconds: dict[str, list[float]] = {"append": [], "sample": []}
    lines: dict[str, list[float]] = {}
    kind: Kind = SMALL
    step = {f"leaf{i}": stream(kind, ()).observation for i in range(18)}
    step |= {"end": jnp.bool_(False), "pixels": jnp.zeros((84, 84), jnp.uint8)}
    buffer = jax.eval_shape(lambda: replay.create(step, 10_000, episode_end=lambda s: s["end"]))
    key = jax.eval_shape(lambda: jax.random.key(0))
    programs: dict[str, tuple[Any, Any]] = {
        "append": (replay.append, step),
        "sample": (lambda b, k: replay.sample(b, k, 256).data, key),
    }
    for _ in range(3):
        for name, (function, argument) in programs.items():
            jax.clear_caches()
            began = time.perf_counter()
            compiled = jax.jit(function, donate_argnums=0 if name == "append" else ()).lower(buffer, argument).compile()
            seconds[name].append(1e3 * (time.perf_counter() - began))
            lines[name] = [float(len((compiled.as_text() or "").splitlines()))]
    return [
        Result("tracing and compiling, 20 leaves", "once", seconds, unit="ms"),
        Result("the compiled program, 20 leaves", "lines of HLO", lines, unit="lines"),
    ]
