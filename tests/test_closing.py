"""Episodes that are ended after their last step was appended are as if that step had been appended as their last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from tests.test_errors import expect
from tests.test_in_place import abstract_buffer, example, in_scan, lead_of
from tests.test_laws import assert_same
from tests.test_next_observation import buffer_of, next_of, step

SAMPLERS = {
    "uniform": replay.samplers.uniform(),
    "prioritized": replay.samplers.prioritized(view=replay.views.n_step(3, 0.9, complete=True)),
}
KIND = {"observation": ((20, 20), jnp.uint8), "action": ((), jnp.int32)}


def of_envs(*steps: replay.Transition) -> replay.Transition:
    return jax.tree.map(lambda *x: jnp.stack(x), *steps)


def filled(sampler: str, *newest: replay.Transition) -> replay.Buffer:
    """Two envs, of which the second's episode began later; `newest` is the last slice."""
    buffer = replay.create(step(0), 24, 2, max_episodes=12, sampler=SAMPLERS[sampler])
    for i in range(4):
        buffer = replay.append(buffer, of_envs(step(i), step(i, terminated=i == 1)))
    return replay.append(buffer, of_envs(*newest))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_ending_is_having_appended_the_last_step_with_its_flag(sampler: str, jitted: bool, flag: str) -> None:
    """Bit for bit, the sampler's state included, and so in every view; the next append begins an episode in both."""
    end = jax.jit(replay.end_episodes) if jitted else replay.end_episodes
    ended = filled(sampler, step(4), step(4).replace(**{flag: jnp.bool_(True)}))
    leaves = None if flag == "truncated" else {"terminated": jnp.array([False, True])}
    closed = end(filled(sampler, step(4), step(4)), jnp.array([False, True]), leaves)
    assert_same(closed, ended)
    following = of_envs(step(5), step(5))
    assert_same(replay.append(closed, following), replay.append(ended, following))
    assert replay.episodes(replay.append(closed, following)).length[-1].tolist() == [6, 1]


def test_rows_that_waited_for_their_n_steps_can_be_drawn_once_their_episode_is_ended() -> None:
    buffer = buffer_of(step(0), step(1), sampler=SAMPLERS["prioritized"])
    draw = jax.jit(lambda buffer: replay.sample(buffer, jax.random.key(0), 16, SAMPLERS["prioritized"].view))
    assert not draw(buffer).mask.any()
    assert set(draw(replay.end_episodes(buffer)).rows.time.tolist()) == {0, 1}


def test_what_is_known_late_is_written_to_the_newest_step() -> None:
    """Of a transition, `truncated` is set where the episode ends and `terminated` is not."""
    buffer = filled("uniform", step(4), step(4))
    success = jnp.array([True, False])
    buffer = replay.end_episodes(buffer, leaves={"terminated": success, "reward": jnp.array([5.0, 6.0])})
    rows = replay.Rows(time=jnp.full(2, 4, jnp.int32), env=jnp.arange(2, dtype=jnp.int32))
    got = replay.take(buffer, rows).data
    assert got.terminated.tolist() == [True, False]
    assert got.truncated.tolist() == [False, True]
    assert got.reward.tolist() == [5, 6]
    assert replay.take(buffer, rows, replay.views.n_step(2, 0.5)).data.discount.tolist() == [0, 0.5]


def test_envs_without_an_open_episode_are_left_alone() -> None:
    buffer = filled("prioritized", step(4, terminated=True), step(4))
    buffer = replay.append(buffer, of_envs(step(5), step(5)), jnp.array([False, False]))
    assert_same(replay.end_episodes(buffer, leaves={"reward": jnp.full(2, 9.0)}), buffer)
    empty = replay.create(step(0), 8)
    assert_same(replay.end_episodes(empty), empty)


def test_a_structure_of_ones_own_is_ended_whatever_its_flags_say() -> None:
    buffer = replay.create({"x": jnp.int32(0), "done": jnp.bool_(False)}, 8, episode_end="done")
    for x in range(3):
        buffer = replay.append(buffer, {"x": x, "done": False})
    buffer = replay.end_episodes(buffer, True, {"x": jnp.int32(7)})
    assert replay.episodes(buffer).ended.tolist()[-1]
    rows, _ = replay.rows(replay.append(buffer, {"x": 3, "done": False}))
    view = replay.views.window(1, 1)
    batch = replay.take(replay.append(buffer, {"x": 3, "done": False}), rows, view)
    assert batch.data.data["x"][-2:].tolist() == [[1, 7, 7], [3, 3, 3]]
    assert not replay.take(buffer, rows).data["done"].any()


