"""The n-step view against a plain-Python sum over the episode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
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
    buffer = replay.create(example, 8, next_of={"s2": "s"}, episode_end="d")
    block = jax.tree.map(lambda x: jnp.full((4, *x.shape), x.dtype != bool, x.dtype), example)
    buffer = replay.extend(buffer, block)
    view = n_step(3, 1.0, observation="s", next_observation="s2", action="a", reward="r", terminated="d")
    batch = replay.take(buffer, replay.rows(buffer)[0], view)
    assert batch.data.reward.dtype == jnp.bfloat16
    assert batch.data.reward.tolist() == [0, 0, 0, 0, 3, 3, 2, 1]


def test_a_reward_may_have_axes_of_its_own() -> None:
    """Two agents, say, whose returns are summed each by itself."""
    example = {"o": jnp.zeros(2), "a": jnp.int32(0), "r": jnp.zeros(2), "end": jnp.bool_(False), "next": jnp.zeros(2)}
    buffer = replay.create(example, 8, next_of={"next": "o"}, episode_end="end")
    rewards = np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
    block = jax.tree.map(lambda x: jnp.zeros((4, *x.shape), x.dtype), example)
    buffer = replay.extend(buffer, block | {"r": jnp.asarray(rewards), "end": jnp.array([False, True, False, False])})
    view = n_step(2, 0.5, observation="o", action="a", reward="r", terminated="end", next_observation="next")
    came = replay.take(buffer, _rows(4), view).data
    np.testing.assert_allclose(came.reward, [[2, 20], [2, 20], [5, 50], [4, 40]])
    np.testing.assert_allclose(came.discount, [0, 0, 0.25, 0.5])


def team(rewards: Any, terminated: Any, ended: Any, **options: Any) -> replay.Buffer:
    """One episode's steps of A agents, `[L, A]`; `ended` `[L]` says where episodes end."""
    rewards, terminated, ended = jnp.asarray(rewards), jnp.asarray(terminated), jnp.asarray(ended)
    time = jnp.arange(len(ended), dtype=jnp.float32)
    extras = {"ended": ended, **options}
    block = replay.Transition(time, time, rewards, terminated, jnp.zeros_like(terminated), time + 1, extras)
    example = jax.tree.map(lambda x: x[0], block)
    return extend(replay.create(example, 8, episode_end=has_ended, max_episodes=8), block)


def has_ended(step: Any) -> Any:
    return step.extras["ended"]


extend, take = jax.jit(replay.extend), jax.jit(replay.take, static_argnums=2)


@pytest.mark.parametrize("n", [1, 3])
@settings(settings.get_profile("short"), max_examples=15)
@given(seed=st.integers(0, 2**20), objectives=st.sampled_from([None, 2]))
def test_each_agent_has_its_own_return_up_to_its_own_termination(n: int, seed: int, objectives: int | None) -> None:
    rng = np.random.default_rng(seed)
    tail = () if objectives is None else (objectives,)
    rewards = rng.normal(size=(8, 3, *tail)).astype(np.float32)
    terminated, ended = rng.random((8, 3)) < 0.3, rng.random(8) < 0.2
    batch = take(team(rewards, terminated, ended), _rows(8), n_step(n, GAMMA)).data
    assert batch.discount.shape == (8, 3)
    for i in range(8):
        last = next((j for j in range(i, 8) if ended[j]), 7)
        steps = range(i, min(i + n, last + 1))
        for agent in range(3):
            total, alive = np.zeros(tail), True
            for k, j in enumerate(steps):
                total = total + alive * GAMMA**k * rewards[j, agent]
                alive &= not terminated[j, agent]
            np.testing.assert_allclose(batch.reward[i, agent], total, atol=1e-5)
            assert float(batch.discount[i, agent]) == np.float32(alive * GAMMA ** len(steps))
        assert float(batch.next_observation[i]) == steps[-1] + 1


