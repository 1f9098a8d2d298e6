"""Uniform draws without replacement; those with it are in `tests/test_sampling.py`.

The chi-square tests have a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.samplers import uniform

KEY = jax.random.key(0)
TRANSITION = views.transition()


def items(count: int, capacity: int, envs: int | None = None, mask: Any = None) -> replay.Buffer:
    buffer = replay.create({"x": jnp.int32(0)}, capacity, envs, sampler=uniform(replacement=False))
    lead = (count,) if envs is None else (count, envs)
    x = jnp.arange(np.prod(lead), dtype=jnp.int32).reshape(lead)
    return replay.extend(buffer, {"x": x}, None if mask is None else jnp.asarray(mask))


@functools.partial(jax.jit, static_argnames=("batches", "batch_size", "view"))
def draw_many(buffer: replay.Buffer, batches: int, batch_size: int, view: Any = TRANSITION) -> replay.Sample:
    return jax.vmap(lambda key: replay.sample(buffer, key, batch_size, view))(jax.random.split(KEY, batches))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_set_and_every_order_is_as_likely(size: int) -> None:
    """Rows that are void or removed never come; the few that are left need the shuffle as well as the draws."""
    mask = np.ones(9, bool)
    mask[[4, 7]] = False
    buffer = replay.remove(items(9, 7, mask=mask), replay.Rows(time=jnp.array([3]), env=jnp.array([0])))
    left = [2, 5, 6, 8]
    batch = draw_many(buffer, 24_000, size)
    assert bool(batch.mask.all())
    np.testing.assert_allclose(batch.probability, 0.25)
    orders = list(itertools.permutations(left, size))
    seen = dict.fromkeys(orders, 0)
    for drawn in np.asarray(batch.data["x"]).tolist():
        seen[tuple(drawn)] += 1
    assert stats.chisquare(list(seen.values())).pvalue > 1e-6


def test_a_small_batch_of_a_large_ring_has_no_row_twice() -> None:
    batch = draw_many(items(600, 1024, 4), 200, 64)
    assert bool(batch.mask.all())
    assert all(len(set(drawn)) == 64 for drawn in np.asarray(batch.data["x"]).tolist())
    counts = np.bincount(np.asarray(batch.data["x"]).ravel() - 344 * 4, minlength=1024)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("batch_size", [5, 6, 13])
def test_where_there_are_fewer_rows_each_comes_once(batch_size: int) -> None:
    buffer = items(5, 8)
    batch = replay.sample(buffer, KEY, batch_size)
    assert int(batch.mask.sum()) == 5
    assert sorted(np.asarray(batch.data["x"])[np.asarray(batch.mask)].tolist()) == list(range(5))
    assert not np.asarray(batch.probability)[~np.asarray(batch.mask)].any()
    empty = jax.jit(lambda b: replay.sample(b, KEY, 4))(replay.clear(buffer))
    assert not empty.mask.any()


def test_views_that_refuse_rows_are_served_from_the_others() -> None:
    example = {"x": jnp.int32(0), "end": jnp.bool_(False)}
    sampler = uniform(replacement=False)
    buffer = replay.create(example, 12, max_episodes=4, episode_end="end", sampler=sampler)
    buffer = replay.extend(buffer, {"x": jnp.arange(12), "end": jnp.arange(12) % 4 == 3})
    batch = draw_many(buffer, 200, 6, views.sequence(3))
    assert bool(batch.mask.all())
    assert all(sorted(drawn) == [0, 1, 4, 5, 8, 9] for drawn in np.asarray(batch.data.data["x"][..., 0]).tolist())
    assert int(replay.sample(buffer, KEY, 8, views.sequence(3)).mask.sum()) == 6


def test_it_is_the_same_in_a_scan_and_under_vmap_over_buffers() -> None:
    buffers = [items(n, 16, 2) for n in (3, 8, 11)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *buffers)
    together = jax.vmap(lambda b: replay.sample(b, KEY, 8))(stacked)

    def step(carry: None, buffer: replay.Buffer) -> Any:
        return carry, replay.sample(buffer, KEY, 8)

    scanned = jax.jit(lambda b: jax.lax.scan(step, None, b)[1])(stacked)
    for i, buffer in enumerate(buffers):
        alone = replay.sample(buffer, KEY, 8)
        for other in (together, scanned):
            jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), other, alone)
