"""The sampler that the documentation shows is run as it stands there, and draws as it says.

The chi-square tests have a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxreplay as replay
from jaxreplay.samplers._uniform import Uniform

PAGE = pathlib.Path(__file__).parents[2] / "docs/own.md"


def recent(power: float) -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "class Recent" in block]
    scope = {"dataclasses": dataclasses, "jax": jax, "jnp": jnp, "replay": replay}
    exec(block.split("\n\n\nbuffer = ")[0], scope)
    return scope["Recent"](power)


def test_it_draws_newer_rows_more_often_with_the_probability_it_states() -> None:
    """Over many envs, after wrap-around, with void and removed rows, jitted and vmapped."""
    rng = np.random.default_rng(0)
    buffer = replay.create({"x": jnp.int32(0)}, 60, 3, sampler=recent(2.0))
    buffer = replay.extend(buffer, {"x": jnp.zeros((33, 3), jnp.int32)}, jnp.asarray(rng.random((33, 3)) < 0.7))
    buffer = replay.remove(buffer, replay.Rows(time=jnp.array([20, 30]), env=jnp.array([0, 1])))
    rows, valid = replay.rows(buffer)
    stated = np.asarray(replay.take(buffer, rows).probability)
    np.testing.assert_allclose(stated.sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(stated > 0, valid)
    keys = jax.random.split(jax.random.key(0), 100)
    batch = jax.jit(jax.vmap(lambda key: replay.sample(buffer, key, 1000)))(keys)
    assert bool(batch.mask.all())
    place = np.asarray((batch.rows.time - 13) * 3 + batch.rows.env).ravel()
    np.testing.assert_allclose(batch.probability.ravel(), stated[place], rtol=1e-5)
    counts = np.bincount(place, minlength=60)[stated > 0]
    assert stats.chisquare(counts, 100_000 * stated[stated > 0] / stated.sum()).pvalue > 1e-6
    newest = stated.reshape(20, 3)[:, 0]
    assert (np.diff(newest[newest > 0]) > 0).all()


def test_it_serves_views_that_refuse_rows_and_an_empty_buffer() -> None:
    buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 64, episode_end="end", sampler=recent(3.0))
    sample = jax.jit(lambda b, k: replay.sample(b, k, 64, replay.views.sequence(4)))
    assert not sample(buffer, jax.random.key(0)).mask.any()
    buffer = replay.extend(buffer, {"x": jnp.arange(64), "end": jnp.arange(64) % 8 == 7})
    batch = sample(buffer, jax.random.key(0))
    assert bool(batch.mask.all())
    assert (np.asarray(batch.data.data["x"][:, 0]) % 8 <= 4).all()


@dataclasses.dataclass(frozen=True)
class Counting(Uniform):
    """Uniform, and counts the writes."""

    def init(self, num_slots: int, num_envs: int) -> Any:
        return jnp.int32(0)

    def on_write(self, state: Any, rings: Any, slots: jax.Array, valid: jax.Array) -> Any:
        return state + 1


@dataclasses.dataclass(frozen=True)
class CountingOn(Counting):
    def on_clear(self, state: Any, rings: Any) -> Any:
        return state


def test_clear_makes_a_state_anew_unless_the_sampler_keeps_it() -> None:
    for sampler, kept in ((Counting(), 0), (CountingOn(), 1)):
        buffer = replay.append(replay.create({"x": jnp.int32(0)}, 4, sampler=sampler), {"x": jnp.int32(1)})
        assert int(replay.clear(buffer).sampler_state) == kept
