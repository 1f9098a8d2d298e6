"""Many CartPoles stepped together: Gymnasium's own JAX implementation, with CartPole-v1's time limit, and resets."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional

from jaxreplay.types import Transition

TIME_LIMIT = 500
ENV = CartPoleFunctional()


class Envs(struct.PyTreeNode):
    """The state of E CartPoles: `state` `[E, 4]` float32, and `elapsed` `[E]` int32 steps in the running episode."""

    state: jax.Array
    elapsed: jax.Array


def reset(key: jax.Array, num_envs: int) -> Envs:
    """Start an episode in each of E envs."""
    state = jax.vmap(ENV.initial)(jax.random.split(key, num_envs))
    return Envs(state=state, elapsed=jnp.zeros(num_envs, jnp.int32))


def observe(envs: Envs) -> jax.Array:
    """Observe every env: `[E, 4]`."""
    return jax.vmap(lambda state: ENV.observation(state, None))(envs.state)


def step(envs: Envs, action: jax.Array, key: jax.Array) -> tuple[Envs, Transition]:
    """Step every env with its action `[E]`; those whose episode ended start a new one.

    The transition's next observation is what the step led to, also where the env was then reset.
    """
    state = jax.vmap(ENV.transition)(envs.state, action.astype(jnp.float32))  # Gymnasium takes 0.5 from it
    elapsed = envs.elapsed + 1
    terminated = jax.vmap(lambda s: ENV.terminal(s, None))(state)
    truncated = ~terminated & (elapsed >= TIME_LIMIT)
    transition = Transition(
        observation=observe(envs),
        action=action,
        reward=jnp.ones(action.shape, jnp.float32),
        terminated=terminated,
        truncated=truncated,
        next_observation=observe(Envs(state, elapsed)),
    )
    ended, fresh = terminated | truncated, reset(key, action.shape[0])
    state = jnp.where(ended[:, None], fresh.state, state)
    return Envs(state=state, elapsed=jnp.where(ended, fresh.elapsed, elapsed)), transition
