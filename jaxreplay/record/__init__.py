"""Recording: environments whose steps, actions and episodes are kept as they happen, and played again.

Without Gymnasium this can be imported; the names that need it then raise ImportError, which names the extra.
"""

from typing import Any

from jaxreplay.record.actions.files import load_actions, save_actions
from jaxreplay.record.actions.record import ActionRecord, VectorActionRecord
from jaxreplay.record.rollouts import RolloutState, rollout
from jaxreplay.record.transitions.recorder import BufferFull

try:
    from jaxreplay.record.actions.replay import ReplayReport, replay_actions
    from jaxreplay.record.actions.wrapper import RecordActions
    from jaxreplay.record.agents import AgentsAsEnvs
    from jaxreplay.record.collecting import CollectReport, collect, collect_episodes
    from jaxreplay.record.playback.convert import convert_dataset, convert_trajectory
    from jaxreplay.record.playback.env import Playback
    from jaxreplay.record.transitions.wrapper import RecordTransitions
except ImportError as error:
    if (error.name or "").partition(".")[0] != "gymnasium":
        raise

__all__ = [
    "ActionRecord",
    "AgentsAsEnvs",
    "BufferFull",
    "CollectReport",
    "Playback",
    "RecordActions",
    "RecordTransitions",
    "ReplayReport",
    "RolloutState",
    "VectorActionRecord",
    "collect",
    "collect_episodes",
    "convert_dataset",
    "convert_trajectory",
    "load_actions",
    "replay_actions",
    "rollout",
    "save_actions",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        raise ImportError(f"record.{name} needs Gymnasium: pip install 'jaxreplay[gym]'")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
