"""Functional environments behind one face: Gymnasium's `FuncEnv`, and the step convention of gymnax."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreplay.types import PyTree


class Stepped(NamedTuple):
    """What a step of one env led to, before any reset but the environment's own.

    state, observation: to go on with. final_observation: what the step itself led to. terminated, truncated: bool.
    reset: whether `state` and `observation` are those of the next episode already where this one ended; static.
    """

    state: PyTree
    observation: PyTree
    final_observation: PyTree
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: Any
    reset: bool


class OfFuncEnv:
    """`gymnasium.experimental.functional.FuncEnv`: it never truncates and never resets itself."""

    def __init__(self, env: Any, params: PyTree) -> None:
        self.env, self.more = env, {} if params is None else {"params": params}

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        state_key, seen_key = jax.random.split(key)
        state = self.env.initial(state_key, **self.more)
        return state, self.env.observation(state, seen_key, **self.more)

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> Stepped:
        keys = jax.random.split(key, 4)
        after = self.env.transition(state, action, keys[0], **self.more)
        seen = self.env.observation(after, keys[1], **self.more)
        reward = self.env.reward(state, action, after, keys[2], **self.more)
        terminated = self.env.terminal(after, keys[3], **self.more)
        info = self.env.transition_info(state, action, after, **self.more)
        return Stepped(after, seen, seen, reward, terminated, jnp.zeros_like(terminated), info, reset=False)


class OfGymnax:
    """gymnax from 1.0: `step` resets, tells termination from truncation, and gives `info["final_observation"]`."""

    def __init__(self, env: Any, params: PyTree) -> None:
        given, params = params is not None, getattr(env, "default_params", None) if params is None else params
        self.env = env
        self.of_reset = (params,) if takes_params(env.reset, 1) else ()
        self.of_step = (params,) if takes_params(env.step, 3) else ()
        if given and not (self.of_reset or self.of_step):
            raise TypeError(f"params: given, but neither reset nor step of {type(env).__name__} takes them")

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state = self.env.reset(key, *self.of_reset)
        return state, observation

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> Stepped:
        answer = self.env.step(key, state, action, *self.of_step)
        if len(answer) != 6:
            raise TypeError(
                f"env: step gives {len(answer)} values, expected the 6 of gymnax 1.0; gymnax before 1.0 gives 5, and "
                "loses the final observation: pip install 'gymnax>=1.0'"
            )
        observation, state, reward, terminated, truncated, info = answer
        if "final_observation" not in info:
            raise ValueError(f"{self.env}: its step resets itself, and gives no info['final_observation']")
        return Stepped(state, observation, info["final_observation"], reward, terminated, truncated, info, reset=True)


def takes_params(function: Callable[..., Any], count: int) -> bool:
    """Tell whether a function takes one argument more than `count`."""
    try:
        inspect.signature(function).bind(*range(count + 1))
    except TypeError:
        return False
    except ValueError:  # of some callables the signature cannot be known
        return True
    return True


def as_functional(env: Any, params: PyTree) -> OfFuncEnv | OfGymnax:
    """Find out what an environment is. Raises TypeError for neither of the two."""
    if all(hasattr(env, name) for name in ("initial", "transition", "observation", "terminal")):
        return OfFuncEnv(env, params)
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise TypeError(f"env: expected a gymnasium FuncEnv, or reset and step as gymnax has them, got {env}")
    return OfGymnax(env, params)
