"""Views of data sets that stay where they are: the rows that a batch needs are read on the host, and no others.

Where the steps around a row are is worked out by the view's own code, in rings as `to_buffer` would fill them, of which
only the sizes exist: a slot is a step's place in time, and the slot of an episode's record is its final observation.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay import buffer as core
from jaxreplay._core.clock import Clock
from jaxreplay._core.gather import Plan, find_places
from jaxreplay._core.layout import Layout, arrange
from jaxreplay._core.rings import MAX_INDEX, Rings, Span
from jaxreplay.datasets.columns import Reads, gather, narrow_tree, place, read_column
from jaxreplay.datasets.store import Store
from jaxreplay.datasets.trajectory import PARTS
from jaxreplay.sources.base import VIEW
from jaxreplay.types import PyTree
from jaxreplay.views import View
from jaxreplay.views.base import check_view, plan

OF_STEP = {"observation": "observations", "action": "actions", "reward": "rewards", "extras": "extras"}
BLOCK = 2**18  # rows that are asked for at once whether a view can start from them


class NeedsRings(Exception):
    """A view reads more of the rings than where rows are, as one that goes on past the end of an episode."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rings `[T, 1]` of which nothing can be read."""

    num_records: int
    num_slots: int

    def sizes(self, arrays: Any) -> tuple[int, int]:
        return self.num_slots, 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("_") else NeedsRings(name)


class Viewed:
    """The steps of a data set through a view. narrow: as in `Dataset.to_buffer`. Raises NeedsRings, see there."""

    def __init__(self, store: Store, view: View, narrow: bool) -> None:
        self.store, self.view, self.narrow = store, check_view(view), narrow
        table = store.table
        example = jax.tree.map(lambda x: x[0], narrow_tree(gather(store, np.zeros(1, np.int64)), narrow))
        layout: Layout = jax.eval_shape(lambda: core.create(example, 2)).rings.layout
        unfinished = ~(table.terminated | table.truncated)  # `to_buffer` closes these by a void row
        self.first_time = np.cumsum(table.length + unfinished) - (table.length + unfinished)
        self.num_slots = int(self.first_time[-1] + table.length[-1] + unfinished[-1])
        if self.num_slots + store.num_episodes >= MAX_INDEX:
            raise ValueError(f"{view}: there are {store.num_steps} steps, more than 31-bit numbers reach")
        self.sizes = Sizes(store.num_episodes, self.num_slots)
        self.layout, self.plan = layout, plan(view, layout, self.num_slots)
        self.columns = _columns_of(layout)
        self.made_of: tuple[Any, list[int | None]] | None = None  # how the batch is built, once that is known
        _find(self._span(np.zeros(1, np.int64), self._bits(None, 1)), self.view, self.layout, self.sizes)

    def _bits(self, key: Any, count: int) -> Any:
        """Draw the random words of rows, as `take` does."""
        if not self.view.num_bits:
            return None
        key = jax.random.key(0) if key is None else key
        return jax.random.bits(jax.random.fold_in(key, VIEW), (count, self.view.num_bits), jnp.uint32)

    def steps_at(self, time: np.ndarray) -> np.ndarray:
        """Say which step each time is of, -1 where there is none."""
        episode = np.searchsorted(self.first_time, time, side="right") - 1
        at, length = time - self.first_time[episode], self.store.table.length[episode]
        return np.where(at < length, self.store.ends[episode] - length + at, -1)

    def starts(self, steps: np.ndarray) -> np.ndarray:
        """Tell from which steps the view can start, `[N]` bool."""
        if not self.view.refuses:
            return np.ones(len(steps), np.bool_)
        found = []
        for first in range(0, len(steps), BLOCK):
            some = steps[first : first + BLOCK]
            padded = np.pad(some, (0, min(BLOCK, 1 << (len(steps) - 1).bit_length()) - len(some)), mode="edge")
            span = self._span(padded, self._bits(None, len(padded)))
            found.append(np.asarray(_usable(span, self.view, self.layout, self.sizes))[: len(some)])
        return np.concatenate(found) if found else np.zeros(0, np.bool_)

    def _span(self, steps: np.ndarray, bits: Any) -> Span:
        valid = steps >= 0
        episode, at = place(self.store, np.maximum(steps, 0))
        length = self.store.table.length[episode]
        held = lambda x, other=0: np.where(valid, x, other).astype(np.int32)  # noqa: E731
        time, after = self.first_time[episode] + at, length - 1 - at
        return Span(
            valid=valid,  # type: ignore[arg-type]
            time=held(time),  # type: ignore[arg-type]
            env=held(0),  # type: ignore[arg-type]
            slot=held(time, self.num_slots),  # type: ignore[arg-type]
            before=held(at),  # type: ignore[arg-type]
            after=held(after),  # type: ignore[arg-type]
            newest=held(after),  # type: ignore[arg-type]
            index=held(at),  # type: ignore[arg-type]
            open=np.zeros(len(steps), np.bool_),  # type: ignore[arg-type]
            record=held(self.num_slots + 1 + episode, self.num_slots),  # type: ignore[arg-type]
            number=held(episode),  # type: ignore[arg-type]
            bits=bits,
        )

    def reads(
        self, steps: np.ndarray, key: Any = None
    ) -> tuple[Reads, Callable[[list[np.ndarray]], tuple[PyTree, Any]]]:
        """Say what is to be read for steps `[B]`, -1 for none, and how `(data, mask)` are made of it."""
        span = self._span(steps, self._bits(key, len(steps)))
        span, slots = _find(span, self.view, self.layout, self.sizes)
        episode, at = place(self.store, np.maximum(steps, 0))
        reads: Reads = []
        makers = []
        for one, slot in zip(self.plan.gathers, map(np.asarray, slots), strict=True):
            offset = slot.astype(np.int64) - np.where(steps >= 0, self.first_time[episode] + at, 0)[:, None]
            length = self.store.table.length[episode][:, None]
            where = np.where(slot > self.num_slots, length, np.where(slot == self.num_slots, 0, at[:, None] + offset))
            zero = slot == self.num_slots
            made: dict[int, int] = {}
            for take in one.takes:
                source = self.plan.reads[take.leaf]
                assert source is not None
                if source.source not in made:
                    made[source.source] = len(reads)
                    reads.append(self._read(self.columns[source.source], episode, where))
                makers.append((take, source, made[source.source], zero))
        return reads, functools.partial(self._make, makers, span)

    def _read(self, column: tuple[str, int], episode: np.ndarray, at: np.ndarray) -> Any:
        """Say how to read a column at steps `at` `[B, W]` of episodes `[B]`; one past the last is what followed it."""
        part, leaf = column
        table = self.store.table
        if part in PARTS:
            first = table.observation if part == "observations" else table.step
            columns = [jax.tree.leaves(getattr(chunk, part))[leaf] for chunk in self.store.chunks]
            chunk = np.repeat(table.chunk[episode], at.shape[1])
            return columns, chunk, (first[episode][:, None] + at).reshape(-1)
        flag = getattr(table, part)[episode][:, None] & (at == table.length[episode][:, None] - 1)
        return [flag.reshape(-1)], np.zeros(flag.size, np.int64), np.arange(flag.size)

    def _make(self, makers: Any, span: Span, values: list[np.ndarray]) -> tuple[PyTree, Any]:
        leaves: list[Any] = [None] * len(self.plan.reads)
        for take, source, number, zero in makers:
            value = values[number].reshape(*zero.shape, *values[number].shape[1:])
            if zero.any():
                value[zero] = 0
            chosen = take.places
            whole = chosen == tuple(range(chosen[0], chosen[0] + len(chosen)))
            value = value[:, chosen[0] : chosen[0] + len(chosen)] if whole else value[:, list(chosen)]
            leaves[take.leaf] = arrange(value, source.stack, source.axis, source.single)
        step = narrow_tree(jax.tree.unflatten(self.layout.treedef, leaves), self.narrow)
        if self.made_of is None:
            self.made_of = _trace_batch(self.view, step, span)
        treedef, made_of = self.made_of
        computed = tuple(i for i, at in enumerate(made_of) if at is None)
        own = iter(_compute(step, span, self.view, computed) if computed else ())
        given = jax.tree.leaves(step)
        return jax.tree.unflatten(treedef, [next(own) if at is None else given[at] for at in made_of]), span.valid

    def read(self, steps: np.ndarray, key: Any = None) -> tuple[PyTree, Any]:
        """Read steps `[B]`, -1 for none: the view's batch and its mask; NumPy arrays where nothing is computed."""
        reads, make = self.reads(steps, key)
        return make([read_column(*each) for each in reads])


