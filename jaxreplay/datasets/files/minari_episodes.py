"""The episodes of a `minari.MinariDataset` as trajectories."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.types import PyTree

WRAPPED = {"extras", "infos", "reset_infos"}  # the groups of our own that keep extras and infos apart


def read_episodes(dataset: Any, reward_dtype: Any = None) -> list[Trajectory]:
    """Read all episodes; see `jaxreplay.convert.from_minari`. Raises ValueError naming the episode that cannot be."""
    indices = [int(i) for i in dataset.episode_indices]
    found = dataset.storage.get_episode_metadata(indices)
    episodes = []
    for episode, attributes in zip(dataset.iterate_episodes(), found, strict=True):
        try:
            episodes.append(_trajectory(episode, attributes, reward_dtype))
        except (ValueError, TypeError) as error:
            raise type(error)(f"from_minari: episode {episode.id}: {error}") from error
    return episodes


def _trajectory(episode: Any, attributes: dict[str, Any], reward_dtype: Any) -> Trajectory:
    length = len(episode.rewards)
    for name, flags in (("terminations", episode.terminations), ("truncations", episode.truncations)):
        if np.any(flags[:-1]):
            raise ValueError(f"{name}: step {int(np.argmax(flags))} of {length} ends the episode, and it goes on")
    extras, infos, reset_infos, rest = _part_infos(episode.infos, length)
    data = {name: value for name, value in attributes.items() if name != "total_steps"} | {"id": int(episode.id)}
    data |= {} if reset_infos is None else {"reset_infos": reset_infos}
    data |= {} if rest is None else {"infos": rest}
    rewards = np.asarray(episode.rewards)
    return Trajectory(
        observations=episode.observations,
        actions=episode.actions,
        rewards=rewards if reward_dtype is None else rewards.astype(reward_dtype),
        terminated=bool(episode.terminations[-1]),
        truncated=bool(episode.truncations[-1]),
        extras=extras,
        infos=infos,
        episode_data=data,
    )


def _part_infos(infos: Any, length: int) -> tuple[PyTree, list[dict[str, Any]] | None, Any, Any]:
    """Minari's infos as `(extras, infos, reset_infos, rest)`, whichever there are."""
    infos = _decode(infos) if infos else None
    if not infos:
        return None, None, None, None
    if infos.keys() <= WRAPPED:
        reset = infos.get("reset_infos")
        each = infos.get("infos")
        return (
            infos.get("extras"),
            None if each is None else [_nth(each, i) for i in range(length)],
            None if reset is None else _nth(reset, 0),
            None,
        )
    leaves = jax.tree.leaves(infos)
    counts = {x.shape[0] if getattr(x, "ndim", 0) else None for x in leaves}
    if len(counts) > 1 or counts not in ({length}, {length + 1}):
        return None, None, None, infos
    extra = counts == {length + 1}
    reset = _nth(infos, 0) if extra else None
    steps = jax.tree.map(lambda x: x[1:], infos) if extra else infos
    if all(x.dtype.kind in "biufc" for x in leaves):
        return steps, None, reset, None
    return None, [_nth(steps, i) for i in range(length)], reset, None


def _nth(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _decode(node: Any) -> Any:
    """Groups of numbered members as tuples, and bytes as texts."""
    if isinstance(node, dict):
        if node and all(re.fullmatch(r"_index_\d+", name) for name in node):
            return tuple(_decode(node[f"_index_{i}"]) for i in range(len(node)))
        return {name: _decode(inner) for name, inner in node.items()}
    array = np.asarray(node)
    if array.dtype.kind == "O":
        texts = [x.decode() if isinstance(x, bytes) else x for x in array.ravel()]
        return np.array([*texts, None], dtype=object)[:-1].reshape(array.shape)
    return array
