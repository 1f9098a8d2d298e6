"""What is asked of a Gymnasium environment from outside: which one it is, and whether a record is of it."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle

from jaxreplay.record.actions.record import Environment


def describe_environment(env: Any) -> Environment:
    """Describe an environment in words that do not differ between processes."""
    base = env.unwrapped
    spec = getattr(base, "spec", None)
    kwargs = {} if spec is None else spec.kwargs
    return Environment(
        env_id=f"{type(base).__module__}:{type(base).__qualname__}" if spec is None else spec.id,
        kwargs={name: _in_words(value) for name, value in kwargs.items() if name != "render_mode"},
        action_space=_in_words(env.action_space),
        observation_space=_in_words(env.observation_space),
    )


def check_environment(env: Any, recorded: Environment) -> None:
    """Raise ValueError naming what differs, unless the environment is the recorded one, with its space of actions.

    Observations may have another form: they do not change what is replayed.
    """
    came = describe_environment(env)
    if came.env_id != recorded.env_id:
        raise ValueError(f"wrong environment: the record is of {recorded.env_id}, got {came.env_id}")
    for name in sorted(came.kwargs.keys() | recorded.kwargs.keys()):
        mine, its = recorded.kwargs.get(name, "its default"), came.kwargs.get(name, "its default")
        if mine != its:
            raise ValueError(
                f"wrong environment: the record is of {recorded.env_id} made with {name}={mine}, got one with "
                f"{name}={its}"
            )
    if came.action_space != recorded.action_space:
        raise ValueError(
            f"wrong environment: the record's action space is {recorded.action_space}, got {came.action_space}; "
            "give it the wrappers it had below RecordActions"
        )


def copy_with_state(env: Any, *more: Any) -> tuple[Any, ...]:
    """Copy an environment and what goes with it by `copy.deepcopy`, or raise TypeError naming the class that cannot.

    `gymnasium.utils.EzPickle` copies an environment by its constructor's arguments, which would lose its state unsaid.
    """
    layers = [env]
    while layers[-1] is not env.unwrapped and hasattr(layers[-1], "env"):
        layers.append(layers[-1].env)
    for layer in layers:
        kind: Any = type(layer)
        by_arguments = isinstance(layer, EzPickle) and kind.__setstate__ is EzPickle.__setstate__
        if by_arguments and not hasattr(kind, "__deepcopy__"):
            raise TypeError(
                f"{kind.__name__} cannot be copied with its state: it copies itself by its constructor's arguments "
                "alone (gymnasium.utils.EzPickle); replay its record in another environment instead"
            )
    try:
        copied = copy.deepcopy((env, *more))
    except Exception as error:  # whatever a member of the environment raises
        raise TypeError(f"{type(env.unwrapped).__name__} cannot be copied with its state: {error}") from error
    if _random_state(copied[0]) != _random_state(env):
        raise TypeError(
            f"{type(env.unwrapped).__name__} cannot be copied with its state: the copy's randomness differs"
        )
    return copied


def _random_state(env: Any) -> str:
    generator = vars(env.unwrapped).get("_np_random")
    return "" if generator is None else repr(generator.bit_generator.state)


def require_single(what: str, env: Any) -> None:
    """Raise TypeError unless `env` is a single Gymnasium environment."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise TypeError(
            f"{what}: expected a single environment, got the vector environment {type(env).__name__}; wrap each of its "
            "environments, as in gymnasium.make_vec(..., wrappers=[...])"
        )
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"{what}: expected a gymnasium.Env, got {type(env).__name__}")


def _in_words(value: Any) -> str:
    """Write a space or an argument; of what has no words of its own, its type."""
    if isinstance(value, gymnasium.Space):
        with np.printoptions(precision=8, threshold=1000, edgeitems=3, linewidth=75, suppress=False, legacy=False):
            return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return f"{type(value).__module__}.{type(value).__qualname__}"
