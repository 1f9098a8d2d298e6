"""The n-step view against a plain-Python sum over the episode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay.views import n_step
from tests.test_next_observation import buffer_of, step

GAMMA = 0.9
SLOTS, ENVS, RECORDS = 7, 2, 6


def n_step_by_hand(steps: list[Any], start: int, n: int) -> tuple[float, float, float]:
    """Reward, discount and next observation of the step `start` of one episode's steps, in time order."""
    reward, discount = 0.0, 1.0
    for k, s in enumerate(steps[start : start + n]):
        reward += GAMMA**k * s["reward"]
        discount = 0.0 if s["terminated"] else GAMMA ** (k + 1)
        following = s["next"]
    return reward, discount, following


flags = st.sampled_from(["goes on", "goes on", "goes on", "terminated", "truncated", "void"])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
@given(st.lists(st.tuples(flags, flags), min_size=1, max_size=16))
def test_n_step_equals_the_sum_over_the_episode(n: int, slices: list[tuple[str, str]]) -> None:
    buffer = replay.create(step(0), SLOTS * ENVS, ENVS, max_episodes=RECORDS * ENVS)
    rng = np.random.default_rng(len(slices))
    episodes: list[list[list[Any]]] = [[], []]
    opened = [False, False]
    for time, kinds in enumerate(slices):
        rewards = rng.normal(size=2).astype(np.float32)
        terminated, truncated = (np.array([k == name for k in kinds]) for name in ("terminated", "truncated"))
        mask = np.array([k != "void" for k in kinds])
        following = np.float32(time + 1 + 100 * (terminated | truncated) + 100 * (time + 1 == len(slices)))
        for env in range(ENVS):
            if not mask[env]:
                opened[env] = False
                continue
            if not opened[env]:
                episodes[env].append([])
            opened[env] = not (terminated[env] or truncated[env])
            episodes[env][-1].append(
                {"time": time, "reward": rewards[env], "terminated": terminated[env], "next": following[env]}
            )
            # the next observation of a step inside an episode is the next step's own
            if len(episodes[env][-1]) > 1:
                episodes[env][-1][-2]["next"] = float(time)
        observation = np.full(2, time, np.float32)
        action = np.full(2, time, np.int32)
        transition = replay.Transition(observation, action, rewards, terminated, truncated, following)
        buffer = replay.append(buffer, transition, mask)
    rows, valid = replay.rows(buffer)
    batch = replay.take(buffer, rows, n_step(n, GAMMA))
    np.testing.assert_array_equal(batch.mask, valid)
    for i in np.flatnonzero(valid):
        time, env = int(rows.time[i]), int(rows.env[i])
        mine = next(e for e in episodes[env] if any(s["time"] == time for s in e))
        start = next(j for j, s in enumerate(mine) if s["time"] == time)
        reward, discount, following = n_step_by_hand(mine, start, n)
        assert float(batch.data.reward[i]) == pytest.approx(reward, abs=1e-5)
        assert float(batch.data.discount[i]) == np.float32(discount)
        assert float(batch.data.next_observation[i]) == following
        assert int(batch.data.observation[i]) == int(batch.data.action[i]) == time
    for leaf in jax.tree.leaves(batch.data):
        assert not np.asarray(leaf)[~np.asarray(valid)].any()


def test_bootstraps_at_truncation_and_at_the_newest_row_and_not_after_termination() -> None:
    steps = [step(i, terminated=i == 2, truncated=i == 5) for i in range(8)]
    buffer = buffer_of(*steps, max_episodes=3)
    batch = replay.take(buffer, replay.rows(buffer)[0], n_step(3, 0.5))
    assert batch.data.reward.tolist() == [1.75, 1.5, 1, 1.75, 1.5, 1, 1.5, 1]
    assert batch.data.discount.tolist() == [0, 0, 0, 0.125, 0.25, 0.5, 0.25, 0.5]
    assert batch.data.next_observation.tolist() == [103, 103, 103, 106, 106, 106, 8, 8]


def test_names_of_the_users_own_structure_and_rewards_in_their_dtype() -> None:
    example = {"s": jnp.zeros(2), "s2": jnp.zeros(2), "a": jnp.int32(0), "r": jnp.bfloat16(0), "d": jnp.bool_(False)}
    buffer = replay.create(example, 8, next_of={"s2": "s"}, episode_end=lambda x: x["d"])
    buffer = replay.extend(
        buffer, jax.tree.map(lambda x: jnp.ones((4, *x.shape), x.dtype) * (x.dtype != bool), example)
    )
    view = n_step(3, 1.0, observation="s", next_observation="s2", action="a", reward="r", terminated="d")
    batch = replay.take(buffer, replay.rows(buffer)[0], view)
    assert batch.data.reward.dtype == jnp.bfloat16
    assert batch.data.reward.tolist() == [0, 0, 0, 0, 3, 3, 2, 1]


def test_a_reward_may_have_axes_of_its_own() -> None:
    """Two agents, say, whose returns are summed each by itself."""
    example = {"o": jnp.zeros(2), "a": jnp.int32(0), "r": jnp.zeros(2), "end": jnp.bool_(False), "next": jnp.zeros(2)}
    buffer = replay.create(example, 8, next_of={"next": "o"}, episode_end=lambda s: s["end"])
    rewards = np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
    block = jax.tree.map(lambda x: jnp.zeros((4, *x.shape), x.dtype), example)
    buffer = replay.extend(buffer, block | {"r": jnp.asarray(rewards), "end": jnp.array([False, True, False, False])})
    view = n_step(2, 0.5, observation="o", action="a", reward="r", terminated="end", next_observation="next")
    came = replay.take(buffer, _rows(4), view).data
    np.testing.assert_allclose(came.reward, [[2, 20], [2, 20], [5, 50], [4, 40]])
    np.testing.assert_allclose(came.discount, [0, 0, 0.25, 0.5])


def _rows(count: int) -> replay.Rows:
    return replay.Rows(time=jnp.arange(count, dtype=jnp.int32), env=jnp.zeros(count, jnp.int32))


def test_under_jit_vmap_and_sample() -> None:
    buffer = buffer_of(*map(step, range(8)))
    draw = lambda key: replay.sample(buffer, key, 5, n_step(3, GAMMA))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(draw))(keys)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], together), draw(keys[i]))
