"""Returns and lengths of episodes, in figures."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxreplay.datasets import select as choosing
from jaxreplay.datasets._flatten import as_dataset
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.trajectory import Trajectory

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of N numbers, float64: mean, standard deviation (over N), least, most, and quantiles, `(fraction, value)`."""

    mean: float
    std: float
    min: float
    max: float
    quantiles: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        quantiles = ", ".join(f"{value:.4g} ({fraction:.0%})" for fraction, value in self.quantiles)
        return f"{self.mean:.4g} +- {self.std:.4g}, from {self.min:.4g} to {self.max:.4g}; quantiles {quantiles}"


@dataclasses.dataclass(frozen=True)
class Statistics:
    """How long episodes are, what they return, and how they end. returns: None where there are no rewards.

    unfinished: neither terminated nor truncated. An episode that is both counts in both.
    """

    episodes: int
    steps: int
    terminated: int
    truncated: int
    unfinished: int
    lengths: Summary
    returns: Summary | None

    def __str__(self) -> str:
        return (
            f"{self.episodes} episodes, {self.steps} steps\n"
            f"  ended: {self.terminated} terminated, {self.truncated} truncated, {self.unfinished} unfinished\n"
            f"  length: {self.lengths}\n"
            f"  return: {self.returns or 'no rewards'}"
        )


def statistics(trajectories: Iterable[Trajectory] | Dataset) -> Statistics:
    """Summarise returns and lengths; `print` shows it in four lines. Raises ValueError for no trajectories."""
    store = as_dataset(trajectories)._store
    counted = choosing.summarise(store)
    rewarded = store.chunks[0].rewards is not None
    return Statistics(
        **{name: getattr(counted, name) for name in ("episodes", "steps", "terminated", "truncated", "unfinished")},
        lengths=_summarise(store.table.length),
        returns=_summarise(choosing.returns(store, "statistics")) if rewarded else None,
    )


def _summarise(values: np.ndarray) -> Summary:
    values = values.astype(np.float64)
    quantiles = tuple((fraction, float(np.quantile(values, fraction))) for fraction in QUANTILES)
    return Summary(float(values.mean()), float(values.std()), float(values.min()), float(values.max()), quantiles)


def discounted_returns(rewards: Any, discount: float) -> np.ndarray:
    """Sum the discounted rewards from each step to the last, `[T]`: `G_t = r_t + discount * G_{t + 1}`.

    rewards: `[T]`, or a trajectory, which must have some. Added up in float64, given in the dtype of the rewards
    (float32 for integers). Nothing is added for what comes after a truncated or unfinished trajectory.
    Raises ValueError for a discount outside 0 to 1.

    >>> discounted_returns([1.0, 0.0, 2.0], discount=0.5).tolist()
    [1.5, 1.0, 2.0]
    """
    if isinstance(rewards, Trajectory):
        if rewards.rewards is None:
            raise ValueError("rewards: this trajectory has none")
        rewards = rewards.rewards
    values = np.asarray(rewards)
    if values.ndim != 1:
        raise ValueError(f"rewards: expected [T], got shape {values.shape}")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount: expected a number from 0 to 1, got {discount}")
    out, total = np.empty(len(values), np.float64), 0.0
    for t in range(len(values) - 1, -1, -1):
        out[t] = total = float(values[t]) + discount * total
    return out.astype(np.float32 if values.dtype.kind in "biu" else values.dtype)
