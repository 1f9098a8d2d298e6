"""Rows with their episode: its data beside each, through any view and of any source."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views

KEY = jax.random.key(0)
ENVS, VIEW = 3, views.with_episode()
DATA = {"goal": jnp.zeros(2), "task": jnp.int32(0), "key": jax.random.key(0)}
sample = jax.jit(replay.sample, static_argnames=("batch_size", "view"))
take = jax.jit(replay.take, static_argnames="view")


def steps(length: int) -> replay.Transition:
    """Episodes of four steps in env 0, of five in env 1, of six in env 2; the reward is the episode's number."""
    time = jnp.arange(length, dtype=jnp.int32)[:, None]
    each = jnp.arange(4, 4 + ENVS, dtype=jnp.int32)[None]
    ended = time % each == each - 1
    observation = jnp.broadcast_to(time, ended.shape).astype(jnp.float32)
    reward = (time // each).astype(jnp.float32)
    return replay.Transition(observation, observation, reward, ended, jnp.zeros_like(ended), observation + 1)


def filled(length: int = 30, episode_data: Any = DATA, **options: Any) -> replay.Buffer:
    """The task of an episode is 100 for its env, and its number, where that is odd; it has none where it is even."""
    example = jax.tree.map(lambda x: x[0, 0], steps(1))
    buffer = replay.create(example, 16 * ENVS, ENVS, episode_data=episode_data, **options)
    buffer = replay.extend(buffer, steps(length))
    for number in range(1, 8, 2) if episode_data else ():
        env = jnp.arange(ENVS, dtype=jnp.int32)
        task = {"task": 100 * env + number, "goal": jnp.stack([env, env + number], 1).astype(jnp.float32)}
        buffer = replay.set_episode_data(buffer, env, task, number)
    return buffer


def check(batch: replay.Sample, observation: jax.Array, reward: jax.Array, env: jax.Array) -> None:
    found, time, mask = batch.data, np.asarray(observation).astype(int), np.asarray(batch.mask)
    number, each = np.asarray(reward).astype(int), 4 + np.asarray(env)
    wanted = {"number": number, "index": time % each, "length": np.minimum(30 - number * each, each)}
    for name, value in wanted.items():
        np.testing.assert_array_equal(getattr(found, name), np.where(mask, value, 0))
    task = np.where(mask & (number % 2 == 1), 100 * np.asarray(env) + number, 0)
    np.testing.assert_array_equal(found.episode_data["task"], task)
    goal = np.stack([np.asarray(env), np.asarray(env) + number], 1) * (task > 0)[:, None]
    np.testing.assert_array_equal(found.episode_data["goal"], goal)
    assert found.episode_data["key"].shape == mask.shape


@pytest.mark.parametrize("under", [None, views.n_step(3, 0.9), views.sequence(3), views.window(1, 1)], ids=str)
def test_every_row_comes_with_the_data_of_its_episode_through_any_view(under: Any) -> None:
    view = VIEW if under is None else views.compose(under, VIEW)
    buffer = filled()
    rows, _ = replay.rows(buffer)
    every = take(buffer, rows, views.transition()).data
    for batch, chosen in (
        (take(buffer, rows, view), every),
        (sample(buffer, KEY, 64, view), None),
    ):
        chosen = take(buffer, batch.rows, views.transition()).data if chosen is None else chosen
        check(batch, chosen.observation, chosen.reward, jnp.maximum(batch.rows.env, 0))
        plain = take(buffer, batch.rows, under or views.transition()).data
        jax.tree.map(np.testing.assert_array_equal, batch.data.data, plain)
    assert under is not None or bool(batch.mask.all())


def test_rows_that_cannot_be_read_are_zeros() -> None:
    buffer = filled()
    rows = replay.Rows(time=jnp.array([3, 99, 20, 20]), env=jnp.array([0, 0, 7, -1]))
    batch = replay.take(buffer, rows, VIEW)
    assert not batch.mask.any()
    rest = batch.data.replace(episode_data={**batch.data.episode_data, "key": jnp.zeros(())})
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(rest))


def test_a_map_over_it_uses_the_data() -> None:
    """A goal-conditioned agent reads its goal beside the observation."""
    view = views.compose(VIEW, views.map(lambda batch: batch.observation + batch.episode_data["goal"][:, 1]))
    batch = sample(filled(), KEY, 32, view)
    own = take(filled(), batch.rows, VIEW).data
    np.testing.assert_array_equal(batch.data, own.observation + own.episode_data["goal"][:, 1])


def test_it_works_under_vmap_in_a_scan_and_without_data() -> None:
    buffer = filled()
    keys = jax.random.split(KEY, 3)
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), buffer)
    came = jax.vmap(lambda b, k: replay.sample(b, k, 8, VIEW).data.episode_data["task"])(many, keys)
    _, scanned = jax.lax.scan(lambda b, k: (b, replay.sample(b, k, 8, VIEW).data.episode_data["task"]), buffer, keys)
    np.testing.assert_array_equal(came, scanned)
    assert came.any()
    without = replay.sample(filled(episode_data=None), KEY, 8, VIEW).data
    assert without.episode_data is None
    np.testing.assert_array_equal(without.number, without.data.reward.astype(jnp.int32))


def test_sources_give_the_data_of_their_own_buffers() -> None:
    buffer, other = filled(), filled(episode_data={"goal": jnp.zeros(2)} | {k: DATA[k] for k in ("task", "key")})
    few = replay.subset(buffer, jax.tree.map(lambda x: x[5:40:5], replay.rows(buffer)[0]))
    for source in (few, replay.concat([few, other]), replay.mixture([few, other], [0.5, 0.5])):
        batch = sample(source, KEY, 32, VIEW)
        check(batch, batch.data.observation, batch.data.reward, batch.rows.env)
    for build in (replay.concat, lambda sources: replay.mixture(sources, [0.5, 0.5])):
        with pytest.raises(
            ValueError, match=r"must keep the same episode_data; got nothing, expected episode_data\.goal "
        ):
            replay.sample(build([buffer, filled(episode_data=None)]), KEY, 4, VIEW)


def test_what_has_no_episodes_or_no_meaning_is_refused() -> None:
    items = replay.append(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.int32(0)})
    with pytest.raises(ValueError, match=r"with_episode\(\): this buffer holds independent items"):
        replay.sample(items, KEY, 4, VIEW)
    with pytest.raises(ValueError, match="has no meaning"):
        views.compose(VIEW, views.n_step(3, 0.9))


def test_it_reads_no_more_for_more_records() -> None:
    def size(slots: int) -> int:
        example = jax.tree.map(lambda x: x[0, 0], steps(1))
        buffer = jax.eval_shape(lambda: replay.create(example, slots * ENVS, ENVS, episode_data=DATA))
        compiled = jax.jit(lambda b, k: replay.sample(b, k, 32, VIEW)).lower(buffer, KEY).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    assert size(100_000) == size(1000)
