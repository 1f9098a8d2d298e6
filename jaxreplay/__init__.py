"""Replay and trajectory data for reinforcement and imitation learning, written for JAX."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from jaxreplay import restoring, samplers, views
from jaxreplay._episodes import episode_data, episodes, num_episodes, sample_episodes, set_episode_data
from jaxreplay._priorities import importance_weights, priorities, sequence_priorities, set_priorities
from jaxreplay.buffer import append, clear, create, extend, put, remove
from jaxreplay.closing import end_episodes
from jaxreplay.in_place import check_in_place
from jaxreplay.inspection import can_sample, capacity, newest, nth, rows, size, stats
from jaxreplay.processes import local_step
from jaxreplay.resizing import resize
from jaxreplay.sampling import epoch, pop, sample, take
from jaxreplay.sources.concat import concat
from jaxreplay.sources.dividing import split, subset
from jaxreplay.sources.mixture import mixture
from jaxreplay.spaces import example_transition
from jaxreplay.state import Buffer
from jaxreplay.types import Episodes, Rows, Sample, SourceRows, Stats, Transition

if TYPE_CHECKING:
    from jaxreplay import checkpoint, convert, datasets, plot, record, storage

restoring.register()

__version__ = "0.2.0"

__all__ = [
    "Buffer",
    "Episodes",
    "Rows",
    "Sample",
    "SourceRows",
    "Stats",
    "Transition",
    "append",
    "can_sample",
    "capacity",
    "check_in_place",
    "checkpoint",
    "clear",
    "concat",
    "convert",
    "create",
    "datasets",
    "end_episodes",
    "episode_data",
    "episodes",
    "epoch",
    "example_transition",
    "extend",
    "importance_weights",
    "local_step",
    "mixture",
    "newest",
    "nth",
    "num_episodes",
    "plot",
    "pop",
    "priorities",
    "put",
    "record",
    "remove",
    "resize",
    "rows",
    "sample",
    "sample_episodes",
    "samplers",
    "sequence_priorities",
    "set_episode_data",
    "set_priorities",
    "size",
    "split",
    "stats",
    "storage",
    "subset",
    "take",
    "views",
]


def __getattr__(name: str) -> ModuleType:
    """Import the parts that the core does not need when they are first used."""
    if name in ("checkpoint", "convert", "datasets", "plot", "record", "storage"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
