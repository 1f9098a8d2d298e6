"""Relabelling: which goals are taken, how often, and what becomes of the reward.

The statistical tests compare counts with a chi-square test at a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_sampling import assert_uniform

KEY = jax.random.key(0)
EPISODES = ((3, 6), (7, 11), (12, 14))  # first and last times; the ring holds 5 to 14, and the last is open


def compute_reward(achieved: jax.Array, desired: jax.Array) -> jax.Array:
    return -jnp.abs(achieved - desired).sum()


def observe(time: Any) -> dict[str, Any]:
    position = jnp.stack([time, 2 * time], axis=-1)
    return {"position": position, "achieved_goal": position, "desired_goal": -jnp.ones_like(position)}


def goal_buffer() -> replay.Buffer:
    """The goal achieved by a step is (t + 1, 2t + 2), at an episode's end 100 more; the desired one is -1."""
    time = jnp.arange(15.0)
    ends = jnp.isin(time, jnp.array([2.0, 6.0, 11.0]))
    block = replay.Transition(
        observation=observe(time),
        action=time.astype(jnp.int32),
        reward=jnp.full(15, 50.0),
        terminated=jnp.zeros(15, bool),
        truncated=ends,
        next_observation=observe(time + 1 + jnp.where(ends, 100.0, 0.0)),
    )
    example = jax.tree.map(lambda x: x[0], block)
    return replay.extend(replay.create(example, 10, max_episodes=8), block)


def goals_of(time: int, strategy: str) -> list[int]:
    """The first numbers of the goals that a row may get."""
    first, last = next(e for e in EPISODES if e[0] <= time <= e[1])
    held = range(max(first, 5), last + 1)
    chosen = {"future": range(time, last + 1), "episode": held, "final": range(last, last + 1)}[strategy]
    return [t + 1 + (100 if t in (6, 11) else 0) for t in chosen]


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_are_drawn_uniformly_from_those_of_the_strategy(strategy: str) -> None:
    view = views.hindsight(strategy, 1.0, compute_reward=compute_reward)
    batch = replay.sample(goal_buffer(), KEY, 40_000, view)
    times, goals = np.asarray(batch.rows.time), np.asarray(batch.data.observation["desired_goal"])
    np.testing.assert_array_equal(goals, batch.data.next_observation["desired_goal"])
    np.testing.assert_array_equal(goals[:, 1] % 100, (2 * (goals[:, 0] % 100)) % 100)
    for time in range(5, 15):
        found, counts = np.unique(goals[times == time, 0], return_counts=True)
        assert found.tolist() == sorted(goals_of(time, strategy))
        if len(counts) > 1:
            assert_uniform(counts)
    achieved = np.asarray(batch.data.next_observation["achieved_goal"])
    np.testing.assert_array_equal(batch.data.reward, -np.abs(achieved - goals).sum(axis=1))
    np.testing.assert_array_equal(batch.data.observation["position"][:, 0], times)


def test_the_stated_fraction_is_relabelled_and_the_rest_is_as_stored() -> None:
    view = views.hindsight("future", 0.3, compute_reward=compute_reward)
    batch = replay.sample(goal_buffer(), KEY, 40_000, view)
    relabelled = np.asarray(batch.data.observation["desired_goal"])[:, 0] != -1
    assert abs(relabelled.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 40_000)
    assert (np.asarray(batch.data.reward)[~relabelled] == 50).all()
    assert (np.asarray(batch.data.reward)[relabelled] != 50).all()
    none = replay.sample(goal_buffer(), KEY, 100, views.hindsight("future", 0.0, compute_reward=compute_reward))
    assert (none.data.reward == 50).all()


