"""The reading plan: what a view reads of each stored leaf, worked out once, and one gather an array that follows it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay._core.clock import age, slot_of_age
from jaxreplay._core.layout import Layout, arrange, from_raw
from jaxreplay._core.plain import Ring
from jaxreplay._core.rings import Rings, Span
from jaxreplay._core.words import decode_leaf, from_words
from jaxreplay.types import PyTree

Steps = int | Callable[[Span], jax.Array]
"""How many steps after the row: a number, or a hashable function of the span that gives `[B]` int32."""

Fill = Literal["edge", "zero"]
"""What is read outside the held part of the episode: its nearest step again, or zeros."""


@dataclasses.dataclass(frozen=True)
class At:
    """One column to read: the step that is `steps` after the row, with `fill` outside the episode.

    frame: for a part that another follows from, and for that other: which observation to read, counted from that step's
        own: 0 its own, 1 the one it led to, -3 three before; `frame_fill` outside the episode.
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


@dataclasses.dataclass(frozen=True)
class Place:
    """One step to read relative to a row: `at`, and `later`, whether the leaf is the value one step on (it follows)."""

    at: At
    later: bool

    @functools.cached_property
    def shift(self) -> int:
        """How many observations after the step's own."""
        return int(self.later) if self.at.frame is None else self.at.frame

    @functools.cached_property
    def beyond(self) -> bool:
        """Whether it may be one observation past the episode's newest step, in the episode's record."""
        return self.later or self.at.frame is not None


@dataclasses.dataclass(frozen=True)
class Read:
    """How one leaf is made: of `places` of the stored leaf `source`, in stacks of `stack` along `axis`, if not 0.

    single: the leaf is `[B, ...]`, without an axis of columns.
    """

    source: int
    places: tuple[Place, ...]
    stack: int
    axis: int
    single: bool


@dataclasses.dataclass(frozen=True)
class Take:
    """The leaf number `leaf` is made of some of the places that a gather reads, by their numbers there."""

    leaf: int
    places: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Gather:
    """One gather of rows of a stored array: the places it reads, and the leaves that are made of them."""

    array: int
    places: tuple[Place, ...]
    takes: tuple[Take, ...]

    @functools.cached_property
    def rings(self) -> tuple[Ring, ...]:
        """Which ring each place may be in."""
        names: dict[bool, Ring] = {False: "steps", True: "both"}
        return tuple(names[place.beyond] for place in self.places)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a view reads: how each leaf is made, None where it is not asked for, and the gathers that serve them."""

    reads: tuple[Read | None, ...]
    gathers: tuple[Gather, ...]

    @functools.cached_property
    def unshared(self) -> tuple[Gather, ...]:
        """The gathers, with one a leaf where they are of an array of large leaves."""
        found: list[Gather] = []
        for one in self.gathers:
            if not one.array:
                found.append(one)
                continue
            for take in one.takes:
                places = tuple(one.places[i] for i in take.places)
                found.append(Gather(one.array, places, (Take(take.leaf, tuple(range(len(places)))),)))
        return tuple(found)


def make_plan(columns: Columns, layout: Layout) -> Plan:
    """Work out the plan for what a view asks for. Leaves that read the same places of an array share a gather."""
    parts = trees.longest_parts(layout.paths, columns)
    reads = tuple(None if part is None else _read_of(layout, index, columns[part]) for index, part in enumerate(parts))
    of_source: dict[int, dict[int, Read]] = {}
    for index, read in enumerate(reads):
        if read is not None:
            of_source.setdefault(read.source, {})[index] = read
    takes: dict[tuple[int, tuple[Place, ...]], list[Take]] = {}
    for source, leaves in of_source.items():
        # What follows from another leaf comes last, so that frames lie in order of time.
        in_order = sorted(leaves, key=lambda index: layout.leaves[index].next_of is not None)
        every = tuple(dict.fromkeys(place for index in in_order for place in leaves[index].places))
        shared = len(every) < sum(len(read.places) for read in leaves.values())
        for index in in_order:
            places = every if shared else leaves[index].places
            numbers = tuple(places.index(place) for place in leaves[index].places)
            takes.setdefault((layout.leaves[source].array, places), []).append(Take(index, numbers))
    return Plan(reads, tuple(Gather(array, places, tuple(each)) for (array, places), each in takes.items()))


def as_columns(asked: Column | tuple[Column, ...]) -> tuple[tuple[At | Stack, ...], bool]:
    """List the columns that a view asks for of a part, and tell whether it asks for a single one."""
    single = not isinstance(asked, tuple)
    return tuple(c if isinstance(c, At | Stack) else At(c) for c in ((asked,) if single else asked)), single


def _read_of(layout: Layout, index: int, asked: Column | tuple[Column, ...]) -> Read:
    columns, single = as_columns(asked)
    follows = layout.leaves[index].next_of
    stack, axis, flat = 0, 0, []
    for column in columns:
        if isinstance(column, Stack):
            stack, axis = len(column.columns), column.axis
            flat += column.columns
        else:
            flat.append(column)
    places = tuple(Place(at, later=follows is not None and at.frame is None) for at in flat)
    return Read(index if follows is None else follows, places, stack, axis, single)


def gather(rings: Rings, span: Span, plan: Plan) -> PyTree:
    """Read what a plan says: the user's structure, None where nothing was asked. Rows that are not valid give zeros."""
    memory, layout = rings.memory, rings.layout
    out: list[jax.Array | None] = [None] * len(plan.reads)
    for one in plan.gathers if memory.shares_reads else plan.unshared:
        slot, env = find_places(rings, span, one.places)
        if one.array:
            rows = memory.read_leaf(rings.arrays, layout, one.array, slot, env)
        else:
            rows = memory.read_words(rings.arrays, layout, slot, env, one.rings, 0, layout.num_words)
        for take in one.takes:
            read = plan.reads[take.leaf]
            assert read is not None
            leaf = decode_leaf(layout, read.source, rows, take.places, memory.at_once)
            out[take.leaf] = arrange(leaf, read.stack, read.axis, read.single)
    return jax.tree.unflatten(layout.treedef, out)


