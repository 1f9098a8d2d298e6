"""Draws follow their stated distribution.

The statistical tests compare counts with a chi-square test at a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxreplay as replay
from jaxreplay._core.random import bounded, multiply
from tests.test_next_observation import buffer_of, step

FALSE_ALARMS = 1e-6


def assert_uniform(counts: np.ndarray) -> None:
    assert stats.chisquare(counts).pvalue > FALSE_ALARMS, counts


@functools.partial(jax.jit, static_argnames=("batches", "batch_size"))
def draw_many(buffer: replay.Buffer, key: jax.Array, batches: int, batch_size: int = 1000) -> Any:
    """Rows as places in the ring's order of time, `[batches * batch_size]`, with mask and probability."""
    oldest = buffer.rings.clock.time - buffer.rings.num_slots

    def draw(key: jax.Array) -> Any:
        batch = replay.sample(buffer, key, batch_size)
        return (batch.rows.time - oldest) * buffer.rings.num_envs + batch.rows.env, batch.mask, batch.probability

    return jax.tree.map(jnp.ravel, jax.lax.map(draw, jax.random.split(key, batches)))


def check_uniform(buffer: replay.Buffer, draws: int = 200_000) -> None:
    places, mask, probability = draw_many(buffer, jax.random.key(0), draws // 1000)
    valid = np.asarray(replay.rows(buffer)[1])
    assert bool(mask.all())
    counts = np.bincount(np.asarray(places), minlength=valid.size)
    assert counts[~valid].sum() == 0
    assert_uniform(counts[valid])
    np.testing.assert_allclose(probability, 1 / valid.sum(), rtol=1e-6)


def filled(
    capacity: int, num_envs: int, slices: int, end_rate: float, void_rate: float, **options: Any
) -> replay.Buffer:
    rng = np.random.default_rng(0)
    lead = (slices, num_envs)
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, lead), step(0))
    steps = steps.replace(terminated=rng.random(lead) < end_rate)
    return replay.extend(replay.create(step(0), capacity, num_envs, **options), steps, rng.random(lead) >= void_rate)


CASES = {
    "partly filled": lambda: filled(600, 3, 70, 0.1, 0.0, max_episodes=300),
    "after wrap-around": lambda: filled(600, 3, 450, 0.1, 0.0, max_episodes=300),
    "with void rows": lambda: filled(600, 3, 450, 0.1, 0.3, max_episodes=600),
    "with lost records": lambda: filled(600, 3, 450, 0.5, 0.1),
    "almost all void": lambda: filled(3000, 3, 2000, 0.1, 0.99, max_episodes=3000),
    "two rows": lambda: buffer_of(step(0), step(1)),
}


@pytest.mark.parametrize("case", CASES)
def test_uniform_gives_every_valid_row_the_same_probability(case: str) -> None:
    check_uniform(CASES[case]())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_uniform_over_ten_million_draws(case: str) -> None:
    check_uniform(CASES[case](), draws=10_000_000)


def test_uniform_with_removed_rows_is_uniform_over_the_rest() -> None:
    """Also where removed rows surround the few that are left, so that they are drawn by rank."""
    buffer = filled(600, 3, 450, 0.1, 0.1, max_episodes=300)
    rows, mask = replay.rows(buffer)
    some = np.random.default_rng(1).random(600) < 0.5
    buffer = replay.remove(buffer, jax.tree.map(lambda x: x[some], rows))
    check_uniform(buffer)
    keep = np.flatnonzero(np.asarray(mask))[::97]
    buffer = replay.remove(buffer, jax.tree.map(lambda x: np.delete(x, keep), rows))
    assert int(replay.size(buffer)) == len(set(keep) - set(np.flatnonzero(some)))
    check_uniform(buffer)


def test_uniform_stays_uniform_as_removed_and_void_rows_are_overwritten() -> None:
    buffer = filled(600, 3, 450, 0.1, 0.2, max_episodes=300)
    rows, _ = replay.rows(buffer)
    buffer = replay.remove(buffer, jax.tree.map(lambda x: x[::3], rows))
    for _ in range(5):
        more = jax.tree.map(lambda x: jnp.broadcast_to(x, (30, 3)), step(0))
        buffer = replay.extend(buffer, more)
        assert int(replay.size(buffer)) == int(replay.rows(buffer)[1].sum())
    check_uniform(buffer)


