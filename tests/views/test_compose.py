"""Chaining of views, what is refused, exact draws of complete sequences, and the gathers of a compiled sample."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_next_observation import buffer_of, step
from tests.test_sampling import assert_uniform


def double_reward(batch: Any) -> Any:
    return batch.replace(reward=2 * batch.reward)


def test_select_and_map_over_n_step() -> None:
    buffer = buffer_of(*map(step, range(6)))
    view = views.compose(views.n_step(3, 1.0), views.map(double_reward), views.select("reward", "observation"))
    batch = replay.take(buffer, replay.Rows(jnp.array([0, 5]), jnp.array([0, 0])), view).data
    assert sorted(batch) == ["observation", "reward"]
    assert batch["reward"].tolist() == [6, 2]


def test_stacks_on_the_last_axis_hold_the_same_frames() -> None:
    example = {"obs": jnp.zeros((2, 3)), "next": jnp.zeros((2, 3)), "end": jnp.bool_(False)}
    buffer = replay.create(example, 8, next_of={"next": "obs"}, episode_end="end")
    values = jnp.arange(30.0).reshape(5, 2, 3)
    buffer = replay.extend(buffer, {"obs": values, "next": values + 6, "end": jnp.zeros(5, bool)})
    rows, _ = replay.rows(buffer)
    first, last = (replay.take(buffer, rows, views.frame_stack(3, axis=axis)).data for axis in (0, -1))
    assert first["obs"].shape == (8, 3, 2, 3)
    for name in ("obs", "next"):
        np.testing.assert_array_equal(last[name], np.moveaxis(np.asarray(first[name]), 1, -1))


@pytest.mark.parametrize("axis", [-4, 3, 7])
def test_an_axis_that_the_stacked_leaf_has_not_is_refused_by_path(axis: int) -> None:
    obs = {"camera": jnp.zeros((2, 3))}
    example = {"obs": obs, "next": obs, "end": jnp.bool_(False)}
    buffer = replay.create(example, 8, next_of={"next": "obs"}, episode_end="end")
    wanted = rf"axis {axis} .*(obs|next)\.camera,.* 2 axes, 3 when stacked; expected -3 to 2"
    with pytest.raises(ValueError, match=wanted):
        replay.take(buffer, replay.rows(buffer)[0], views.frame_stack(2, axis=axis))
    for fits in (-3, 2):
        replay.take(buffer, replay.rows(buffer)[0], views.frame_stack(2, axis=fits))


def test_only_chosen_parts_are_stacked() -> None:
    obs = {"camera": jnp.zeros(2), "speed": jnp.float32(0)}
    example = {"obs": obs, "next": dict(obs), "end": jnp.bool_(False)}
    buffer = replay.create(example, 8, next_of={"next": "obs"}, episode_end="end")
    batch = replay.take(buffer, replay.rows(buffer)[0], views.frame_stack(3, parts="obs.camera")).data
    assert batch["obs"]["camera"].shape == batch["next"]["camera"].shape == (8, 3, 2)
    assert batch["obs"]["speed"].shape == (8,)


@pytest.mark.parametrize(
    "build",
    [
        lambda: views.compose(views.n_step(3, 0.9), views.window(1, 1)),
        lambda: views.compose(views.map(double_reward), views.n_step(3, 0.9)),
        lambda: views.compose(views.frame_stack(2), views.frame_stack(2)),
        lambda: views.compose(views.n_step(3, 0.9), views.frame_stack(2)),
    ],
)
def test_chains_without_a_meaning_are_refused_when_they_are_built(build: Any) -> None:
    with pytest.raises(ValueError, match="has no meaning: frame_stack comes first"):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: views.offsets((0, -1)), r"offsets: expected rising numbers that include 0"),
        (lambda: views.offsets((-2, -1)), r"got \(-2, -1\)"),
        (lambda: views.window(-1, 0), "past: expected at least 0, got -1"),
        (lambda: views.window(1, 0, "mean"), "fill: expected 'edge', 'zero' or None, got 'mean'"),
        (lambda: views.frame_stack(0), "n: expected at least 1"),
        (lambda: views.sequence(0), "length: expected at least 1"),
        (lambda: views.sequence(3, every=0), "every: expected at least 1"),
        (lambda: views.sequence(3, burn_in=2, every=6), "every: expected at most 5, what a sequence is long, got 6"),
        (lambda: views.sequence(3, False, across=True), "across: sequences across .* are complete ones"),
        (lambda: views.compose(views.frame_stack(2), views.sequence(3, across=True)), "would cross the ends"),
        (lambda: views.compose(views.sequence(3, across=True), views.with_episode()), "of several episodes"),
        (lambda: views.select(), "select: expected names"),
        (lambda: views.compose(), "at least one view"),
    ],
)
def test_wrong_arguments_are_refused_when_the_view_is_built(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build", [lambda: views.offsets((-1.5, 0)), lambda: views.frame_stack(2, axis=True), lambda: views.frame_stack(2.5)]
)
def test_numbers_that_are_not_whole_are_not_cut(build: Any) -> None:
    with pytest.raises(TypeError, match="expected a Python int"):
        build()


def test_a_stack_without_next_values_says_what_is_missing() -> None:
    buffer = replay.append(replay.create({"x": jnp.int32(0)}, 4), {"x": jnp.int32(1)})
    with pytest.raises(ValueError, match="frame_stack: no part of these steps has a next value"):
        replay.sample(buffer, jax.random.key(0), 2, views.frame_stack(2))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (views.window(8, 0), "needs 9 steps of an env, and the ring holds only 8"),
        (views.sequence(9), "needs 9 steps"),
        (views.sequence(2, first="extras.state"), "sequence: first: the stored steps have no 'extras.state'"),
        (views.select("rewards"), "the batch has no 'rewards'; it has: observation, action"),
        (views.frame_stack(2, parts=("action",)), "frame_stack: action cannot be stacked"),
        (views.frame_stack(2, parts=("pixels",)), "frame_stack: pixels cannot be stacked"),
    ],
)
def test_views_that_do_not_fit_the_buffer_say_so(view: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay.sample(buffer_of(step(0)), jax.random.key(0), 2, view)


def test_complete_sequences_are_drawn_uniformly_over_all_complete_ones() -> None:
    """By chi-square at a false-alarm rate of 1e-6, with short and long episodes and after wrap-around."""
    ends = {3, 4, 9, 30, 33}
    buffer = buffer_of(*(step(i, terminated=i in ends) for i in range(50)), capacity=40, max_episodes=10)
    rows, _ = replay.rows(buffer)
    complete = np.asarray(replay.take(buffer, rows, views.sequence(5)).mask)
    assert 20 < complete.sum() < 35
    batch = replay.sample(buffer, jax.random.key(0), 100_000, views.sequence(5))
    assert bool(batch.mask.all())
    counts = np.bincount(np.asarray(batch.rows.time) - 10, minlength=40)
    assert counts[~complete].sum() == 0
    assert_uniform(counts[complete])
    assert float(batch.probability[0]) == pytest.approx(1 / 40)


def test_a_view_that_no_row_can_serve_gives_a_masked_batch_under_jit() -> None:
    sample = jax.jit(lambda buffer: replay.sample(buffer, jax.random.key(0), 4, views.sequence(5)))
    batch = sample(buffer_of(step(0), step(1)))
    assert not batch.mask.any()
    assert not batch.data.mask.any()


def test_stacks_of_images_are_one_gather() -> None:
    """The observation's and the next observation's frames are read together, and nothing loops over the batch."""
    image = jax.ShapeDtypeStruct((20, 20), jnp.uint8)
    flag, number = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((), jnp.float32)
    example = replay.Transition(image, number, number, flag, flag, image)
    buffer = jax.eval_shape(lambda: replay.create(example, 1000))
    rows = replay.Rows(*(jax.ShapeDtypeStruct((32,), jnp.int32),) * 2)
    program = jax.make_jaxpr(lambda b, r: replay.take(b, r, views.frame_stack(4)).data)(buffer, rows)
    gathers = re.findall(r":u8\[(\S+)\] = gather", str(program))
    assert gathers == ["32,5,20,20"]
    assert "while" not in str(program)


@pytest.mark.parametrize("view", [views.transition, "transition", None, 3])
def test_what_is_no_view_is_refused(view: Any) -> None:
    buffer = replay.append(replay.create({"x": jnp.int32(0)}, 4), {"x": jnp.int32(1)})
    key, (rows, _) = jax.random.key(0), replay.rows(buffer)
    for read in (
        lambda: replay.sample(buffer, key, 2, view),
        lambda: replay.take(buffer, rows, view),
        lambda: replay.epoch(buffer, key, 2, view),
        lambda: views.compose(view),
        lambda: views.compose(views.transition(), view),
    ):
        with pytest.raises(TypeError, match="view: expected a view, as"):
            read()


def test_parts_may_be_named_as_the_methods_of_a_dict_are() -> None:
    example = {
        "values": jnp.float32(0),
        "items": jnp.float32(0),
        "keys": {"pop": jnp.int32(0)},
        "end": jnp.bool_(False),
    }
    example["copy"] = jnp.float32(0)  # the next of "items"
    buffer = replay.create(example, 8, next_of={"copy": "items"}, episode_end="end")
    buffer = replay.append(buffer, example | {"values": jnp.float32(2), "keys": {"pop": jnp.int32(3)}})
    rows = replay.Rows(time=jnp.array([0]), env=jnp.array([0]))
    assert replay.take(buffer, rows, views.select("keys.pop")).data["keys.pop"].tolist() == [3]
    names = {"observation": "items", "action": "keys", "next_observation": "copy", "terminated": "end"}
    assert replay.take(buffer, rows, views.n_step(2, 0.9, reward="values", **names)).data.reward.tolist() == [2]
    assert replay.episodes(buffer).final_observation.shape == (8,)
