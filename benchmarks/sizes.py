"""What changes with the size of things: batches, envs, blocks and structures; and compile time."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxreplay as replay
from benchmarks import runs
from benchmarks.contestants import IMAGE, NESTED, SMALL, Kind, available, filled, stream
from benchmarks.results import Goal, Result, micros
from benchmarks.timing import Run, interleave

FEW_ROUNDS = 7


def batches(rounds: int) -> list[Result]:
    """Sample small transitions of 2^20, and images of 20,000, in batches of 32 to 16,384."""
    results = []
    for what, kind, capacity, num_envs in (("small", SMALL, 2**20, 128), ("of 84x84x4 uint8", IMAGE, 20_000, 10)):
        for size in (32, 2048, 16_384):
            length, loops = max(2, (200_000 if kind is SMALL else 4000) // size), {}
            for make in available():
                contestant = make(kind, capacity, num_envs, size)
                state = filled(contestant, kind, capacity, num_envs)
                loops[contestant.name] = runs.sample_scan(contestant.sample, state, length)
            times = micros(interleave(loops, min(rounds, FEW_ROUNDS)), length)
            title = f"sample {size:,} {what}"
            results.append(Result(title, "in lax.scan, consumer included", times, Goal("flashbax", 1.0)))
    return results


def appends(rounds: int) -> list[Result]:
    """Append one step of many envs, nested ones, and images, what `append` leaves out; extend by rollouts."""
    results = []
    for what, kind, capacity, num_envs, length in (
        ("small", SMALL, 2**20, 4096, 500),
        ("nested", NESTED, 2**18, None, 100_000),
        ("nested", NESTED, 2**18, 128, 1000),
        ("nested", NESTED, 2**18, 4096, 50),
        ("84x84x4 uint8", IMAGE, 20_000, None, 500),
        ("84x84x4 uint8", IMAGE, 20_000, 32, 20),
        ("84x84x4 uint8", IMAGE, 20_000, 128, 5),
    ):
        envs = num_envs or 1
        capacity = capacity // envs * envs
        steps, loops = stream(kind, (length,) if num_envs is None else (length, num_envs)), {}
        for make in available():
            contestant = make(kind, capacity, num_envs, 32)
            loops[contestant.name] = runs.append_scan(contestant, filled(contestant, kind, capacity, num_envs), steps)
        times = micros(interleave(loops, rounds), length)
        title = f"append one step of {envs} env{'s' if num_envs else ''}, {what}"
        results.append(Result(title, "in lax.scan", times, Goal("flashbax", 1.0)))
    for what, kind, capacity, num_envs, length, blocks in (
        ("small", SMALL, 2**20, 128, 32, 100),
        ("nested", NESTED, 2**18, 128, 32, 20),
        ("84x84x4 uint8", IMAGE, 20_000, 10, 16, 5),
    ):
        steps, loops = stream(kind, (blocks, length, num_envs)), {}
        for make in available():
            contestant = make(kind, capacity, num_envs, 32)
            loops[contestant.name] = _extend_scan(contestant, filled(contestant, kind, capacity, num_envs), steps)
        times = micros(interleave(loops, rounds), blocks)
        title = f"extend by {length} steps of {num_envs} envs, {what}"
        results.append(Result(title, "in lax.scan", times, Goal("flashbax", 1.0)))
    return results


def _extend_scan(contestant: Any, state: Any, blocks: Any) -> Run:
    """Append block after block, leaves `[N, L, E, ...]`, in one compiled loop."""
    run = jax.jit(lambda s, xs: jax.lax.scan(lambda s, x: (contestant.fill(s, x), None), s, xs)[0], donate_argnums=0)
    held = [state]

    def once() -> Any:
        held[0] = run(held[0], blocks)
        return held[0]

    return once


def compilation(rounds: int) -> list[Result]:
    """Seconds to trace and compile `append` and `sample` of a structure of 20 leaves, and the lines of the programs."""
    seconds: dict[str, list[float]] = {"append": [], "sample": []}
    lines: dict[str, list[float]] = {}
    kind: Kind = SMALL
    step = {f"leaf{i}": stream(kind, ()).observation for i in range(18)}
    step |= {"end": jnp.bool_(False), "pixels": jnp.zeros((84, 84), jnp.uint8)}
    buffer = jax.eval_shape(lambda: replay.create(step, 10_000, episode_end="end"))
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
