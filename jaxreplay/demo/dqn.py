"""Double DQN (van Hasselt et al. 2016) in one jitted program: act, append, sample, learn, and again.

The replay buffer is part of the training state, so the whole loop is a `lax.scan` that never leaves the accelerator.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxreplay as replay
from jaxreplay.demo import cartpole
from jaxreplay.types import PyTree


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes the program. `steps` counts env steps over all envs; rates and periods count updates.

    Exploration falls to its least, `exploration`, over a share of the training; the learning rate falls to 0 at its
    end. The buffer holds all of it: the falls of the first policies are what keeps the last ones from forgetting them.
    """

    steps: int = 300_000
    num_envs: int = 16
    capacity: int = 300_000
    batch_size: int = 128
    hidden: int = 64
    n_step: int = 3
    discount: float = 0.98
    learning_rate: float = 1e-3
    exploration: float = 0.05
    exploration_share: float = 0.1
    warm_up: int = 100
    target_rate: float = 0.01
    prioritized: bool = False
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4
    devices: int = 1

    @property
    def num_updates(self) -> int:
        return self.steps // self.num_envs


class Network(nn.Module):
    """Action values `[..., 2]` of CartPole observations `[..., 4]`.

    They begin near the highest there can be, that of never falling, so that only the falls are left to learn. From 0
    they would climb for most of the training, and what sets two actions apart is small beside such a climb's errors.
    """

    settings: Settings

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        scale = jnp.array([1.0, 1.0, 10.0, 1.0])  # the pole's angle is at most 0.2
        highest = 1.0 / (1.0 - self.settings.discount)  # a reward of 1 a step for ever
        x = observation * jnp.broadcast_to(scale, observation.shape)
        x = nn.relu(nn.Dense(self.settings.hidden)(x))
        x = nn.relu(nn.Dense(self.settings.hidden)(x))
        return nn.Dense(2, bias_init=nn.initializers.constant(highest))(x)


def action_values(settings: Settings, params: PyTree, observation: jax.Array) -> jax.Array:
    """Compute the network's values of both actions, `[..., 2]`."""
    return jnp.asarray(Network(settings).apply(params, observation))


class State(struct.PyTreeNode):
    """All that training carries from one step to the next, the buffer included.

    `target` is the slow average of the parameters, and the steadier policy: it is the one that is tested and kept.
    """

    params: PyTree
    target: PyTree
    optimizer: PyTree
    buffer: replay.Buffer
    envs: cartpole.Envs
    key: jax.Array
    updates: jax.Array


