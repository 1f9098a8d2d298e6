"""Hugging Face's data sets, both ways: a row is an episode."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay import convert
from jaxreplay.datasets import Dataset, Trajectory
from tests.convert.streams import assert_same_episodes, buffer_with_holes, random_dataset
from tests.extras import library

datasets = library("datasets")


def data_of(length: int) -> dict[str, Any]:
    goal = {"at": np.ones(2, np.float16), "far": float("inf"), "half": ml_dtypes.bfloat16(0.5), "big": 2**70}
    return {"seed": length, "goal": goal, "options": {"level": "é", "hard": True, "more": ([], ("list", 1))}}


@settings(settings.get_profile("short"))
@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_round_trip_gives_the_same_episodes_bit_for_bit(seed: int, lengths: list[int]) -> None:
    dataset = random_dataset(
        seed,
        lengths=lengths,
        extras=seed % 2 == 0,
        infos=lambda length: [{"step": i, "x": (0.5, None)} for i in range(length)],
        episode_data=data_of,
    )
    came = convert.from_hugging_face(convert.to_hugging_face(dataset))
    assert_same_episodes(came, dataset, ("infos", "episode_data"))
    assert came.report is not None
    assert (came.report.episodes, came.report.steps) == (len(lengths), sum(lengths))
    assert came.report.terminated == sum(episode.terminated for episode in dataset)


def test_columns_are_named_by_path_and_typed_by_feature() -> None:
    observations = {"camera": np.zeros((3, 4, 5), np.uint8), "joints": (np.zeros((3, 2), np.float16), np.zeros(3))}
    made = convert.to_hugging_face(Dataset([Trajectory(observations, np.zeros(2, np.int32), terminated=True)]))
    assert made.column_names == [
        "observations.camera",
        "observations.joints[0]",
        "observations.joints[1]",
        "actions",
        "terminated",
        "truncated",
        "infos",
        "episode_data",
    ]
    assert made.features["observations.camera"] == datasets.Array3D((None, 4, 5), "uint8")
    assert made.features["actions"] == datasets.List(datasets.Value("int32"))
    assert made[0]["observations.joints[1]"] == [0, 0, 0]
    assert (made[0]["terminated"], made[0]["infos"]) == (True, None)


def test_a_buffers_episodes_after_a_round_trip_to_disk(tmp_path: Any) -> None:
    buffer = buffer_with_holes()
    dataset = Dataset.from_buffer(buffer)
    floats = Dataset([Trajectory(e.observations, e.actions, e.rewards, e.terminated, e.truncated) for e in dataset])
    convert.to_hugging_face(floats).save_to_disk(tmp_path / "set")
    assert_same_episodes(convert.from_hugging_face(datasets.load_from_disk(tmp_path / "set")), floats)
    with pytest.raises(ValueError, match=r"extras\.half: Arrow has no arrays of bfloat16"):
        convert.to_hugging_face(buffer)


def test_what_was_selected_and_joined_is_read_in_its_order() -> None:
    dataset = random_dataset(3, lengths=(2, 1, 4, 3))
    made = convert.to_hugging_face(dataset)
    chosen = made.select([3, 0, 0])
    assert_same_episodes(convert.from_hugging_face(chosen), Dataset([dataset.episode(i) for i in (3, 0, 0)]))
    joined = datasets.concatenate_datasets([made, made.select([1])])  # of more than one piece
    assert_same_episodes(convert.from_hugging_face(joined), dataset.append(dataset.episode(1)))


def test_what_it_cannot_hold_is_named() -> None:
    zeros, ones = np.zeros((3, 2)), np.ones(2)
    for trajectory, message in (
        (Trajectory([zeros], ones), "observations: expected arrays in dicts and tuples, got list"),
        (Trajectory({"a": zeros, "b": {}}, ones), r"observations\.b: .* got dict without any"),
        (Trajectory({"a.b": zeros}, ones), r"observations: 'a\.b' cannot be part of a column's name"),
        (Trajectory(zeros.astype(ml_dtypes.bfloat16), ones), "observations: Arrow has no arrays of bfloat16"),
        (Trajectory(zeros, ones.astype(np.complex64)), "actions: Arrow has no arrays of complex64"),
        (Trajectory(np.zeros((3, 1, 1, 1, 1, 1)), ones), "observations: expected at most 4 axes a step"),
        (Trajectory(np.zeros((3, 0)), ones), "observations: expected at most 4 axes a step, none empty"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_hugging_face(Dataset([trajectory]))
    with pytest.raises(TypeError, match=r"episode 0: infos\.1\.x: object cannot be recorded as plain data"):
        convert.to_hugging_face(Dataset([Trajectory(zeros, ones, infos=[{}, {"x": object()}])]))
    with pytest.raises(ValueError, match="the source is empty"):
        convert.to_hugging_face(Dataset())


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a column terminated, got: text"):
        convert.from_hugging_face(datasets.Dataset.from_dict({"text": ["a"]}))
    made = convert.to_hugging_face(random_dataset(0)).add_column("label", [0, 1, 2])
    with pytest.raises(ValueError, match="label is no part of an episode; remove the column first"):
        convert.from_hugging_face(made)


def test_rows_that_are_steps_are_joined_by_an_episode_column() -> None:
    image = library("PIL.Image")
    camera = [image.fromarray(np.full((2, 3, 3), i, np.uint8)) for i in range(5)]
    made = datasets.Dataset.from_dict(
        {
            "state": [[float(i), -float(i)] for i in range(5)],
            "camera": camera,
            "act": list(range(5)),
            "id": [7, 7, 7, 2, 2],
            "note": ["a"] * 5,
        },
        features=datasets.Features(
            {
                "state": datasets.List(datasets.Value("float32"), length=2),
                "camera": datasets.Image(),
                "act": datasets.Value("int32"),
                "id": datasets.Value("int64"),
                "note": datasets.Value("string"),
            }
        ),
    )
    columns = {"observations": {"s": "state", "c": "camera"}, "actions": "act", "episode": "id"}
    came = convert.from_hugging_face(made, columns)
    assert [t.observations["s"][:, 0].tolist() for t in came] == [[0, 1, 2], [3, 4]]
    assert came.episode(1).observations["c"].tolist() == [np.full((2, 3, 3), i).tolist() for i in (3, 4)]
    assert [t.actions.tolist() for t in came] == [[0, 1], [3]]
    assert came.report is not None
    assert (came.report.dropped_rows, came.report.ignored) == (2, ("note",))
    chosen = convert.from_hugging_face(made.select([4, 3]), columns, missing_final="repeat")
    assert chosen.episode(0).observations["s"][:, 0].tolist() == [4, 3, 3]
    for changes, message in (
        ({"rewards": "r"}, "from_hugging_face: columns: rewards: there is no column 'r'; there are: state, camera"),
        ({"actions": "note"}, "from_hugging_face: actions: expected numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_hugging_face(made, columns | changes)
    with pytest.raises(TypeError, match=r"expected a datasets.Dataset, one split .*, got DatasetDict"):
        convert.from_hugging_face(datasets.DatasetDict({"train": made}), columns)
