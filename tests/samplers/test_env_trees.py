"""Weights where rows can lose their episode's record: many at once, by any append, and none is left or drawn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxreplay as replay
from jaxreplay.samplers import prioritized, sum_tree
from jaxreplay.views import sequence

SLOTS, ENVS = 300, 3  # three levels for each env, or two in the tiles of a TPU
KEY = jax.random.key(0)
extend, set_priorities, remove = map(jax.jit, (replay.extend, replay.set_priorities, replay.remove))
pop = jax.jit(replay.pop, static_argnames="n")
sample = jax.jit(replay.sample, static_argnames=("batch_size", "view"))
readable = jax.jit(lambda buffer: (*replay.rows(buffer), replay.priorities(buffer, replay.rows(buffer)[0])))


def empty(records: int, platform: str = "cpu", slots: int = SLOTS, view: Any = None) -> replay.Buffer:
    example = {"x": jnp.int32(0), "end": jnp.bool_(False)}
    sampler, records = prioritized(1.0, view=view), records * ENVS
    return replay.create(
        example, slots * ENVS, ENVS, episode_end="end", max_episodes=records, sampler=sampler, platform=platform
    )


def block(rng: np.random.Generator, length: int, end_rate: float) -> dict[str, jax.Array]:
    end = rng.random((length, ENVS)) < end_rate
    return {"x": jnp.zeros((length, ENVS), jnp.int32), "end": jnp.asarray(end)}


def live(buffer: replay.Buffer, seed: int, rounds: int) -> Any:
    """Grow long episodes, end them, and lose them by many short ones, again and again; yield after each call."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        length, end_rate = [(64, 0.0), (64, 0.01), (7, 0.1), (1, 0.9), (1, 1.0), (1, 1.0)][rng.integers(6)]
        buffer = extend(buffer, block(rng, length, end_rate), jnp.asarray(rng.random((length, ENVS)) < 0.95))
        rows, _ = replay.rows(buffer)
        some = jax.tree.map(lambda x: x[rng.integers(0, SLOTS * ENVS, 32)], rows)
        kind = rng.integers(8)
        if kind < 4:
            buffer = set_priorities(buffer, some, jnp.asarray(rng.exponential(size=32), jnp.float32))
        elif kind == 4:
            buffer = remove(buffer, some)
        elif kind == 5:
            buffer, _ = pop(buffer, 30)
        yield buffer


def check(buffer: replay.Buffer, key: jax.Array, view: Any = None) -> None:
    """The tree's total is that of the rows that can be read, and only these are drawn, with their share of it."""
    options = {} if view is None else {"view": view}
    rows, mask, weight = jax.tree.map(np.asarray, readable(buffer))
    usable = mask if view is None else np.asarray(replay.take(buffer, rows, view).mask)
    total = float(weight[usable].sum(dtype=np.float64))
    np.testing.assert_allclose(float(sum_tree.total(buffer.sampler_state.tree)), total, rtol=1e-5, atol=1e-6)
    batch = sample(buffer, key, 256, **options)
    assert bool(batch.mask.all()) == usable.any()
    if usable.any():
        index = {place: i for i, place in enumerate(zip(rows.time.tolist(), rows.env.tolist(), strict=True))}
        drawn = [index[place] for place in zip(batch.rows.time.tolist(), batch.rows.env.tolist(), strict=True)]
        assert usable[drawn].all()
        np.testing.assert_allclose(batch.probability, weight[drawn] / total, rtol=1e-5)


@pytest.mark.parametrize(
    ("platform", "records", "view"), [("cpu", 2, None), ("cpu", 20, sequence(3)), ("tpu", 3, sequence(3))]
)
def test_rows_that_lost_their_record_weigh_nothing_and_the_others_what_they_did(
    platform: str, records: int, view: Any
) -> None:
    lost = 0
    for i, buffer in enumerate(live(empty(records, platform, view=view), records, 60)):
        if i % 3 == 0:
            check(buffer, jax.random.fold_in(KEY, i), view)
            lost = max(lost, int(replay.stats(buffer).lost))
    assert lost > SLOTS // 3


def test_an_append_that_loses_almost_the_whole_ring_leaves_the_few_rows_that_can_be_read() -> None:
    """And what is drawn of them has their distribution."""
    rng, buffer = np.random.default_rng(0), empty(2)
    for _ in range(4):
        buffer = extend(buffer, block(rng, 64, 0.0))
    for _ in range(3):
        buffer = extend(buffer, block(rng, 1, 1.0))
    assert int(replay.size(buffer)) == 2 * ENVS
    assert int(replay.stats(buffer).lost) == 257 * ENVS
    check(buffer, KEY)
    counts = np.bincount((sample(buffer, KEY, 256).rows.env).tolist(), minlength=ENVS)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(("length", "view"), [(7, None), (64, sequence(3))])
def test_a_block_is_as_if_appended_one_by_one_where_rows_lose_their_record(length: int, view: Any) -> None:
    """Bit for bit in what can be read: sums, and draws."""
    rng = np.random.default_rng(length)
    one = many = extend(empty(4, view=view), block(rng, 64, 0.02))
    for _ in range(4):
        one = many = extend(many, block(rng, 64, 0.02))
    steps, mask = block(rng, length, 0.3), jnp.asarray(rng.random((length, ENVS)) < 0.9)
    many = extend(many, steps, mask)
    for i in range(length):
        one = extend(one, jax.tree.map(lambda x: x[i : i + 1], steps), mask[i : i + 1])  # noqa: B023
    jax.tree.map(np.testing.assert_array_equal, sample(one, KEY, 256), sample(many, KEY, 256))
    check(many, KEY, view)


def test_a_gpu_draws_the_rows_that_a_cpu_does() -> None:
    """In another form, child by child."""
    rng, here, there = np.random.default_rng(1), empty(4), empty(4, "gpu")
    for rate in (0.0, 0.01, 0.02, 0.3, 0.05, 0.05, 0.3):
        steps = block(rng, 64, rate)
        here, there = extend(here, steps), extend(there, steps)
    some = jax.tree.map(lambda x: x[rng.integers(0, SLOTS * ENVS, 256)], replay.rows(here)[0])
    priorities = jnp.asarray(rng.exponential(size=256), jnp.float32)
    here, there = set_priorities(here, some, priorities), set_priorities(there, some, priorities)
    assert int(replay.stats(here).lost) > 0
    jax.tree.map(np.testing.assert_array_equal, sample(here, KEY, 256), sample(there, KEY, 256))


def test_each_seed_loses_its_own_rows() -> None:
    rng, buffer = np.random.default_rng(0), empty(4)
    blocks = [block(rng, 64, rate) for rate in (0.0, 0.05, 0.4)]
    seeds = jax.tree.map(lambda x: jnp.stack([x] * 3), buffer)
    for _ in range(6):
        seeds = jax.jit(jax.vmap(replay.extend))(seeds, jax.tree.map(lambda *x: jnp.stack(x), *blocks))
    for i, steps in enumerate(blocks):
        alone = buffer
        for _ in range(6):
            alone = extend(alone, steps)
        seed = jax.tree.map(lambda x: x[i], seeds)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, sample(seed, KEY, 256), sample(alone, KEY, 256))
        check(alone, KEY)
