"""Minari's data sets, both ways."""

from __future__ import annotations

import os
import pathlib
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

minari = library("minari")
library("h5py")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari asks for an author, a description, ...

NUMBERS = iter(range(10**6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("minari")


def round_trip(dataset: Any, folder: Any, **options: Any) -> Dataset:
    name = f"tests/set{next(NUMBERS)}-v0"
    made = convert.to_minari(dataset, name, path=folder, **options)
    came = convert.from_minari(name, path=folder)
    assert_same_episodes(convert.from_minari(made), came, ("infos", "episode_data"))
    assert came.report is not None
    assert (came.report.episodes, came.report.steps) == (came.num_episodes, len(came))
    assert came.report.unfinished == sum(not episode.ended for episode in came)
    return came


@settings(settings.get_profile("short"), max_examples=12)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_a_round_trip_gives_the_same_episodes_bit_for_bit(folder: Any, seed: int, lengths: list[int]) -> None:
    dataset = random_dataset(seed, lengths=lengths, extras=seed % 2 == 0)
    came = round_trip(dataset, folder)
    assert_same_episodes(came, dataset)
    assert [episode.episode_data for episode in came] == [{"id": i} for i in range(len(lengths))]


def test_images_are_not_compressed(folder: Any) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    dataset = Dataset([Trajectory(pixels, np.zeros(3, np.int64), np.ones(3), terminated=True)])
    assert_same_episodes(round_trip(dataset, folder), dataset)


def test_seeds_options_and_attributes_of_episodes_are_kept(folder: Any) -> None:
    data = {
        "seed": 7,
        "options": {"level": 3, "start": {"x": 0.5}},
        "goal": np.arange(3, dtype=np.float32),
        "name": "é",
        "solved": True,
        "nested": {"a": {"b": 1.5}},
    }
    dataset = Dataset([Trajectory(np.zeros((2, 1)), np.zeros(1), np.ones(1), episode_data=data), _plain()])
    first, second = round_trip(dataset, folder)
    kept = first.episode_data
    assert_same(kept.pop("goal"), data.pop("goal"))
    assert kept == data | {"id": 0}
    assert second.episode_data == {"id": 1}
    again = round_trip(Dataset([first, second]), folder)
    assert again.episode(0).episode_data == first.episode_data | {"id": 0}


def _plain(**fields: Any) -> Trajectory:
    return Trajectory(np.zeros((3, 1)), np.zeros(2), np.ones(2), **fields)


def test_infos_that_line_up_are_kept_beside_extras(folder: Any) -> None:
    infos = [{"lives": i, "text": f"é{i}", "deep": {"x": np.ones(2) * i}} for i in range(2)]
    for extras in (None, {"infos": np.zeros((2, 1))}, (np.ones(2), np.zeros((2, 3), np.uint8)), np.arange(2.0)):
        dataset = Dataset([_plain(infos=infos, extras=extras)])
        came = round_trip(dataset, folder)
        assert_same_episodes(came, dataset)
        for mine, theirs in zip(came.episode(0).infos or (), infos, strict=True):
            assert (mine["lives"], mine["text"]) == (theirs["lives"], theirs["text"])
            np.testing.assert_array_equal(mine["deep"]["x"], theirs["deep"]["x"])
    assert round_trip(Dataset([_plain(infos=[{}, {}])]), folder).episode(0).infos == [{}, {}]


@pytest.mark.parametrize("extras", [{"extras": np.ones(2)}, {"infos": {"x": np.ones(2)}}, (np.ones(2),), np.ones(2)])
def test_extras_of_any_form_and_name_come_back_as_extras(folder: Any, extras: Any) -> None:
    dataset = Dataset([_plain(extras=extras)])
    assert_same_episodes(round_trip(dataset, folder), dataset)


def recorded(folder: pathlib.Path) -> Any:
    """A data set that Minari's own collector recorded, with infos and seeds."""
    gymnasium = library("gymnasium")

    class Counting(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"step": gymnasium.spaces.Box(0, 99, (), np.int64)})
        action_space = gymnasium.spaces.Discrete(3)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.step_number = 0
            return self._observe()

        def step(self, action: Any) -> Any:
            self.step_number += 1
            observation, info = self._observe()
            return observation, self.step_number / 2, self.step_number == 4, False, info

        def _observe(self) -> Any:
            return {"step": np.array(self.step_number)}, {"position": np.array([self.step_number, 5])}

    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        env = minari.DataCollector(Counting(), record_infos=True)
        for seed in (11, 12):
            env.reset(seed=seed, options={"level": 1})
            while not env.step(1)[2]:
                pass
        return env.create_dataset("tests/collected-v0")
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def test_what_minari_recorded_is_read_and_written_as_it_was(tmp_path: pathlib.Path) -> None:
    theirs = recorded(tmp_path)
    came = convert.from_minari(theirs)
    assert came.num_episodes == 2
    for i, episode in enumerate(came):
        assert episode.observations["step"].tolist() == [0, 1, 2, 3, 4]
        assert episode.rewards.tolist() == [0.5, 1, 1.5, 2]
        assert (episode.terminated, episode.truncated) == (True, False)
        assert episode.extras["position"][:, 0].tolist() == [1, 2, 3, 4]
        data = episode.episode_data
        assert (data["id"], data["seed"], data["options"]) == (i, 11 + i, {"level": 1})
        assert data["reset_infos"]["position"].tolist() == [0, 5]
    spaces = {"observation_space": theirs.observation_space, "action_space": theirs.action_space}
    written = convert.to_minari(came, "tests/again-v0", path=tmp_path, **spaces)
    for mine, original in zip(written, theirs):
        assert_same(vars(mine), vars(original))
    filtered = theirs.filter_episodes(lambda episode: episode.id == 1)
    assert [episode.episode_data["id"] for episode in convert.from_minari(filtered)] == [1]


def test_a_buffers_episodes_are_written(folder: Any) -> None:
    buffer = buffer_with_holes()
    came = round_trip(buffer, folder, drop=("extras",))
    assert came.num_episodes > 1
    for mine, theirs in zip(came, Dataset.from_buffer(buffer), strict=True):
        assert_same(
            (mine.observations, mine.actions, mine.rewards), (theirs.observations, theirs.actions, theirs.rewards)
        )
        assert mine.extras is None


def test_spaces_are_those_given_or_boxes_of_the_arrays(folder: Any) -> None:
    spaces = library("gymnasium").spaces
    dataset = Dataset([Trajectory({"a": np.zeros((3, 2), np.float32)}, np.zeros(2, np.int32), np.ones(2))])
    made = convert.to_minari(dataset, "tests/inferred-v0", path=folder)
    assert made.observation_space == spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    assert made.action_space == spaces.Box(-(2**31), 2**31 - 1, (), np.int32)
    made = convert.to_minari(dataset, "tests/given-v0", path=folder, action_space=spaces.Discrete(4), author="me")
    assert made.action_space == spaces.Discrete(4)
    assert made.storage.metadata["author"] == {"me"}


def test_what_minari_cannot_hold_is_named_and_nothing_is_written(tmp_path: pathlib.Path) -> None:
    zeros, ones = np.zeros((3, 2)), np.ones(2)
    for trajectory, message in (
        (Trajectory([zeros], ones, ones), "episode 0: observations: Minari holds dicts and tuples of arrays, got list"),
        (Trajectory({"a": zeros, "b/c": zeros}, ones, ones), "observations: 'b/c' cannot be a name"),
        (
            Trajectory({"a": zeros.astype(ml_dtypes.bfloat16)}, ones, ones),
            r"observations\.a: Minari has no arrays of bf",
        ),
        (Trajectory(zeros, ones.astype(np.complex64), ones), "actions: no Gymnasium space can be told from complex64"),
        (Trajectory(zeros, ones), "rewards: Minari holds rewards, and this episode has none"),
        (_plain(infos=[{"a": 1}, {}]), r"infos\.1: Minari holds infos with the same keys"),
        (_plain(infos=[{"a": 1}, {"a": "x"}]), r"infos\.a: Minari holds numbers, texts, or arrays of one shape"),
        (_plain(episode_data=3), "episode_data: Minari holds a dict of them, got int"),
        (_plain(episode_data={"seed": 0.5}), r"episode_data\.seed: Minari holds a whole number, got 0\.5"),
        (_plain(episode_data={"options": 1}), r"episode_data\.options: expected a dict, got int"),
        (_plain(episode_data={"x": [1]}), r"episode_data\.x: expected a number, an array or a text, got list"),
        (_plain(episode_data={"x": {}}), r"episode_data\.x: Minari keeps no empty dicts"),
        (_plain(episode_data={"total_steps": 1}), r"episode_data\.total_steps: Minari uses that name itself"),
        (_plain(episode_data={"x": np.zeros(10**5)}), r"episode_data\.x: 800000 bytes are too many"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            convert.to_minari(Dataset([trajectory]), "tests/bad-v0", path=tmp_path)
        assert not list(tmp_path.iterdir())
    for name in ("tests/no_version", "-- -v0"):
        with pytest.raises(ValueError, match="dataset_id: expected a name with a version"):
            convert.to_minari(Dataset([_plain()]), name, path=tmp_path)
    with pytest.raises(ValueError, match="the source is empty"):
        convert.to_minari(Dataset(), "tests/bad-v0", path=tmp_path)
    with pytest.raises(ValueError, match="drop: expected some of"):
        convert.to_minari(Dataset([_plain()]), "tests/bad-v0", path=tmp_path, drop=("rewards",))


def test_a_data_set_that_is_there_is_left_as_it_is_and_a_failed_one_is_not_left(tmp_path: pathlib.Path) -> None:
    dataset = Dataset([_plain()])
    convert.to_minari(dataset, "tests/kept-v0", path=tmp_path)
    with pytest.raises(ValueError, match="already exists"):
        convert.to_minari(Dataset([_plain(), _plain()]), "tests/kept-v0", path=tmp_path)
    assert convert.from_minari("tests/kept-v0", path=tmp_path).num_episodes == 1
    with pytest.raises(ValueError, match="No storage implemented"):
        convert.to_minari(dataset, "tests/failed-v0", path=tmp_path, data_format="none")
    assert not (tmp_path / "tests" / "failed-v0").exists()
    assert os.environ.get("MINARI_DATASETS_PATH") != str(tmp_path)


def test_rewards_that_are_whole_numbers_are_cast_only_when_asked(tmp_path: pathlib.Path) -> None:
    made = convert.to_minari(Dataset([_plain()]), "tests/whole-v0", path=tmp_path)
    ends = np.array([False, True])
    whole = {"observations": np.zeros((3, 1)), "actions": np.zeros(2), "rewards": np.array([1, 2])}
    made.update_dataset_from_buffer(
        [minari.data_collector.EpisodeBuffer(**whole, terminations=ends, truncations=~ends)]
    )
    with pytest.raises(ValueError, match="episode 1: truncations: step 0 of 2 ends the episode, and it goes on"):
        convert.from_minari(made)
    made = convert.to_minari(Dataset([_plain()]), "tests/counted-v0", path=tmp_path)
    made.update_dataset_from_buffer([minari.data_collector.EpisodeBuffer(**whole, terminations=ends, truncations=ends)])
    with pytest.raises(TypeError, match="episode 1: rewards: expected a floating dtype, got int64"):
        convert.from_minari(made)
    assert convert.from_minari(made, reward_dtype=np.float32).episode(1).rewards.tolist() == [1, 2]