def test_several_agents_through_create_and_append_as_they_are() -> None:
    """The episode ends with the last of them, here at the third step, one truncated and one terminated."""
    terminated = jnp.array([[False, False], [True, False], [True, False], [False, False]])
    truncated = jnp.array([[False, False], [False, False], [False, True], [False, False]])
    time, rewards = jnp.arange(4.0), jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]])
    block = replay.Transition(time, time, rewards, terminated, truncated, time + 1)
    buffer = replay.create(jax.tree.map(lambda x: x[0], block), 8)
    for i in range(4):
        buffer = append(buffer, jax.tree.map(lambda x, i=i: x[i], block))
    batch = take(buffer, _rows(4), n_step(3, 0.5)).data
    np.testing.assert_allclose(batch.reward, [[2, 30], [2, 40], [4, 40], [8, 80]])
    np.testing.assert_allclose(batch.discount, [[0, 0.125], [0, 0.25], [0, 0.5], [0.5, 0.5]])
    assert batch.next_observation.tolist() == [3, 3, 3, 4]


append = jax.jit(replay.append)


def test_one_agent_of_a_structure_is_picked_by_path() -> None:
    flags = {"a": jnp.array([False, True, False]), "b": jnp.zeros(3, bool)}
    rewards = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([10.0, 20.0, 30.0])}
    block = replay.Transition(jnp.zeros(3), {}, rewards, flags, flags, jnp.zeros(3), {0: jnp.arange(3)})
    example = jax.tree.map(lambda x: x[0], block)
    buffer = replay.create(example, 4, episode_end=lambda step: step.terminated["a"] & step.terminated["b"])
    buffer = replay.extend(buffer, block)
    for agent, wanted, discount in (("a", 2.0, 0.0), ("b", 20.0, 0.25)):
        view = n_step(2, 0.5, reward=f"reward.{agent}", terminated=f"terminated.{agent}", extras="extras.0")
        batch = replay.take(buffer, _rows(2), view).data
        assert float(batch.reward[0]) == wanted
        assert float(batch.discount[0]) == discount
        assert batch.extras.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"reward must be one array.*reward\.a, reward\.b.*reward='reward\.a'"):
        replay.take(buffer, _rows(2), n_step(2, 0.5))
    with pytest.raises(ValueError, match=r"terminated must be one.*terminated\.a, terminated\.b"):
        jax.eval_shape(lambda b: replay.take(b, _rows(2), n_step(2, 0.5, reward="reward.a")), buffer)


def test_flags_that_are_not_those_of_the_rewards_are_refused_by_path() -> None:
    buffer = team(np.zeros(4, np.float32), np.zeros((4, 3), bool), np.zeros(4, bool))
    with pytest.raises(ValueError, match=r"terminated is bool\[3\] and reward is float32\[\].*first axes"):
        replay.take(buffer, _rows(2), n_step(2, 0.5))


def test_a_discount_that_is_no_python_number() -> None:
    with pytest.raises(TypeError, match=r"discount: expected a Python number.*traced value.*sequence\(n"):
        jax.jit(lambda discount: n_step(3, discount))(0.9)
    with pytest.raises(TypeError, match=r"discount: expected a number from 0 to 1, got str '0.9'"):
        n_step(3, "0.9")  # type: ignore[arg-type]
    assert n_step(3, np.float64(0.9)) == n_step(3, 0.9)


@pytest.mark.parametrize("nothing", [None, {}, ()])
def test_an_action_without_leaves_comes_as_it_is(nothing: Any) -> None:
    flag = jnp.bool_(False)
    for example, view in (
        (replay.Transition(jnp.zeros(2), nothing, jnp.float32(0), flag, flag, jnp.zeros(2)), n_step(2, 0.5)),
        (
            {"o": jnp.zeros(2), "next": jnp.zeros(2), "a": nothing, "r": jnp.float32(0), "end": flag},
            n_step(2, 0.5, observation="o", next_observation="next", action="a", reward="r", terminated="end"),
        ),
    ):
        options = {"next_of": {"next": "o"}, "episode_end": lambda step: step["end"]}
        buffer = replay.create(example, 4, **(options if isinstance(example, dict) else {}))  # type: ignore[arg-type]
        batch = replay.take(replay.append(buffer, example), _rows(1), view)
        assert batch.data.action == nothing
        assert batch.mask.tolist() == [True]


