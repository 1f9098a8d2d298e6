"""What a view is. To write one, subclass `View`: a frozen dataclass, since its settings shape the compiled program.

A view says which steps around a drawn row to read, field by field, and makes the batch of them with a pure function::

    @dataclasses.dataclass(frozen=True)
    class RewardToCome(replay.views.View):    # the sum of this reward and the next, within the episode
        def columns(self, layout):
            return {"reward": (0, 1)}         # offsets from the row; past the episode's end, its last step again

        def batch(self, step, span):          # step: the user's structure, None where nothing was asked
            return step.reward[:, 0] + jnp.where(span.after > 0, step.reward[:, 1], 0)
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, cast

import jax

from jaxreplay._core import gather, lookup, trees
from jaxreplay._core.gather import At, Column, Columns, Fill, Plan, Stack, Steps, as_columns
from jaxreplay._core.layout import Layout, Leaf
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree, Rows

__all__ = ["At", "Column", "Columns", "Fill", "Over", "Stack", "Steps", "View", "as_columns"]


@dataclasses.dataclass(frozen=True)
class View:
    """How rows become a batch; see the module's docstring for an example.

    A view gives `columns` and `batch`. One that cannot start from every row gives `usable`, and may give:
    needs: in words, what a row must have around it to be usable, for error messages.
    completes: how many steps after a row the ones come that may make it usable, for `prioritized(view=...)`.
    Any view may give:
    reach: the steps of an env that the ring must have room for. num_bits: the random words `span.bits` it needs a row.
    narrow: the span with other steps before and after, or with what else of the rings `batch` needs.
    widen: the span of rows from which it reads on past their episode's end; `usable` is asked of that one.
    grid: it starts from rows at multiples of so many slices of time alone. to_start: see there.
    whole: it starts from no row if one of the next `reach` is removed.
    """

    @property
    def reach(self) -> int:
        return 0

    @property
    def num_bits(self) -> int:
        return 0

    @property
    def completes(self) -> tuple[int, ...] | None:
        return None

    @property
    def grid(self) -> int:
        return 1

    @property
    def whole(self) -> bool:
        return False

    @property
    def needs(self) -> str:
        return ""

    @functools.cached_property
    def refuses(self) -> bool:
        """Whether there are rows that can be read and that the view cannot start from."""
        return type(self).usable is not View.usable

    def columns(self, layout: Layout) -> Columns:
        """Say what to read. Raises ValueError where the stored structure lacks what the view needs."""
        raise NotImplementedError(f"{type(self).__name__}.columns")

    def usable(self, span: Span) -> jax.Array:
        """Say which valid rows the view can start from, `[B]` bool; not asked unless `refuses`."""
        return span.valid

    def widen(self, rings: Rings, span: Span) -> Span:
        return span

    def narrow(self, rings: Rings, span: Span) -> Span:
        return span

    def to_start(self, rings: Rings, rows: Rows) -> Rows:
        """Move rows `[B]` of the ring, void and removed ones too, to rows that it may start from, for uniform draws.

        Equally many of all rows that are held must go to each row that it starts from.
        """
        return rows

    def batch(self, step: PyTree, span: Span) -> PyTree:
        """Make the batch. Rows with `span.valid` False come as zeros and must give zeros."""
        raise NotImplementedError(f"{type(self).__name__}.batch")

    def find(self, rings: Rings, rows: Rows) -> Span:
        """Say where rows `[B]` are: `valid` where they can be read and the view can start from them."""
        span = lookup.find(rings, rows)
        if not self.refuses:
            return span
        span = self.widen(rings, span)
        return span.replace(valid=span.valid & self.usable(span))

    def look_up(self, rings: Rings, rows: Rows) -> tuple[Span, jax.Array]:
        """Say where rows `[B]` are, and again which of them are valid: what a draw is told of its candidates."""
        span = self.find(rings, rows)
        return span, span.valid

    def starts(self, rings: Rings, rows: Rows) -> jax.Array:
        """Tell from which rows `[B]` the view can start: those that can be read and are usable."""
        return self.find(rings, rows).valid if self.refuses else lookup.is_valid(rings, rows)

    def read(self, rings: Rings, span: Span) -> PyTree:
        """Make the batch of the rows of a span `[B]`. Rows that are not valid give zeros."""
        span = self.narrow(rings, span)
        return self.batch(gather.gather(rings, span, plan(self, rings.layout, rings.num_slots)), span)


class Over(View):
    """A view over another one, its `base`: it reads and starts where that one does."""

    base: View

    @property
    def reach(self) -> int:
        return self.base.reach

    @property
    def num_bits(self) -> int:
        return self.base.num_bits

    @property
    def completes(self) -> tuple[int, ...] | None:
        return self.base.completes

    @property
    def grid(self) -> int:
        return self.base.grid

    @property
    def whole(self) -> bool:
        return self.base.whole

    @property
    def needs(self) -> str:
        return self.base.needs

    @functools.cached_property
    def refuses(self) -> bool:
        return self.base.refuses

    def columns(self, layout: Layout) -> Columns:
        return self.base.columns(layout)

    def usable(self, span: Span) -> jax.Array:
        return self.base.usable(span)

    def widen(self, rings: Rings, span: Span) -> Span:
        return self.base.widen(rings, span)

    def narrow(self, rings: Rings, span: Span) -> Span:
        return self.base.narrow(rings, span)

    def to_start(self, rings: Rings, rows: Rows) -> Rows:
        return self.base.to_start(rings, rows)

    def batch(self, step: PyTree, span: Span) -> PyTree:
        return self.base.batch(step, span)


@functools.lru_cache(maxsize=256)
def plan(view: View, layout: Layout, num_slots: int) -> Plan:
    """Make the reading plan of a view, once. Raises ValueError where the view cannot read such a buffer."""
    if view.reach > num_slots:
        raise ValueError(f"{view} needs {view.reach} steps of an env, and the ring holds only {num_slots}")
    return gather.make_plan(view.columns(layout), layout)


def check_reads(view: View, buffers: Iterable[Any]) -> None:
    """Raise ValueError where the view cannot read one of these buffers, whatever they hold."""
    for buffer in buffers:
        plan(view, buffer.rings.layout, buffer.num_slots)


def need_episodes(layout: Layout, view: str) -> None:
    """Raise ValueError for independent items, around which there is no episode."""
    if not layout.episodic:
        raise ValueError(f"{view}: this buffer holds independent items; create it with episode_end to have episodes")


def need_parts(columns: Columns, layout: Layout, view: str) -> Columns:
    """Return `columns`, or raise ValueError naming the parts that the stored structure lacks."""
    structure = jax.tree.unflatten(layout.treedef, layout.paths)
    unknown = [part for part in columns if not trees.has_part(structure, part)]
    if unknown:
        raise ValueError(
            f"{view}: the stored steps have no {', '.join(map(repr, unknown))}; their leaves: "
            f"{', '.join(layout.paths)}. Name the parts in the view's arguments."
        )
    return columns


def need_leaves(layout: Layout, parts: dict[str, str], view: str) -> list[Leaf]:
    """Return the leaf that each part is, by argument of the view, or raise ValueError naming those that it has."""
    below = [[leaf for leaf in layout.leaves if trees.is_below(leaf.path, part)] for part in parts.values()]
    for (argument, part), found in zip(parts.items(), below, strict=True):
        if [leaf.path for leaf in found] != [part]:
            names = ", ".join(leaf.path for leaf in found) or "none"
            pick = f": pick one, as {argument}={found[0].path!r}" if found else ""
            raise ValueError(f"{view}: {argument} must be one array, and {part!r} has the leaves {names}{pick}")
    return [found[0] for found in below]


def check_view(view: Any) -> View:
    """Return the view, or raise TypeError saying what came instead."""
    if isinstance(view, View):
        return view
    called = "; call it: the parentheses are missing" if callable(view) else ""
    if all(callable(getattr(view, name, None)) for name in ("columns", "batch")) and not isinstance(view, type):
        called = "; make its class a subclass of views.View"
    raise TypeError(f"view: expected a view, as views.transition(), got {view!r}{called}")


def check_fill(fill: str | None) -> Fill:
    """Return the fill, "edge" for None (what is read there is of no account), or raise ValueError."""
    if fill not in ("edge", "zero", None):
        raise ValueError(f"fill: expected 'edge', 'zero' or None, got {fill!r}")
    return cast(Fill, fill or "edge")