@pytest.mark.parametrize(
    "view",
    [
        replay.views.sequence(6, every=5),
        replay.views.sequence(4, across=True, every=3),
        replay.views.sequence(3, across=True),
    ],
)
def test_sparse_starts_are_drawn_uniformly_among_void_and_removed_rows(view: replay.views.View) -> None:
    """Rows that stand for a start count, whether they are removed or not."""
    buffer = filled(600, 3, 450, 0.05, 0.05, max_episodes=300)
    rows, _ = replay.rows(buffer)
    some = np.random.default_rng(1).random(600) < 0.3
    buffer = replay.remove(buffer, jax.tree.map(lambda x: x[some], rows))
    usable = np.asarray(replay.take(buffer, rows, view).mask)
    assert 10 < usable.sum() < 400
    draw = jax.jit(lambda key: replay.sample(buffer, key, 1000, view))
    drawn = jax.lax.map(lambda key: draw(key), jax.random.split(jax.random.key(0), 50))
    assert bool(drawn.mask.all())
    places = (drawn.rows.time - rows.time[0]) * 3 + drawn.rows.env
    counts = np.bincount(np.asarray(places).ravel(), minlength=600)
    assert counts[~usable].sum() == 0
    assert_uniform(counts[usable])


def test_each_seed_of_a_vmapped_buffer_draws_uniformly() -> None:
    buffers = [filled(600, 3, n, 0.1, 0.2, max_episodes=300) for n in (40, 450)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *buffers)
    keys = jax.random.split(jax.random.key(3), 2)
    places, mask, _ = jax.vmap(lambda b, k: draw_many(b, k, 100))(stacked, keys)
    assert bool(mask.all())
    for i, buffer in enumerate(buffers):
        valid = np.asarray(replay.rows(buffer)[1])
        counts = np.bincount(np.asarray(places[i]), minlength=600)
        assert counts[~valid].sum() == 0
        assert_uniform(counts[valid])


