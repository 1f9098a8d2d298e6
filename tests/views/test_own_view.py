"""A view of one's own, as the documentation writes it: a subclass of `View` that says what to read and what to make."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_next_observation import buffer_of, step


@dataclasses.dataclass(frozen=True)
class RewardToCome(views.View):
    """The sum of this reward and the next, within the episode."""

    def columns(self, layout: Any) -> Any:
        return {"reward": (0, 1)}

    def batch(self, step: Any, span: Any) -> jax.Array:
        return step.reward[:, 0] + jnp.where(span.after > 0, step.reward[:, 1], 0)


@dataclasses.dataclass(frozen=True)
class LastSteps(views.View):
    """The observation of rows whose episode has ended within `n` steps."""

    n: int
    needs = "the end of its episode soon after it"

    def columns(self, layout: Any) -> Any:
        return {"observation": 0}

    def usable(self, span: Any) -> jax.Array:
        return ~span.open & (span.after < self.n)

    def batch(self, step: Any, span: Any) -> jax.Array:
        return step.observation


def at(*times: int) -> replay.Rows:
    return replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))


def test_a_view_of_ones_own_reads_what_it_names() -> None:
    steps = [step(i, terminated=i == 2).replace(reward=jnp.float32(10 * i)) for i in range(5)]
    buffer = buffer_of(*steps, capacity=8)
    sums = [10.0, 30.0, 20.0, 70.0, 40.0]
    np.testing.assert_array_equal(replay.take(buffer, at(*range(5)), RewardToCome()).data, sums)
    doubled = views.compose(RewardToCome(), views.map(lambda x: 2 * x))
    batch = jax.jit(lambda b, k: replay.sample(b, k, 64, doubled))(buffer, jax.random.key(0))
    np.testing.assert_array_equal(batch.data, 2 * np.array(sums)[np.asarray(batch.rows.time)])


def test_a_view_of_ones_own_that_gives_usable_starts_there_alone() -> None:
    buffer = buffer_of(*[step(i, terminated=i == 3) for i in range(6)], capacity=8)
    view = LastSteps(2)
    assert view.refuses
    assert not RewardToCome().refuses
    batch = replay.sample(buffer, jax.random.key(0), 64, view)
    assert set(np.asarray(batch.data).ravel().tolist()) == {2, 3}
    assert replay.take(buffer, at(0, 1, 2, 3, 4), view).mask.tolist() == [False, False, True, True, False]
    assert bool(replay.can_sample(buffer, 2, view))
    assert not bool(replay.can_sample(buffer, 3, view))
    with pytest.raises(ValueError, match="it needs the end of its episode soon after it"):
        replay.sample(buffer_of(step(0), capacity=8), jax.random.key(0), 4, view)


def test_what_has_a_views_methods_and_is_none_is_refused_with_the_way_out() -> None:
    class Lookalike:
        def columns(self, layout: Any) -> Any:
            return {"": 0}

        def batch(self, step: Any, span: Any) -> Any:
            return step

    with pytest.raises(TypeError, match=r"make its class a subclass of views\.View"):
        replay.sample(buffer_of(step(0), capacity=8), jax.random.key(0), 4, Lookalike())  # type: ignore[arg-type]