class Metrics(struct.PyTreeNode):
    """One step's figures: the loss, and how many episodes ended and how long they were, over all envs."""

    loss: jax.Array
    episodes: jax.Array
    lengths: jax.Array


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Make Adam with a learning rate that falls to 0, so that the last policy is a settled one."""
    schedule = optax.linear_schedule(settings.learning_rate, 0.0, settings.num_updates)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))


def over_devices(settings: Settings, *axes: str | None) -> NamedSharding | None:
    """Say how arrays with these axes lie over the devices, `data` being split; None for a single device."""
    if settings.devices == 1:
        return None
    devices = jax.devices()[: settings.devices]
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec(*axes))


def shardings(settings: Settings) -> State | None:
    """Say how a state with an axis of seeds lies: envs and the buffer are split, all else is on every device."""
    if settings.devices == 1:
        return None
    split, everywhere = over_devices(settings, None, "data"), over_devices(settings)
    everything = State(*[everywhere] * len(dataclasses.fields(State)))  # pyright: ignore[reportArgumentType]
    return everything.replace(buffer=split, envs=split)


def start(settings: Settings, key: jax.Array) -> State:
    """Make the state that training begins with."""
    key, env_key, network_key = jax.random.split(key, 3)
    params = Network(settings).init(network_key, jnp.zeros(4))
    by_errors = replay.samplers.prioritized(settings.priority_exponent)
    sampler = by_errors if settings.prioritized else replay.samplers.uniform()
    example = replay.example_transition(cartpole.ENV)
    return State(
        params=params,
        target=jax.tree.map(jnp.copy, params),
        optimizer=optimizer(settings).init(params),
        buffer=replay.create(
            example, settings.capacity, settings.num_envs, sampler=sampler, sharding=over_devices(settings, "data")
        ),
        envs=cartpole.reset(env_key, settings.num_envs),
        key=key,
        updates=jnp.zeros((), jnp.int32),
    )


def act(settings: Settings, params: PyTree, observation: jax.Array, epsilon: jax.Array, key: jax.Array) -> jax.Array:
    """Choose epsilon-greedy actions `[E]` int32."""
    explore_key, action_key = jax.random.split(key)
    greedy = jnp.argmax(action_values(settings, params, observation), axis=-1)
    random = jax.random.randint(action_key, greedy.shape, 0, 2)
    return jnp.where(jax.random.uniform(explore_key, greedy.shape) < epsilon, random, greedy).astype(jnp.int32)


def errors(settings: Settings, params: PyTree, target: PyTree, batch: replay.views.NStepTransition) -> jax.Array:
    """Compute the errors `[B]` of double-DQN targets over n steps."""
    best = jnp.argmax(action_values(settings, params, batch.next_observation), axis=-1)
    future = jnp.take_along_axis(action_values(settings, target, batch.next_observation), best[:, None], axis=-1)[:, 0]
    wanted = jax.lax.stop_gradient(batch.reward + batch.discount * future)
    values = action_values(settings, params, batch.observation)
    return wanted - jnp.take_along_axis(values, batch.action[:, None], axis=-1)[:, 0]


def train_step(settings: Settings, state: State) -> tuple[State, Metrics]:
    """Step every env once, append what happened, and learn from one batch."""
    key, act_key, env_key, sample_key = jax.random.split(state.key, 4)
    progress = state.updates.astype(jnp.float32) / (settings.exploration_share * settings.num_updates)
    epsilon = jnp.maximum(1.0 - progress, settings.exploration)

    action = act(settings, state.params, cartpole.observe(state.envs), epsilon, act_key)
    envs, transition = cartpole.step(state.envs, action, env_key)
    buffer = replay.append(state.buffer, transition)  # append first, then sample: so the ring stays in place
    view = replay.views.n_step(settings.n_step, settings.discount)
    batch = replay.sample(buffer, sample_key, settings.batch_size, view)

    weights = jnp.ones(settings.batch_size)  # what importance_weights gives for uniform draws
    if settings.prioritized:
        weights = replay.importance_weights(batch, settings.importance_exponent)

    def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
        error = errors(settings, params, state.target, batch.data)
        return jnp.mean(weights * optax.huber_loss(error)), error

    (value, error), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    if settings.prioritized:
        buffer = replay.set_priorities(buffer, batch.rows, jnp.abs(error) + 1e-6)
    updates, optimizer_state = optimizer(settings).update(gradient, state.optimizer, state.params)
    ready = (state.updates >= settings.warm_up).astype(jnp.float32)
    params = optax.apply_updates(state.params, jax.tree.map(lambda x: x * ready, updates))
    target = optax.incremental_update(params, state.target, settings.target_rate)
    ended = jnp.logical_or(transition.terminated, transition.truncated)
    metrics = Metrics(loss=value, episodes=ended.sum(), lengths=jnp.where(ended, state.envs.elapsed + 1, 0).sum())
    return State(params, target, optimizer_state, buffer, envs, key, state.updates + 1), metrics


def train(settings: Settings, state: State, length: int) -> tuple[State, Metrics]:
    """Do `length` training steps; metrics are summed, the loss is the mean."""
    state, metrics = jax.lax.scan(lambda state, _: train_step(settings, state), state, length=length)
    return state, Metrics(metrics.loss.mean(), metrics.episodes.sum(), metrics.lengths.sum())


def evaluate(settings: Settings, params: PyTree, key: jax.Array, num_episodes: int) -> jax.Array:
    """Play fresh episodes greedily and return their returns, `[num_episodes]`."""

    def body(carry: tuple[cartpole.Envs, jax.Array, jax.Array], _: None) -> tuple[tuple, None]:
        envs, alive, returns = carry
        action = jnp.argmax(action_values(settings, params, cartpole.observe(envs)), axis=-1)
        envs, transition = cartpole.step(envs, action, key)
        ended = jnp.logical_or(transition.terminated, transition.truncated)
        return (envs, alive & ~ended, returns + jnp.where(alive, transition.reward, 0.0)), None

    carry = (cartpole.reset(key, num_episodes), jnp.ones(num_episodes, jnp.bool_), jnp.zeros(num_episodes))
    return jax.lax.scan(body, carry, length=cartpole.TIME_LIMIT)[0][2]
