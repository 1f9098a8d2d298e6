"""Recording: environments whose steps, actions and episodes are kept as they happen, and played again.

The names below are imported when they are first used, so that `import jaxreplay.record` needs no Gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxreplay.record.action_files import load_actions, save_actions
    from jaxreplay.record.action_record import ActionRecord, as_policy, clip
    from jaxreplay.record.actions import RecordActions
    from jaxreplay.record.collecting import collect
    from jaxreplay.record.conversion import convert_trajectory
    from jaxreplay.record.dataset_conversion import convert_dataset
    from jaxreplay.record.playback import Playback
    from jaxreplay.record.recorder import BufferFull
    from jaxreplay.record.replaying import ReplayReport, replay_actions
    from jaxreplay.record.rollouts import RolloutState, rollout
    from jaxreplay.record.transitions import RecordTransitions

_WHERE = {
    "ActionRecord": "action_record",
    "BufferFull": "recorder",
    "Playback": "playback",
    "RecordActions": "actions",
    "RecordTransitions": "transitions",
    "ReplayReport": "replaying",
    "RolloutState": "rollouts",
    "as_policy": "action_record",
    "clip": "action_record",
    "collect": "collecting",
    "convert_dataset": "dataset_conversion",
    "convert_trajectory": "conversion",
    "load_actions": "action_files",
    "replay_actions": "replaying",
    "rollout": "rollouts",
    "save_actions": "action_files",
}

__all__ = [
    "ActionRecord",
    "BufferFull",
    "Playback",
    "RecordActions",
    "RecordTransitions",
    "ReplayReport",
    "RolloutState",
    "as_policy",
    "clip",
    "collect",
    "convert_dataset",
    "convert_trajectory",
    "load_actions",
    "replay_actions",
    "rollout",
    "save_actions",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_WHERE[name]}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gymnasium":
            raise
        raise ImportError(f"record.{name} needs Gymnasium: pip install 'jaxreplay[gym]'") from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
