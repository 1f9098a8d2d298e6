"""Batches for training loops on the host, brought to the device ahead of time."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from flax import struct

from jaxreplay import sampling
from jaxreplay._core import trees
from jaxreplay.buffer import Buffer
from jaxreplay.datasets.buffers import make_buffer, step_numbers
from jaxreplay.datasets.columns import Reads, is_stored, narrow_tree, read_column, reads_of
from jaxreplay.datasets.store import Store
from jaxreplay.datasets.viewing import NeedsRings, Viewed
from jaxreplay.datasets.workers import run_in_order
from jaxreplay.samplers import uniform
from jaxreplay.types import PyTree, Transition
from jaxreplay.views import View

T = TypeVar("T")

_take = jax.jit(sampling.take, static_argnames="view")


class Batch(struct.PyTreeNode):
    """Steps on the device.

    data: leaves `[B, ...]`. mask: `[B]` bool, False where a last batch was filled up. steps: `[B]` int32, which steps
    of the data set they are, as `dataset[...]` and `dataset.infos` count them; -1 where `mask` is False.
    """

    data: PyTree
    mask: jax.Array
    steps: jax.Array


def make_batches(
    store: Store,
    key: jax.Array,
    batch_size: int,
    view: View | None,
    epochs: int,
    drop_remainder: bool,
    prefetch: int,
    narrow: bool,
    workers: int,
    processes: bool,
) -> Iterator[Batch]:
    """Go through all steps in batches; see `Dataset.batches`."""
    trees.check_key(key)
    counts = ("batch_size", batch_size, 1), ("epochs", epochs, 1), ("prefetch", prefetch, 0), ("workers", workers, 1)
    for name, value, least in counts:
        trees.check_count(name, value, least)
    if processes and not is_stored(store):
        raise ValueError("processes: they would each need a copy of a data set in memory; use threads, or a store")
    if view is None:
        jobs = _transition_jobs(store, key, batch_size, epochs, drop_remainder, narrow)
    elif is_stored(store) and store.num_episodes and (viewed := _view_in_place(store, view, narrow)) is not None:
        jobs = _view_jobs(viewed, key, batch_size, epochs, drop_remainder)
    else:
        buffer = make_buffer(store, None, uniform(), None, None, narrow, None)
        return _view_batches(buffer, key, batch_size, view, epochs, drop_remainder)
    return ahead(_work(jobs, workers, processes), prefetch)


def _view_in_place(store: Store, view: View, narrow: bool) -> Viewed | None:
    """Give the data set through a view, None for a view that needs a buffer."""
    try:
        return Viewed(store, view, narrow)
    except NeedsRings:
        return None


Job: TypeAlias = tuple[Reads, Callable[[list[np.ndarray]], Batch]]
"""What is to be read for a batch, and how it is made of that."""


def _work(jobs: Iterator[Job], workers: int, processes: bool) -> Iterator[Batch]:
    """Do the jobs in order. Workers read; which rows was decided here, so no two of them read the same batch."""
    makers = collections.deque[Callable[[list[np.ndarray]], Batch]]()

    def reads() -> Iterator[Reads]:
        for each, make in jobs:
            makers.append(make)
            yield each

    if workers == 1 and not processes:
        return (makers.popleft()(_read(each)) for each in reads())
    found = run_in_order(_read, reads(), max(workers, 2), processes, "batch")
    return (makers.popleft()(values) for values in found)


def _read(reads: Reads) -> list[np.ndarray]:
    return [read_column(*each) for each in reads]


def _transition_jobs(
    store: Store, key: jax.Array, batch_size: int, epochs: int, drop_remainder: bool, narrow: bool
) -> Iterator[Job]:
    """List the batches of transitions, read on the host; only those made ahead are on the device before their use."""

    def finish(rows: np.ndarray, make: Callable[[list[np.ndarray]], Transition], values: list[np.ndarray]) -> Batch:
        data = narrow_tree(make(values), narrow)
        for column in jax.tree.leaves(data) if (rows < 0).any() else ():
            column[rows < 0] = 0  # of the batch's own copy
        return Batch(*jax.device_put((data, rows >= 0, rows.astype(np.int32))))

    count = store.num_steps
    for epoch in range(epochs if count else 0):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count))
        for rows in _in_batches(order, batch_size, drop_remainder):
            reads, make = reads_of(store, np.maximum(rows, 0))
            yield reads, functools.partial(finish, rows, make)


def _in_batches(order: np.ndarray, batch_size: int, drop_remainder: bool) -> Iterator[np.ndarray]:
    """Cut rows in batches, int64, the last one filled up with -1 or left out."""
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size].astype(np.int64)
        if len(rows) == batch_size:
            yield rows
        elif not drop_remainder:
            yield np.pad(rows, (0, batch_size - len(rows)), constant_values=-1)


def _view_jobs(viewed: Viewed, key: jax.Array, batch_size: int, epochs: int, drop_remainder: bool) -> Iterator[Job]:
    """List the same batches as `_view_batches` makes of a buffer, of which only the rows that they need are read."""

    def finish(rows: np.ndarray, make: Callable[[list[np.ndarray]], Any], values: list[np.ndarray]) -> Batch:
        data, mask = make(values)
        return Batch(*jax.device_put((data, mask, rows.astype(np.int32))))

    for epoch in range(epochs):
        order_key, view_key = jax.random.split(jax.random.fold_in(key, epoch))
        order = np.asarray(jax.random.permutation(order_key, viewed.num_slots))
        steps = viewed.steps_at(order)
        steps = steps[steps >= 0]
        steps = steps[viewed.starts(steps)]
        for i, rows in enumerate(_in_batches(steps, batch_size, drop_remainder)):
            reads, make = viewed.reads(rows, jax.random.fold_in(view_key, i) if viewed.view.num_bits else None)
            yield reads, functools.partial(finish, rows, make)


def _view_batches(
    buffer: Buffer, key: jax.Array, batch_size: int, view: View, epochs: int, drop_remainder: bool
) -> Iterator[Batch]:
    """Read batches through a view from the rows of a buffer that holds the data set on the device."""
    for epoch in range(epochs):
        order_key, view_key = jax.random.split(jax.random.fold_in(key, epoch))
        rows = sampling.epoch(buffer, order_key, batch_size, view)
        valid = np.asarray(rows.env >= 0)
        steps = np.where(valid, step_numbers(buffer, np.asarray(rows.time)), -1).astype(np.int32)
        used = valid.sum(axis=1) >= (batch_size if drop_remainder else 1)  # the rows that can be read come first
        for i in range(int(used.sum())):
            chosen = jax.tree.map(lambda x, i=i: x[i], rows)
            sample = _take(buffer, chosen, view, jax.random.fold_in(view_key, i) if view.num_bits else None)
            yield Batch(sample.data, sample.mask, jax.device_put(steps[i]))


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Go through `items`, of which a thread makes up to `count` before they are asked for.

    What it raises is raised here, in its place. The thread ends when the iterator is closed or let go.
    """
    if count == 0:
        yield from items
        return
    end: Any = object()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        made = collections.deque(pool.submit(next, items, end) for _ in range(count))
        while (item := made.popleft().result()) is not end:
            made.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
