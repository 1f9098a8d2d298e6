"""What views share: the protocol, and the reading of columns.

A view is a frozen dataclass (hashable: it shapes the compiled program) with three methods. It says which steps around a
drawn row to read, field by field, and makes the batch of them with a pure function. To write one::

    @dataclasses.dataclass(frozen=True)
    class RewardToCome:                       # the sum of this reward and the next, within the episode
        def columns(self, layout):
            return {"reward": (0, 1)}         # offsets from the row; past the episode's end, its last step again

        def usable(self, span):
            return None                       # or [B] bool: which rows it can start from

        def batch(self, step, span):          # step: the user's structure, None where nothing was asked
            return step.reward[:, 0] + jnp.where(span.after > 0, step.reward[:, 1], 0)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import clock as ring
from jaxreplay._core import rings, trees
from jaxreplay._core.layout import Layout, Leaf
from jaxreplay._core.rings import Rings, Span
from jaxreplay.types import PyTree

Steps = int | Callable[[Span], jax.Array]
"""How many steps after the row: a number, or a hashable function of the span that gives `[B]` int32."""

Fill = Literal["edge", "zero"]
"""What is read outside the held part of the episode: its nearest step again, or zeros."""


@dataclasses.dataclass(frozen=True)
class At:
    """One column to read: the step that is `steps` after the row, with `fill` outside the episode.

    frame: for a part that another follows from, and for that other: read the part's own value so many steps on (or
        back) from that step, up to the final value after the episode's newest step; `frame_fill` outside the episode.
    """

    steps: Steps
    fill: Fill = "edge"
    frame: int | None = None
    frame_fill: Fill = "edge"


@dataclasses.dataclass(frozen=True)
class Stack:
    """One column that is several, stacked along a new axis of the leaf: 0 the first, -1 the last."""

    columns: tuple[At, ...]
    axis: int


Column = Steps | At | Stack
Columns = Mapping[str, Column | tuple[Column, ...]]
"""For each part of a step, by path (`"observation"`, `"extras.log_prob"`, `""` for all), the W columns to read, which
give leaves `[B, W, ...]`; or a single one, not in a tuple, which gives `[B, ...]`."""


class View(Protocol):
    """How rows become a batch; see the module's docstring for the contract and an example.

    A view may have more attributes. `reach`: the steps of an env that the ring must have room for, else ValueError.
    `num_bits`: how many random words `span.bits` it needs a row. `completes`: how many steps after a row the ones come
    that may make it usable. `narrow(rings, span)`: the span with other steps before and after. `needs`: in words, what
    a row must have around it to be usable, for error messages.
    """

    def columns(self, layout: Layout) -> Columns:
        """Say what to read. Raises ValueError where the stored structure lacks what the view needs."""
        ...

    def usable(self, span: Span) -> jax.Array | None:
        """Say which valid rows the view can start from, `[B]` bool; None for all."""
        ...

    def batch(self, step: PyTree, span: Span) -> PyTree:
        """Make the batch. Rows with `span.valid` False come as zeros and must give zeros."""
        ...


class Over:
    """What a view over another one, its `base`, passes on."""

    base: View

    @property
    def reach(self) -> int:
        return getattr(self.base, "reach", 0)

    @property
    def num_bits(self) -> int:
        return getattr(self.base, "num_bits", 0)

    @property
    def completes(self) -> tuple[int, ...]:
        return getattr(self.base, "completes", ())

    @property
    def needs(self) -> str:
        return getattr(self.base, "needs", "")

    def usable(self, span: Span) -> jax.Array | None:
        return self.base.usable(span)

    def narrow(self, rings_: Rings, span: Span) -> Span:
        return narrow(self.base, rings_, span)


def narrow(view: View, rings_: Rings, span: Span) -> Span:
    """The span as a view narrows it, if it does."""
    narrows = getattr(view, "narrow", None)
    return span if narrows is None else narrows(rings_, span)


def read(rings_: Rings, span: Span, view: View) -> PyTree:
    """Read the rows of a span `[B]` through a view. Rows that are not valid give zeros."""
    reach = getattr(view, "reach", 0)
    if reach > rings_.num_slots:
        raise ValueError(f"{view} needs {reach} steps of an env, and the ring holds only {rings_.num_slots}")
    span = narrow(view, rings_, span)
    return view.batch(_read_columns(rings_, span, view.columns(rings_.layout)), span)


def refuses(view: View) -> bool:
    """Whether there are rows that can be read and that the view cannot start from."""
    usable: Callable[[Span], jax.Array | None] = view.usable
    number, flag = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.bool_))
    names = [field.name for field in dataclasses.fields(Span) if field.name != "bits"]
    example: dict[str, Any] = {name: flag if name in ("valid", "open") else number for name in names}
    return jax.eval_shape(usable, Span(**example)) is not None


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


def need_leaf(layout: Layout, part: str, view: str, argument: str) -> Leaf:
    """Return the leaf that a part is, or raise ValueError naming those that it has."""
    found = [leaf for leaf in layout.leaves if trees.is_below(leaf.path, part)]
    if [leaf.path for leaf in found] != [part]:
        names = ", ".join(leaf.path for leaf in found) or "none"
        pick = f": pick one, as {argument}={found[0].path!r}" if found else ""
        raise ValueError(f"{view}: {argument} must be one array, and {part!r} has the leaves {names}{pick}")
    return found[0]


def columns_of(columns: Columns, path: str) -> tuple[tuple[At | Stack, ...], bool]:
    """The columns asked for of the leaf at `path`, and whether a single one was: by the longest path that names it."""
    asked = [part for part in columns if trees.is_below(path, part)]
    if not asked:
        return (), False
    found = columns[max(asked, key=len)]
    single = not isinstance(found, tuple)
    each = (found,) if single else found
    return tuple(c if isinstance(c, At | Stack) else At(c) for c in each), single


def _read_columns(rings_: Rings, span: Span, columns: Columns) -> PyTree:
    """Gather what `columns` asks for: the user's structure, None where nothing was asked."""
    stored = rings_.layout
    wanted, single = zip(*(columns_of(columns, leaf.path) for leaf in stored.leaves), strict=True)
    out: list[jax.Array | None] = [None] * len(stored.leaves)
    readers: dict[int, list[int]] = {}  # the leaves that are read from each stored one
    for i, leaf in enumerate(stored.leaves):
        if wanted[i]:
            readers.setdefault(i if leaf.next_of is None else leaf.next_of, []).append(i)
    for source, leaves in readers.items():
        leaves.sort(key=lambda i: stored.leaves[i].next_of is not None)  # so that frames lie in order of time
        keys = {i: _keys(wanted[i], stored.leaves[i].next_of is not None) for i in leaves}
        union = list(dict.fromkeys(key for i in leaves for key in keys[i]))
        shares = len(union) < sum(map(len, keys.values()))
        for group in [leaves] if shares else [[i] for i in leaves]:  # what shares frames is one gather
            asked = union if shares else keys[group[0]]
            got = rings.gather_bits(rings_, source, *places(rings_, span, asked))
            for i in group:
                picked = got if keys[i] == asked else _pick(got, [asked.index(key) for key in keys[i]])
                leaf = _stack(rings.decode_leaf(rings_, source, picked), wanted[i])
                out[i] = jnp.squeeze(leaf, 1) if single[i] else leaf
    return jax.tree.unflatten(stored.treedef, out)


