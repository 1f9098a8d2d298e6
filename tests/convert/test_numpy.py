"""Dicts of arrays in D4RL's layout, both ways."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay import convert
from jaxreplay.datasets import Dataset, Trajectory
from tests.convert.streams import assert_same, assert_same_episodes, buffer_with_holes, random_dataset
from tests.extras import library


@settings(settings.get_profile("short"))
@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_round_trip_gives_the_same_episodes_bit_for_bit(seed: int, lengths: list[int]) -> None:
    dataset = random_dataset(seed, lengths=lengths, extras=seed % 2 == 0)
    arrays = convert.to_numpy(dataset)
    came = convert.from_numpy(arrays)
    assert_same_episodes(came, dataset)
    assert came.report is not None
    assert (came.report.episodes, came.report.steps, came.report.dropped_rows) == (len(lengths), sum(lengths), 0)


def test_extended_dtypes_keep_their_bits() -> None:
    halves = np.arange(8).astype(ml_dtypes.bfloat16).reshape(4, 2)
    dataset = Dataset([Trajectory(halves, np.zeros(3, np.float32), terminated=True)])
    assert_same_episodes(convert.from_numpy(convert.to_numpy(dataset)), dataset)


def test_episodes_that_look_alike_are_told_apart_by_their_number() -> None:
    one = Trajectory(np.zeros((3, 1)), np.zeros(2))  # stops where the next begins
    assert convert.from_numpy(convert.to_numpy(Dataset([one, one]))).num_episodes == 2


def test_a_buffers_steps_are_given_episode_by_episode() -> None:
    buffer = buffer_with_holes()
    arrays = convert.to_numpy(buffer)
    assert_same(arrays["observations"], Dataset.from_buffer(buffer)[:].observation)
    assert arrays["extras"]["half"].dtype == ml_dtypes.bfloat16
    assert_same_episodes(convert.from_numpy(arrays), Dataset.from_buffer(buffer))


def arrays(**more: Any) -> dict[str, Any]:
    """Seven steps of three episodes: 0 to 3, 4 to 5, 6."""
    ends = np.array([0, 0, 0, 1, 0, 1, 0], bool)
    steps = np.arange(7)
    return {
        "observations": steps[:, None] * 1.0,
        "actions": steps,
        "rewards": steps * 0.5,
        "terminals": ends & (steps < 4),
        "timeouts": ends & (steps > 4),
    } | more


def observations(dataset: Dataset) -> list[list[float]]:
    return [episode.observations[:, 0].tolist() for episode in dataset]


def test_without_next_observations_the_last_row_of_an_episode_is_its_final_observation() -> None:
    came = convert.from_numpy(arrays())
    assert observations(came) == [[0, 1, 2, 3], [4, 5]]
    assert [(each.terminated, each.truncated) for each in came] == [(False, False)] * 2
    report = came.report
    assert report is not None
    assert (report.dropped_rows, report.dropped_episodes, report.unfinished) == (3, 1, 2)


def test_a_missing_final_observation_is_repeated_only_when_asked() -> None:
    came = convert.from_numpy(arrays(), missing_final="repeat")
    assert observations(came) == [[0, 1, 2, 3, 3], [4, 5, 5], [6, 6]]
    assert [(each.terminated, each.truncated) for each in came] == [(True, False), (False, True), (False, False)]


def test_next_observations_tell_where_a_recording_does_not_go_on() -> None:
    following = np.array([1.0, 2, 30, 4, 5, 60, 70])[:, None]
    came = convert.from_numpy(arrays(next_observations=following))
    assert observations(came) == [[0, 1, 2, 30], [3, 4], [4, 5, 60], [6, 70]]
    assert came.report is not None
    assert came.report.discontinuities == 1


def test_other_arrays_of_as_many_rows_become_extras_and_the_rest_is_reported() -> None:
    more = {
        "infos/qpos": np.ones((7, 2)),
        "infos/qvel": np.zeros(7),
        "metadata/name": np.array("x"),
        "bounds": np.ones(2),
    }
    came = convert.from_numpy(arrays(**more), missing_final="repeat")
    assert_same(came[:].extras, {"infos": {"qpos": np.ones((7, 2)), "qvel": np.zeros(7)}})
    assert came.report is not None
    assert came.report.ignored == ("metadata/name", "bounds")


def test_columns_of_flags_and_rewards_with_an_axis_more_are_read() -> None:
    flat = arrays()
    deep = {name: x[:, None] if name in ("rewards", "terminals", "timeouts") else x for name, x in flat.items()}
    assert_same_episodes(convert.from_numpy(deep), convert.from_numpy(flat))


def test_what_does_not_fit_is_named() -> None:
    for more, message in (
        ({"actions": None}, r"there is no actions: .* expected arrays \[N, ...\], there are: observations, rewards"),
        ({"rewards": np.ones(6)}, r"rewards: expected N = 7 rows as of the observations, got float64\[6\]"),
        ({"terminals": np.full(7, 0.5)}, r"terminals: expected one flag a row, got float64\[7\]"),
        (
            {"next_observations": np.ones((7, 2))},
            r"next observations: the item: expected float64\[7,1\], got float64\[7,2\]",
        ),
        ({"observations": np.ones((0, 1))}, "observations: expected at least one row"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_numpy(arrays(**more))
    with pytest.raises(ValueError, match="missing_final: expected 'drop' or 'repeat', got 'invent'"):
        convert.from_numpy(arrays(), missing_final="invent")
    with pytest.raises(TypeError, match="rewards: expected a floating dtype, got int64"):
        convert.from_numpy(arrays(rewards=np.arange(7)))


def test_infos_and_data_of_episodes_are_left_out_only_when_told() -> None:
    dataset = random_dataset(0, infos=lambda length: [{"a": 1}] * length, episode_data=lambda length: {"seed": length})
    with pytest.raises(ValueError, match=r"episode 0: a dict of arrays has no place for infos\.0\.a"):
        convert.to_numpy(dataset)
    with pytest.raises(ValueError, match=r"no place for episode_data\.seed"):
        convert.to_numpy(dataset, drop=("infos",))
    assert len(convert.to_numpy(dataset, drop=("infos", "episode_data"))["actions"]) > 0


def by_file(path: pathlib.Path, arrays: dict[str, Any], **options: Any) -> Dataset:
    """Write arrays to an HDF5 file, and load it."""
    with library("h5py").File(path, "w") as file:
        for name, column in arrays.items():
            file.create_dataset(name, data=column)
    return Dataset.load(path, **options)


def assert_same_both_ways(arrays: dict[str, Any], **options: Any) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        file = by_file(pathlib.Path(folder, "x.hdf5"), arrays, **options)
    came = convert.from_numpy(arrays, **options)
    assert_same_episodes(came, file)
    assert came.report == file.report
    return came


@settings(settings.get_profile("short"))
@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans(), st.sampled_from(["drop", "repeat"]))
def test_arrays_and_a_file_of_them_give_the_same_episodes(
    seed: int, count: int, known: bool, missing_final: str
) -> None:
    rng = np.random.default_rng(seed)
    values = np.float32([0.0, -0.0, np.nan, 1.0])
    more: dict[str, Any] = {"infos/qpos": rng.random(count), "metadata/size": 3}
    more |= {"next_observations": rng.choice(values, (count, 1))} if known else {}
    more |= {"episode": np.sort(rng.integers(0, 3, count))} if seed % 2 else {}
    assert_same_both_ways(
        {
            "observations": rng.choice(values, (count, 1)),
            "actions": rng.integers(0, 3, count),
            "rewards": rng.random((count, 1)),
            "terminals": rng.random(count) < 0.2,
            "timeouts": rng.random((count, 1)) < 0.2,
        }
        | more,
        missing_final=missing_final,
    )


def test_a_joint_may_differ_in_the_sign_of_zero_and_in_the_bits_of_nan() -> None:
    other_nan = np.uint64(0xFFF8000000000001).view(np.float64)
    arrays = {
        "observations": np.array([[5.0, 5.0], [0.0, np.nan], [0.0, np.nan]]),
        "actions": np.arange(3),
        "next_observations": np.array([[-0.0, other_nan], [np.nan, 0.0], [1.0, 1.0]]),
    }
    came = assert_same_both_ways(arrays)
    assert [len(each) for each in came] == [2, 1]
    assert came.report is not None
    assert (came.report.discontinuities, came.report.dropped_rows) == (1, 0)


@pytest.mark.parametrize("known", [True, False])
def test_the_number_of_an_episode_parts_those_that_did_not_end(known: bool) -> None:
    one = Trajectory(np.zeros((4, 1)), np.zeros(3))
    arrays = convert.to_numpy(Dataset([one, one]))
    if not known:
        del arrays["next_observations"]
    came = assert_same_both_ways(arrays)
    assert [len(each) for each in came] == ([3, 3] if known else [2, 2])
    assert came.report is not None
    assert came.report.discontinuities == 0


def test_extras_of_one_array_are_kept_beside_others() -> None:
    came = assert_same_both_ways(arrays(extras=np.arange(7), more=np.ones(7)), missing_final="repeat")
    assert_same(came[:].extras, {"extras": np.arange(7), "more": np.ones(7)})
    assert_same(assert_same_both_ways(arrays(extras=np.arange(7)), missing_final="repeat")[:].extras, np.arange(7))


def test_a_name_that_is_an_array_and_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from_numpy: infos/qpos: infos is an array as well"):
        convert.from_numpy(arrays(infos=np.ones(7), **{"infos/qpos": np.ones(7)}))
