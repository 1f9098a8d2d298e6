"""Flattening, padding and cutting, by examples worked out by hand, and beside the `imitation` package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory, flatten, pad, segment
from tests.datasets.episodes import all_same, same_tree, simple
from tests.extras import library


def test_flatten_of_one_step() -> None:
    batch = flatten([simple(1, 5.0, terminated=True)])
    same_tree(
        batch,
        replay.Transition(
            observation=np.array([5], np.float32),
            action=np.array([0], np.int32),
            reward=np.array([1], np.float32),
            terminated=np.array([True]),
            truncated=np.array([False]),
            next_observation=np.array([6], np.float32),
            extras={},
        ),
        "batch",
    )


def test_flatten_of_two_steps_and_one() -> None:
    two = Trajectory({"a": np.array([1, 2, 3])}, np.array([7, 8]), truncated=True, extras=np.array([0.5, 0.25]))
    one = Trajectory({"a": np.array([4, 5])}, np.array([9]), extras=np.array([0.125]))
    batch = flatten([two, one])
    assert batch.observation["a"].tolist() == [1, 2, 4]
    assert batch.next_observation["a"].tolist() == [2, 3, 5]
    assert batch.action.tolist() == [7, 8, 9]
    assert batch.reward is None
    assert batch.terminated.tolist() == [False, False, False]
    assert batch.truncated.tolist() == [False, True, False]
    assert batch.extras.tolist() == [0.5, 0.25, 0.125]


def test_flatten_of_a_thousand_steps_between_others() -> None:
    batch = flatten([simple(1, -9.0, truncated=True), simple(1000, terminated=True), simple(2, 5000.0)])
    assert batch.observation.tolist() == [-9, *range(1000), 5000, 5001]
    assert batch.next_observation.tolist() == [-8, *range(1, 1001), 5001, 5002]
    assert batch.action.tolist() == [0, *range(1000), 0, 1]
    assert batch.reward.tolist() == [1, *range(1, 1001), 1, 2]
    assert np.flatnonzero(batch.terminated).tolist() == [1000]
    assert np.flatnonzero(batch.truncated).tolist() == [0]


def test_flatten_is_what_imitation_gives() -> None:
    rollout = library("imitation.data.rollout")
    types = library("imitation.data.types")
    episodes = [simple(1, 3.0, terminated=True), simple(2), simple(1000, 9.0, truncated=True)]
    theirs = rollout.flatten_trajectories_with_rew(
        [types.TrajectoryWithRew(t.observations, t.actions, None, t.ended, t.rewards) for t in episodes]
    )
    ours = flatten(episodes)
    for mine, other in (
        (ours.observation, theirs.obs),
        (ours.next_observation, theirs.next_obs),
        (ours.action, theirs.acts),
        (ours.reward, theirs.rews),
        (ours.terminated | ours.truncated, theirs.dones),
    ):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype


def test_trajectories_of_no_kind() -> None:
    for wrong, error, message in (
        ([], ValueError, "expected at least one trajectory"),
        ([3], TypeError, "trajectories.0: expected a Trajectory, got int"),
        ([simple(1), Trajectory(np.zeros(2), np.zeros(1))], ValueError, "trajectories.1: observations is float64"),
    ):
        with pytest.raises(error, match=message):
            flatten(wrong)
    unrewarded = Trajectory(np.zeros(2, np.float32), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match=r"trajectories.1: there is no rewards, in trajectories.0 it is float32"):
        flatten([simple(1), unrewarded])
    with pytest.raises(ValueError, match=r"trajectories.2: rewards is float32.*in trajectories.0 there is none"):
        pad([unrewarded, unrewarded, simple(1)])
    with pytest.raises(ValueError, match="the containers of observations differ"):
        flatten([Trajectory([np.zeros(2)], np.zeros(1)), Trajectory((np.zeros(2),), np.zeros(1))])


def test_pad_masks_what_is_past_the_end() -> None:
    padded = pad([simple(2, terminated=True), simple(1, 7.0, truncated=True)])
    assert padded.observations.tolist() == [[0, 1, 2], [7, 8, 0]]
    assert padded.actions.tolist() == [[0, 1], [0, 0]]
    assert padded.rewards.tolist() == [[1, 2], [1, 0]]
    assert padded.mask.tolist() == [[True, True], [True, False]]
    assert padded.length.tolist() == [2, 1]
    assert padded.terminated.tolist() == [True, False]
    assert padded.truncated.tolist() == [False, True]
    assert padded.extras is None
    assert pad(Dataset([simple(1)]), length=3).mask.tolist() == [[True, False, False]]
    with pytest.raises(ValueError, match="length: a trajectory has 2 steps, got 1"):
        pad([simple(2)], length=1)


def test_segments_follow_on_and_only_the_last_ends() -> None:
    whole = simple(5, terminated=True, infos=[{"i": i} for i in range(5)])
    pieces = segment(whole, 2)
    assert [p.observations.tolist() for p in pieces] == [[0, 1, 2], [2, 3, 4], [4, 5]]
    assert [p.terminated for p in pieces] == [False, False, True]
    assert [p.infos for p in pieces] == [[{"i": 0}, {"i": 1}], [{"i": 2}, {"i": 3}], [{"i": 4}]]
    all_same(segment(whole, 2, drop_remainder=True), pieces[:2])
    assert [p.actions.tolist() for p in segment(whole, 3, stride=1)] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [p.actions.tolist() for p in segment(whole, 9)] == [[0, 1, 2, 3, 4]]
    assert segment(whole, 9, drop_remainder=True) == []
    several = [whole, simple(1, 9.0), simple(3, 20.0, truncated=True)]
    apart = [piece for each in several for piece in segment(each, 2)]
    for many in (several, Dataset([simple(5, terminated=True), *several[1:]]), iter(several)):
        assert [p.observations.tolist() for p in segment(many, 2)] == [p.observations.tolist() for p in apart]
    wrong: Any = [whole, 3]
    with pytest.raises(TypeError, match=r"trajectories.1: expected a Trajectory, got int"):
        segment(wrong, 2)
    for arguments in ({"length": 0}, {"length": 2, "stride": 0}):
        with pytest.raises(ValueError, match="expected"):
            segment(whole, **arguments)
