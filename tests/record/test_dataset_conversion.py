"""Many recordings convert as each alone, in order, in this process or in several."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.record.playback.convert import convert_dataset, convert_trajectory
from tests.backend import backend_started
from tests.extras import library
from tests.record.test_conversion import (
    ACTION_WRAPPERS,
    Room,
    assert_equal,
    cartpole,
    random_actions,
    run,
    stack,
)

spaces, wrappers = gymnasium.spaces, gymnasium.wrappers


def episodes(count: int = 6) -> list[Trajectory]:
    return [
        dataclasses.replace(run(cartpole(), random_actions(cartpole(), seed), seed), episode_data={"seed": seed})
        for seed in range(count)
    ]


def test_a_dataset_converts_in_order_and_stays_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = episodes()
    expected = [convert_trajectory(trajectory, stack, cartpole()) for trajectory in recorded]
    for source in (recorded, iter(recorded), Dataset(recorded)):
        converted = convert_dataset(source, stack, cartpole(), progress=True)
        assert isinstance(converted, Dataset if isinstance(source, Dataset) else list)
        for mine, other in zip(converted, expected, strict=True):
            assert_equal(mine, other)
    assert [trajectory.episode_data["seed"] for trajectory in convert_dataset(recorded, stack, cartpole())] == list(
        range(6)
    )
    capsys.readouterr()
    library("tqdm")
    convert_dataset(recorded, stack, cartpole(), progress=True)
    assert "6/6" in capsys.readouterr().err
    convert_dataset(recorded, stack, cartpole(), progress=False)
    assert capsys.readouterr().err == ""
    assert convert_dataset([], stack, cartpole()) == []


def numpy_alone(env: Any) -> Any:
    """Wrap, and show in an observation whether JAX has started a backend in this process."""
    started = float(backend_started())
    return stack(wrappers.TransformObservation(env, lambda x: np.full_like(x, started), env.observation_space))


def fragile(env: Any) -> Any:
    if len(env.trajectory) == 2:
        raise ZeroDivisionError("no stack")
    return stack(env)


def test_several_workers_give_the_same_in_the_same_order_without_jax() -> None:
    recorded = episodes(11)
    recorded[2] = recorded[2].map_arrays(jax.numpy.asarray)
    converted = convert_dataset(recorded, stack, cartpole(), workers=2, progress=False)
    for mine, other in zip(converted, convert_dataset(recorded, stack, cartpole()), strict=True):
        assert_equal(mine, other)
        assert mine.episode_data == other.episode_data
    alone = convert_dataset(recorded[:3], numpy_alone, cartpole(), workers=2, progress=False)
    assert all((trajectory.observations == 0).all() for trajectory in alone)
    assert (convert_dataset(recorded[:1], numpy_alone, cartpole())[0].observations == 1).all()  # here it has


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_converts_without_spaces(workers: int) -> None:
    recorded = Dataset(episodes(3))
    converted = convert_dataset(recorded, stack, workers=workers, progress=False)
    assert len(converted) == len(recorded) > 0
    for mine, other in zip(converted, convert_dataset(recorded, stack, cartpole()), strict=True):
        assert_equal(mine, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trajectory_that_fails_is_named_by_its_number(workers: int) -> None:
    recorded = [run(cartpole(), [0, 1, 0], 0), run(cartpole(), [0, 1], 0), run(cartpole(), [0, 1], 0)]
    with pytest.raises(ValueError, match="trajectory 1: ZeroDivisionError: no stack"):
        convert_dataset(recorded, fragile, cartpole(), workers=workers, progress=False)


def test_agent_actions_of_a_dataset_go_by_trajectory() -> None:
    wrap = ACTION_WRAPPERS["turned"]
    recorded = [run(Room(), random_actions(Room(), seed, 4), seed) for seed in range(2)]
    turned = [-trajectory.actions for trajectory in recorded]
    converted = convert_dataset(recorded, wrap, Room(), agent_actions=turned)
    for mine, other, actions in zip(converted, recorded, turned):
        assert_equal(mine, dataclasses.replace(other, actions=actions))
    with pytest.raises(ValueError, match="agent_actions: expected one for each of 2 trajectories, got 1"):
        convert_dataset(recorded, wrap, Room(), agent_actions=turned[:1])


class NoPickle(spaces.Discrete):
    def __reduce__(self) -> Any:
        raise RuntimeError("never")


def test_what_cannot_be_sent_to_workers_says_so() -> None:
    recorded = [run(cartpole(), [0, 1], 0)]
    with pytest.raises(TypeError, match=r"wrap: <function .*lambda.* cannot be sent to workers .*define it with `def`"):
        convert_dataset(recorded, lambda env: env, cartpole(), workers=2)
    with pytest.raises(TypeError, match="env_or_spaces: its spaces or spec cannot be sent to workers"):
        convert_dataset(recorded, stack, (cartpole().observation_space, NoPickle(2)), workers=2)
    with pytest.raises(ValueError, match="workers: expected at least 0, got -1"):
        convert_dataset(recorded, stack, cartpole(), workers=-1)
