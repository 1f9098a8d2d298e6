"""Views: how rows become a batch. `base` documents how to write one."""

from jaxreplay.views.base import View
from jaxreplay.views.n_step import NStepTransition, n_step
from jaxreplay.views.transition import transition

__all__ = ["NStepTransition", "View", "n_step", "transition"]
