"""The example of behaviour cloning: what it records, and that both ways of training learn from it."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from jaxreplay.demo import behaviour_cloning
from tests.extras import library

KEY = jax.random.key(0)


def good_enough(observation: jax.Array) -> jax.Array:
    """A policy by hand that keeps the pole up: push to where it falls."""
    return (observation @ jnp.array([0.1, 0.2, 1.0, 0.7]) > 0).astype(jnp.int32)


@pytest.fixture(scope="module")
def recorded() -> Dataset:
    return behaviour_cloning.play(good_enough, KEY, 8)


def test_recorded_episodes_are_the_expert_s(recorded: Dataset) -> None:
    assert recorded.num_episodes == 8
    for episode in recorded:
        assert episode.terminated != episode.truncated
        assert (len(episode) == 500) == episode.truncated
        np.testing.assert_array_equal(episode.actions, good_enough(jnp.asarray(episode.observations[:-1])))
    assert behaviour_cloning.mean_return(recorded) > 400


def test_both_ways_of_training_reach_nine_tenths_of_the_expert(recorded: Dataset) -> None:
    settings = behaviour_cloning.Settings(steps=500)
    wanted = 0.9 * behaviour_cloning.mean_return(recorded)
    state = behaviour_cloning.train_from_buffer(settings, recorded.to_buffer(), KEY)
    assert behaviour_cloning.score(state, KEY) >= wanted
    library("torch")
    batches = behaviour_cloning.torch_batches(settings, recorded, seed=0)
    state = behaviour_cloning.train_from_batches(settings, batches, KEY)
    assert behaviour_cloning.score(state, KEY) >= wanted


@pytest.mark.usefixtures("strict_without_adam")
def test_playing_and_learning_work_under_strict_promotion() -> None:
    few = behaviour_cloning.play(lambda x: jnp.zeros(x.shape[0], jnp.int32), KEY, 2)
    state = behaviour_cloning.train_from_buffer(behaviour_cloning.Settings(steps=2), few.to_buffer(), KEY)
    assert int(state.step) == 2


def test_wrong_flags_are_named(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    wrong: Any
    for wrong, message in (
        (["--episodes", "0"], "--episodes: expected at least 1, got 0"),
        (["--expert", str(tmp_path / "no")], "--expert: there is no file"),
    ):
        with pytest.raises(SystemExit):
            behaviour_cloning.parse(wrong)
        assert message in capsys.readouterr().err
