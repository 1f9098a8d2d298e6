"""Transitions in a row back to episodes: what was flattened comes back, and nothing is joined that was apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory, flatten, validate
from tests.datasets.episodes import all_same, simple, trajectories


@given(made=trajectories(infos=False))
@settings(settings.get_profile("short"))
def test_what_was_flattened_comes_back_where_episodes_end(made: list[Trajectory]) -> None:
    ended = [dataclasses.replace(t, truncated=t.truncated or not t.terminated) for t in made]
    back = Dataset.from_transitions(flatten(ended))
    all_same(back, ended)
    assert back.report is not None
    assert (back.report.episodes, back.report.discontinuities, back.report.unfinished) == (len(made), 0, 0)


def test_steps_that_do_not_follow_on_are_parted_and_counted() -> None:
    made = [simple(2), simple(3, 10.0, terminated=True), simple(1, 20.0), simple(2, 30.0)]
    back = Dataset.from_transitions(flatten(made))
    all_same(back, made)
    assert back.report is not None
    assert (back.report.steps, back.report.discontinuities, back.report.unfinished) == (8, 2, 3)
    joined = Dataset.from_transitions(flatten([simple(2), simple(2, 2.0)]))  # the second begins where the first stopped
    assert [t.observations.tolist() for t in joined] == [[0, 1, 2, 3, 4]]


def test_observations_follow_on_by_their_bits() -> None:
    steps = flatten([simple(2)])
    zero = steps.replace(observation=np.float32([1, 0]), next_observation=np.float32([-0.0, 1]))
    assert Dataset.from_transitions(zero).num_episodes == 2
    nan = steps.replace(observation=np.float32([1, np.nan]), next_observation=np.float32([np.nan, 1]))
    assert Dataset.from_transitions(nan).num_episodes == 1


def test_a_batch_of_a_buffer_on_the_device_is_read() -> None:
    made = [simple(3, terminated=True), simple(2, 9.0, truncated=True)]
    buffer = Dataset(made).to_buffer()
    all_same(Dataset.from_transitions(replay.take(buffer, replay.rows(buffer)[0]).data), made)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"next_observation": None}, ValueError, r"next_observation: expected arrays \[N, ...\], got none"),
        ({"next_observation": np.zeros(3)}, ValueError, r"expected float32\[3\], got float64\[3\]"),
        ({"next_observation": {"a": np.zeros(3, np.float32)}}, ValueError, "next observations: the item: .* nothing"),
        (
            {"action": np.zeros(2)},
            ValueError,
            r"from_transitions: action: expected N = 3 rows as of the observations, got float64\[2\]",
        ),
        ({"action": {}}, ValueError, "action: expected arrays"),
        ({"action": np.array(["a"] * 3)}, TypeError, "action: expected an array of numbers"),
        ({"observation": np.zeros((0, 2))}, ValueError, "observation: expected at least one step"),
        ({"terminated": np.zeros(3, int)}, TypeError, r"terminated: expected bool\[3\], got int64\[3\]"),
        ({"truncated": np.zeros((3, 1), bool)}, TypeError, r"truncated: expected bool\[3\], got bool\[3,1\]"),
        ({"truncated": None}, TypeError, r"truncated: expected bool\[3\], got NoneType"),
        ({"reward": np.zeros(3, int)}, TypeError, "rewards: expected a floating dtype, got int64"),
        ({"reward": np.zeros((3, 1))}, ValueError, "reward: expected one array"),
        ({"extras": {"k": lambda: jax.random.split(jax.random.key(0), 3)}}, TypeError, "store jax.random.key_data"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    changes = jax.tree.map(lambda x: x() if callable(x) else x, changes)
    with pytest.raises(error, match=message):
        Dataset.from_transitions(flatten([simple(3)]).replace(**changes))


def test_numbers_of_episodes_and_infos_bring_all_back() -> None:
    infos = [{"i": 0}, {"text": "a"}]
    made = [
        simple(2, infos=infos),
        simple(2, 2.0, terminated=True),
        simple(1, 4.0, truncated=True, infos=[{"last": 1}]),
    ]
    dataset, steps = Dataset(made), flatten(made, episode_numbers=True)
    assert steps.extras["episode"].tolist() == [0, 0, 1, 1, 2]
    assert steps.extras["episode"].dtype == np.int32
    assert dataset.infos() == [*infos, {}, {}, {"last": 1}]
    assert dataset.infos([4, 0]) == [{"last": 1}, {"i": 0}]
    assert dataset.infos(slice(1, 3)) == [{"text": "a"}, {}]
    assert dataset.infos(np.array([True, *[False] * 4])) == [{"i": 0}]
    back = Dataset.from_transitions(flatten(made), episode=steps.extras["episode"], infos=dataset.infos())
    assert back.equals(dataset), str(back.equals(dataset))
    assert back.report is not None
    assert back.report.discontinuities == 0
    assert Dataset.from_transitions(flatten(made)).num_episodes == 2  # the first goes on with the second
    with pytest.raises(ValueError, match=r"flatten: extras: expected a dict without an entry episode"):
        flatten(Dataset.from_transitions(steps), episode_numbers=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"episode": [0, 1]}, ValueError, r"episode: expected the number of each step's, int\[3\], got int64\[2\]"),
        ({"episode": np.zeros(3)}, ValueError, r"episode: expected .* got float64\[3\]"),
        ({"infos": [{}]}, ValueError, "infos: expected a list of T = 3 dicts, got 1"),
        ({"infos": [1, 2, 3]}, TypeError, "infos.0: expected a dict, got int"),
    ],
)
def test_numbers_and_infos_that_do_not_fit_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Dataset.from_transitions(flatten([simple(3)]), **arguments)


def test_validate_says_whether_a_batch_is_well_formed() -> None:
    steps = flatten([simple(3, terminated=True)])
    validate(steps)
    validate(steps.replace(reward=None, extras={"k": np.zeros((3, 2))}))
    jax.jit(validate)(steps)  # by shapes and dtypes alone
    wrong: Any
    for changes, error, message in (
        ({"action": np.zeros(2)}, ValueError, r"validate: action: expected N = 3 rows .* got float64\[2\]"),
        ({"action": [1, 2, 3]}, TypeError, "validate: action.0: expected a NumPy or JAX array, got int"),
        ({"extras": {"k": np.zeros(4)}}, ValueError, "validate: extras.k: expected N = 3 rows"),
        (
            {"next_observation": {"a": np.zeros(3)}},
            ValueError,
            "validate: next observations: the item: expected float32",
        ),
        (
            {"next_observation": np.zeros(3)},
            ValueError,
            r"next observations: .* expected float32\[3\], got float64\[3\]",
        ),
        ({"next_observation": np.zeros((3, 2), "f4")}, ValueError, r"next observations: .* got float32\[3,2\]"),
        ({"terminated": np.zeros(3, int)}, TypeError, r"validate: terminated: expected bool\[3\], got int64\[3\]"),
        ({"truncated": None}, TypeError, r"validate: truncated: expected bool\[3\], got NoneType"),
        ({"reward": np.zeros(3, int)}, TypeError, "validate: rewards: expected a floating dtype, got int64"),
        ({"reward": np.zeros((3, 1))}, ValueError, "reward: expected one array"),
        ({"observation": np.array(["a"] * 3)}, TypeError, "validate: observation: expected an array of numbers"),
    ):
        with pytest.raises(error, match=message):
            validate(steps.replace(**changes))
    wrong = {"observation": jnp.zeros(3)}
    with pytest.raises(TypeError, match="validate: expected a Transition, got dict"):
        validate(wrong)


def test_other_things_are_refused() -> None:
    steps: Any = {"observation": jnp.zeros(3)}
    with pytest.raises(TypeError, match="from_transitions: expected a Transition, got dict"):
        Dataset.from_transitions(steps)
