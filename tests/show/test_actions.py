"""A page of recorded actions: each episode with its rewards, its actions and its seed."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxreplay.record.actions.files import save_actions
from jaxreplay.record.actions.record import ActionRecord, Environment, VectorActionRecord
from jaxreplay.show import page, recording
from tests.show.recordings import saved

WHERE = Environment("Some-v0", {}, "Discrete(2)", "Box(3)")


def record(actions: list[Any], **more: Any) -> ActionRecord:
    given = {"terminated": True, "truncated": False, "seed": 7, "options": None} | more
    return ActionRecord(tuple(actions), np.arange(len(actions), dtype=np.float64), environment=WHERE, **given)


def test_the_records_of_a_folder_are_its_episodes(tmp_path: pathlib.Path) -> None:
    save_actions(record([np.int64(1), np.int64(0), np.int64(1)]), tmp_path)
    save_actions(
        record([np.int64(0)], terminated=False, seed=None, not_replayable="it was reset without a seed"), tmp_path
    )
    found = recording.read(tmp_path)
    assert found.kind == "action recording"
    assert (found.length.tolist(), found.returns.tolist(), found.end) == ([3, 1], [3, 0], ["terminated", "cut"])  # type: ignore[union-attr]
    assert ("environment", "Some-v0") in found.facts
    assert ("records", "2, of which 1 can be played again") in found.facts
    assert found.leaves == [("rewards", "float64[]"), ("actions", "int64[]")]
    assert found.episode(0).leaves["actions"].tolist() == [1, 0, 1]
    assert found.episode(1).data["not replayable"] == "it was reset without a seed"


def test_a_file_of_nested_actions_and_one_of_texts(tmp_path: pathlib.Path) -> None:
    nested = save_actions(record([{"arm": np.zeros(2), "grip": np.int64(t)} for t in range(3)]), tmp_path / "nested")
    found = recording.read(pathlib.Path(nested)).episode(0)
    assert {path: x.shape for path, x in found.leaves.items()} == {
        "rewards": (3,),
        "actions.arm": (3, 2),
        "actions.grip": (3,),
    }
    texts = save_actions(record(["go", {"turn": 1}]), tmp_path / "texts")
    found = recording.read(pathlib.Path(texts)).episode(0)
    assert found.infos == [{"action": "go"}, {"action": {"turn": 1}}]
    assert "action: go" in page.make_page("texts", recording.read(pathlib.Path(texts)), 1)


def test_of_a_vector_environment_each_env_has_its_own_episodes(tmp_path: pathlib.Path) -> None:
    taken, terminated = np.ones((5, 2), bool), np.zeros((5, 2), bool)
    terminated[1, 0] = True
    taken[2, 0] = False  # env 0 was reset by this step
    vector = VectorActionRecord(
        actions=tuple(np.array([t, 10 + t]) for t in range(5)),
        rewards=np.ones((5, 2)),
        terminated=terminated,
        truncated=np.zeros((5, 2), bool),
        taken=taken,
        resets=({"step": 0, "seed": 3, "options": None},),
        environment=WHERE,
    )
    save_actions(vector, tmp_path)
    found = recording.read(tmp_path)
    assert found.length.tolist() == [2, 2, 5]
    assert found.end == ["terminated", "unfinished", "unfinished"]
    assert [found.episode(i).leaves["actions"].tolist() for i in range(3)] == [[0, 1], [3, 4], [10, 11, 12, 13, 14]]
    assert found.episode(1).data == {"env": 0, "first step": 3}


def test_actions_of_envs_that_are_no_arrays_are_texts(tmp_path: pathlib.Path) -> None:
    flags = np.zeros((2, 1), bool)
    vector = VectorActionRecord(({"a": 1}, {"a": "x"}), np.ones((2, 1)), flags, flags, ~flags, (), WHERE)
    save_actions(vector, tmp_path)
    assert recording.read(tmp_path).episode(0).infos == [{"action": {"a": 1}}, {"action": {"a": "x"}}]


def test_a_data_set_is_no_record_of_actions(tmp_path: pathlib.Path) -> None:
    assert not recording.is_actions(saved(tmp_path))
    assert not recording.is_actions(tmp_path)
    (tmp_path / "empty").mkdir()
    assert not recording.is_actions(tmp_path / "empty")
