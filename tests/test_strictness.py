"""JAX's strict promotion, which all tests run under (see `conftest.py`), changes no result."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxreplay as replay
from jaxreplay import samplers, views

ENVS, BATCH = 3, 8


def steps(length: int) -> replay.Transition:
    number = jnp.arange(length * ENVS, dtype=jnp.float32).reshape(length, ENVS)
    ended = number.astype(jnp.int32) % 7 == 3
    return replay.Transition(number, number.astype(jnp.int32), number * 0.3, ended, ended, number + 0.5)


def work(buffer: replay.Buffer, key: jax.Array) -> Any:
    """A bit of everything."""
    buffer = replay.append(replay.extend(buffer, steps(11)), jax.tree.map(lambda x: x[0], steps(1)))
    stacked = views.compose(views.frame_stack(2), views.n_step(3, 0.9, complete=True))
    batch = replay.sample(buffer, key, BATCH, stacked)
    weights = replay.importance_weights(batch, 0.4)
    if hasattr(buffer.sampler, "set_priorities"):
        buffer = replay.set_priorities(buffer, batch.rows, batch.data.reward)
    buffer = replay.remove(
        replay.put(buffer, batch.rows, {"reward": weights}), jax.tree.map(lambda x: x[:2], batch.rows)
    )
    both = replay.mixture([buffer, replay.concat([buffer, buffer])], [0.3, 0.7])
    drawn = replay.sample(buffer, key, BATCH, views.sequence(2)), replay.sample(both, key, BATCH, views.window(1, 1))
    episodes = replay.sample_episodes(buffer, key, 3, 5, complete=False)
    return (
        buffer,
        batch,
        weights,
        drawn,
        episodes,
        replay.epoch(buffer, key, BATCH),
        replay.stats(buffer),
        replay.pop(buffer, 2),
    )


@pytest.mark.parametrize(
    "sampler", [samplers.uniform(), samplers.uniform(replacement=False), samplers.prioritized()], ids=str
)
def test_strict_and_standard_promotion_compile_the_same_program(sampler: Any) -> None:
    example = jax.tree.map(lambda x: x[0, 0], steps(1))
    buffer, key = replay.create(example, 8 * ENVS, ENVS, sampler=sampler), jax.random.key(0)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = jax.jit(work).lower(buffer, key).as_text()
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert jax.jit(work).lower(buffer, key).as_text() == strict
