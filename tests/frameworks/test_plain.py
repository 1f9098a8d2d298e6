"""A buffer in a `flax.struct` state, and beside plain functions of parameters, as Haiku's transformed ones are."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import struct

import jaxreplay as replay
from tests.frameworks import training

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax does not work under strict promotion


class Functions(NamedTuple):
    """What `haiku.transform` gives: two pure functions."""

    init: Any
    apply: Any


NETWORK = Functions(
    init=lambda key, x: {"linear": {"w": jax.random.normal(key, (x.shape[-1], 2)), "b": jnp.zeros(2)}},
    apply=lambda params, key, x: x @ params["linear"]["w"] + params["linear"]["b"],
)
OPTIMIZER = optax.adam(1e-2)


class State(struct.PyTreeNode):
    params: Any
    optimizer: Any
    buffer: replay.Buffer
    network: Functions = struct.field(pytree_node=False)


def start() -> State:
    params = NETWORK.init(jax.random.key(0), jnp.zeros(training.FEATURES))
    return State(params, OPTIMIZER.init(params), training.create(), NETWORK)


def learn(network: Functions, params: Any, optimizer: Any, observation: jax.Array) -> tuple[Any, Any]:
    grads = jax.grad(lambda p: jnp.mean(network.apply(p, None, observation) ** 2))(params)
    updates, optimizer = OPTIMIZER.update(grads, optimizer)
    return optax.apply_updates(params, updates), optimizer


def struct_step(state: State, key: jax.Array) -> tuple[State, None]:
    buffer, observation = training.append_and_sample(state.buffer, key)
    params, optimizer = learn(state.network, state.params, state.optimizer, observation)
    return state.replace(params=params, optimizer=optimizer, buffer=buffer), None


def test_a_buffer_in_a_struct_is_written_in_place() -> None:
    state = start()
    train = jax.jit(lambda state, keys: jax.lax.scan(struct_step, state, keys)[0], donate_argnums=0)

    def call(keys: jax.Array) -> None:
        nonlocal state
        state = train(state, keys)

    training.train_twice(call, lambda: state.buffer)
    assert train._cache_size() == 1  # type: ignore[attr-defined]
    assert replay.check_in_place(struct_step, state, training.KEYS[0, 0])


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def pure_train(params: Any, optimizer: Any, buffer: replay.Buffer, keys: jax.Array) -> Any:
    """All that changes goes in and comes out, as positional arguments."""

    def body(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, optimizer, buffer = carry
        buffer, observation = training.append_and_sample(buffer, key)
        return (*learn(NETWORK, params, optimizer, observation), buffer), None

    return jax.lax.scan(body, (params, optimizer, buffer), keys)[0]


def test_a_buffer_beside_pure_functions_of_parameters_is_written_in_place() -> None:
    state = start()
    carry = (state.params, state.optimizer, state.buffer)

    def call(keys: jax.Array) -> None:
        nonlocal carry
        carry = pure_train(*carry, keys)

    training.train_twice(call, lambda: carry[2])
    assert pure_train._cache_size() == 1  # type: ignore[attr-defined]
