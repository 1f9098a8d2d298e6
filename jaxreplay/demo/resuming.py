"""A run of the demo in a checkpoint: its state, the tests so far and the settings, committed together."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay import checkpoint
from jaxreplay.demo import dqn


@dataclasses.dataclass
class Progress:
    """How far a run is. state: with the axis of seeds first. tests: by name, `[chunks, num_seeds]`, zeros to come."""

    state: dqn.State
    tests: dict[str, np.ndarray]
    done: int = 0


def save(folder: pathlib.Path, settings: dqn.Settings, seeds: Sequence[int], progress: Progress) -> None:
    """Save a run over what was saved of it before."""
    checkpoint.save(folder, _tree(settings, seeds, progress))


def resume(folder: pathlib.Path, settings: dqn.Settings, seeds: Sequence[int], fresh: Progress) -> Progress | None:
    """Load a run, or None where none was saved. fresh: as it begins, its state may be shapes.

    Raises ValueError where it was one of other settings.
    """
    expected = _tree(settings, seeds, fresh)
    try:
        found = checkpoint.load(folder, expected)
    except FileNotFoundError:
        return None
    differences = [
        f"{name}: {found['settings'][name]} was saved, {value} is asked for"
        for name, value in expected["settings"].items()
        if found["settings"][name] != value
    ]
    if not np.array_equal(found["seeds"], expected["seeds"]):
        differences.append(f"seeds: {found['seeds'].tolist()} was saved, {list(seeds)} is asked for")
    if differences:
        raise ValueError(f"{folder} holds another run: {'; '.join(differences)}. Give its flags, or another folder")
    return Progress(found["state"], found["tests"], found["done"])


def _tree(settings: dqn.Settings, seeds: Sequence[int], progress: Progress) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(settings),
        "seeds": np.array(seeds),
        "state": progress.state,
        "tests": progress.tests,
        "done": progress.done,
    }


def start(settings: dqn.Settings, seeds: jax.Array) -> dqn.State:
    """Make the state that the training of every seed begins with."""
    return jax.vmap(lambda seed: dqn.start(settings, jax.random.key(seed)))(seeds)
