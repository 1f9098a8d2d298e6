"""A buffer beside a `flax.nnx` module (the fewest lines), and in one, as a `nnx.Variable` of a type of its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxreplay as replay
from tests.frameworks import training

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax does not work under strict promotion

KEY = training.KEYS[0, 0]


class Replay(nnx.Variable):
    """A type of its own, so that `split`, `StateAxes` and checkpoints can name it."""


class Agent(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, keep: Any = Replay) -> None:
        self.network = nnx.Linear(training.FEATURES, 2, rngs=rngs)
        self.buffer = keep(training.create())


def optimizer_of(network: nnx.Module) -> nnx.Optimizer:
    return nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)


def learn(network: Any, optimizer: nnx.Optimizer, observation: jax.Array) -> jax.Array:
    loss, grads = nnx.value_and_grad(lambda network: jnp.mean(network(observation) ** 2))(network)
    optimizer.update(network, grads)
    return loss


def append(agent: Agent, key: jax.Array) -> None:
    agent.buffer.set_value(replay.append(agent.buffer.get_value(), training.step(key)))


def append_and_sample(agent: Agent, key: jax.Array) -> jax.Array:
    buffer, observation = training.append_and_sample(agent.buffer.get_value(), key)
    agent.buffer.set_value(buffer)
    return observation


def train_step(agent: Agent, optimizer: nnx.Optimizer, key: jax.Array) -> jax.Array:
    return learn(agent.network, optimizer, append_and_sample(agent, key))


def start() -> tuple[Agent, nnx.Optimizer]:
    agent = Agent(nnx.Rngs(0))
    return agent, optimizer_of(agent.network)


def test_a_buffer_beside_a_module_is_written_in_place() -> None:
    agent, optimizer = start()
    network, buffer, traces = agent.network, training.create(), training.Traces()

    @nnx.jit(donate_argnames="buffer")
    def train(network: Any, optimizer: Any, buffer: replay.Buffer, key: jax.Array) -> replay.Buffer:
        traces()
        buffer, observation = training.append_and_sample(buffer, key)
        learn(network, optimizer, observation)
        return buffer

    def call(keys: jax.Array) -> None:
        nonlocal buffer
        for key in keys:
            buffer = train(network, optimizer, buffer, key)

    training.train_twice(call, lambda: buffer)
    assert traces.count == 1
    assert int(optimizer.step[...]) == training.KEYS.size


def test_a_buffer_beside_a_module_is_a_carry_of_nnx_scan() -> None:
    agent, optimizer = start()
    network, buffer = agent.network, training.create()

    @nnx.jit(donate_argnames=("network", "optimizer", "buffer"))
    def train(network: Any, optimizer: Any, buffer: replay.Buffer, keys: jax.Array) -> replay.Buffer:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def body(carry: Any, key: jax.Array) -> Any:
            network, optimizer, buffer = carry
            buffer, observation = training.append_and_sample(buffer, key)
            return (network, optimizer, buffer), learn(network, optimizer, observation)

        return body((network, optimizer, buffer), keys)[0][2]

    def call(keys: jax.Array) -> None:
        nonlocal buffer
        buffer = train(network, optimizer, buffer, keys)

    training.train_twice(call, lambda: buffer)


@pytest.mark.parametrize("mode", [{}, {"graph": False}], ids=["graph", "tree"])
def test_a_variable_of_a_module_is_written_in_place_in_both_modes_of_nnx_jit(mode: dict[str, bool]) -> None:
    agent, optimizer = start()
    traces = training.Traces()

    @nnx.jit(donate_argnames=("agent", "optimizer"), **mode)
    def train(agent: Agent, optimizer: Any, key: jax.Array) -> jax.Array:
        traces()
        return train_step(agent, optimizer, key)

    def call(keys: jax.Array) -> None:
        for key in keys:
            train(agent, optimizer, key)

    training.train_twice(call, lambda: agent.buffer.get_value())
    assert traces.count == 1


def test_a_module_is_the_carry_of_nnx_scan() -> None:
    agent, optimizer = start()

    @nnx.jit(donate_argnames=("agent", "optimizer"))
    def train(agent: Agent, optimizer: Any, keys: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def body(carry: Any, key: jax.Array) -> Any:
            return carry, train_step(*carry, key)

        return body((agent, optimizer), keys)[1]

    training.train_twice(lambda keys: train(agent, optimizer, keys), lambda: agent.buffer.get_value())


def test_split_by_the_variables_type_the_ring_is_a_carry_of_lax_scan() -> None:
    graphdef, params, ring = nnx.split(Agent(nnx.Rngs(0)), nnx.Param, Replay)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params: Any, ring: Any, keys: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> Any:
            agent = nnx.merge(graphdef, *carry)
            observation = append_and_sample(agent, key)
            grads = nnx.grad(lambda network: jnp.mean(network(observation) ** 2))(agent.network)
            nnx.update(agent.network, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(agent.network), grads))
            return nnx.state(agent, nnx.Param, Replay), None

        return jax.lax.scan(body, (params, ring), keys)[0]

    def call(keys: jax.Array) -> None:
        nonlocal params, ring
        params, ring = train(params, ring, keys)

    training.train_twice(call, lambda: ring["buffer"].get_value())
    merged = nnx.merge(graphdef, params, ring)
    training.assert_appended(merged.buffer.get_value(), training.KEYS.ravel())
    assert not jax.tree.leaves(nnx.state(merged, nnx.Not((nnx.Param, Replay))))


def test_under_nnx_vmap_each_seed_has_its_own_ring_in_place() -> None:
    seeds = len(training.KEYS)

    @nnx.vmap
    def make(key: jax.Array) -> Agent:
        return Agent(nnx.Rngs(key))

    @nnx.jit(donate_argnames="agents")
    def write(agents: Agent, keys: jax.Array) -> None:
        nnx.vmap(append)(agents, keys)

    agents = make(jax.random.split(jax.random.key(0), seeds))
    before = training.addresses(agents.buffer.get_value())
    for i in range(training.LENGTH):
        write(agents, training.KEYS[:, i])
    buffers = agents.buffer.get_value()
    assert training.addresses(buffers) == before
    for buffer, keys in zip(training.batched(buffers), training.KEYS, strict=True):
        training.assert_appended(buffer, keys)
    assert replay.check_in_place(write, agents, training.KEYS[:, 0])


def test_gradients_of_a_whole_module_are_those_of_its_parameters_alone() -> None:
    agent, observation = Agent(nnx.Rngs(0)), jnp.ones((2, training.FEATURES))
    grads = nnx.grad(lambda agent: jnp.mean(agent.network(observation) ** 2))(agent)
    assert set(grads) == {"network"}


def test_nnx_data_loses_what_a_step_writes_without_graph_mode() -> None:
    """Why the buffer is a Variable. When this fails, Flax has mended it, and the docs can say so."""
    sizes = {}
    for name, mode in {"graph": {}, "tree": {"graph": False}}.items():
        agent = Agent(nnx.Rngs(0), nnx.data)

        @nnx.jit(**mode)
        def write(agent: Agent, key: jax.Array) -> None:
            agent.buffer = replay.append(agent.buffer, training.step(key))  # type: ignore[assignment, arg-type]

        write(agent, KEY)
        sizes[name] = int(replay.size(agent.buffer))  # type: ignore[arg-type]
    assert sizes == {"graph": training.NUM_ENVS, "tree": 0}


def test_a_plain_attribute_is_refused_when_the_module_is_made() -> None:
    with pytest.raises(ValueError, match=r"nnx\.data|Variable"):
        Agent(nnx.Rngs(0), lambda buffer: buffer)


def test_a_clone_that_copies_arrays_can_be_donated_beside_its_original() -> None:
    """A clone shares arrays by default, which cannot be donated twice."""

    @nnx.jit(donate_argnames=("agent", "target"))
    def write(agent: Agent, target: Agent) -> None:
        append(target, KEY)
        append(agent, KEY)

    agent = Agent(nnx.Rngs(0))
    target = jax.tree.map(jnp.copy, agent)
    write(agent, target)
    for one in (agent, target):
        training.assert_appended(one.buffer.get_value(), KEY[None])
    np.testing.assert_array_equal(agent.network.kernel[...], target.network.kernel[...])
