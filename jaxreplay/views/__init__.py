"""Views: how rows become a batch. `base` documents how to write one."""

from jaxreplay.views._compose import compose, map, select
from jaxreplay.views._episode import WithEpisode, with_episode
from jaxreplay.views._frame_stack import frame_stack
from jaxreplay.views._frames import Frames, init_frames, push_frames
from jaxreplay.views._hindsight import hindsight
from jaxreplay.views._n_step import NStepTransition, n_step
from jaxreplay.views._ravel import ravel, unravel
from jaxreplay.views._sequence import Sequence, sequence
from jaxreplay.views._transition import transition
from jaxreplay.views._window import Window, offsets, window
from jaxreplay.views.base import At, Stack, View

__all__ = [
    "At",
    "Frames",
    "NStepTransition",
    "Sequence",
    "Stack",
    "View",
    "Window",
    "WithEpisode",
    "compose",
    "frame_stack",
    "hindsight",
    "init_frames",
    "map",
    "n_step",
    "offsets",
    "push_frames",
    "ravel",
    "select",
    "sequence",
    "transition",
    "unravel",
    "window",
    "with_episode",
]
