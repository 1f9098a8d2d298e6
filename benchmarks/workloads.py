"""The workloads: append and sample, small and image steps, in a scan and as single calls, by capacity, and memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.contestants import IMAGE, SMALL, Contestant, available, filled, stream
from benchmarks.results import Goal, Result
from benchmarks.timing import Run, interleave, subtract

BATCH = 256


def append(rounds: int) -> list[Result]:
    """Append one step of 128 envs, and of one; 2^20 small steps are kept."""
    results = []
    for num_envs, length, goal in ((128, 4000, 1.0), (None, 200_000, 0.2)):
        title = f"append one step of {num_envs or 1} env{'s' if num_envs else ''}, small"
        scans, calls = {}, {}
        steps = stream(SMALL, (length,) if num_envs is None else (length, num_envs))
        for make in available():
            contestant = make(SMALL, 2**20, num_envs, BATCH)
            scans[contestant.name] = _append_scan(contestant, filled(contestant, SMALL, 2**20, num_envs), steps)
            calls[contestant.name] = _append_calls(contestant, filled(contestant, SMALL, 2**20, num_envs), steps, 200)
        results.append(Result(title, "in lax.scan", _micros(interleave(scans, rounds), length), Goal("flashbax", goal)))
        calls["an empty call"] = _empty_calls(200)
        results.append(Result(title, "single calls", _micros(interleave(calls, rounds), 200)))
    return results


def sample(rounds: int) -> list[Result]:
    """Sample 256 transitions: small of 2^20 stored, and images of 20,000 stored."""
    results = []
    for title, kind, capacity, num_envs, length, goal in (
        ("sample 256 small", SMALL, 2**20, 128, 1000, 1.5),
        ("sample 256 of 84x84x4 uint8", IMAGE, 20_000, 10, 20, 2.0),
    ):
        scans, calls = {}, {}
        for make in available():
            contestant = make(kind, capacity, num_envs, BATCH)
            state = filled(contestant, kind, capacity, num_envs)
            scans[contestant.name] = _sample_scan(contestant.sample, state, length)
            calls[contestant.name] = _sample_calls(contestant, state, 20)
        rows = jnp.asarray(stream(kind, (capacity,)).observation)
        scans["one gather of one array"] = _sample_scan(_gather, rows, length)
        one, both = _gather(rows, jax.random.key(0)), stream(kind, (BATCH,))
        batch = (both.observation, both.action, both.reward, both.terminated, both.truncated, both.next_observation)
        scans["consumer"], scans["consumer of one"] = _consume_scan(batch, length), _consume_scan(one, length)
        seconds = interleave(scans, rounds)
        consumer, consumer_of_one = seconds.pop("consumer"), seconds.pop("consumer of one")
        single = seconds.pop("one gather of one array")
        seconds = {name: subtract(values, consumer) for name, values in seconds.items()}
        seconds["one gather of one array"] = subtract(single, consumer_of_one)
        numpy = interleave({"numpy gather": _numpy_gather(np.asarray(rows))}, rounds)
        micros = _micros(seconds, length) | {"NumPy gather of both observations": _micros(numpy, 1)["numpy gather"]}
        results.append(Result(title, "in lax.scan", micros, Goal("flashbax", goal)))
        results.append(Result(title, "single calls", _micros(interleave(calls, rounds), 20)))
    return results


def capacity(rounds: int) -> list[Result]:
    """The cost of append and of sample, small steps of 10 envs, as the capacity grows; a NumPy gather beside it."""
    appends, samples, gathers = {}, {}, {}
    length = 2000
    steps = stream(SMALL, (length, 10))
    for size in (10**4, 10**6, 10**7):
        contestant = available()[0](SMALL, size, 10, BATCH)
        name = f"{size:,} steps"
        appends[name] = _append_scan(contestant, filled(contestant, SMALL, size, 10), steps)
        samples[name] = _sample_scan(contestant.sample, filled(contestant, SMALL, size, 10), length)
        gathers[name] = _numpy_gather(np.zeros((size, 10), np.float32))
    return [
        Result("append 10 envs by capacity", "in lax.scan", _micros(interleave(appends, rounds), length)),
        Result("sample 256 by capacity", "in lax.scan", _micros(interleave(samples, rounds), length)),
        Result("NumPy gather of 2 x 256 rows of 40 bytes", "single calls", _micros(interleave(gathers, rounds), 1)),
    ]


def memory(rounds: int) -> list[Result]:
    """Bytes a stored step over the bytes of its observation, 84x84x4 uint8."""
    ratios = {}
    for make in available():
        contestant = make(IMAGE, 20_480, 128, BATCH)
        leaves = jax.tree.leaves(jax.eval_shape(contestant.start))
        stored = sum(np.prod(x.shape) * x.dtype.itemsize for x in leaves)
        ratios[contestant.name] = [float(stored / 20_480 / np.prod(IMAGE[0]))]
    return [Result("memory of a stored step over one observation", "84x84x4 uint8", ratios, unit="x")]


PARTS: dict[str, Callable[[int], list[Result]]] = {
    "append": append,
    "sample": sample,
    "capacity": capacity,
    "memory": memory,
}


def _micros(seconds: dict[str, list[float]], operations: int) -> dict[str, list[float]]:
    return {name: [1e6 * s / operations for s in values] for name, values in seconds.items()}


def _append_scan(contestant: Contestant, state: Any, steps: Any) -> Run:
    run = jax.jit(
        lambda state, steps: lax.scan(lambda s, x: (contestant.append(s, x), None), state, steps)[0], donate_argnums=0
    )
    held, steps = [state], contestant.step(steps)

    def once() -> Any:
        held[0] = run(held[0], steps)
        return held[0]

    return once


def _append_calls(contestant: Contestant, state: Any, steps: Any, calls: int) -> Run:
    run, held = jax.jit(contestant.append, donate_argnums=0), [state]
    each = [jax.tree.map(lambda x, i=i: x[i], contestant.step(steps)) for i in range(calls)]

    def once() -> Any:
        for step in each:
            held[0] = run(held[0], step)
        return held[0]

    return once


def _empty_calls(calls: int) -> Run:
    run, x = jax.jit(lambda x: x), jnp.zeros(4)
    return lambda: [run(x) for _ in range(calls)][-1]


def _consume(batch: Any, once: jax.Array) -> jax.Array:
    """One number that needs every array of a batch to lie in memory.

    `once` is 1, which the compiler does not know: it must keep the inner loop, and cannot fuse what made the batch with
    what reads it, as it would with a plain sum.
    """

    def body(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + sum(leaf.ravel()[i].astype(jnp.float32) for leaf in jax.tree.leaves(batch))

    return lax.fori_loop(0, once, body, jnp.float32(0))


def _sample_scan(draw: Callable[[Any, jax.Array], Any], state: Any, length: int) -> Run:
    """Draw batch after batch, and consume each."""

    def run(state: Any, keys: jax.Array, once: jax.Array) -> jax.Array:
        def body(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return total + _consume(draw(state, key), once), None

        return lax.scan(body, jnp.float32(0), keys)[0]

    compiled, keys = jax.jit(run), jax.random.split(jax.random.key(1), length)
    return lambda: compiled(state, keys, jnp.int32(1))


def _consume_scan(batch: Any, length: int) -> Run:
    """The consumer alone, tied to each step of the loop so that it is not done once for all."""
    return _sample_scan(lambda batch, key: lax.optimization_barrier((batch, key))[0], batch, length)


def _gather(rows: jax.Array, key: jax.Array) -> jax.Array:
    index = jax.random.bits(key, (BATCH,), jnp.uint32) % rows.shape[0]
    return rows.at[index].get(mode="promise_in_bounds")


def _sample_calls(contestant: Contestant, state: Any, calls: int) -> Run:
    run, keys = jax.jit(contestant.sample), list(jax.random.split(jax.random.key(1), calls))

    def once() -> Any:
        batch = None
        for key in keys:
            batch = jax.block_until_ready(run(state, key))
        return batch

    return once


def _numpy_gather(rows: np.ndarray) -> Run:
    """Gather two batches of rows into memory that is there; other rows each time, so that no cache holds them."""
    index = itertools.cycle(np.random.default_rng(0).integers(0, len(rows), (200, 2, BATCH)))
    out = np.zeros((2, BATCH, *rows.shape[1:]), rows.dtype)

    def once() -> None:
        for target, chosen in zip(out, next(index), strict=True):
            np.take(rows, chosen, axis=0, out=target, mode="clip")

    return once
