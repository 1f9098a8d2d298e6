"""A buffer copied into a larger or smaller one: against the plain-Python model, which then lives on beside it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay import views
from jaxreplay._core.episode_numbers import number_limit
from jaxreplay.samplers import prioritized, sum_tree
from tests.model import Episode, Model, make_buffer
from tests.test_laws import check_all, operate, operations
from tests.test_next_observation import step

KEY = jax.random.key(0)
SIZES = [(2, 3), (4, 2), (9, 6)]  # slots and records an env: smaller, of one size, larger
resize = jax.jit(replay.resize, static_argnames=("capacity", "max_episodes"))


def resized(model: Model, num_slots: int, num_records: int) -> Model:
    """What the model must be: its newest slices, with void rows for those that were lost."""
    new = copy.deepcopy(model)
    new.num_slots, new.num_records = num_slots, num_records
    for time in range(new.oldest, len(new.slices)):
        for env in range(new.num_envs):
            row = new.slices[time][env]
            if row is not None and not row["removed"] and not model.valid(time, env):
                new.slices[time][env] = None
    for mine in new.episodes:
        mine[: max(len(mine) - model.num_records, 0)] = [
            Episode(-1000, 0, True, {}) for _ in mine[: max(len(mine) - model.num_records, 0)]
        ]
    new.oldest = max(new.oldest, len(new.slices) - num_slots)
    return new


@pytest.mark.parametrize(("platform", "shape"), [("tpu", (4, 3, 2)), ("cpu", (5, None, 4))])  # slots, envs, records
@settings(settings.get_profile("short"), max_examples=15)
@given(before=operations, after=operations, size=st.sampled_from(SIZES))
def test_a_resized_buffer_holds_what_the_plain_model_does_and_lives_on_as_it_does(
    platform: str, shape: Any, before: list[Any], after: list[Any], size: tuple[int, int]
) -> None:
    envs = shape[1] or 1
    buffer, model = make_buffer(*shape, platform=platform), Model(shape[0], envs, shape[2])
    for operation in before:
        buffer = operate(buffer, model, operation)
    slots, records = size
    buffer, model = resize(buffer, slots * envs, records * envs), resized(model, slots, records)
    check_all(buffer, model)
    for operation in after[:5]:
        buffer = operate(buffer, model, operation)
    check_all(buffer, model)


def filled(capacity: int = 12, length: int = 20, **options: Any) -> replay.Buffer:
    """Episodes of three steps, and the newest one open; observations count the steps."""
    buffer = replay.create(step(0), capacity, episode_data={"seed": jnp.int32(0)}, **options)
    for i in range(length):
        buffer = replay.append(buffer, step(i, terminated=i % 3 == 2))
        buffer = replay.set_episode_data(buffer, 0, {"seed": jnp.int32(100 + i // 3)})
    return buffer


def seen(buffer: replay.Buffer) -> dict[int, tuple[Any, ...]]:
    """What is read of each row, by its time."""
    rows, mask = replay.rows(buffer)
    got = replay.take(buffer, rows, views.with_episode()).data
    columns = (got.data.observation, got.data.next_observation, got.number, got.length, got.episode_data["seed"])
    found = zip(rows.time.tolist(), zip(*(x.tolist() for x in columns)), mask.tolist())
    return {time: row for time, row, there in found if there}


@pytest.mark.parametrize("capacity", [5, 12, 31])
def test_by_default_no_row_that_there_is_room_for_is_lost(capacity: int) -> None:
    for options in ({}, {"max_episodes": 4}):
        buffer = filled(**options)
        wanted = {time: row for time, row in seen(buffer).items() if time >= 20 - capacity}
        new = replay.resize(buffer, capacity)
        assert replay.capacity(new) == capacity
        assert seen(new) == wanted
        assert int(replay.size(new)) == len(wanted)
        after = replay.append(new, step(20, terminated=True))
        assert seen(after)[20] == (20, seen(replay.append(buffer, step(20, terminated=True)))[20][1], 6, 3, 106)


def test_numbers_of_episodes_that_started_again_are_still_told_apart() -> None:
    buffer = filled(max_episodes=6)
    moved = replay.create(step(0), 12, episode_data={"seed": jnp.int32(0)}, max_episodes=6)
    envs = moved.rings.envs.replace(number=jnp.array([number_limit(6) - 6], jnp.int32))
    moved = moved.replace(rings=moved.rings.replace(envs=envs))
    for i in range(20):
        moved = replay.append(moved, step(i, terminated=i % 3 == 2))
        moved = replay.set_episode_data(moved, 0, {"seed": jnp.int32(100 + i // 3)})
    assert int(moved.rings.envs.number[0]) == 1  # and those of the live episodes before are the largest
    moved = replay.remove(moved, replay.Rows(jnp.array([10]), jnp.array([0])))
    buffer = replay.remove(buffer, replay.Rows(jnp.array([10]), jnp.array([0])))
    plain = {time: (*row[:2], *row[3:]) for time, row in seen(buffer).items()}
    for capacity, records in ((12, 7), (6, 4), (30, 11)):
        new = replay.resize(moved, capacity, records)
        wanted = {time: row for time, row in plain.items() if time >= 20 - capacity}
        assert {time: (*row[:2], *row[3:]) for time, row in seen(new).items()} == wanted


@pytest.mark.parametrize("view", [None, views.n_step(2, 0.9, complete=True)])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_priorities_are_kept(platform: str, view: Any) -> None:
    buffer = filled(sampler=prioritized(0.7, view=view), platform=platform, max_episodes=8)
    rows, _ = replay.rows(buffer)
    buffer = replay.set_priorities(buffer, rows, jnp.arange(12, dtype=jnp.float32))
    buffer = replay.remove(buffer, jax.tree.map(lambda x: x[9:10], rows))
    for capacity in (5, 12, 40):
        new = resize(buffer, capacity)
        kept = jax.tree.map(lambda x: x[-min(capacity, 12) :], rows)  # noqa: B023
        np.testing.assert_array_equal(replay.priorities(new, kept), replay.priorities(buffer, kept))
        share = np.asarray(replay.take(buffer, kept).probability)
        np.testing.assert_allclose(replay.take(new, kept).probability, share / share.sum(), rtol=1e-5)
        total = sum_tree.total(new.sampler_state.tree)
        again = replay.set_priorities(new, kept, replay.priorities(new, kept))
        np.testing.assert_allclose(sum_tree.total(again.sampler_state.tree), total, rtol=1e-5)
        assert float(new.sampler_state.largest) == float(buffer.sampler_state.largest)


@dataclasses.dataclass(frozen=True)
class Marks:
    """A sampler that knows nothing of resizing: its state says which rows were written, slot by slot."""

    def init(self, num_slots: int, num_envs: int) -> jax.Array:
        return jnp.zeros((num_slots, num_envs), jnp.bool_)

    def on_write(self, state: jax.Array, rings: Any, slots: jax.Array, valid: jax.Array) -> jax.Array:
        return state.at[slots].set(valid)

    def on_remove(self, state: jax.Array, rings: Any, rows: replay.Rows) -> jax.Array:
        return state

    def draw(self, *_: Any) -> Any:
        raise NotImplementedError

    probability = draw


@pytest.mark.parametrize(("capacity", "wanted"), [(4, [1, 0, 1, 1]), (9, [0, 0, 1, 1, 0, 1, 1, 0, 0])])
def test_a_sampler_that_cannot_resize_is_told_of_the_rows_as_of_a_write(capacity: int, wanted: list[int]) -> None:
    buffer = replay.create({"x": jnp.int32(0)}, 7, sampler=Marks())
    for mask in (True, True, False, True, True):
        buffer = replay.append(buffer, {"x": jnp.int32(0)}, jnp.bool_(mask))
    new = replay.resize(buffer, capacity)
    assert new.sampler_state[:, 0].astype(jnp.int32).tolist() == wanted


def test_fewer_records_lose_rows_and_their_weight() -> None:
    buffer = filled(sampler=prioritized(1.0))
    new = replay.resize(buffer, 12, max_episodes=2)
    assert sorted(seen(new)) == [15, 16, 17, 18, 19]
    assert int(replay.stats(new).lost) == 7
    batch = replay.sample(new, KEY, 64)
    assert bool(batch.mask.all())
    np.testing.assert_allclose(batch.probability, 1 / 5, rtol=1e-6)


def test_independent_items_and_a_batch_of_buffers() -> None:
    make = lambda n: replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": n + jnp.arange(5, dtype=jnp.int32)})  # noqa: E731
    many = jax.vmap(make)(jnp.array([0, 10]))
    came = jax.vmap(lambda b: replay.take(replay.resize(b, 3), replay.nth(b, jnp.arange(-4, 0))).data["x"])(many)
    assert came.tolist() == [[0, 2, 3, 4], [0, 12, 13, 14]]
    empty = replay.resize(replay.create({"x": jnp.int32(0)}, 8), 20)
    assert int(replay.size(empty)) == 0
    assert int(replay.size(replay.append(empty, {"x": jnp.int32(1)}))) == 1


def test_sizes_that_do_not_fit() -> None:
    steps = replay.create(jax.tree.map(lambda x: x, step(0)), 12, 3)
    with pytest.raises(ValueError, match="capacity: 10 is not a multiple of num_envs=3; the nearest that are: 9 or 12"):
        replay.resize(steps, 10)
    with pytest.raises(ValueError, match="max_episodes: expected at least 1, got 0"):
        replay.resize(steps, 12, 0)
    with pytest.raises(ValueError, match="max_episodes: this buffer holds independent items"):
        replay.resize(replay.create({"x": jnp.int32(0)}, 8), 4, 2)
    with pytest.raises(TypeError, match="capacity: expected a Python int"):
        jax.jit(replay.resize)(steps, 12)
