"""What a checkpoint says of its leaves and buffers, and what of it differs from where it is to be loaded."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

from jaxreplay import restoring
from jaxreplay._core import trees
from jaxreplay.state import Buffer
from jaxreplay.types import PyTree

SIZES = ("capacity", "max_episodes", "platform's layout", "devices")  # what loading can change
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def is_buffer(x: Any) -> bool:
    return isinstance(x, Buffer)


def buffers_of(tree: PyTree) -> dict[str, Buffer]:
    """Give the buffers in a tree by their paths; that of a buffer by itself is "the buffer"."""
    if is_buffer(tree):
        return {"the buffer": tree}
    return {path: x for path, x in trees.paths(tree, is_leaf=is_buffer) if is_buffer(x)}


def map_buffers(function: Callable[[str, Buffer], Any], tree: PyTree) -> PyTree:
    """Replace each buffer by what a function makes of its path and itself."""
    names = iter(buffers_of(tree))
    return jax.tree.map(lambda x: function(next(names), x) if is_buffer(x) else x, tree, is_leaf=is_buffer)


def describe_buffer(buffer: Buffer) -> dict[str, dict[str, Any]]:
    """Tell all that decides what the arrays of a buffer mean, by the words of `create`."""
    facts = restoring.facts(buffer)
    facts["options"] |= {"sampler's settings": _settings(buffer.sampler), "episode_end": _end(buffer.episode_end)}
    return facts


def _settings(sampler: Any) -> str:
    if not dataclasses.is_dataclass(sampler):
        return "of its own"
    fields = [field.name for field in dataclasses.fields(sampler) if not field.metadata.get("made_for")]
    return ADDRESS.sub("", ", ".join(f"{name}={getattr(sampler, name)!r}" for name in fields))


def _end(episode_end: Any) -> Any:
    """Name what ends episodes; functions are compared by their names, which is all that a file can say of them."""
    if isinstance(episode_end, tuple):
        return list(episode_end)
    return getattr(episode_end, "__name__", type(episode_end).__name__) if callable(episode_end) else episode_end


def compare_buffers(there: dict[str, Any], here: dict[str, Any]) -> tuple[list[str], bool]:
    """Name what differs between the facts of buffers, by path, and tell whether any of `SIZES` does."""
    differences, resized = [], False
    for path in dict.fromkeys((*there, *here)):
        if path not in there or path not in here:
            found, other = ("a buffer", "none") if path in there else ("no buffer", "one")
            differences.append(f"{path}: {found} was saved, {other} is here")
            continue
        saved, mine = there[path], here[path]
        for group, facts in mine.items():
            old = saved.get(group)
            old = old if isinstance(old, dict) else {}
            if group == "options":
                if old.get("sampler") != facts["sampler"]:  # then what it was set to says nothing more
                    facts = facts | {"sampler's settings": old.get("sampler's settings")}
                resized |= any(old.get(name) != facts[name] for name in SIZES)
                old, facts = ({name: x for name, x in each.items() if name not in SIZES} for each in (old, facts))
            prefix = f"{path}: " if len(here) > 1 or path != "the buffer" else ""
            found = restoring.compare(old, facts, prefix + ("episode_data." if group == "episode_data" else ""))
            if not found and list(old) != list(facts):  # the order in which the leaves are packed
                found = [f"{prefix}{group}: in the order {', '.join(old)} was saved"]
            differences += found
    return differences, resized


def describe_leaf(leaf: Any) -> str:
    """Write a leaf's dtype and shape as JAX does, and which type of Python's a number has."""
    if isinstance(leaf, bool | int | float | complex) and not hasattr(leaf, "dtype"):
        return f"Python's {type(leaf).__name__}"
    return trees.describe(*trees.shape_dtype("", leaf))


def compare_leaves(there: list[tuple[str, str]], here: list[tuple[str, str]]) -> list[str]:
    """Name the leaves that were saved otherwise than they are here."""
    if there == here:
        return []
    found = restoring.compare(dict(there), dict(here))
    return found or [f"leaves: in the order {', '.join(path for path, _ in there)} was saved"]