def extras_buffer(example: Any, **options: Any) -> replay.Buffer:
    buffer = replay.create(example, 8, **options)
    block = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, *x.shape)), example)
    count = jnp.arange(6.0)
    if isinstance(example, replay.Transition):
        return replay.extend(buffer, block.replace(extras={"log_prob": count, "big": block.extras["big"] + 3}))
    return replay.extend(buffer, block | {"log_prob": count, "weight": count * 2})


def test_the_first_steps_extras_come_along() -> None:
    flag = jnp.bool_(False)
    extras = {"log_prob": jnp.float32(0), "big": jnp.zeros(100)}
    example = replay.Transition(jnp.zeros(2), jnp.int32(0), jnp.float32(0), flag, flag, jnp.zeros(2), extras)
    buffer = extras_buffer(example)
    batch = replay.take(buffer, _rows(4), n_step(3, GAMMA)).data
    assert batch.extras["log_prob"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(batch.extras["big"], np.full((4, 100), 3))
    summed = replay.take(buffer, _rows(4), n_step(2, 1.0, reward="extras.log_prob")).data
    assert summed.reward.tolist() == [1, 3, 5, 7]
    assert summed.extras["log_prob"].tolist() == [0, 1, 2, 3]
    only = n_step(2, 1.0, extras=("extras.log_prob",))
    assert jax.tree.map(jnp.shape, replay.take(buffer, _rows(4), only).data.extras) == {"extras.log_prob": (4,)}


def test_extras_of_a_structure_of_ones_own_are_named() -> None:
    example = {"o": jnp.zeros(2), "r": jnp.float32(0), "end": jnp.bool_(False), "next": jnp.zeros(2)}
    example |= {"log_prob": jnp.float32(0), "weight": jnp.float32(0)}
    buffer = extras_buffer(example, next_of={"next": "o"}, episode_end="end")
    names = {"observation": "o", "action": "o", "reward": "r", "terminated": "end", "next_observation": "next"}
    came = lambda **more: replay.take(buffer, _rows(3), n_step(2, 0.5, **names, **more)).data.extras  # noqa: E731
    assert came() == came(extras=()) == {}
    assert came(extras="log_prob").tolist() == [0, 1, 2]
    both = came(extras=["log_prob", "weight"])
    assert {name: x.tolist() for name, x in both.items()} == {"log_prob": [0, 1, 2], "weight": [0, 2, 4]}
    with pytest.raises(ValueError, match="no 'log_probs'"):
        came(extras="log_probs")
    with pytest.raises(ValueError, match="extras: 'next' is read k steps on"):
        came(extras="next")


def test_extras_that_nobody_uses_cost_nothing() -> None:
    """Under jit, the program that ignores them reads no more than one that never asked."""
    flag = jnp.bool_(False)
    extras = {"log_prob": jnp.float32(0), "big": jnp.zeros(100)}
    example = replay.Transition(jnp.zeros(2), jnp.int32(0), jnp.float32(0), flag, flag, jnp.zeros(2), extras)
    buffer = extras_buffer(example)

    def program(view: Any) -> Any:
        use = lambda b, key: replay.sample(b, key, 32, view).data.replace(extras={})  # noqa: E731
        return jax.jit(use).lower(buffer, jax.random.key(0)).compile().cost_analysis()

    with_extras, without = program(n_step(3, 0.9)), program(n_step(3, 0.9, extras=()))
    assert with_extras["bytes accessed"] == without["bytes accessed"]
    assert with_extras["flops"] == without["flops"]


def _rows(count: int) -> replay.Rows:
    return replay.Rows(time=jnp.arange(count, dtype=jnp.int32), env=jnp.zeros(count, jnp.int32))


def test_under_jit_vmap_and_sample() -> None:
    buffer = buffer_of(*map(step, range(8)))
    draw = lambda key: replay.sample(buffer, key, 5, n_step(3, GAMMA))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(draw))(keys)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], together), draw(keys[i]))
