"""Views: how rows become a batch. `base` documents how to write one."""

from jaxreplay.views.base import At, Stack, View
from jaxreplay.views.compose import compose, map, select
from jaxreplay.views.frame_stack import frame_stack
from jaxreplay.views.hindsight import hindsight
from jaxreplay.views.n_step import NStepTransition, n_step
from jaxreplay.views.sequence import Sequence, sequence
from jaxreplay.views.transition import transition
from jaxreplay.views.window import Window, offsets, window

__all__ = [
    "At",
    "NStepTransition",
    "Sequence",
    "Stack",
    "View",
    "Window",
    "compose",
    "frame_stack",
    "hindsight",
    "map",
    "n_step",
    "offsets",
    "select",
    "sequence",
    "transition",
    "window",
]