def test_flags_of_several_agents_are_truncated_where_they_did_not_terminate() -> None:
    example = step(0).replace(terminated=jnp.zeros(2, bool), truncated=jnp.zeros(2, bool))
    buffer = replay.append(replay.create(example, 8), example)
    buffer = replay.end_episodes(buffer, leaves={"terminated": jnp.array([True, False])})
    got = replay.take(buffer, replay.rows(buffer)[0]).data
    assert [got.terminated[-1].tolist(), got.truncated[-1].tolist()] == [[True, False], [False, True]]


def test_ending_stays_in_place_and_works_under_vmap_and_scan() -> None:
    def act(buffer: replay.Buffer, step: Any, mask: jax.Array) -> Any:
        buffer = replay.append(buffer, step)
        buffer = replay.end_episodes(buffer, mask, {"reward": step.reward})
        return buffer, replay.size(buffer)

    steps, masks = example(KIND, (3, 5, 16)), jax.ShapeDtypeStruct((3, 5, 16), jnp.bool_)
    buffers = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), abstract_buffer(KIND, 16))
    assert replay.check_in_place(jax.vmap(in_scan(act)), buffers, steps, masks)
    for num_envs in (None, 16):
        mask = jax.ShapeDtypeStruct(lead_of(num_envs), jnp.bool_)
        assert replay.check_in_place(replay.end_episodes, abstract_buffer(KIND, num_envs), mask)


@pytest.mark.parametrize("path", ["terminated", "truncated"])
def test_a_flag_of_a_transition_cannot_be_put(path: str) -> None:
    buffer = buffer_of(*map(step, range(4)))
    with expect(ValueError, f"put: {path} cannot be put", "replay.end_episodes(buffer, mask, leaves)"):
        replay.put(buffer, replay.rows(buffer)[0], {path: jnp.zeros(8, bool)})


@pytest.mark.parametrize("end", ["done", ("done",), lambda s: s["done"] & (s["x"] > 2), lambda s: s["done"]])
def test_no_leaf_that_an_end_reads_can_be_put_and_every_other_can(end: Any) -> None:
    example = {"x": jnp.int32(0), "y": jnp.int32(0), "done": jnp.bool_(False)}
    buffer = replay.append(replay.create(example, 8, episode_end=end), example)
    rows, _ = replay.rows(buffer)
    reads_x = callable(end) and not end({"x": np.int32(0), "done": True})
    put = {"x": jnp.full(8, 3), "y": jnp.full(8, 4)}
    if reads_x:
        with expect(ValueError, "put: x cannot be put"):
            replay.put(buffer, rows, put)
        del put["x"]
    with expect(ValueError, "put: done cannot be put"):
        replay.put(buffer, rows, {"done": jnp.ones(8, bool)})
    assert int(replay.take(replay.put(buffer, rows, put), rows).data["y"][-1]) == 4


def test_what_does_not_fit_is_refused() -> None:
    buffer = filled("uniform", step(4), step(4))
    with expect(ValueError, "mask: expected bool[2], got bool[3]", "num_envs=2"):
        replay.end_episodes(buffer, jnp.ones(3, bool))
    with expect(ValueError, "end_episodes: there is no 'rewards'"):
        replay.end_episodes(buffer, None, {"rewards": jnp.zeros(2)})
    with expect(ValueError, "reward: expected float32[2], got float32[]"):
        replay.end_episodes(buffer, None, {"reward": jnp.float32(0)})
    with expect(ValueError, "end_episodes", "independent items"):
        replay.end_episodes(replay.create({"x": jnp.int32(0)}, 8))


def test_the_newest_rows_next_observation_is_kept_when_its_episode_is_ended() -> None:
    buffer = replay.append(replay.end_episodes(buffer_of(step(0), step(1))), step(2))
    assert next_of(buffer, 0, 1, 2) == [1, 2, 3]
