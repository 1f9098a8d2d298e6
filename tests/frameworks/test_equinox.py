"""A buffer in an Equinox module."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxreplay as replay
from tests.extras import library
from tests.frameworks import training

eqx: Any = library("equinox")

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax does not work under strict promotion

OPTIMIZER = optax.adam(1e-2)


class State(eqx.Module):
    network: Any
    optimizer: Any
    buffer: replay.Buffer


def start(sampler: Any = None) -> State:
    network = eqx.nn.MLP(training.FEATURES, 2, 8, 1, key=jax.random.key(0))
    optimizer = OPTIMIZER.init(eqx.filter(network, eqx.is_inexact_array))
    buffer = replay.create(
        training.EXAMPLE, training.CAPACITY, training.NUM_ENVS, sampler=sampler or replay.samplers.uniform()
    )
    return State(network, optimizer, buffer)


def train_step(state: State, key: jax.Array) -> State:
    buffer, observation = training.append_and_sample(state.buffer, key)
    grads = eqx.filter_grad(lambda network: jnp.mean(jax.vmap(network)(observation) ** 2))(state.network)
    updates, optimizer = OPTIMIZER.update(grads, state.optimizer)
    return State(eqx.apply_updates(state.network, updates), optimizer, buffer)


def test_filter_jit_with_donation_writes_in_place() -> None:
    state, traces = start(), training.Traces()

    @eqx.filter_jit(donate="all")
    def train(state: State, key: jax.Array) -> State:
        traces()
        return train_step(state, key)

    def call(keys: jax.Array) -> None:
        nonlocal state
        for key in keys:
            state = train(state, key)

    training.train_twice(call, lambda: state.buffer)
    assert traces.count == 1


def write(state: State, key: jax.Array) -> State:
    return State(state.network, state.optimizer, replay.append(state.buffer, training.step(key)))


def test_check_in_place_judges_filter_jit() -> None:
    key = training.KEYS[0, 0]
    assert replay.check_in_place(eqx.filter_jit(write, donate="all"), start(), key)
    assert not replay.check_in_place(eqx.filter_jit(write), start(), key).donated
    other = replay.check_in_place(eqx.filter_jit(write, donate="all-except-first"), start(), key)
    assert not other.donated  # the first argument is the one that holds the buffer


def test_the_arrays_of_a_module_are_the_carry_of_a_scan_and_stay_in_place() -> None:
    """An MLP holds functions, which no scan carries."""
    arrays, static = eqx.partition(start(), eqx.is_array)

    def body(arrays: Any, key: jax.Array) -> tuple[Any, None]:
        return eqx.filter(train_step(eqx.combine(arrays, static), key), eqx.is_array), None

    train = jax.jit(lambda arrays, keys: jax.lax.scan(body, arrays, keys)[0], donate_argnums=0)

    def call(keys: jax.Array) -> None:
        nonlocal arrays
        arrays = train(arrays, keys)

    training.train_twice(call, lambda: arrays.buffer)
    assert train._cache_size() == 1  # type: ignore[attr-defined]


def test_filter_vmap_trains_a_buffer_for_each_seed() -> None:
    make = eqx.filter_vmap(lambda key: State(eqx.nn.Linear(training.FEATURES, 2, key=key), None, training.create()))
    states = make(jax.random.split(jax.random.key(0), 2))

    states = eqx.filter_jit(eqx.filter_vmap(write))(states, training.KEYS[:, 0])
    for buffer, key in zip(training.batched(states.buffer), training.KEYS[:, :1], strict=True):
        training.assert_appended(buffer, key)


def test_the_gradient_of_a_whole_state_reaches_the_priorities_so_differentiate_the_network() -> None:
    """Equinox takes every floating array for a parameter, the sum tree's too."""
    state = start(replay.samplers.prioritized())
    observation = jnp.ones((2, training.FEATURES))
    whole = eqx.filter_grad(lambda state: jnp.mean(jax.vmap(state.network)(observation) ** 2))(state)
    assert jax.tree.leaves(whole.buffer.sampler_state)  # zeros, which an optimizer would keep moments of
    assert all(not np.any(x) for x in jax.tree.leaves(whole.buffer))
    alone = eqx.filter_grad(lambda network: jnp.mean(jax.vmap(network)(observation) ** 2))(state.network)
    np.testing.assert_array_equal(alone.layers[0].weight, whole.network.layers[0].weight)
