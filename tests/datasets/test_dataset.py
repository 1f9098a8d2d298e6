"""The data set: indexing, what it shares, filters, clips and what it says of itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay.datasets import Dataset, Trajectory, flatten
from tests.datasets.episodes import all_same, same, same_tree, simple, trajectories


def three() -> Dataset:
    return Dataset([simple(2, 0.0, terminated=True), simple(1, 10.0), simple(3, 20.0, truncated=True)])


@given(made=trajectories(infos=True))
@settings(settings.get_profile("short"))
def test_what_goes_in_comes_out(made: list[Trajectory]) -> None:
    dataset = Dataset(made)
    all_same(dataset, made)
    all_same(dataset.compact(), made)
    all_same(dataset.episodes[::-1], made[::-1])
    assert (len(dataset), dataset.num_episodes) == (sum(map(len, made)), len(made))


@given(made=trajectories(infos=False), data=st.data())
@settings(settings.get_profile("short"))
def test_any_index_gives_the_rows_that_flattening_gives(made: list[Trajectory], data: Any) -> None:
    dataset, whole = Dataset(made), flatten(made)
    count = len(dataset)
    rows = data.draw(st.lists(st.integers(-count, count - 1), max_size=8))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    part = data.draw(st.slices(count))
    for chosen in (np.array(rows, np.int64), mask, part, rows, mask.tolist()):
        index = np.array(chosen) if isinstance(chosen, list) and chosen else chosen
        index = np.zeros(0, np.int64) if isinstance(index, list) else index
        for held in (dataset, dataset.compact()):
            same_tree(held[chosen], jax.tree.map(lambda x, index=index: x[index], whole), "batch")
    for row in rows[:2]:
        same_tree(dataset[row], vars(jax.tree.map(lambda x, row=row: x[row], whole)), "step")


def test_a_step_and_a_batch() -> None:
    step = three()[-1]
    assert {name: np.asarray(x).tolist() for name, x in step.items() if name != "extras"} == {
        "observation": 22,
        "action": 2,
        "reward": 3,
        "terminated": False,
        "truncated": True,
        "next_observation": 23,
    }
    assert step["extras"] == {}
    assert three()[jnp.array([2, 0])].observation.tolist() == [10, 0]


def test_an_index_that_is_none() -> None:
    for wrong, error, message in (
        (True, TypeError, "step: expected an int, got bool True"),
        (1.0, TypeError, "steps: expected an int, a slice"),
        (6, IndexError, "step: 6 is out of range, there are 6"),
        (-7, IndexError, "step: -7 is out of range"),
        ([0, 6], IndexError, "step: 6 is out of range"),
        (np.zeros(5, bool), ValueError, r"steps: expected a mask bool\[6\], got bool\[5\]"),
        (np.zeros(2), TypeError, "steps: expected an int, a slice"),
        ("a", TypeError, "steps: expected an int"),
    ):
        with pytest.raises(error, match=message):
            three()[wrong]
    for wrong in (1.0, None, True, [0]):
        with pytest.raises(TypeError, match="episode: expected an int, got"):
            three().episode(wrong)
    same(three().episodes[np.array(1)], three().episode(1))
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=r"episode: .* is out of range, there are 3"):
            three().episodes[wrong]
    with pytest.raises(TypeError, match="episodes: expected an int, a slice"):
        three().episodes[np.zeros((2, 2), int)]


def test_an_index_with_axes_gives_leaves_with_them_as_numpy_does() -> None:
    flat = three()[:]
    for index in (np.array([[0, 5, -1], [2, 2, 3]]), np.zeros((2, 0), int), np.array([[[4]]])):
        got = three()[index]
        for name in ("observation", "action", "reward", "terminated", "truncated", "next_observation"):
            expected = getattr(flat, name)[index]
            same_tree(getattr(got, name), expected, name)
    assert three()[[[0, 1], [2, 3]]].action.shape == (2, 2)


def test_an_ellipsis_gives_every_step_and_every_episode() -> None:
    same_tree(three()[...], three()[:], "steps")
    all_same(three().episodes[...], three())


def test_no_steps_are_arrays_of_the_structure_without_rows() -> None:
    none = three().filter(min_length=100)
    for batch in (none[:], none[...], none[[]], three().episodes[:0][:], none.extend([])[:], none.compact()[:]):
        leaves = jax.tree.map(lambda x: (x.shape, x.dtype.name), batch)
        assert (leaves.observation, leaves.action, leaves.reward) == (
            ((0,), "float32"),
            ((0,), "int32"),
            ((0,), "float32"),
        )
        assert (leaves.terminated, leaves.truncated) == (((0,), "bool"), ((0,), "bool"))
    all_same(none.extend(three()), three())


def test_a_data_set_that_never_had_an_episode_gives_flags_of_no_steps() -> None:
    batch = Dataset()[:]
    assert batch.terminated.tolist() == batch.truncated.tolist() == []
    assert batch.observation is None
    with pytest.raises(IndexError, match="step: 0 is out of range, there are 0"):
        Dataset()[0]


def test_appending_and_extending_copy_nothing_and_change_nothing() -> None:
    first, more = three(), [simple(4, 30.0), simple(1, 40.0)]
    longer = first.append(more[0])
    longest = longer.extend([more[1]]).extend(first)
    assert (first.num_episodes, longer.num_episodes, longest.num_episodes) == (3, 4, 8)
    all_same(longest, [*first, *more, *first])
    for i in (0, 5):
        assert np.shares_memory(longest.episode(i).observations, first.episode(0).observations)
    assert np.shares_memory(longest.episode(3).rewards, more[0].rewards)
    assert np.shares_memory(first.filter(min_length=2).episode(1).actions, first.episode(2).actions)
    with pytest.raises(ValueError, match="what was added: observations is float64"):
        first.append(Trajectory(np.zeros(2), np.zeros(1, np.int32), np.zeros(1, np.float32)))


def test_episodes_are_chosen_by_number() -> None:
    dataset = three()
    assert len(dataset.episodes) == 3
    same(dataset.episodes[-1], dataset.episode(2))
    assert [t.observations[0] for t in dataset.episodes[[2, 0]]] == [20, 0]
    assert [t.observations[0] for t in dataset.episodes[np.array([False, True, True])]] == [10, 20]
    assert dataset.episodes[:0].num_episodes == 0
    assert [len(t) for t in reversed(dataset.episodes)] == [3, 1, 2]


def test_filters_are_inclusive_and_all_must_hold() -> None:
    dataset = three()  # lengths 2, 1, 3; returns 3, 1, 6
    assert [len(t) for t in dataset.filter(min_return=3)] == [2, 3]
    assert [len(t) for t in dataset.filter(max_return=3, min_length=2)] == [2]
    assert [len(t) for t in dataset.filter(max_length=2)] == [2, 1]
    assert [len(t) for t in dataset.filter(lambda t: t.ended, max_length=2)] == [2]
    assert dataset.filter(lambda t: False).num_episodes == 0
    with pytest.raises(ValueError, match="filter by return: these episodes have no rewards"):
        Dataset([Trajectory(np.zeros(2), np.zeros(1))]).filter(min_return=1)


def test_a_clip_takes_the_dead_ends_and_says_so() -> None:
    infos = [{"i": i} for i in range(4)]
    dataset = Dataset([simple(4, terminated=True, infos=infos), simple(2, truncated=True), simple(5)])
    clipped = dataset.clip(2)
    assert [len(t) for t in clipped] == [2, 5]
    first = clipped.episode(0)
    assert first.observations.tolist() == [0, 1, 2]
    assert first.infos == infos[:2]
    assert not first.ended
    assert clipped.report is not None
    assert (clipped.report.dropped_rows, clipped.report.dropped_episodes, clipped.report.clipped_episodes) == (4, 1, 1)
    assert "dropped rows: 4" in str(clipped.report)
    assert [len(t) for t in dataset.clip(1, kinds=["truncated"])] == [4, 1, 5]
    all_same(dataset.clip(0), dataset)
    for wrong in ("terminated", ["died"]):
        with pytest.raises(ValueError, match="kinds: expected some of"):
            dataset.clip(1, kinds=wrong)
    once: Any = (kind for kind in ["truncated"])
    assert [len(t) for t in dataset.clip(1, kinds=once)] == [4, 1, 5]


def test_a_report_is_never_changed() -> None:
    dataset = Dataset([simple(2)]).clip(0)
    with pytest.raises(AttributeError):
        dataset.report = None  # type: ignore[misc]
    assert dataset.report is not None


def test_reports_go_along() -> None:
    found = Dataset.from_transitions(flatten([simple(4, terminated=True), simple(2), simple(3, 9.0, truncated=True)]))
    report = found.report
    assert report is not None
    assert (report.episodes, report.discontinuities) == (3, 1)
    parts = found.random_split(jax.random.key(0), [0.5, 0.5])
    for other in (found.filter(min_length=3), found.episodes[:1], found.compact(), *parts):
        assert other.report == report
    clipped = found.clip(2).report
    assert clipped is not None
    assert (clipped.episodes, clipped.steps, clipped.unfinished) == (3, 5, 3)
    assert (clipped.discontinuities, clipped.dropped_rows, clipped.clipped_episodes) == (1, 4, 2)
    both, added = found.extend(found).report, three().extend(found).report
    assert both == report + report
    assert added is not None
    assert (added.episodes, added.terminated, added.discontinuities) == (6, 2, 1)
    assert three().append(simple(1)).report is None


def test_what_is_handed_out_cannot_be_written_to_and_what_was_given_still_can() -> None:
    given_one = simple(3, extras={"a": np.zeros(3)})
    for dataset in (Dataset([given_one]), Dataset([given_one, given_one]).compact()):
        episode = dataset.episode(0)
        for array in (episode.observations, episode.actions, episode.rewards, episode.extras["a"]):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 7
        dataset[:].observation[0] = 7  # a copy
        assert dataset.episode(0).observations[0] == 0
    given_one.observations[0] = 0


def test_a_trajectory_alone_is_no_data_set() -> None:
    make: Any
    for make in (Dataset, three().extend):
        with pytest.raises(TypeError, match=r"got one Trajectory; put it in a list: \[trajectory\]"):
            make(simple(1))
        with pytest.raises(TypeError, match="trajectories: expected several Trajectory, got int"):
            make(3)


def test_names_that_read_alike_are_told_apart() -> None:
    def one(dtype: str) -> Trajectory:
        return Trajectory({"a.b": np.zeros(3, dtype), "a": {"b": np.zeros(3, np.int32)}}, np.zeros(2), terminated=True)

    with pytest.raises(ValueError, match=r"trajectories.1: observations.a.b \(2\) is float64"):
        Dataset([one("float32"), one("float64")])
    all_same(Dataset.from_transitions(flatten([one("float32")])), [one("float32")])


def test_it_says_what_it_holds() -> None:
    assert (
        repr(three()) == "Dataset(3 episodes, 6 steps; observations: float32[], actions: int32[], rewards: float32[])"
    )
    assert three().nbytes == 4 * (9 + 6 + 6)
    assert repr(Dataset()) == "Dataset(0 episodes, 0 steps; )"


def test_device_arrays_come_to_the_host_and_keys_do_not() -> None:
    dataset = Dataset([Trajectory(jnp.arange(3), jnp.arange(2))])
    assert isinstance(dataset.episode(0).observations, np.ndarray)
    with pytest.raises(TypeError, match=r"store jax.random.key_data of them"):
        Dataset([Trajectory(jnp.arange(3), jax.random.split(jax.random.key(0), 2))])