def test_take_draws_with_its_own_key() -> None:
    view = views.compose(views.hindsight(compute_reward=compute_reward), views.select("observation.desired_goal"))
    buffer = goal_buffer()
    rows, _ = replay.rows(buffer)
    first, again, other = (replay.take(buffer, rows, view, key=jax.random.key(i)).data for i in (0, 0, 1))
    np.testing.assert_array_equal(*(x["observation.desired_goal"] for x in (first, again)))
    assert (first["observation.desired_goal"] != other["observation.desired_goal"]).any()
    with pytest.raises(ValueError, match="draws at random: give take a key"):
        replay.take(buffer, rows, view)


def test_rows_that_cannot_be_read_give_zeros() -> None:
    rows = replay.Rows(time=jnp.array([0, 99]), env=jnp.array([0, 0]))
    view = views.hindsight("final", 1.0, compute_reward=compute_reward)
    batch = replay.take(goal_buffer(), rows, view, key=KEY)
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(batch.data))


def test_each_seed_of_a_vmapped_buffer_relabels_by_its_key() -> None:
    view = views.hindsight("episode", 1.0, compute_reward=compute_reward)
    buffer = goal_buffer()
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda k: replay.sample(buffer, k, 16, view)))(keys)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[i], together),  # noqa: B023
                     replay.sample(buffer, keys[i], 16, view))  # fmt: skip


def two_rewards(achieved: jax.Array, desired: jax.Array) -> jax.Array:
    return jnp.stack([compute_reward(achieved, desired), jnp.float32(3)])


def test_a_reward_may_have_axes_of_its_own() -> None:
    time = jnp.arange(4.0)
    flags, zeros = jnp.zeros(4, bool), jnp.zeros((4, 2))
    block = replay.Transition(observe(time), time, zeros, flags, flags, observe(time + 1))
    buffer = replay.extend(replay.create(jax.tree.map(lambda x: x[0], block), 4), block)
    batch = replay.sample(buffer, KEY, 8, views.hindsight("final", 1.0, compute_reward=two_rewards)).data
    goal = batch.observation["desired_goal"]
    np.testing.assert_allclose(batch.reward[:, 0], -jnp.abs(batch.next_observation["achieved_goal"] - goal).sum(-1))
    assert batch.reward[:, 1].tolist() == [3] * 8


def test_a_reward_that_is_a_structure_is_refused_by_path() -> None:
    flags, scalar = jnp.bool_(False), jnp.float32(0)
    step = replay.Transition(observe(scalar), scalar, {"a": scalar, "b": scalar}, flags, flags, observe(scalar))
    buffer = replay.append(replay.create(step, 4), step)
    with pytest.raises(ValueError, match=r"reward must be one array.*reward\.a, reward\.b.*reward='reward\.a'"):
        replay.sample(buffer, KEY, 2, views.hindsight(compute_reward=compute_reward))
    assert replay.sample(buffer, KEY, 2, views.hindsight(compute_reward=compute_reward, reward="reward.b")).mask.all()


def test_what_cannot_be_relabelled() -> None:
    buffer = goal_buffer()
    for message, view in (
        ("no 'observation.goal'", {"desired_goal": "goal"}),
        ("and must be as observation.position", {"desired_goal": "position", "achieved_goal": "only_half"}),
        (r"compute_reward: expected float32\[\], got float32\[2\]", {"compute_reward": lambda a, d: a - d}),
        (r"compute_reward: expected float32\[\], got NoneType", {"compute_reward": lambda a, d: None}),
    ):
        options = {"compute_reward": compute_reward} | view
        with pytest.raises(ValueError, match=message if "half" not in str(view) else "only_half"):
            replay.sample(buffer, KEY, 4, views.hindsight(**options))
    for message, arguments in (("strategy", ("past", 0.5)), ("fraction", ("future", 1.5))):
        with pytest.raises(ValueError, match=f"{message}: expected"):
            views.hindsight(*arguments, compute_reward=compute_reward)
    with pytest.raises(ValueError, match="has no meaning"):
        views.compose(views.hindsight(compute_reward=compute_reward), views.n_step(2, 0.9))
    with pytest.raises(ValueError, match="has no meaning"):
        views.compose(views.frame_stack(2), views.hindsight(compute_reward=compute_reward))
