"""The next observation of each kind of row, by worked examples: observations are their own time, ends say +100."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay


def step(time: int, terminated: bool = False, truncated: bool = False) -> replay.Transition:
    ended = terminated or truncated
    return replay.Transition(
        observation=jnp.float32(time),
        action=jnp.int32(time),
        reward=jnp.float32(1),
        terminated=jnp.bool_(terminated),
        truncated=jnp.bool_(truncated),
        next_observation=jnp.float32(time + 1 + (100 if ended else 0)),
    )


def buffer_of(*steps: replay.Transition, capacity: int = 8, **options: Any) -> replay.Buffer:
    buffer = replay.create(step(0), capacity, **options)
    for s in steps:
        buffer = replay.append(buffer, s)
    return buffer


def next_of(buffer: replay.Buffer, *times: int) -> list[float | None]:
    rows = replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))
    batch = replay.take(buffer, rows)
    return [float(x) if m else None for x, m in zip(batch.data.next_observation, batch.mask)]


def test_inside_an_episode_it_is_the_next_rows_observation() -> None:
    assert next_of(buffer_of(step(0), step(1), step(2)), 0, 1) == [1, 2]


@pytest.mark.parametrize("end", [{"terminated": True}, {"truncated": True}])
def test_at_an_episodes_end_it_is_the_true_final_observation(end: dict[str, bool]) -> None:
    assert next_of(buffer_of(step(0), step(1, **end), step(2)), 0, 1, 2) == [1, 102, 3]


def test_at_the_newest_row_of_an_open_episode_it_is_what_the_step_led_to() -> None:
    buffer = buffer_of(step(0), step(1))
    assert next_of(buffer, 1) == [2]
    assert next_of(replay.append(buffer, step(2)), 1, 2) == [2, 3]


def test_before_the_write_head_it_survives_the_wrap() -> None:
    """The newest row is in the last slot, then in the first; the row after it in the ring is the oldest."""
    buffer = buffer_of(*map(step, range(8)))
    assert next_of(buffer, 7, 0) == [8, 1]
    buffer = replay.append(buffer, step(8))
    assert next_of(buffer, 0, 1, 7, 8) == [None, 2, 8, 9]


def test_before_a_void_row_it_is_the_final_observation() -> None:
    buffer = replay.append(buffer_of(step(0)), step(7), mask=jnp.bool_(False))
    buffer = replay.append(buffer, step(2))
    assert next_of(buffer, 0, 1, 2) == [1, None, 3]
    assert replay.episodes(buffer).length.tolist()[-2:] == [1, 1]


def test_after_the_episodes_record_was_overwritten_the_row_is_masked_and_counted() -> None:
    buffer = buffer_of(step(0), step(1, terminated=True), step(2, truncated=True), step(3), max_episodes=2)
    assert next_of(buffer, 0, 1, 2, 3) == [None, None, 103, 4]
    assert int(replay.stats(buffer).lost) == 2
    assert int(replay.size(buffer)) == 2
    assert replay.rows(buffer)[1].tolist() == [False] * 6 + [True, True]


def test_an_episode_longer_than_the_ring_reads_right() -> None:
    buffer = buffer_of(*map(step, range(30)))
    assert next_of(buffer, 21, 22, 28, 29) == [None, 23, 29, 30]
    assert int(replay.episodes(buffer).length[-1]) == 30


def test_a_removed_row_still_is_the_next_observation_of_its_neighbour() -> None:
    buffer = buffer_of(*map(step, range(4)))
    buffer = replay.remove(buffer, replay.Rows(jnp.array([2]), jnp.array([0])))
    assert next_of(buffer, 1, 2, 3) == [2, None, 4]


def test_times_past_the_largest_int32_change_nothing() -> None:
    """The clock is set near its wrap by hand; every row, window and count stays right across it."""
    buffer = replay.create(step(0), 8)
    far = np.int32(2**31 - 5)
    clock = buffer.rings.clock
    buffer = buffer.replace(rings=buffer.rings.replace(clock=clock.replace(time=jnp.int32(far))))
    ends = {6, 13}
    for i in range(20):
        buffer = replay.append(buffer, step(i, terminated=i in ends))
    rows, mask = replay.rows(buffer)
    assert mask.tolist() == [True] * 8
    assert int(rows.time[-1]) == -(2**31) + 14
    batch = replay.take(buffer, rows)
    assert batch.data.observation.tolist() == list(range(12, 20))
    assert batch.data.next_observation.tolist() == [13, 114, 15, 16, 17, 18, 19, 20]
    two = replay.take(buffer, rows, replay.views.n_step(3, 1.0))
    assert two.data.reward.tolist() == [2, 1, 3, 3, 3, 3, 2, 1]
    assert int(replay.size(buffer)) == 8


def test_episode_numbers_start_again_before_they_overflow() -> None:
    buffer = replay.create(step(0), 8, max_episodes=3)
    envs = buffer.rings.envs
    last = (2**31 - 1) // 3 * 3 - 1  # the last number of all
    buffer = buffer.replace(rings=buffer.rings.replace(envs=envs.replace(number=jnp.full((1,), last - 2, jnp.int32))))
    for i in range(4):
        buffer = replay.append(buffer, step(i, terminated=True))
    assert next_of(buffer, 0, 1, 2, 3) == [None, 102, 103, 104]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_observations_without_elements_are_stored_put_and_read_as_others_are(dtype: Any) -> None:
    none = jnp.zeros((3, 0), dtype)
    steps = replay.Transition(none, jnp.arange(3), jnp.ones(3), jnp.zeros(3, bool), jnp.zeros(3, bool), none)
    buffer = replay.extend(replay.create(jax.tree.map(lambda x: x[0], steps), 4), steps)
    buffer = replay.append(buffer, jax.tree.map(lambda x: x[0], steps))
    rows, mask = replay.rows(buffer)
    buffer = replay.put(buffer, rows, {"observation": jnp.zeros((4, 0), dtype)})
    data = replay.take(buffer, rows).data
    assert mask.all()
    assert data.action.tolist() == [0, 1, 2, 0]
    assert data.observation.shape == data.next_observation.shape == (4, 0)
