"""Examples of transitions from an environment's spaces."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.types import PyTree, Transition


def example_transition(
    env: Any, extras: PyTree = None, *, leave_out: Sequence[str] = (), params: PyTree = None
) -> Transition:
    """Describe one step of one env of an environment, single, vector or functional, for `create`.

    env: a `gymnasium.Env`, `gymnasium.vector.VectorEnv`, functional environment with spaces of its own, or one of
        gymnax, whose spaces depend on its parameters. Dict and Tuple spaces become dicts and tuples, at any depth; Box,
        Discrete, MultiDiscrete and MultiBinary become arrays of the space's dtype, 64-bit ones as their 32-bit kin
        unless `jax_enable_x64` is set. `reward` is float32.
    extras: an example of what else to store at each step.
    leave_out: entries of a Dict observation that are not stored, by path: `("mission",)`, `("robot.name",)`. Give them
        to `RecordTransitions` or `collect` as well.
    params: of a gymnax environment, if not its default.

    Leaves are `jax.ShapeDtypeStruct`. Raises TypeError for spaces whose samples have no fixed shape, ValueError for a
    path in `leave_out` that is no entry.
    """
    observation = _space_of(env, "observation", params)
    leave_out = check_paths(leave_out)
    left = [f"observation.{path}" for path in leave_out]
    described = _describe("observation", observation, left)
    if left:
        raise ValueError(
            f"leave_out: there is no {left[0].removeprefix('observation.')} in the observation, which has: "
            f"{', '.join(path for path, _ in trees.paths(described))}"
        )
    if leave_out and not jax.tree.leaves(described):
        raise ValueError(f"leave_out: {leave_out} leaves nothing of the observation")
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    return Transition(
        observation=described,
        action=_describe("action", _space_of(env, "action", params), []),
        reward=jax.ShapeDtypeStruct((), jnp.float32),
        terminated=flag,
        truncated=flag,
        next_observation=described,
        extras={} if extras is None else extras,
    )


def check_paths(leave_out: Any) -> tuple[str, ...]:
    """Return the paths of `leave_out`, or raise TypeError."""
    paths = tuple(leave_out) if isinstance(leave_out, Iterable) else (leave_out,)
    if isinstance(leave_out, str) or not all(isinstance(path, str) for path in paths):
        raise TypeError(f"leave_out: expected paths of the observation, as ('mission',), got {leave_out!r}")
    return paths


def _space_of(env: Any, name: str, params: PyTree) -> Any:
    space = getattr(env, f"single_{name}_space", None) or getattr(env, f"{name}_space")
    if callable(space):  # in gymnax it is a method of the parameters
        return space(getattr(env, "default_params", None) if params is None else params)
    return space


def _describe(path: str, space: Any, left: list[str]) -> PyTree:
    """Give the structure of a space's samples; what is left out is taken from `left` where it is found."""
    kind = _kind(space)
    if kind == "dict":
        inner = {f"{path}.{name}": (name, each) for name, each in space.spaces.items()}
        described = {name: _describe(below, each, left) for below, (name, each) in inner.items() if below not in left}
        left[:] = [below for below in left if below not in inner]
        return described
    if kind == "tuple":
        return tuple(_describe(f"{path}.{i}", inner, left) for i, inner in enumerate(space.spaces))
    if kind == "array":
        dtype = jax.dtypes.canonicalize_dtype(np.dtype(getattr(space, "dtype", None) or np.int32))
        return jax.ShapeDtypeStruct(getattr(space, "shape", None) or (), dtype)
    entry = path.removeprefix("observation.")
    hint = "" if entry == path else f", or leave it out, with leave_out=({entry!r},)"
    raise TypeError(
        f"{path}: {type(space).__name__} has samples of no fixed shape or dtype; wrap the environment so that it gives "
        f"a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space{hint}"
    )


def _kind(space: Any) -> str:
    """Tell whether samples are a "dict", a "tuple", an "array", or "none" of these."""
    if any(base.__module__.partition(".")[0] == "gymnasium" for base in type(space).__mro__):
        try:
            from gymnasium import spaces
        except ImportError as error:
            raise ImportError("example_transition needs Gymnasium: pip install 'jaxreplay[gym]'") from error
        if isinstance(space, spaces.Dict | spaces.Tuple):
            return "dict" if isinstance(space, spaces.Dict) else "tuple"
        arrays = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
        return "array" if isinstance(space, arrays) else "none"
    inner = getattr(space, "spaces", None)
    if inner is not None:
        return "dict" if isinstance(inner, Mapping) else "tuple" if isinstance(inner, Sequence) else "none"
    is_array = hasattr(space, "n") or (hasattr(space, "shape") and hasattr(space, "dtype"))
    return "array" if is_array else "none"
