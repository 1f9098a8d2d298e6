"""Functional environments behind one face: Gymnasium's `FuncEnv`, and the step convention of gymnax."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxreplay.types import PyTree

NO_LIMIT = 2**30


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


class Functional(Protocol):
    """One env as pure functions."""

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Return `(state, observation)` of a new episode."""
        ...

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> Stepped:
        """Take one step."""
        ...


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


def call(function: Callable[..., Any], *arguments: Any, params: PyTree) -> Any:
    """Call a method of gymnax's convention, with params last unless its signature has no room for them."""
    return function(*arguments, params) if takes_params(function, len(arguments)) else function(*arguments)


def takes_params(function: Callable[..., Any], count: int) -> bool:
    """Tell whether a function takes one argument more than `count`."""
    try:
        inspect.signature(function).bind(*range(count + 1))
    except TypeError:
        return False
    except ValueError:  # of some callables the signature cannot be known
        return True
    return True


class OfGymnax:
    """gymnax from 1.0: `step` resets, tells termination from truncation, and gives `info["final_observation"]`."""

    def __init__(self, env: Any, params: PyTree) -> None:
        self.env, self.params = env, params

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state = call(self.env.reset, key, params=self.params)
        return state, observation

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> Stepped:
        answer = call(self.env.step, key, state, action, params=self.params)
        observation, state, reward, terminated, truncated, info = answer
        if "final_observation" not in info:
            raise ValueError(f"{self.env}: its step resets itself, and gives no info['final_observation']")
        return Stepped(state, observation, info["final_observation"], reward, terminated, truncated, info, reset=True)


class OfOldGymnax:
    """gymnax before 1.0: `step` resets and loses the final observation, so `step_env` and `reset_env` are used.

    `done` there is termination or the time limit, `params.max_steps_in_episode`. Which of them, is found by asking the
    same step again without a limit; what the two have in common is computed once.
    """

    def __init__(self, env: Any, params: PyTree) -> None:
        self.env, self.params = env, params
        if not (hasattr(type(env), "step_env") and hasattr(type(env), "reset_env")):
            raise TypeError(
                f"{type(env).__name__}: its step resets itself and loses the final observation, and the class has no "
                "step_env and reset_env of its own (a wrapper's would be those of the environment inside)"
            )

    def reset(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        observation, state = call(self.env.reset_env, key, params=self.params)
        return state, observation

    def step(self, key: jax.Array, state: PyTree, action: PyTree) -> Stepped:
        observation, after, reward, done, info = call(self.env.step_env, key, state, action, params=self.params)
        terminated = done
        if hasattr(self.params, "max_steps_in_episode"):
            endless = self.params.replace(max_steps_in_episode=NO_LIMIT)
            terminated = call(self.env.step_env, key, state, action, params=endless)[3]
        return Stepped(after, observation, observation, reward, terminated, done & ~terminated, info, reset=False)


def as_functional(env: Any, params: PyTree, key: jax.Array, action: PyTree) -> Functional:
    """Find out what an environment is. Raises TypeError for none of the three."""
    if all(hasattr(env, name) for name in ("initial", "transition", "observation", "terminal")):
        return OfFuncEnv(env, params)
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        raise TypeError(f"env: expected a gymnasium FuncEnv, or reset and step as gymnax has them, got {env}")
    if params is not None and not (takes_params(env.reset, 1) or takes_params(env.step, 3)):
        raise TypeError(f"params: given, but neither reset nor step of {type(env).__name__} takes them")
    params = getattr(env, "default_params", None) if params is None else params
    _, state = jax.eval_shape(lambda *x: call(env.reset, *x[:-1], params=x[-1]), key, params)
    answer = jax.eval_shape(lambda *x: call(env.step, *x[:-1], params=x[-1]), key, state, action, params)
    if len(answer) not in (5, 6):
        raise TypeError(f"env: step gives {len(answer)} values; gymnax's gives 6, or 5 before version 1.0")
    return OfGymnax(env, params) if len(answer) == 6 else OfOldGymnax(env, params)
