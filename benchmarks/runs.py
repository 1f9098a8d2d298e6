"""What is put under the clock: many operations of one contestant, in a compiled loop or as calls from Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.contestants import Contestant
from benchmarks.timing import Run

BATCH = 256
Consume = Callable[[Any, jax.Array], jax.Array]
"""Makes one number of a batch; the second argument is 1, which the compiler does not know."""


def append_scan(contestant: Contestant, state: Any, steps: Any) -> Run:
    """Append step after step, leaves `[N, E, ...]` (`[N, ...]`), in one compiled loop, in place."""
    run = jax.jit(
        lambda state, steps: lax.scan(lambda s, x: (contestant.append(s, x), None), state, steps)[0], donate_argnums=0
    )
    held, steps = [state], contestant.step(steps)

    def once() -> Any:
        held[0] = run(held[0], steps)
        return held[0]

    return once


def append_calls(contestant: Contestant, state: Any, steps: Any, calls: int) -> Run:
    """Append by calls from Python, in place, each waited for."""
    run, held = jax.jit(contestant.append, donate_argnums=0), [state]
    each = [jax.tree.map(lambda x, i=i: x[i], contestant.step(steps)) for i in range(calls)]

    def once() -> Any:
        for step in each:
            held[0] = jax.block_until_ready(run(held[0], step))
        return held[0]

    return once


def both_scan(contestant: Contestant, state: Any, steps: Any, length: int) -> Run:
    """Append a step, then draw a batch, again and again, as a training loop does."""

    def run(state: Any, steps: Any, keys: jax.Array, once: jax.Array) -> Any:
        def body(carry: tuple[Any, jax.Array], x: tuple[Any, jax.Array]) -> tuple[tuple[Any, jax.Array], None]:
            state, total = carry
            state = contestant.append(state, x[0])
            return (state, total + peek(contestant.sample(state, x[1]), once)), None

        return lax.scan(body, (state, jnp.float32(0)), (steps, keys))[0]

    compiled, keys = jax.jit(run, donate_argnums=0), jax.random.split(jax.random.key(1), length)
    held, steps = [state], contestant.step(steps)

    def repeat() -> Any:
        held[0], total = compiled(held[0], steps, keys, jnp.int32(1))
        return total

    return repeat


def peek(batch: Any, once: jax.Array) -> jax.Array:
    """One number that needs every array of a batch to lie in memory, and reads one element of each.

    The compiler, which does not know that `once` is 1, must keep the inner loop, and cannot fuse what made the batch
    with what reads it, as it does with a plain sum. It is what handing the batch to another program would need.
    """

    def body(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + sum(leaf.ravel()[i].astype(jnp.float32) for leaf in jax.tree.leaves(batch))

    return lax.fori_loop(0, once, body, jnp.float32(0))


def add_up(batch: Any, once: jax.Array) -> jax.Array:
    """The sum of all elements: every byte is read, and the compiler may fuse the reading with the gathering."""
    return jnp.asarray(sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(batch)), jnp.float32)


def sample_scan(draw: Callable[[Any, jax.Array], Any], state: Any, length: int, consume: Consume = peek) -> Run:
    """Draw batch after batch in one compiled loop, and consume each."""

    def run(state: Any, keys: jax.Array, once: jax.Array) -> jax.Array:
        def body(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return total + consume(draw(state, key), once), None

        return lax.scan(body, jnp.float32(0), keys)[0]

    compiled, keys = jax.jit(run), jax.random.split(jax.random.key(1), length)
    return lambda: compiled(state, keys, jnp.int32(1))


def consume_scan(pool: Any, length: int, consume: Consume = peek, count: int = BATCH) -> Run:
    """The consumer alone: each time another `count` rows of `pool`, leaves `[N, ...]`, as they lie there.

    A batch that stays the same would be consumed once for all, outside the loop. For `peek` the cut would cost more
    than the consumer, so there it is always the first rows, kept in the loop by the inner one.
    """

    def draw(pool: Any, key: jax.Array) -> Any:
        if consume is peek:
            return lax.optimization_barrier((pool, key))[0]
        start = jax.random.key_data(key)[0] % jnp.uint32(len(jax.tree.leaves(pool)[0]) - count)
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start.astype(jnp.int32), count), pool)

    if consume is peek:
        pool = jax.tree.map(lambda x: x[:count], pool)
    return sample_scan(draw, pool, length, consume)


def sample_calls(contestant: Contestant, state: Any, calls: int) -> Run:
    """Draw by calls from Python, each waited for."""
    return draw_calls(contestant.sample, state, calls)


def draw_calls(draw: Callable[[Any, jax.Array], Any], state: Any, calls: int) -> Run:
    """The same for any function that draws."""
    run, keys = jax.jit(draw), list(jax.random.split(jax.random.key(1), calls))

    def once() -> Any:
        batch = None
        for key in keys:
            batch = jax.block_until_ready(run(state, key))
        return batch

    return once


def empty_calls(calls: int) -> Run:
    """What calling a compiled program costs by itself."""
    run, x = jax.jit(lambda x: x), jnp.zeros(4)
    return lambda: [jax.block_until_ready(run(x)) for _ in range(calls)][-1]


def gather(rows: jax.Array, key: jax.Array) -> jax.Array:
    """Draw rows of one array: the least that a sample inside a program does."""
    index = jax.random.bits(key, (BATCH,), jnp.uint32) % rows.shape[0]
    return rows.at[index].get(mode="promise_in_bounds")


def numpy_gather(rows: np.ndarray) -> Run:
    """Gather two batches of rows into memory that is there; other rows each time, so that no cache holds them."""
    index = itertools.cycle(np.random.default_rng(0).integers(0, len(rows), (200, 2, BATCH)))
    out = np.zeros((2, BATCH, *rows.shape[1:]), rows.dtype)

    def once() -> None:
        for target, chosen in zip(out, next(index), strict=True):
            np.take(rows, chosen, axis=0, out=target, mode="clip")

    return once