def _keys(columns: tuple[At | Stack, ...], follows: bool) -> list[tuple[At, bool]]:
    """What to gather for columns: each once, and whether it is the value one step later."""
    flat = [at for column in columns for at in (column.columns if isinstance(column, Stack) else (column,))]
    return [(at, follows and at.frame is None) for at in flat]


def _pick(x: jax.Array, columns: list[int]) -> jax.Array:
    """Columns of `[B, W, ...]`; neighbours are a slice, which costs nothing where it is fused."""
    first = columns[0]
    if columns == list(range(first, first + len(columns))):
        return x[:, first : first + len(columns)]
    return jnp.stack([x[:, c] for c in columns], axis=1)


def _stack(x: jax.Array, columns: tuple[At | Stack, ...]) -> jax.Array:
    """Take `[B, W * n, ...]` apart where columns are stacks of n: `[B, W, n, ...]`, or with n where the stack says."""
    stack = columns[0]
    if not isinstance(stack, Stack):
        return x
    x = x.reshape(x.shape[0], len(columns), len(stack.columns), *x.shape[2:])
    return jnp.moveaxis(x, 2, stack.axis if stack.axis < 0 else 2 + stack.axis)


def places(rings_: Rings, span: Span, keys: list[tuple[At, bool]]) -> tuple[jax.Array, jax.Array]:
    """The slots and envs of columns, `[B, W]` each; the zero slot for rows that are not valid, and for zero filling.

    Of a leaf that follows from another, the value at a step is the other's one step later; after the episode's newest
    step that is in the episode's record.
    """
    if keys == [(At(0), False)]:
        return jnp.where(span.valid, span.slot, rings_.num_slots)[:, None], span.env[:, None]
    ats = [at for at, _ in keys]
    beyond = np.array([[follows or at.frame is not None for at, follows in keys]])  # may be one step past the newest
    shift = np.array([[int(follows) if at.frame is None else at.frame for at, follows in keys]], np.int32)
    row = jax.tree.map(lambda x: x[:, None], span)
    steps, least, most = _steps(span, [at.steps for at in ats])
    # Only what can be outside is clipped: what a view does not need to know of its rows is then not read.
    nearest = jnp.minimum(steps, row.after) if most > 0 else steps
    nearest = jnp.maximum(nearest, -row.before) if least < 0 else nearest
    wanted = at = nearest + shift if shift.any() else nearest
    if (shift > beyond).any():
        at = jnp.minimum(at, row.after + beyond.astype(np.int32))
    if shift.min() < 0:
        at = jnp.maximum(at, -row.before)
    known = row.valid
    if any(at.fill == "zero" for at in ats):
        known &= np.array([[at.fill == "edge" for at in ats]]) | (nearest == steps)
    if any(at.frame is not None and at.frame_fill == "zero" for at in ats):
        known &= np.array([[at.frame is None or at.frame_fill == "edge" for at in ats]]) | (at == wanted)
    slot = ring.slot_of_age(rings_.clock, ring.age(rings_.clock, row.time) - at, rings_.num_slots)
    if beyond.any():
        slot = jnp.where(beyond & (at > row.newest), row.record, slot)
    slot = jnp.where(known, slot, rings_.num_slots)
    return slot, jnp.broadcast_to(row.env, slot.shape)