def find_places(rings: Rings, span: Span, places: tuple[Place, ...]) -> tuple[jax.Array, jax.Array]:
    """Find the slots and envs of places around each row, `[B, W]` each; the zero slot where zeros are to be read.

    A place is outside the episode where its step is (then the nearest held step is read, or zeros), or where the
    observation counted from that step is. What follows the episode's newest step is in the episode's record. Only what
    can be outside is clipped: what a view does not need to know of its rows is then not read.
    """
    if places == (Place(At(0), False),):
        return jnp.where(span.valid, span.slot, rings.num_slots)[:, None], span.env[:, None]
    row: Span = jax.tree.map(lambda x: x[:, None], span)
    steps, least, most = _steps(span, places)
    step = jnp.minimum(steps, row.after) if most > 0 else steps
    step = jnp.maximum(step, -row.before) if least < 0 else step

    shift = np.array([[place.shift for place in places]], np.int32)
    beyond = np.array([[place.beyond for place in places]])
    wanted = frame = step + shift if shift.any() else step
    frame = jnp.minimum(frame, row.after + beyond.astype(np.int32)) if (shift > beyond).any() else frame
    frame = jnp.maximum(frame, -row.before) if shift.min() < 0 else frame

    known = row.valid
    zero = np.array([[place.at.fill == "zero" for place in places]])
    if zero.any():
        known &= ~zero | (step == steps)
    zero = np.array([[place.at.frame is not None and place.at.frame_fill == "zero" for place in places]])
    if zero.any():
        known &= ~zero | (frame == wanted)

    clock = rings.clock.of(row.env)
    slot = slot_of_age(clock, age(clock, row.time) - frame, rings.num_slots)
    slot = jnp.where(beyond & (frame > row.newest), row.record, slot) if beyond.any() else slot
    slot = jnp.where(known, slot, rings.num_slots)
    return slot, jnp.broadcast_to(row.env, slot.shape)


def _steps(span: Span, places: tuple[Place, ...]) -> tuple[jax.Array, float, float]:
    """Count the steps from the row to each place, `[1, W]`, or `[B, W]` if rows decide; also the least and the most."""
    steps = [place.at.steps for place in places]
    known = [step for step in steps if isinstance(step, int)]
    if len(known) == len(steps):
        return jnp.array([known], jnp.int32), min(known), max(known)
    shape = span.time.shape
    each = [jnp.full(shape, x, jnp.int32) if isinstance(x, int) else x(span) for x in steps]
    return jnp.stack(each, axis=-1), -math.inf, math.inf


def gather_leaf(rings: Rings, index: int, slot: jax.Array, env: jax.Array, ring: Ring = "steps") -> jax.Array:
    """Read one stored leaf at slots and envs of any one shape `[...]`: `[..., *shape]`."""
    leaf, memory = rings.layout.leaves[index], rings.memory
    if leaf.array:
        return from_raw(memory.read_leaf(rings.arrays, rings.layout, leaf.array, slot, env), leaf.dtype)
    words = memory.read_words(rings.arrays, rings.layout, slot, env, ring, leaf.word, leaf.num_words)
    return from_words(leaf, words, memory.at_once)
