"""A buffer for `flax.serialization`: what it saves says what it is of, and nothing else is restored into a buffer.

The arrays alone do not: a ring of 64 slots with 8 records and one of 56 with 16 have the same shapes.
"""

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
    return {FACTS: np.frombuffer(json.dumps(facts(buffer)).encode(), np.uint8), **arrays}


def from_state(buffer: Buffer, state: dict[str, Any]) -> Buffer:
    """Make `buffer` with what was saved, or raise ValueError naming all that differs."""
    where = " ".join(filter(None, ("restore", serialization.current_path().strip("./"))))
    if not isinstance(state, dict) or FACTS not in state:
        raise ValueError(f"{where}: expected what flax.serialization made of a Buffer, got no {FACTS!r} in it")
    saved = json.loads(np.asarray(state[FACTS], np.uint8).tobytes())
    named = trees.paths(buffer)
    differences = []
    for group, here in facts(buffer).items():
        there = saved.get(group, {})
        found = compare(there, here, "episode_data." if group == "episode_data" else "")
        in_order = list(there) == list(here)  # in which the leaves are packed
        differences += found if found or in_order else [f"{group}: in the order {', '.join(there)} was saved"]
    if not differences:  # the arrays: those of a sampler's state, say
        there = {path: _describe(x) for path, x in state.items() if path != FACTS}
        differences = compare(there, {path: _describe(x) for path, x in named})
    if differences:
        raise ValueError(
            f"{where}: what was saved does not fit this buffer: {'; '.join(differences)}. "
            "Create the buffer as that which was saved was created"
        )
    leaves = [
        jax.random.wrap_key_data(state[path], impl=like.dtype._impl.name) if _is_key(like) else state[path]
        for path, like in named
    ]
    return jax.tree.unflatten(jax.tree.structure(buffer), leaves)


def facts(buffer: Buffer) -> dict[str, dict[str, Any]]:
    """Tell all that decides what the arrays mean, by the words of `create`."""
    stored, stack = buffer.rings, buffer.stack
    batch, count, num_slots, num_envs = buffer.sizes
    num_envs *= count
    options = {
        "batch of buffers": list(batch),
        "num_buffers": count if stack is not None and stack.own_clocks else 1,
        "devices": count if stack is not None and not stack.own_clocks else None,
        "capacity": num_slots * num_envs,
        "num_envs": num_envs,
        "platform's layout": type(stored.memory).__name__,
        "max_episodes": stored.num_records * num_envs,
        "sampler": type(buffer.sampler).__name__,
        "episode_data": "none" if buffer.episode_data is None else "some",
    }
    data = {} if buffer.episode_data is None else _leaves(buffer.episode_data.layout)
    return {"options": options, "leaves": _leaves(stored.layout), "episode_data": data}


def _leaves(layout: Layout) -> dict[str, str]:
    """Describe what is at each path, in the order in which the leaves are packed; there may be two at one."""
    described: dict[str, str] = {}
    for leaf in layout.leaves:
        follows = "" if leaf.next_of is None else f", next of {layout.leaves[leaf.next_of].path}"
        before = f"{described[leaf.path]} and " if leaf.path in described else ""
        described[leaf.path] = before + trees.describe(leaf.shape, leaf.dtype) + follows
    return described


def compare(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Name what was saved otherwise than it is here."""
    return [
        f"{prefix}{name}: {there.get(name, 'nothing')} was saved, {here.get(name, 'nothing')} is here"
        for name in dict.fromkeys((*there, *here))
        if there.get(name) != here.get(name)
    ]


def _describe(x: Any) -> str:
    if _is_key(x):
        x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return trees.describe(np.shape(x), x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and trees.is_key_dtype(x.dtype)


def register() -> None:
    """Make flax use these."""
    serialization.register_serialization_state(Buffer, to_state, from_state, override=True)
