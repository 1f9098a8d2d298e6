"""Writers: one at a time, readers beside it, a ring on disk, recorders, and what is refused."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.storage import Writer
from jaxreplay.storage.checking import verify
from tests.datasets.episodes import all_same, simple


def test_there_is_one_writer_at_a_time(tmp_path: pathlib.Path) -> None:
    with Writer(tmp_path) as writer:
        writer.append(simple(3))
        with pytest.raises(BlockingIOError, match="another writer has this store"):
            Writer(tmp_path)
    with Writer(tmp_path) as writer:
        writer.append(simple(4))
    assert [len(t) for t in Dataset.open(tmp_path)] == [3, 4]


def test_readers_see_commits_when_they_refresh_and_not_before(tmp_path: pathlib.Path) -> None:
    with Writer(tmp_path, commit_every=None) as writer:
        early = Dataset.open(tmp_path)
        writer.append(simple(3))
        assert early.refresh().num_episodes == 0
        writer.commit()
        one, other = early.refresh(), Dataset.open(tmp_path)
        writer.append(simple(5, start=9))
        writer.commit()
        assert (early.num_episodes, one.num_episodes, other.num_episodes) == (0, 1, 1)
        all_same(one.refresh(), [simple(3), simple(5, start=9)])
        all_same(one, [simple(3)])
        assert other.refresh().equals(one.refresh())
    again = one.refresh()
    assert again.refresh()._store.origin is again._store.origin
    with pytest.raises(ValueError, match="refresh: this is no store"):
        again.filter(min_length=1).refresh()


def test_an_episode_that_goes_on_grows_from_commit_to_commit(tmp_path: pathlib.Path) -> None:
    x, no = np.arange(12.0).reshape(6, 2), np.zeros((6, 2), bool)
    ended = no.copy()
    ended[5, 1] = True
    steps = {
        "observation": x,
        "action": x,
        "reward": x,
        "terminated": ended,
        "truncated": no,
        "next_observation": x + 2,
    }
    with Writer(tmp_path, num_envs=2, commit_every=None) as writer:
        for part in range(3):
            writer.extend(replay.Transition(**{name: x[2 * part : 2 * part + 2] for name, x in steps.items()}))
            writer.commit()
            opened = Dataset.open(tmp_path)
            assert [len(t) for t in opened] == [2 * part + 2] * 2
            assert [t.terminated for t in opened] == [False, part == 2]
            for env, episode in enumerate(opened):
                assert episode.observations.tolist() == [env + 2.0 * i for i in range(2 * part + 3)]
                assert np.array_equal(opened[:].next_observation, opened[:].observation + 2)


def test_a_ring_keeps_the_newest_steps(tmp_path: pathlib.Path) -> None:
    with Writer(tmp_path, max_steps=40, commit_every=None) as writer:
        for i in range(60):
            writer.append(simple(1 + i % 5, start=100 * i))
            writer.commit()
            opened = Dataset.open(tmp_path)
            everything = Dataset([simple(1 + j % 5, start=100 * j) for j in range(i + 1)])
            assert min(40, len(everything)) <= len(opened) <= 40 + 5 + 5
            newest = everything[len(everything) - len(opened) :]
            assert np.array_equal(opened[:].observation, newest.observation)
            assert np.array_equal(opened[:].next_observation, newest.next_observation)
    assert verify(tmp_path) == []
    assert len(list(tmp_path.glob("*.actions.npy"))) <= 40


def test_a_reader_that_has_a_part_mapped_keeps_it_when_a_ring_drops_it(tmp_path: pathlib.Path) -> None:
    with Writer(tmp_path, max_steps=8, commit_every=None) as writer:
        for i in range(4):
            writer.append(simple(2, start=10 * i))
        writer.commit()
        reader = Dataset.open(tmp_path)
        held = reader.episode(0).observations
        before = reader[:].observation.copy()
        for i in range(40):
            writer.append(simple(2, start=1000 + i))
            writer.commit()
        assert held.tolist() == [0, 1, 2]
        assert np.array_equal(reader[:].observation, before)
        late = Dataset.open(tmp_path)
        for i in range(40):
            writer.append(simple(2, start=2000 + i))
            writer.commit()
        with pytest.raises(ValueError, match=r"\.observations\.npy: there is no such file any more"):
            late[:]
        assert len(late.refresh()) == 8


def test_no_more_files_are_mapped_than_a_process_may_have_open(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxreplay.storage import mapping

    monkeypatch.setattr(mapping, "most_mapped", lambda: 16)
    episodes = [simple(4, start=10 * i) for i in range(60)]
    with Writer(tmp_path, segment_bytes=1) as writer:
        writer.extend(episodes)
    opened = Dataset.open(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    assert np.array_equal(opened[:].observation, Dataset(episodes)[:].observation)
    assert len(os.listdir("/proc/self/fd")) <= before + 16


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"observations": np.zeros(4)}, TypeError, r"observations: expected float32 as in the store, got float64"),
        ({"observations": np.zeros((4, 2), np.float32)}, ValueError, r"observations: expected float32\[\] a step"),
        ({"observations": {"x": np.zeros(4)}}, ValueError, "observations: expected the structure of the store's"),
        ({"rewards": None}, ValueError, "rewards: expected the structure of the store's episodes, with rewards"),
        ({"extras": {"more": np.zeros(3)}}, ValueError, "extras: expected the structure of the store's"),
        ({"infos": [{"x": object()}] * 3}, TypeError, r"infos\.x: object cannot be recorded"),
        ({"episode_data": {"x": {1: 2}}}, TypeError, r"episode_data\.x: a dict's keys must be strings"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    change: dict[str, Any], error: type[Exception], text: str, tmp_path: pathlib.Path
) -> None:
    import dataclasses

    with Writer(tmp_path) as writer:
        writer.append(simple(3))
        with pytest.raises(error, match=text):
            writer.append(dataclasses.replace(simple(3), **change))
    with Writer(tmp_path) as writer, pytest.raises(error, match=text):
        writer.append(dataclasses.replace(simple(3), **change))
    all_same(Dataset.open(tmp_path, verify=True), [simple(3)])


def test_a_folder_of_other_files_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"it is no store and not empty: there is photo\.jpg"):
        Writer(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(FileNotFoundError, match="it holds no store"):
        Dataset.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        Dataset.open(tmp_path / "nowhere")


def test_misuse_is_named(tmp_path: pathlib.Path) -> None:
    writer = Writer(tmp_path / "store")
    with pytest.raises(TypeError, match="append: expected a Trajectory, got int"):
        writer.append(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give it an example of a step"):
        record.RecordTransitions(gymnasium.make("CartPole-v1"), writer)
    writer.append(simple(2))
    other = Writer(tmp_path / "other", compress={"observation.camera": "png"})
    with other, pytest.raises(ValueError, match=r"compress: there is no column 'observations\.camera'"):
        other.append(simple(2))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="this writer was closed"):
        writer.append(simple(2))
    with pytest.raises(ValueError, match="stored as png in the store"):
        Writer(tmp_path / "store", compress={"observation": "png"})
    step = replay.Transition(np.zeros(3), np.zeros(3), None, np.zeros((3, 1), bool), np.zeros(3, bool), np.zeros(3))
    with Writer(tmp_path / "third") as third, pytest.raises(ValueError, match="terminated"):
        third.extend(step)


def policy(observation: Any, key: Any) -> Any:
    return (np.asarray(observation)[..., 2] > 0).astype(int)


def test_a_recorder_writes_to_disk_what_it_writes_to_a_buffer(tmp_path: pathlib.Path) -> None:
    make = lambda: gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")  # noqa: E731
    data = {"return": np.float32(0), "length": np.int32(0), "seed": np.int32(0)}
    example = replay.example_transition(make())
    buffer = replay.create(example, 300, 3, episode_data=data, max_episodes=300)
    with Writer(tmp_path, example, 3, episode_data=data, commit_every=0.0) as writer:
        for kept in (buffer, writer):
            env = record.RecordTransitions(make(), kept, block=32)
            buffer = record.collect(env, policy, num_steps=96, seed=0, progress=False) if kept is buffer else buffer
        assert record.collect(env, policy, num_steps=96, seed=0, progress=False) is writer
        assert writer.num_steps >= 96
    order = lambda t: t.observations.tobytes()  # noqa: E731
    written, expected = (Dataset(sorted(x, key=order)) for x in (Dataset.open(tmp_path), Dataset.from_buffer(buffer)))
    assert written.equals(expected)


def test_whole_episodes_are_collected_to_disk(tmp_path: pathlib.Path) -> None:
    env = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with Writer(tmp_path, replay.example_transition(env), 2) as writer:
        _, report = record.collect_episodes(env, policy, writer, num_episodes=5, seed=0, progress=False)
    opened = Dataset.open(tmp_path)
    assert (opened.num_episodes, len(opened)) == (report.whole, report.steps) == (5, report.steps)
    assert all(t.ended for t in opened)


def test_a_reset_that_cuts_an_episode_which_was_written_truncates_it(tmp_path: pathlib.Path) -> None:
    env = gymnasium.make("CartPole-v1")
    with Writer(tmp_path, replay.example_transition(env), commit_every=None) as writer:
        env = record.RecordTransitions(env, writer)
        env.reset(seed=0)
        for _ in range(3):
            env.step(0)
        writer.commit()
        assert [(len(t), t.truncated) for t in Dataset.open(tmp_path)] == [(3, False)]
        env.reset(seed=1)
        env.step(1)
    assert [(len(t), t.truncated) for t in Dataset.open(tmp_path)] == [(3, True), (1, False)]
    assert isinstance(Dataset.open(tmp_path).episode(0), Trajectory)


def test_a_writer_that_is_closed_as_the_interpreter_ends_commits(tmp_path: pathlib.Path) -> None:
    """When no thread can be started any more."""
    program = """if True:
        import atexit, sys, numpy as np
        from jaxreplay.datasets import Trajectory
        from jaxreplay.storage import Writer
        writer = Writer(sys.argv[1])
        atexit.register(writer.close)
        atexit.register(lambda: writer.append(Trajectory(np.zeros((200, 9999)), actions=np.zeros(199))))
    """
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert len(Dataset.open(tmp_path, verify=True)) == 199