def _columns_of(layout: Layout) -> list[tuple[str, int]]:
    """Say for each leaf of a transition which leaf of which part of trajectories it is, or which flag."""
    seen: dict[str, int] = {}
    found = []
    for path in layout.paths:
        head = path.partition(".")[0]
        part = OF_STEP.get(head, head)
        found.append((part, seen.get(part, 0)))
        seen[part] = seen.get(part, 0) + 1
    return found


def _rings(layout: Layout, sizes: Sizes) -> Rings:
    time = jnp.int32(sizes.num_slots)
    clock = Clock(time=time, head=jnp.int32(0), held=time)
    unread: Any = sizes
    return Rings(arrays=(), clock=clock, envs=unread, episode_data=unread, layout=layout, memory=unread)


def _usable_span(rings: Rings, span: Span, view: View) -> Span:
    if not view.refuses:
        return span
    span = view.widen(rings, span)
    return span.replace(valid=span.valid & view.usable(span))


@functools.partial(jax.jit, static_argnames=("view", "layout", "sizes"))
def _usable(span: Span, view: View, layout: Layout, sizes: Sizes) -> jax.Array:
    return _usable_span(_rings(layout, sizes), span, view).valid


@functools.partial(jax.jit, static_argnames=("view", "layout", "sizes"))
def _find(span: Span, view: View, layout: Layout, sizes: Sizes) -> tuple[Span, list[jax.Array]]:
    rings = _rings(layout, sizes)
    span = view.narrow(rings, _usable_span(rings, span, view))
    of_view: Plan = plan(view, layout, sizes.num_slots)
    return span, [find_places(rings, span, one.places)[0] for one in of_view.gathers]


def _trace_batch(view: View, step: PyTree, span: Span) -> tuple[Any, list[int | None]]:
    """Say how the batch is built, and which leaf of what was read each of its leaves is, None if it is computed."""
    program, batch = jax.make_jaxpr(view.batch, return_shape=True)(step, span)
    came = {id(x): i for i, x in enumerate(program.jaxpr.invars[: len(jax.tree.leaves(step))])}
    return jax.tree.structure(batch), [came.get(id(x)) for x in program.jaxpr.outvars]


@functools.partial(jax.jit, static_argnames=("view", "computed"))
def _compute(step: PyTree, span: Span, view: View, computed: tuple[int, ...]) -> list[jax.Array]:
    leaves = jax.tree.leaves(view.batch(step, span))
    return [leaves[i] for i in computed]