def test_bounded_draws_are_exact() -> None:
    """The products are those of 64-bit integers, and what is refused makes every number equally likely."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**32, (2, 1000), dtype=np.uint64)
    a[:4], b[:4] = [0, 2**32 - 1, 2**32 - 1, 1], [5, 2**32 - 1, 1, 2**31]
    high, low = multiply(jnp.asarray(a, jnp.uint32), jnp.asarray(b, jnp.uint32))
    np.testing.assert_array_equal(np.asarray(high, np.uint64) << np.uint64(32) | np.asarray(low, np.uint64), a * b)
    numbers, fair = bounded(
        jax.random.key(0), (300_000,), jnp.uint32(3 * 2**29)
    )  # a quarter of the bits must be refused
    assert 0.24 < 1 - float(fair.mean()) < 0.26
    assert_uniform(np.bincount(np.asarray(numbers)[np.asarray(fair)] // 2**24, minlength=96))


def test_the_key_decides_the_batch() -> None:
    buffer = filled(600, 3, 450, 0.1, 0.2, max_episodes=300)
    a, b = (replay.sample(buffer, jax.random.key(5), 32) for _ in range(2))
    raw = replay.sample(buffer, jax.random.PRNGKey(5), 32)
    other = replay.sample(buffer, jax.random.key(6), 32)
    np.testing.assert_array_equal(a.rows.time, b.rows.time)
    np.testing.assert_array_equal(a.rows.time, raw.rows.time)
    assert (a.rows.time != other.rows.time).any()


def test_keys_decide_the_same_batch_on_any_machine() -> None:
    """Rows written down once; only integers are computed, so they hold everywhere."""
    batch = replay.sample(buffer_of(*map(step, range(8))), jax.random.key(0), 6)
    assert batch.rows.time.tolist() == [0, 0, 5, 4, 3, 6]


def test_an_empty_buffer_gives_a_masked_batch_under_jit_and_an_error_outside() -> None:
    empty = buffer_of()
    batch = jax.jit(lambda b: replay.sample(b, jax.random.key(0), 4))(empty)
    assert not batch.mask.any()
    assert batch.data.observation.tolist() == [0] * 4
    assert batch.probability.tolist() == [0] * 4
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(empty, jax.random.key(0), 4)
    only_void = replay.append(empty, step(0), mask=np.bool_(False))
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(only_void, jax.random.key(0), 4)
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(replay.clear(buffer_of(step(0))), jax.random.key(0), 4)


def test_an_epoch_gives_every_valid_row_once_and_nothing_else() -> None:
    buffer = filled(600, 3, 450, 0.1, 0.2, max_episodes=300)
    rows = replay.epoch(buffer, jax.random.key(0), 64)
    assert rows.time.shape == (10, 64)
    batch = replay.take(buffer, rows)
    every, valid = replay.rows(buffer)
    got = sorted(zip(*(np.asarray(x)[np.asarray(batch.mask)].tolist() for x in (rows.time, rows.env))))
    assert got == sorted(zip(np.asarray(every.time)[valid].tolist(), np.asarray(every.env)[valid].tolist()))
    assert bool(batch.mask.ravel()[: len(got)].all())  # the valid rows come first
    later = replay.extend(buffer, jax.tree.map(lambda x: jnp.broadcast_to(x, (50, 3)), step(0)))
    assert int(replay.take(later, rows).mask.sum()) <= len(got)  # padding stays unreadable


def test_an_epochs_order_is_uniform() -> None:
    """Which of 6 rows comes first and second, over 6,000 keys."""
    buffer = buffer_of(*map(step, range(6)))
    keys = jax.random.split(jax.random.key(0), 6000)
    times = np.asarray(jax.jit(jax.vmap(lambda k: replay.epoch(buffer, k, 2).time))(keys))[:, 0]
    counts = np.bincount(times[:, 0] * 6 + times[:, 1], minlength=36).reshape(6, 6)
    assert np.trace(counts) == 0
    assert_uniform(counts[~np.eye(6, dtype=bool)])


def test_an_epoch_scans() -> None:
    buffer = buffer_of(*map(step, range(6)))

    @jax.jit
    def total(buffer: replay.Buffer, key: jax.Array) -> jax.Array:
        def body(total: jax.Array, rows: replay.Rows) -> Any:
            return total + replay.take(buffer, rows).data.observation.sum(), None

        return jax.lax.scan(body, jnp.float32(0), replay.epoch(buffer, key, 4))[0]

    assert float(total(buffer, jax.random.key(0))) == 15


def test_sampled_episodes_are_whole_padded_and_uniform() -> None:
    ends = {2, 3, 9, 14}
    buffer = buffer_of(*(step(i, terminated=i in ends) for i in range(18)), capacity=16, max_episodes=8)
    batch = replay.sample_episodes(buffer, jax.random.key(0), 3000, 7)
    starts, counts = np.unique(np.asarray(batch.data.observation[:, 0]), return_counts=True)
    assert starts.tolist() == [3, 4, 10]  # 0 to 2 was overwritten in part, 15 to 17 is open
    assert_uniform(counts)
    np.testing.assert_allclose(batch.probability, 1 / 3, rtol=1e-6)
    for start, length in ((3, 1), (4, 6), (10, 5)):
        i = int(np.flatnonzero(np.asarray(batch.data.observation[:, 0]) == start)[0])
        assert batch.mask[i].tolist() == [j < length for j in range(7)]
        assert batch.data.observation[i].tolist() == [start + j if j < length else 0 for j in range(7)]
        assert float(batch.data.next_observation[i, length - 1]) == start + length + 100
    cut = replay.sample_episodes(buffer, jax.random.key(0), 50, 2)
    assert cut.data.observation.shape == (50, 2)
    some = replay.sample_episodes(buffer, jax.random.key(0), 500, 7, complete=False)
    assert set(np.asarray(some.data.observation[:, 0]).tolist()) == {2, 3, 4, 10, 15}
    with pytest.raises(ValueError, match="no complete episode"):
        replay.sample_episodes(buffer_of(step(0)), jax.random.key(0), 2, 3)
