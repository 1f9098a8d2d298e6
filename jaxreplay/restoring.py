"""A buffer for `flax.serialization`: what it saves says what it is of, and nothing else is restored into a buffer.

The arrays alone do not: a ring of 64 slots with 8 records and one of 56 with 16 have the same shapes.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxreplay._core import trees
from jaxreplay._core.layout import Layout
from jaxreplay.state import Buffer

FACTS = "facts"


def to_state(buffer: Buffer) -> dict[str, Any]:
    """Give the arrays by path, keys as their words, and the facts: JSON as bytes, so that every leaf is an array."""
    arrays = {path: jax.random.key_data(x) if _is_key(x) else x for path, x in trees.paths(buffer)}
    return {FACTS: np.frombuffer(json.dumps(_facts(buffer)).encode(), np.uint8), **arrays}


def from_state(buffer: Buffer, state: dict[str, Any]) -> Buffer:
    """Make `buffer` with what was saved, or raise ValueError naming all that differs."""
    where = " ".join(filter(None, ("restore", serialization.current_path().strip("./"))))
    saved = _read_facts(where, state)
    named = trees.paths(buffer)
    differences = _compare(saved, json.loads(json.dumps(_facts(buffer)))) or _compare_arrays(named, state)
    if differences:
        raise ValueError(
            f"{where}: what was saved does not fit this buffer: {'; '.join(differences)}. "
            "Create the buffer as that which was saved was created"
        )
    leaves = [_as_saved(state[path], like) for path, like in named]
    return jax.tree.unflatten(jax.tree.structure(buffer), leaves)


def _facts(buffer: Buffer) -> dict[str, Any]:
    """All that decides what the arrays mean, by the words of `create`."""
    stored, batch = buffer.rings, buffer.rings.clock.time.ndim
    slots, num_envs = stored.arrays[0].shape[batch : batch + 2]
    return {
        "batch of buffers": list(stored.clock.time.shape),
        "capacity": (slots - 1 - stored.num_records) * num_envs,
        "num_envs": num_envs,
        "max_episodes": stored.num_records * num_envs,
        "sampler": type(buffer.sampler).__name__,
        "leaves": _leaves(stored.layout),
        "episode_data": None if buffer.episode_data is None else _leaves(buffer.episode_data.layout),
    }


def _leaves(layout: Layout) -> list[list[str]]:
    """Path and kind of each leaf, in the order in which they are packed."""
    follows = [f", next of {layout.leaves[x.next_of].path}" if x.next_of is not None else "" for x in layout.leaves]
    return [[x.path, trees.describe(x.shape, x.dtype) + more] for x, more in zip(layout.leaves, follows, strict=True)]


def _read_facts(where: str, state: Any) -> dict[str, Any]:
    facts = state.get(FACTS) if isinstance(state, dict) else None
    if facts is None:
        raise ValueError(f"{where}: expected what flax.serialization made of a Buffer, got no {FACTS!r} in it")
    return json.loads(np.asarray(facts, np.uint8).tobytes())


def _compare(saved: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """Name what differs, leaves by their path."""
    differences = []
    for name, here in mine.items():
        there = saved.get(name)
        if name in ("leaves", "episode_data") and isinstance(here, list) and isinstance(there, list):
            prefix = "" if name == "leaves" else "episode_data."
            differences += _compare_leaves(prefix, dict(there), dict(here), there != here)
        elif there != here:
            shown = [("none" if x is None else "some") if name == "episode_data" else x for x in (there, here)]
            differences.append(f"{name}: {shown[0]} was saved, {shown[1]} is here")
    return differences


def _compare_leaves(prefix: str, there: dict[str, str], here: dict[str, str], differ: bool) -> list[str]:
    differences = [
        f"{prefix}{path}: {there.get(path, 'no such leaf')} was saved, {here.get(path, 'no such leaf')} is here"
        for path in dict.fromkeys((*there, *here))
        if there.get(path) != here.get(path)
    ]
    return differences or ([f"{prefix}leaves: in the order {', '.join(there)} was saved"] if differ else [])


def _compare_arrays(named: list[tuple[str, Any]], state: dict[str, Any]) -> list[str]:
    """Name arrays that are missing, unknown, or of another shape or dtype: those of the sampler's state, say."""
    here, differences = {path: _describe(x) for path, x in named}, []
    there = {path: _describe(x) for path, x in state.items() if path != FACTS}
    for path in dict.fromkeys((*here, *there)):
        if here.get(path) != there.get(path):
            saved, mine = there.get(path, "nothing"), here.get(path, "nothing")
            differences.append(f"{path}: {saved} was saved, {mine} is here")
    return differences


def _describe(x: Any) -> str:
    if _is_key(x):
        x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return trees.describe(np.shape(x), x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and trees.is_key_dtype(x.dtype)


def _as_saved(x: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(x, impl=like.dtype._impl.name) if _is_key(like) else x


def register() -> None:
    """Make flax use these."""
    serialization.register_serialization_state(Buffer, to_state, from_state, override=True)
