"""What a run leaves behind: metrics as CSV, the learning curve as PNG, and the parameters as plain data."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.serialization
import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxreplay.types import PyTree

SOLVED = 475.0


class Record(NamedTuple):
    """A line of the metrics: one seed's mean loss and returns while training, and in a greedy test after `step` steps.

    While training, `[num_seeds]` of each.
    """

    seed: Any
    step: Any
    loss: Any
    training_return: Any
    test_return: Any


def save_metrics(path: pathlib.Path, history: Sequence[Record]) -> None:
    """Write the records as CSV, a line a seed and chunk."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Record._fields)
        writer.writerows(history)


def save_curve(path: pathlib.Path, history: Sequence[Record]) -> None:
    """Plot the greedy test return against env steps as PNG: a thin line a seed, and their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    seeds = sorted({record.seed for record in history})
    curves = np.array([[r.test_return for r in history if r.seed == seed] for seed in seeds])
    steps = [r.step for r in history if r.seed == seeds[0]]
    for seed, curve in zip(seeds, curves, strict=True):
        axes.plot(steps, curve, linewidth=1, alpha=0.6, label=f"seed {seed}")
    if len(seeds) > 1:
        axes.plot(steps, curves.mean(axis=0), color="black", linewidth=2, label="mean")
    axes.axhline(SOLVED, color="gray", linestyle="--", linewidth=1, label=f"solved ({SOLVED:.0f})")
    axes.set(xlabel="environment steps", ylabel="return of the greedy policy", title="DQN on CartPole", ylim=(0, 520))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_parameters(path: pathlib.Path, params: PyTree) -> None:
    """Write parameters as msgpack: arrays and names, no code."""
    path.write_bytes(flax.serialization.msgpack_serialize(jax.tree.map(np.asarray, params)))


def load_parameters(path: pathlib.Path) -> PyTree:
    """Read parameters that `save_parameters` wrote."""
    return flax.serialization.msgpack_restore(path.read_bytes())
