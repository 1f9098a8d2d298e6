"""Batches for training loops on the host, brought to the device ahead of time."""

import collections
import concurrent.futures
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from flax import struct

from jaxreplay import sampling
from jaxreplay._core import trees
from jaxreplay.buffer import Buffer
from jaxreplay.datasets.buffers import make_buffer, step_numbers
from jaxreplay.datasets.columns import gather, narrow_tree
from jaxreplay.datasets.store import Store
from jaxreplay.samplers import uniform
from jaxreplay.types import PyTree
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
) -> Iterator[Batch]:
    """Go through all steps in batches; see `Dataset.batches`."""
    trees.check_key(key)
    for name, value, least in (("batch_size", batch_size, 1), ("epochs", epochs, 1), ("prefetch", prefetch, 0)):
        trees.check_count(name, value, least)
    if view is None:
        return _transition_batches(store, key, batch_size, epochs, drop_remainder, prefetch, narrow)
    buffer = make_buffer(store, None, uniform(), None, None, narrow, None)
    return _view_batches(buffer, key, batch_size, view, epochs, drop_remainder)


def _transition_batches(
    store: Store, key: jax.Array, batch_size: int, epochs: int, drop_remainder: bool, prefetch: int, narrow: bool
) -> Iterator[Batch]:
    """Make batches of transitions, gathered on the host; only `prefetch` of them are on the device ahead of use."""

    def make(rows: np.ndarray) -> Batch:
        data = narrow_tree(gather(store, np.maximum(rows, 0)), narrow)
        for column in jax.tree.leaves(data):
            column[rows < 0] = 0  # of the batch's own copy
        return Batch(*jax.device_put((data, rows >= 0, rows.astype(np.int32))))

    count = store.num_steps
    num_batches = count // batch_size if drop_remainder else -(-count // batch_size)

    def orders() -> Iterator[np.ndarray]:
        for epoch in range(epochs):
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count)).astype(np.int64)
            padded = np.pad(order, (0, max(0, num_batches * batch_size - count)), constant_values=-1)
            yield from padded[: num_batches * batch_size].reshape(num_batches, batch_size)

    return ahead(map(make, orders()), prefetch)


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
