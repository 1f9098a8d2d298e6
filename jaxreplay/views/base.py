"""What views share: the protocol, and the reading of columns.

A view is a frozen dataclass (hashable: it shapes the compiled program) with three methods. It says which steps around a
drawn row to read, field by field, and makes the batch of them with a pure function. To write one::

    @dataclasses.dataclass(frozen=True)
    class RewardToCome:                       # the sum of this reward and the next, within the episode
        def columns(self, layout):
            return {"reward": (0, 1)}         # offsets from the row; past the episode's end, its last step again

        def usable(self, span):
            return None                       # or [B] bool: which rows it can start from

        def batch(self, step, span):          # step: the user's structure, leaves [B, W, ...], None where not asked
            return step.reward[:, 0] + jnp.where(span.after > 0, step.reward[:, 1], 0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxreplay import ring, rings
from jaxreplay.layout import Layout
from jaxreplay.rings import Rings, Span
from jaxreplay.types import PyTree, Rows

Offset = int | Callable[[Span], jax.Array]
"""How many steps after the row: a number, or a function of the span that gives `[B]` int32. It must be hashable."""

Columns = Mapping[str, tuple[Offset, ...]]
"""For each part of a step, by path (`"observation"`, `"extras.log_prob"`, or `""` for all), the offsets to read."""


class View(Protocol):
    """How rows become a batch; see the module's docstring for the contract and an example."""

    def columns(self, layout: Layout) -> Columns:
        """Say what to read. Raises ValueError where the stored structure lacks what the view needs."""
        ...

    def usable(self, span: Span) -> jax.Array | None:
        """Say which valid rows the view can start from, `[B]` bool; None for all."""
        ...

    def batch(self, step: PyTree, span: Span) -> PyTree:
        """Make the batch. Rows with `span.valid` False come as zeros and must give zeros."""
        ...


def read(rings_: Rings, rows: Rows, view: View) -> tuple[PyTree, Span]:
    """Read rows `[B]` through a view: the batch, and where it came from. Rows that cannot be read give zeros."""
    span = rings.find(rings_, rows)
    step = _read_columns(rings_, rows, span, view.columns(rings_.layout))
    return view.batch(step, span), span


def need_parts(columns: Columns, layout: Layout, view: str) -> Columns:
    """Return `columns`, or raise ValueError naming the parts that the stored structure lacks."""
    unknown = [part for part in columns if not any(_is_below(path, part) for path in layout.paths)]
    if unknown:
        raise ValueError(
            f"{view}: the stored steps have no {', '.join(map(repr, unknown))}; their leaves: "
            f"{', '.join(layout.paths)}. Name the parts in the view's arguments."
        )
    return columns


def _is_below(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(part + ".")


def _read_columns(rings_: Rings, rows: Rows, span: Span, columns: Columns) -> PyTree:
    """Gather what `columns` asks for: the user's structure with leaves `[B, W, ...]`, None where nothing was asked."""
    stored = rings_.layout
    out: list[jax.Array | None] = []
    for leaf_index, leaf in enumerate(stored.leaves):
        asked = [part for part in columns if _is_below(leaf.path, part)]
        if not asked:
            out.append(None)
            continue
        follows = leaf.next_of is not None
        places = [_place(rings_, rows, span, o, follows) for o in columns[max(asked, key=len)]]
        slot = jnp.stack([slot for slot, _ in places], axis=-1)
        env = jnp.stack([env for _, env in places], axis=-1)
        out.append(rings.gather_leaf(rings_, leaf_index if leaf.next_of is None else leaf.next_of, slot, env))
    return jax.tree.unflatten(stored.treedef, out)


def _place(rings_: Rings, rows: Rows, span: Span, offset: Offset, follows: bool) -> tuple[jax.Array, jax.Array]:
    """The slot and env of the step `offset` after each row, kept within the held part of the row's episode, `[B]`.

    Of a leaf that follows from another, the value at a step is the other's one step later; after the episode's newest
    step that is in the episode's record. Rows that are not valid are placed at the zero slot.
    """
    if not follows and isinstance(offset, int) and offset == 0:
        return span.slot, span.env
    steps = jnp.int32(offset) if isinstance(offset, int) else offset(span)
    steps = jnp.clip(steps, -span.before, span.after) + int(follows)
    ages = jnp.where(span.valid, ring.age(rings_.clock, rows.time) - steps, 1)
    slot = ring.slot_of_age(rings_.clock, jnp.maximum(ages, 1), rings_.num_slots)
    slot = jnp.where(steps > span.after, span.record, slot)
    return jnp.where(span.valid, slot, rings_.num_slots), span.env