def _steps(span: Span, steps: list[Steps]) -> tuple[jax.Array, float, float]:
    """How many steps after the row columns are, `[1, W]`, or `[B, W]` where a row decides; the least and the most."""
    known = [step for step in steps if isinstance(step, int)]
    if len(known) == len(steps):
        return jnp.array([known], jnp.int32), min(known), max(known)
    shape = span.time.shape
    each = [jnp.full(shape, x, jnp.int32) if isinstance(x, int) else x(span) for x in steps]
    return jnp.stack(each, axis=-1), -math.inf, math.inf


def check_view(view: Any) -> View:
    """Return the view, or raise TypeError saying what came instead."""
    methods = (getattr(view, name, None) for name in ("columns", "usable", "batch"))
    if isinstance(view, type) or not all(map(callable, methods)):
        called = "; call it: the parentheses are missing" if callable(view) else ""
        raise TypeError(f"view: expected a view, as views.transition(), got {view!r}{called}")
    return view


def check_fill(fill: str | None) -> Fill:
    """Return the fill, "edge" for None (what is read there is of no account), or raise ValueError."""
    if fill not in ("edge", "zero", None):
        raise ValueError(f"fill: expected 'edge', 'zero' or None, got {fill!r}")
    return cast(Fill, fill or "edge")
