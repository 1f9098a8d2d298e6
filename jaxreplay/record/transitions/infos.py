"""Fields of the `info` that Gymnasium gives with each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxreplay.record.transitions.columns import leaf_order
from jaxreplay.types import PyTree


def info_paths(extras: PyTree, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the names that lead to each leaf of the extras (given as ints), and to it in `info`, in the order of JAX.

    Raises ValueError unless extras are dicts all the way.
    """
    if isinstance(extras, dict):
        return [found for name in leaf_order(extras) for found in info_paths(extras[name], (*path, name))]
    if path and isinstance(extras, int):
        return [path]
    raise ValueError(
        f"{'.'.join(('extras', *path))}: expected a dict of info fields (which may be dicts again), got "
        f"{type(extras).__name__}; the buffer's extras are what is recorded of each step's info"
    )


def look_up(info: Any, names: tuple[str, ...], envs: np.ndarray) -> Any:
    """Find a field of the infos of one env, or of many, where `envs` `[E]` must have it; else ValueError.

    A vector environment says in `_name` which envs gave `name`; if it says nothing, all did.
    """
    for i, name in enumerate(names):
        known = isinstance(info, Mapping) and name in info
        given = np.asarray(info.get(f"_{name}", True) if known and envs.shape else known)
        if not np.all(given | ~envs):
            of = f" of envs {np.flatnonzero(envs & ~given).tolist()}" if envs.shape else ""
            has = sorted(k for k in info if not str(k).startswith("_")) if isinstance(info, Mapping) else "no fields"
            raise ValueError(
                f"extras.{'.'.join(names)}: the step's info{of} has no {'.'.join(names[: i + 1])!r}, but {has}; leave "
                "it out of the buffer's extras, or add it in a wrapper below the recorder"
            )
        info = info[name]
    return info


def final_observation(info: Mapping[str, Any], env: int) -> Any:
    """Find the final observation of an env that was reset within the step, in `info["final_obs"]`.

    It is one of each env (an object array, None where nothing ended), or batched like observations are. Raises
    ValueError if it is not there.
    """
    found = jax.tree.map(lambda finals: finals[env], info.get("final_obs"))
    if found is None:
        raise ValueError(f"env {env} ended and was reset in the same step, yet info has no 'final_obs' of it")
    return found
