"""Conversions of trajectories and data sets, by one worker and several."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory, convert
from tests.datasets.episodes import all_same, same, simple


def negate(trajectory: Trajectory) -> Trajectory:
    return dataclasses.replace(trajectory, observations=-trajectory.observations)


def fail_on_long(trajectory: Trajectory) -> Trajectory:
    if len(trajectory) > 3:
        raise RuntimeError("too long")
    return trajectory


def made() -> list[Trajectory]:
    return [simple(1 + i, 10.0 * i, terminated=True) for i in range(6)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_episode_is_converted_in_order(workers: int) -> None:
    all_same(convert(Dataset(made()), negate, workers=workers, progress=False), map(negate, made()))
    same(convert(made()[0], negate), negate(made()[0]))


@pytest.mark.slow
def test_processes_give_the_same() -> None:
    all_same(convert(Dataset(made()), negate, workers=2, processes=True), map(negate, made()))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failure_names_its_episode(workers: int) -> None:
    with pytest.raises(ValueError, match="episode 3: RuntimeError: too long"):
        convert(Dataset(made()), fail_on_long, workers=workers)
    with pytest.raises(TypeError, match="episode 0: the conversion: expected to get a Trajectory, got ndarray"):
        convert(Dataset(made()), lambda t: np.zeros(3), workers=workers)
    with pytest.raises(TypeError, match="expected a Trajectory or a Dataset, got list"):
        convert(made(), negate)
