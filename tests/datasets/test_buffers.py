"""From a data set to a buffer and back: bit for bit, with true ends, and nothing joined that was apart."""

from __future__ import annotations

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory, buffers, flatten
from tests.datasets.episodes import all_same, same_tree, simple, trajectories

KEY = jax.random.key(0)


def several() -> list[Trajectory]:
    """Ended in every way, an unfinished one between two others, and one at the end."""
    kinds = [{"terminated": True}, {}, {"truncated": True}, {}, {"terminated": True, "truncated": True}, {}]
    return [simple(1 + i, 100.0 * i, **flags) for i, flags in enumerate(kinds)]


@given(made=trajectories(wide=False, infos=False, most=3, longest=3))
@settings(settings.get_profile("short"), max_examples=6)
def test_random_structures_come_back_bit_for_bit(made: list[Trajectory]) -> None:
    all_same(Dataset.from_buffer(Dataset(made).to_buffer()), made)


@given(ends=st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=8))
@settings(settings.get_profile("short"), max_examples=12)
@pytest.mark.parametrize("num_envs", [None, 1, 3])
def test_any_episodes_come_back(ends: list[tuple[int, bool, bool]], num_envs: int | None) -> None:
    """In pieces of a few rows, so that few programs are compiled, and pieces are tried."""
    made = [simple(n, 100.0 * i, terminated=a, truncated=b) for i, (n, a, b) in enumerate(ends)]
    with mock.patch.multiple(buffers, BLOCK_BYTES=150, READ_BYTES=150):
        back = Dataset.from_buffer(Dataset(made).to_buffer(num_envs, capacity=120, max_episodes=30))
    all_same(sorted(back, key=lambda t: t.observations[0]), made)
    if num_envs is None:
        all_same(back, made)


def test_rows_of_the_buffer_are_the_steps_of_the_data_set() -> None:
    made = several()
    buffer = Dataset(made).to_buffer()
    rows, mask = replay.rows(buffer)
    batch = replay.take(buffer, rows).data
    same_tree(jax.tree.map(lambda x: np.asarray(x)[np.asarray(mask)], batch), flatten(made), "rows")
    assert int(replay.size(buffer)) == 21
    assert replay.capacity(buffer) == 21 + 3  # a void row after each unfinished episode
    assert int(replay.num_episodes(buffer)) == 6


def test_an_unfinished_episode_is_not_joined_with_the_next() -> None:
    buffer = Dataset([simple(2, 0.0), simple(2, 50.0, terminated=True)]).to_buffer()
    rows, mask = replay.rows(buffer)
    rows = jax.tree.map(lambda x: x[mask], rows)
    step = replay.take(buffer, rows, replay.views.n_step(3, 0.5)).data
    assert step.next_observation.tolist() == [2, 2, 52, 52]
    assert step.reward.tolist() == [1 + 0.5 * 2, 2, 1 + 0.5 * 2, 2]
    assert step.discount.tolist() == [0.25, 0.5, 0, 0]
    assert replay.take(buffer, rows).data.truncated.tolist() == [False] * 4
    more = replay.append(buffer, jax.tree.map(lambda x: x[0], flatten([simple(1, 70.0)])))
    assert int(replay.num_episodes(more)) == 2


def test_views_and_samplers_work_on_it_inside_jit() -> None:
    dataset = Dataset([simple(9, 100.0 * i, terminated=True) for i in range(4)])
    buffer = dataset.to_buffer(2, sampler=replay.samplers.prioritized(0.6), capacity=64)
    batch = jax.jit(lambda b, k: replay.sample(b, k, 32, replay.views.sequence(3)))(buffer, KEY)
    assert bool(batch.mask.all())
    assert batch.data.data.observation.shape == (32, 3)
    assert replay.capacity(buffer) == 64


def test_what_goes_in_pieces_is_what_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = several()
    whole = Dataset(made).to_buffer(2)
    monkeypatch.setattr(buffers, "BLOCK_BYTES", 64)
    jax.tree.map(np.testing.assert_array_equal, Dataset(made).to_buffer(2), whole)


def test_without_rewards_and_extras_there_are_none_after() -> None:
    made = [Trajectory(np.arange(3, dtype=np.float32), {"a": np.zeros(2, np.uint8)}, terminated=True)]
    buffer = Dataset(made).to_buffer()
    assert replay.sample(buffer, KEY, 4).data.reward is None
    all_same(Dataset.from_buffer(buffer), made)


