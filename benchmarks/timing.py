"""Timing several contestants in one run: compiled and warmed up first, then interleaved round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Run = Callable[[], Any]
"""Does its work once; what it returns is waited for."""


def interleave(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Time each run once a round, for some rounds, and return its seconds, a number a round.

    What disturbs the machine for a while disturbs all contestants of that while alike, so ratios taken within a round
    are steadier than the times.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def subtract(values: list[float], consumer: list[float]) -> list[float]:
    """Take the consumer's time of each round away, down to no less than nothing."""
    return [max(v - c, 0.0) for v, c in zip(values, consumer, strict=True)]


def ratio(ours: list[float], theirs: list[float]) -> float:
    """How many times faster we are: the median over rounds of their time over ours."""
    return statistics.median(t / o if o > 0 else float("inf") for o, t in zip(ours, theirs, strict=True))
