"""Examples of transitions from a Gymnasium environment's spaces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay.types import PyTree, Transition


def example_transition(env: Any, extras: PyTree = None) -> Transition:
    """Describe one step of one env of a Gymnasium environment, single or vector, for `create`.

    env: a `gymnasium.Env`, `gymnasium.vector.VectorEnv`, or functional environment with spaces of its own. Dict and
        Tuple spaces become dicts and tuples, at any depth; Box, Discrete, MultiDiscrete and MultiBinary become arrays
        of the space's dtype, 64-bit ones as their 32-bit kin unless `jax_enable_x64` is set. `reward` is float32.
    extras: an example of what else to store at each step.

    Leaves are `jax.ShapeDtypeStruct`. Raises TypeError for spaces whose samples have no fixed shape.
    """
    observation = getattr(env, "single_observation_space", None) or env.observation_space
    action = getattr(env, "single_action_space", None) or env.action_space
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    return Transition(
        observation=_describe("observation", observation),
        action=_describe("action", action),
        reward=jax.ShapeDtypeStruct((), jnp.float32),
        terminated=flag,
        truncated=flag,
        next_observation=_describe("observation", observation),
        extras={} if extras is None else extras,
    )


def _describe(path: str, space: Any) -> PyTree:
    try:
        from gymnasium import spaces
    except ImportError as error:
        raise ImportError("example_transition needs Gymnasium: pip install 'jaxreplay[gym]'") from error
    if isinstance(space, spaces.Dict):
        return {name: _describe(f"{path}.{name}", inner) for name, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_describe(f"{path}.{i}", inner) for i, inner in enumerate(space.spaces))
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype = jax.dtypes.canonicalize_dtype(np.dtype(space.dtype))
        return jax.ShapeDtypeStruct(space.shape or (), dtype)
    raise TypeError(
        f"{path}: {type(space).__name__} has samples of no fixed shape or dtype; wrap the environment so that it gives "
        "a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space"
    )
