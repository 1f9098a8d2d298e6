"""`check_in_place` judges a step as its user runs it: plain or jitted, a function of the buffer or one of a module."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import jaxreplay as replay
from tests.test_in_place import abstract_buffer, example

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax does not work under strict promotion

KIND = {"observation": ((64,), jnp.float32), "action": ((), jnp.int32)}
KEY = jax.random.key(0)
STEP = example(KIND, (16,))


def append_and_sample(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
    buffer = replay.append(buffer, step)
    return buffer, replay.sample(buffer, key, 8)


def sample_then_append(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
    batch = replay.sample(buffer, key, 8)
    return replay.append(buffer, step), batch


JITS: dict[str, Any] = {"jax.jit": jax.jit, "nnx.jit": nnx.jit}


@pytest.mark.parametrize("jit", JITS.values(), ids=JITS.keys())
def test_a_jitted_step_is_judged_with_its_own_donation(jit: Any) -> None:
    buffer = abstract_buffer(KIND, 16)
    assert replay.check_in_place(jit(append_and_sample, donate_argnums=0), buffer, STEP, KEY)
    without = replay.check_in_place(jit(append_and_sample), buffer, STEP, KEY)
    assert not without
    assert not without.donated
    assert "not donated" in str(without)
    assert "donate_argnums" in str(without)


@pytest.mark.parametrize("jit", JITS.values(), ids=JITS.keys())
def test_a_copy_in_a_jitted_step_is_found(jit: Any) -> None:
    copying = replay.check_in_place(jit(sample_then_append, donate_argnums=0), abstract_buffer(KIND, 16), STEP, KEY)
    assert not copying
    assert copying.donated
    assert copying.growth > 0.9


def test_another_argument_that_is_donated_does_not_count_for_the_buffer() -> None:
    big = jax.ShapeDtypeStruct((10**7,), jnp.float32)
    step = lambda buffer, big: (replay.clear(buffer), big + 1)  # noqa: E731
    found = replay.check_in_place(jax.jit(step, donate_argnums=1), abstract_buffer(KIND, 16), big)
    assert not found.returned_in_place
    lost = replay.check_in_place(lambda state: state[1] + 1, (abstract_buffer(KIND, 16), big))
    assert not lost.returned_in_place


class Replay(nnx.Variable):
    pass


class Agent(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.q = nnx.Linear(64, 2, rngs=rngs)
        self.buffer = Replay(
            replay.create(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example(KIND)), 16_000, 16)
        )

    @functools.partial(nnx.jit, donate_argnums=0)
    def act(self, step: Any) -> None:
        write(self, step)


def write(agent: Agent, step: Any) -> replay.Buffer:
    buffer = replay.append(agent.buffer.get_value(), step)
    agent.buffer.set_value(buffer)
    return buffer


def learn(agent: Agent, optimizer: Any, step: Any, key: jax.Array) -> jax.Array:
    batch = replay.sample(write(agent, step), key, 32)
    loss, grads = nnx.value_and_grad(lambda q: jnp.mean(q(batch.data.observation) ** 2))(agent.q)
    optimizer.update(agent.q, grads)
    return loss


def make() -> tuple[Agent, Any]:
    agent = Agent(nnx.Rngs(0))
    return agent, nnx.Optimizer(agent.q, optax.adam(1e-3), wrt=nnx.Param)


def test_a_step_that_writes_to_a_module_and_returns_nothing_is_in_place() -> None:
    agent, optimizer = make()
    assert replay.check_in_place(write_only, agent, STEP)
    assert replay.check_in_place(learn, agent, optimizer, STEP, KEY)
    assert replay.check_in_place(lambda agent, step: (agent, write(agent, step).rings.clock.time), agent, STEP)


def write_only(agent: Agent, step: Any) -> None:
    write(agent, step)


def test_a_copy_in_a_step_that_writes_to_a_module_is_found() -> None:
    def copying(agent: Agent, step: Any, key: jax.Array) -> jax.Array:
        batch = replay.sample(agent.buffer.get_value(), key, 8)
        write(agent, step)
        return batch.data.reward

    found = replay.check_in_place(copying, make()[0], STEP, KEY)
    assert not found
    assert found.growth > 0.9


def test_jitted_steps_of_a_module_are_judged_as_they_are_called() -> None:
    agent, optimizer = make()
    donating = nnx.jit(learn, donate_argnames=("agent", "optimizer"))
    assert replay.check_in_place(donating, agent, optimizer, STEP, KEY)
    assert not replay.check_in_place(nnx.jit(learn), agent, optimizer, STEP, KEY).donated
    assert replay.check_in_place(agent.act, STEP)
    lost = replay.check_in_place(jax.jit(write_only, donate_argnums=0), agent, STEP)
    assert not lost.returned_in_place  # jax.jit does not give back what was written
    assert int(replay.size(agent.buffer.get_value())) == 0  # and nothing ran


def test_a_loop_over_a_module_in_one_program_is_in_place() -> None:
    @nnx.jit(donate_argnames=("agent", "optimizer"))
    def train(agent: Agent, optimizer: Any, step: Any, keys: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def body(carry: Any, key: jax.Array) -> Any:
            agent, optimizer = carry
            return (agent, optimizer), learn(agent, optimizer, step, key)

        return body((agent, optimizer), keys)[1]

    agent, optimizer = make()
    assert replay.check_in_place(train, agent, optimizer, STEP, jax.random.split(KEY, 5))


def test_a_module_that_is_split_and_merged_in_a_loop_is_in_place() -> None:
    graphdef, params, ring = nnx.split(make()[0], nnx.Param, Replay)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params: Any, ring: Any, step: Any, keys: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> Any:
            agent = nnx.merge(graphdef, *carry)
            batch = replay.sample(write(agent, step), key, 32)
            grads = nnx.grad(lambda q: jnp.mean(q(batch.data.observation) ** 2))(agent.q)
            nnx.update(agent.q, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(agent.q), grads))
            return nnx.state(agent, nnx.Param, Replay), None

        return jax.lax.scan(body, (params, ring), keys)[0]

    assert replay.check_in_place(train, params, ring, STEP, jax.random.split(KEY, 5))


def test_a_buffer_beside_a_module_is_in_place() -> None:
    @nnx.jit(donate_argnames="buffer")
    def train(q: Any, optimizer: Any, buffer: replay.Buffer, step: Any, key: jax.Array) -> replay.Buffer:
        buffer = replay.append(buffer, step)
        batch = replay.sample(buffer, key, 32)
        optimizer.update(q, nnx.grad(lambda q: jnp.mean(q(batch.data.observation) ** 2))(q))
        return buffer

    agent, optimizer = make()
    assert replay.check_in_place(train, agent.q, optimizer, abstract_buffer(KIND, 16), STEP, KEY)
