"""Recording: environments whose steps, actions and episodes are kept as they happen, and played again.

The names below are imported when they are first used, so that `import jaxreplay.record` needs no Gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxreplay.record.actions.files import load_actions, save_actions
    from jaxreplay.record.actions.record import ActionRecord, as_policy, clip
    from jaxreplay.record.actions.replay import ReplayReport, replay_actions
    from jaxreplay.record.actions.wrapper import RecordActions
    from jaxreplay.record.collecting import collect
    from jaxreplay.record.playback.convert import convert_trajectory
    from jaxreplay.record.playback.convert_dataset import convert_dataset
    from jaxreplay.record.playback.env import Playback
    from jaxreplay.record.rollouts import RolloutState, rollout
    from jaxreplay.record.transitions.recorder import BufferFull
    from jaxreplay.record.transitions.wrapper import RecordTransitions

_WHERE = {
    "ActionRecord": "actions.record",
    "BufferFull": "transitions.recorder",
    "Playback": "playback.env",
    "RecordActions": "actions.wrapper",
    "RecordTransitions": "transitions.wrapper",
    "ReplayReport": "actions.replay",
    "RolloutState": "rollouts",
    "as_policy": "actions.record",
    "clip": "actions.record",
    "collect": "collecting",
    "convert_dataset": "playback.convert_dataset",
    "convert_trajectory": "playback.convert",
    "load_actions": "actions.files",
    "replay_actions": "actions.replay",
    "rollout": "rollouts",
    "save_actions": "actions.files",
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
