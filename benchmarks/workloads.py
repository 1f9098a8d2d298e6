"""The parts: append, sample, both in one step, and the cost by capacity; those of other modules are named.

A part is a function of a number of rounds that returns results; `PARTS` names them all. Adding one is writing such a
function; adding a contestant is a class in `contestants` and its name in `available`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import runs
from benchmarks.agent import agent
from benchmarks.contestants import (
    IMAGE,
    SMALL,
    Brax,
    available,
    filled,
    stacking,
    stream,
)
from benchmarks.hosts import hosts
from benchmarks.memory import memory, stored_bytes
from benchmarks.prioritized import prioritized
from benchmarks.recording import recording
from benchmarks.recurrent import recurrent
from benchmarks.results import Goal, Result, micros
from benchmarks.runs import BATCH
from benchmarks.seeds import seeds
from benchmarks.sizes import appends, batches, compilation
from benchmarks.slices import slices_by_capacity, views
from benchmarks.stores import stores
from benchmarks.timing import interleave, subtract

SMALL_STEPS = 2**20


def append(rounds: int) -> list[Result]:
    """Append one step of 128 envs, and of one; 2^20 small steps are kept."""
    results = []
    for num_envs, length, calls, goal in ((128, 8000, 500, 2.0), (None, 1_000_000, 500, 0.2)):
        title = f"append one step of {num_envs or 1} env{'s' if num_envs else ''}, small"
        scans, single = {}, {}
        steps = stream(SMALL, (length,) if num_envs is None else (length, num_envs))
        for make in available():
            contestant = make(SMALL, SMALL_STEPS, num_envs, BATCH)
            state = filled(contestant, SMALL, SMALL_STEPS, num_envs)
            other = jax.tree.map(jnp.copy, state)
            scans[contestant.name] = runs.append_scan(contestant, state, steps)
            single[contestant.name] = runs.append_calls(contestant, other, steps, calls)
        single["an empty call"] = runs.empty_calls(calls)
        results.append(Result(title, "in lax.scan", micros(interleave(scans, rounds), length), Goal("flashbax", goal)))
        results.append(Result(title, "single calls", micros(interleave(single, rounds), calls)))
    return results


def sample(rounds: int) -> list[Result]:
    """Sample 256 transitions: small of 2^20 stored, and images of 20,000 stored."""
    results = []
    for title, kind, capacity, num_envs, length, calls, goal in (
        ("sample 256 small", SMALL, SMALL_STEPS, 128, 1500, 200, 2.0),
        ("sample 256 of 84x84x4 uint8", IMAGE, 20_000, 10, 30, 20, 3.0),
    ):
        scans, sums, single = {}, {}, {}
        brax = (Brax,) if kind is SMALL and importlib.util.find_spec("brax") else ()
        for make in (*available(), *brax):
            contestant = make(kind, capacity, num_envs, BATCH)
            state = filled(contestant, kind, capacity, num_envs)
            scans[contestant.name] = runs.sample_scan(contestant.sample, state, length)
            sums[contestant.name] = runs.sample_scan(contestant.sample, state, length, runs.add_up)
            single[contestant.name] = runs.sample_calls(contestant, state, calls)
        steps = stream(kind, (8 * BATCH,))
        rows = jnp.asarray(np.resize(np.asarray(steps.observation), (capacity, *kind[0])))
        pool = (steps.observation, steps.action, steps.reward, steps.terminated, steps.truncated)
        pool = (*pool, steps.observation[::-1])
        scans["one gather of one array"] = runs.sample_scan(runs.gather, rows, length)
        scans["consumer"] = runs.consume_scan(pool, length)
        scans["consumer of one"] = runs.consume_scan(steps.observation, length)
        sums["the sum alone"] = runs.consume_scan(pool, length, runs.add_up)
        single["an empty call"] = runs.empty_calls(calls)
        numpy = {"NumPy gather of both observations": runs.numpy_gather(np.asarray(rows))}
        raw = micros(interleave(scans, rounds), length)
        alone = {name: raw["consumer of one" if name.startswith("one gather") else "consumer"] for name in raw}
        net = {name: subtract(raw[name], alone[name]) for name in raw if not name.startswith("consumer")}
        net |= micros(interleave(numpy, rounds), 1)
        results += [
            Result(title, "in lax.scan", net, Goal("flashbax", goal), raw=raw),
            beside_a_sum(title, micros(interleave(sums, rounds), length), Goal("flashbax", goal)),
            Result(title, "single calls", micros(interleave(single, rounds), calls)),
        ]
    return results


def beside_a_sum(title: str, raw: dict[str, list[float]], goal: Goal) -> Result:
    """What drawing adds to the sum of every element, which the compiler may make where it gathers."""
    net = {name: subtract(raw[name], raw["the sum alone"]) for name in raw if name != "the sum alone"}
    return Result(title, "in lax.scan, beside a sum of every element", net, goal, raw=raw)


def stacks(rounds: int) -> list[Result]:
    """Sample 256 transitions of four stacked frames, of 20,000 steps: stacked when read, against stored as stacks."""
    capacity, num_envs, length, title = 20_000, 10, 30, "sample 256 stacks of 4 frames of 84x84 uint8"
    scans, sums, held = {}, {}, {}
    for name, (contestant, kind) in stacking(capacity, num_envs, BATCH).items():
        state = filled(contestant, kind, capacity, num_envs)
        scans[name] = runs.sample_scan(contestant.sample, state, length)
        sums[name] = runs.sample_scan(contestant.sample, state, length, runs.add_up)
        held[name] = [float(stored_bytes(contestant) / 2**20)]
    steps = stream(IMAGE, (8 * BATCH,))
    pool = (steps.observation, steps.action, steps.reward, steps.terminated, steps.truncated, steps.observation[::-1])
    scans["consumer"] = runs.consume_scan(pool, length)
    sums["the sum alone"] = runs.consume_scan(pool, length, runs.add_up)
    rows = np.asarray(stream(IMAGE, (2000,)).observation)
    raw = micros(interleave(scans, rounds), length)
    net = {name: subtract(raw[name], raw["consumer"]) for name in raw if name != "consumer"}
    net |= micros(interleave({"NumPy gather of both stored stacks": runs.numpy_gather(rows)}, rounds), 1)
    return [
        Result(title, "in lax.scan", net, Goal("flashbax, stored stacks", 4.0), raw=raw),
        beside_a_sum(title, micros(interleave(sums, rounds), length), Goal("flashbax, stored stacks", 4.0)),
        Result("memory of 20,000 steps", "4 stacked frames", held, Goal("flashbax, stored stacks", 3.5), "MiB"),
    ]


def step(rounds: int) -> list[Result]:
    """Append one step of 128 envs, then sample 256, in one step of a loop; 2^20 small steps are kept."""
    length, loops = 1000, {}
    steps = stream(SMALL, (length, 128))
    for make in available():
        contestant = make(SMALL, SMALL_STEPS, 128, BATCH)
        state = filled(contestant, SMALL, SMALL_STEPS, 128)
        loops[contestant.name] = runs.both_scan(contestant, state, steps, length)
    times = micros(interleave(loops, rounds), length)
    return [Result("append 128 envs, then sample 256, small", "in lax.scan, consumer included", times)]


def capacity(rounds: int) -> list[Result]:
    """The cost of append and of sample, small steps of 10 envs, as the capacity grows; a NumPy gather beside it."""
    appends, samples, gathers = {}, {}, {}
    num_appends, num_samples = 10_000, 1000
    steps = stream(SMALL, (num_appends, 10))
    for make in available():
        for size in (10**4, 10**6, 10**7):
            contestant = make(SMALL, size, 10, BATCH)
            name = f"{contestant.name}, {size:,} steps"
            state = filled(contestant, SMALL, size, 10)
            other = jax.tree.map(jnp.copy, state)
            appends[name] = runs.append_scan(contestant, state, steps)
            samples[name] = runs.sample_scan(contestant.sample, other, num_samples)
            # Ones: memory that was only zeroed is one page for all until it is written, and always in the cache.
            gathers[f"{size:,} steps"] = runs.numpy_gather(np.ones((size, 10), np.float32))
    raw = "in lax.scan, consumer included"
    return [
        Result("append 10 envs by capacity", "in lax.scan", micros(interleave(appends, rounds), num_appends)),
        Result("sample 256 by capacity", raw, micros(interleave(samples, rounds), num_samples)),
        Result("NumPy gather of 2 x 256 rows of 40 bytes", "single calls", micros(interleave(gathers, rounds), 1)),
    ]


PARTS: dict[str, Callable[[int], list[Result]]] = {
    "append": append,
    "sample": sample,
    "stacks": stacks,
    "prioritized": prioritized,
    "views": views,
    "slices": slices_by_capacity,
    "recurrent": recurrent,
    "batches": batches,
    "appends": appends,
    "seeds": seeds,
    "hosts": hosts,
    "agent": agent,
    "compilation": compilation,
    "recording": recording,
    "step": step,
    "capacity": capacity,
    "memory": memory,
    "stores": stores,
}
