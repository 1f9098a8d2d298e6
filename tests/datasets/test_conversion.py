"""Conversions of trajectories and data sets, by one worker and several."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory, convert
from tests.datasets.episodes import all_same, same, simple
from tests.extras import library


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
    for arguments in ({}, {"conversion": negate, "wrap": lambda env: env}):
        with pytest.raises(TypeError, match="expected a conversion or wrap, and one of them alone"):
            convert(made()[0], **arguments)
    with pytest.raises(TypeError, match=r"env_or_spaces: .* belong to wrap"):
        convert(made()[0], negate, env_or_spaces=1)


def test_the_report_is_kept() -> None:
    dataset = Dataset(made()).clip(1)
    assert dataset.report is not None
    assert convert(dataset, negate).report == dataset.report


def test_a_stack_of_wrappers_gives_what_the_wrapped_environment_would_have_recorded() -> None:
    gymnasium = library("gymnasium")
    spaces = (gymnasium.spaces.Box(-99, 99, (2,), np.float32), gymnasium.spaces.Discrete(9))
    episodes = [
        Trajectory(i + np.arange(2 * n + 2, dtype=np.float32).reshape(-1, 2), np.arange(n), np.ones(n), terminated=True)
        for i, n in enumerate((3, 1))
    ]

    def wrap(env: Any) -> Any:
        halved = lambda x: x / 2  # noqa: E731
        env = gymnasium.wrappers.TransformObservation(env, halved, env.observation_space)
        return gymnasium.wrappers.FrameStackObservation(env, 2)

    dataset = Dataset(episodes).clip(0)
    converted = convert(dataset, wrap=wrap, env_or_spaces=spaces, progress=False)
    same(converted.episode(0), convert(episodes[0], wrap=wrap, env_or_spaces=spaces))
    boxes = convert(episodes[0], wrap=gymnasium.wrappers.FlattenObservation)  # of spaces that nobody gave
    np.testing.assert_array_equal(boxes.observations, episodes[0].observations)
    for came, episode in zip(converted, episodes, strict=True):
        halves, count = episode.observations / 2, len(episode)
        np.testing.assert_array_equal(came.observations[1:], np.stack([halves[:count], halves[1:]], axis=1))
        np.testing.assert_array_equal(came.actions, episode.actions)
        assert came.terminated
    assert converted.report == dataset.report
