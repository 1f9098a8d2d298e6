"""Memory, which needs no clock: what a stored step takes, and what a program takes beside the buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxreplay as replay
from benchmarks.contestants import IMAGE, SMALL, Kind, available, stacking, stream
from benchmarks.prioritized import compiled_contestants, cycle
from benchmarks.results import Goal, Result
from benchmarks.slices import LENGTH, NUM_ENVS, readers


def memory(rounds: int) -> list[Result]:
    """Bytes a stored step over the bytes of its observation; and for each workload, MiB beside the buffer."""
    ratios = {}
    for make in available():
        contestant = make(IMAGE, 20_480, 128, 256)
        ratios[contestant.name] = [float(stored_bytes(contestant) / 20_480 / np.prod(IMAGE[0]))]
    ratios["the claim"] = [1.15]
    title = "memory of a stored step over one observation"
    stored = Result(title, "84x84x4 uint8", ratios, Goal("the claim", 1.0), unit="x")
    results = [Result(title, "peak beside the buffer", found, unit="MiB") for title, found in _beside().items()]
    return [stored, *results]


def _beside() -> dict[str, dict[str, list[float]]]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    found: dict[str, dict[str, list[float]]] = {}

    def note(title: str, name: str, contestant: Any, function: Callable[..., Any], *arguments: Any) -> None:
        found.setdefault(title, {})[name] = [peak_beside(function, contestant, arguments)]

    for make in available():
        for what, kind, capacity, num_envs in (("small", SMALL, 2**20, 128), ("84x84x4 uint8", IMAGE, 20_480, 32)):
            contestant = make(kind, capacity, num_envs, 256)
            step = contestant.step(_shapes(kind, (num_envs,)))
            note(f"append one step of {num_envs} envs, {what}", contestant.name, contestant, contestant.append, step)
            note(f"sample 256 {what}", contestant.name, contestant, contestant.sample, key)
    for name, (contestant, _) in stacking(20_000, NUM_ENVS, 256).items():
        note("sample 256 stacks of 4 frames of 84x84 uint8", name, contestant, contestant.sample, key)
    for name, contestant in readers(replay.views.sequence(LENGTH), LENGTH, 10 * 2**16, 64).items():
        note("complete sequences of 80 steps, 64", name, contestant, contestant.sample, key)
    for contestant in compiled_contestants():
        step = contestant.step(_shapes(SMALL, (128,)))
        title = "prioritized: append 128 envs, sample 256, update 256"
        note(title, contestant.name, contestant, functools.partial(cycle, contestant), step, key)
    return found


def peak_beside(function: Callable[..., Any], contestant: Any, arguments: tuple[Any, ...]) -> float:
    """MiB that a compiled program needs at most for what it makes, beside its arguments.

    A buffer that it changes is donated, one that it only reads is not.
    """
    state = jax.eval_shape(contestant.start)
    donated = () if function == contestant.sample else 0
    compiled = jax.jit(function, donate_argnums=donated).lower(state, *arguments).compile()
    sizes: Any = compiled.memory_analysis()
    return (sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes) / 2**20


def stored_bytes(contestant: Any) -> int:
    """The bytes of an empty buffer, which are those of a full one."""
    return sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(contestant.start)))


def _shapes(kind: Kind, lead: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: stream(kind, lead))
