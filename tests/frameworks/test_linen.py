"""A buffer in Flax's `TrainState`, with a linen network."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.training import train_state

import jaxreplay as replay
from tests.frameworks import training

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax does not work under strict promotion


class TrainState(train_state.TrainState):
    buffer: replay.Buffer


NETWORK, OPTIMIZER = nn.Dense(2), optax.adam(1e-2)


def start() -> TrainState:
    params = NETWORK.init(jax.random.key(0), jnp.zeros(training.FEATURES))
    return TrainState.create(apply_fn=NETWORK.apply, params=params, tx=OPTIMIZER, buffer=training.create())


def train_step(state: TrainState, key: jax.Array) -> tuple[TrainState, jax.Array]:
    buffer, observation = training.append_and_sample(state.buffer, key)
    loss, grads = jax.value_and_grad(lambda p: jnp.mean(jnp.asarray(state.apply_fn(p, observation)) ** 2))(state.params)
    return state.replace(buffer=buffer).apply_gradients(grads=grads), loss


@functools.partial(jax.jit, donate_argnums=0)
def train(state: TrainState, keys: jax.Array) -> tuple[TrainState, jax.Array]:
    return jax.lax.scan(train_step, state, keys)


def test_a_buffer_in_a_train_state_is_written_in_place_and_the_network_learns() -> None:
    state, losses = start(), []

    def call(keys: jax.Array) -> None:
        nonlocal state
        state, loss = train(state, keys)
        losses.append(loss)

    training.train_twice(call, lambda: state.buffer)
    assert int(state.step) == training.KEYS.size
    assert losses[1].mean() < losses[0].mean()
    assert replay.check_in_place(train_step, state, training.KEYS[0, 0])


def test_two_train_states_of_one_optimizer_share_a_program() -> None:
    """A train state names its optimizer: one made anew is another program, of one kept there is one."""
    before = train._cache_size()  # type: ignore[attr-defined]
    train(start(), training.KEYS[0])
    train(start(), training.KEYS[0])
    assert train._cache_size() - before <= 1  # type: ignore[attr-defined]


def test_a_train_state_with_its_buffer_is_saved_and_restored_whole() -> None:
    state, _ = train(start(), training.KEYS[0])
    restored: Any = serialization.from_bytes(start(), serialization.to_bytes(state))
    training.assert_appended(restored.buffer, training.KEYS[0])
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
