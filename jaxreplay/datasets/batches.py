"""Batches for training loops on the host, brought to the device ahead of time."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from flax import struct

from jaxreplay import sampling
from jaxreplay._core import trees
from jaxreplay.buffer import Buffer
from jaxreplay.datasets.narrow import narrow_tree
from jaxreplay.datasets.store import Store, gather
from jaxreplay.types import PyTree
from jaxreplay.views import View

T = TypeVar("T")


class Batch(struct.PyTreeNode):
    """Steps on the device: `data`, leaves `[B, ...]`, and `mask` `[B]` bool, False where a last batch was filled up."""

    data: PyTree
    mask: jax.Array


def transition_batches(
    store: Store, key: jax.Array, batch_size: int, epochs: int, drop_remainder: bool, prefetch: int, narrow: bool
) -> Iterator[Batch]:
    """Batches of transitions, gathered on the host; only `prefetch` of them are on the device ahead of use."""

    def make(rows: np.ndarray) -> Batch:
        data = narrow_tree(gather(store, np.maximum(rows, 0)), narrow)
        if (rows < 0).any():
            data = jax.tree.map(lambda x: _zero_where(x, rows < 0), data)
        return Batch(*jax.device_put((data, rows >= 0)))

    count = store.num_steps
    num_batches = count // batch_size if drop_remainder else -(-count // batch_size)

    def orders() -> Iterator[np.ndarray]:
        for epoch in range(epochs):
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count)).astype(np.int64)
            padded = np.pad(order, (0, max(0, num_batches * batch_size - count)), constant_values=-1)
            yield from padded[: num_batches * batch_size].reshape(num_batches, batch_size)

    return ahead(map(make, orders()), prefetch)


def _zero_where(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[rows] = 0
    return out


def view_batches(
    buffer: Buffer, key: jax.Array, batch_size: int, view: View, epochs: int, drop_remainder: bool
) -> Iterator[Batch]:
    """Batches that a view makes of rows of a buffer that holds the data set on the device."""
    draws = getattr(view, "num_bits", 0)
    for epoch in range(epochs):
        order_key, view_key = jax.random.split(jax.random.fold_in(key, epoch))
        rows = sampling.epoch(buffer, order_key, batch_size, view)
        valid = np.asarray(rows.env >= 0).sum(axis=1)
        used = int((valid == batch_size).sum()) if drop_remainder else int((valid > 0).sum())
        for i in range(used):
            chosen = jax.tree.map(lambda x, i=i: x[i], rows)
            yield _take(buffer, chosen, view, jax.random.fold_in(view_key, i) if draws else None)


@functools.partial(jax.jit, static_argnames="view")
def _take(buffer: Buffer, rows: Any, view: View, key: jax.Array | None) -> Batch:
    sample = sampling.take(buffer, rows, view, key)
    return Batch(data=sample.data, mask=sample.mask)


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Go through `items`, of which a thread makes up to `count` before they are asked for.

    What it raises is raised here, in its place. The thread ends when the iterator is closed or let go.
    """
    if count == 0:
        yield from items
        return
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=count)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            goes_on, item = ready.get()
            if goes_on:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stopped.set()
        thread.join()


def check_arguments(key: Any, batch_size: Any, epochs: Any, prefetch: Any) -> None:
    """Raise TypeError or ValueError for a key that is none and numbers out of range."""
    trees.check_key(key)
    trees.check_count("batch_size", batch_size)
    trees.check_count("epochs", epochs)
    trees.check_count("prefetch", prefetch, least=0)
