"""Trajectories as arrays, one after the other, padded or cut to one length; and in figures."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import struct

from jaxreplay._core import trees
from jaxreplay.datasets import select as choosing
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.trajectory import Trajectory, steps_of
from jaxreplay.types import PyTree, Transition

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def _as_dataset(trajectories: Any) -> Dataset:
    """Make a data set of one trajectory, many, or a data set. Raises ValueError where there are none."""
    if isinstance(trajectories, Trajectory):
        trajectories = [trajectories]
    dataset = trajectories if isinstance(trajectories, Dataset) else Dataset(trajectories)
    if not dataset.num_episodes:
        raise ValueError("expected at least one trajectory, got none")
    return dataset


def flatten(trajectories: Iterable[Trajectory] | Dataset, *, episode_numbers: bool = False) -> Transition:
    """Put all steps of all trajectories in one batch, in order: a `Transition` of NumPy arrays, leaves `[N, ...]`.

    `terminated` and `truncated` are True at an episode's last step alone, if it ended so. `next_observation` of a last
    step is the trajectory's last observation. `reward` is None where there are no rewards, `extras` {} where there are
    none. Raises ValueError for no trajectories, and where some have rewards or a structure that others have not.
    episode_numbers: put the number of each step's trajectory, `[N]` int32 from 0, in `extras["episode"]`.
    `Dataset(trajectories).infos()` lists the infos of the same steps.

    >>> import numpy as np
    >>> long = Trajectory(np.array([1, 2, 3]), actions=np.array([7, 8]), truncated=True)
    >>> short = Trajectory(np.array([4, 5]), actions=np.array([9]))
    >>> batch = flatten([long, short])
    >>> batch.observation.tolist(), batch.next_observation.tolist(), batch.truncated.tolist()
    ([1, 2, 4], [2, 3, 5], [False, True, False])
    """
    dataset = _as_dataset(trajectories)
    steps = dataset[:]
    if not episode_numbers:
        return steps
    if not isinstance(steps.extras, dict) or "episode" in steps.extras:
        raise ValueError("flatten: extras: expected a dict without an entry episode, where the numbers would be put")
    length = dataset._store.table.length
    return steps.replace(extras=steps.extras | {"episode": np.repeat(np.arange(len(length), dtype=np.int32), length)})


class Padded(struct.PyTreeNode):
    """Trajectories of one length: N of them, the longest of T steps, zeros after the others' ends.

    observations: leaves `[N, T + 1, ...]`. actions, rewards, extras: leaves `[N, T, ...]`, None where there are none.
    terminated, truncated: `[N]` bool. length: `[N]` int32. mask: `[N, T]` bool, True for steps.
    """

    observations: PyTree
    actions: PyTree
    rewards: Any
    extras: PyTree
    terminated: np.ndarray
    truncated: np.ndarray
    length: np.ndarray
    mask: np.ndarray


def pad(trajectories: Iterable[Trajectory] | Dataset, length: int | None = None) -> Padded:
    """Put trajectories of different lengths in one batch, padded with zeros and masked; NumPy arrays.

    length: T, by default that of the longest. Raises ValueError if one is longer, for no trajectories, and where they
    differ in structure.
    """
    episodes = list(_as_dataset(trajectories))
    lengths = np.array([len(episode) for episode in episodes], np.int32)
    longest = int(lengths.max())
    length = longest if length is None else trees.check_count("length", length)
    if longest > length:
        raise ValueError(f"length: a trajectory has {longest} steps, got {length}; cut it with segment, or give more")

    def stack(part: str, rows: int) -> PyTree:
        def column(*leaves: np.ndarray) -> np.ndarray:
            out = np.zeros((len(leaves), rows, *leaves[0].shape[1:]), leaves[0].dtype)
            for i, leaf in enumerate(leaves):
                out[i, : len(leaf)] = leaf
            return out

        return jax.tree.map(column, *[getattr(episode, part) for episode in episodes])

    return Padded(
        observations=stack("observations", length + 1),
        actions=stack("actions", length),
        rewards=stack("rewards", length),
        extras=stack("extras", length),
        terminated=np.array([episode.terminated for episode in episodes]),
        truncated=np.array([episode.truncated for episode in episodes]),
        length=lengths,
        mask=np.arange(length) < lengths[:, None],
    )


def segment(
    trajectories: Trajectory | Iterable[Trajectory] | Dataset,
    length: int,
    stride: int | None = None,
    drop_remainder: bool = False,
) -> list[Trajectory]:
    """Cut one trajectory, or each of many, into pieces of `length` steps, views of its arrays.

    Only the piece with a trajectory's end ends so. stride: steps from one piece's first to the next one's, by default
    `length`: they follow on. The steps after the last whole piece are a shorter one, or left out with `drop_remainder`.
    """
    length = trees.check_count("length", length)
    stride = length if stride is None else trees.check_count("stride", stride)
    pieces: list[Trajectory] = []
    for i, trajectory in enumerate([trajectories] if isinstance(trajectories, Trajectory) else trajectories):
        if not isinstance(trajectory, Trajectory):
            raise TypeError(f"trajectories.{i}: expected a Trajectory, got {type(trajectory).__name__}")
        steps = len(trajectory)
        whole = range(0, steps - length + 1, stride)
        pieces += [steps_of(trajectory, first, first + length) for first in whole]
        covered, first = (whole[-1] + length, whole[-1] + stride) if whole else (0, 0)
        if not drop_remainder and covered < steps and first < steps:
            pieces.append(steps_of(trajectory, first, steps))
    return pieces


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
    store = _as_dataset(trajectories)._store
    counted = choosing.summarise(store)
    rewarded = store.chunks[0].rewards is not None

    def summary(values: np.ndarray) -> Summary:
        values = values.astype(np.float64)
        quantiles = tuple((fraction, float(np.quantile(values, fraction))) for fraction in QUANTILES)
        return Summary(float(values.mean()), float(values.std()), float(values.min()), float(values.max()), quantiles)

    return Statistics(
        **{name: getattr(counted, name) for name in ("episodes", "steps", "terminated", "truncated", "unfinished")},
        lengths=summary(store.table.length),
        returns=summary(choosing.returns(store, "statistics")) if rewarded else None,
    )


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