def test_wide_leaves_are_refused_by_name_or_narrowed_where_they_fit() -> None:
    made = Dataset([Trajectory(np.arange(3.0), np.array([1, 2]), np.zeros(2), extras={"big": np.array([2**40, 0])})])
    with pytest.raises(
        TypeError, match=r"observation: float64 does not fit JAX's 32-bit types.*narrow=True for float32"
    ):
        made.to_buffer()
    with pytest.raises(ValueError, match=r"extras.big: 1099511627776 does not fit int32"):
        made.to_buffer(narrow=True)
    small = Dataset([Trajectory(np.arange(3.0), np.array([1, 2]), np.zeros(2))]).to_buffer(narrow=True)
    batch = replay.sample(small, KEY, 4).data
    assert (batch.observation.dtype, batch.action.dtype, batch.reward.dtype) == (jnp.float32, jnp.int32, jnp.float32)
    with pytest.raises(ValueError, match=r"observation: 1e\+300 does not fit float32"):
        Dataset([Trajectory(np.full(2, 1e300), np.zeros(1, np.int32))]).to_buffer(narrow=True)


def test_episode_data_that_are_numbers_go_along() -> None:
    made = [simple(1 + i, truncated=True, episode_data={"seed": np.int32(i), "goal": np.ones(2)}) for i in range(5)]
    with pytest.raises(ValueError, match=r"episode_data: a buffer holds numbers .*goal: float64 does not fit"):
        Dataset(made).to_buffer(episode_data=True)
    for num_envs in (None, 2):
        buffer = Dataset(made).to_buffer(num_envs, narrow=True)
        back = list(Dataset.from_buffer(buffer))
        assert {len(t): int(t.episode_data["seed"]) for t in back} == {1 + i: i for i in range(5)}
    text = [simple(1, episode_data={"name": "x"})]
    assert Dataset(text).to_buffer().episode_data is None
    assert Dataset(made).to_buffer(episode_data=False).episode_data is None
    with pytest.raises(ValueError, match="not every episode has data"):
        Dataset([simple(1)]).to_buffer(episode_data=True)
    with pytest.raises(ValueError, match="expected an array, got str"):
        Dataset(text).to_buffer(episode_data=True)


def test_arguments_that_do_not_do() -> None:
    dataset = Dataset(several())
    for arguments, message in (
        ({"capacity": 23}, "capacity: the data set needs 24 rows, one more for each unfinished episode; got 23"),
        ({"max_episodes": 0}, "max_episodes: expected at least 1"),
        ({"max_episodes": 5}, "max_episodes: the data set needs 6, got 5"),
        ({"num_envs": 0}, "num_envs: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset.to_buffer(**arguments)
    with pytest.raises(ValueError, match="to_buffer: the data set is empty"):
        Dataset().to_buffer()


def test_of_a_running_buffer_what_it_holds_is_read() -> None:
    """A ring that was overwritten, with a removed row: the rest comes as it is, and is accounted for."""
    made = [simple(3, 0.0, terminated=True), simple(4, 10.0, truncated=True), simple(5, 20.0)]
    steps = flatten(made)
    buffer = replay.create(jax.tree.map(lambda x: x[0], steps), capacity=10, max_episodes=8)
    buffer = replay.extend(buffer, steps)
    buffer = replay.remove(buffer, replay.Rows(time=jnp.array([9]), env=jnp.array([0])))
    back = Dataset.from_buffer(buffer)
    assert [t.observations.tolist() for t in back] == [[2, 3], [10, 11, 12, 13, 14], [20, 21, 22], [23, 24, 25]]
    assert [(t.terminated, t.truncated) for t in back] == [(True, False), (False, True), (False, False), (False, False)]
    assert back.report is not None
    assert (back.report.dropped_rows, back.report.discontinuities) == (3, 1)
    assert Dataset.from_buffer(replay.clear(buffer)).num_episodes == 0


def test_buffers_of_other_things() -> None:
    with pytest.raises(TypeError, match="from_buffer: expected a buffer of Transitions"):
        Dataset.from_buffer(replay.create({"x": jnp.zeros(3)}, 4))
    with pytest.raises(TypeError, match=r"from_buffer: expected a Buffer, got int"):
        Dataset.from_buffer(3)
    step = jax.tree.map(lambda x: x[0], flatten([simple(1)]))
    with pytest.raises(
        ValueError, match=r"reward: expected a floating scalar, or None for a trajectory, got int32\[\]"
    ):
        Dataset.from_buffer(replay.create(step.replace(reward=jnp.int32(0)), 4))
