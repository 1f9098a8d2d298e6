"""The transition as it was appended."""

from __future__ import annotations

import dataclasses

from jaxreplay._core.layout import Layout
from jaxreplay._core.rings import Span
from jaxreplay.types import PyTree
from jaxreplay.views.base import Columns, View


def transition() -> TransitionView:
    """View each row as the step that was appended: the stored structure, leaves `[B, ...]`.

    A row's next observation is the next row's observation while the episode goes on, and the episode's final
    observation at its end or at its newest row.
    """
    return TransitionView()


@dataclasses.dataclass(frozen=True)
class TransitionView(View):
    """See `transition`."""

    def columns(self, layout: Layout) -> Columns:
        return {"": 0}

    def batch(self, step: PyTree, span: Span) -> PyTree:
        return step
