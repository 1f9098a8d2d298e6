"""Reading rows through views: `sample`, `take`, `pop`, `epoch` and `sample_episodes`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay import rings, trees
from jaxreplay.buffer import Buffer, check_rows
from jaxreplay.contents import rows as all_rows
from jaxreplay.contents import size
from jaxreplay.episodes import live_records, need_episodes
from jaxreplay.rings import Rings
from jaxreplay.types import Rows, Sample
from jaxreplay.views import View, transition
from jaxreplay.views.base import read


def sample(buffer: Buffer, key: jax.Array, batch_size: int, view: View = transition()) -> Sample:  # noqa: B008
    """Draw a batch of rows with the buffer's sampler and read them through a view: `Sample`, leaves `[B, ...]`.

    Rows are drawn independently, each with the sampler's stated distribution over the rows that can be read and that
    the view can start from. The key decides everything. What could not be filled has `mask` False and zeros. Under jit
    that is all of an empty buffer; outside jit it raises ValueError.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"reward": jnp.float32(0)}, capacity=100)
    >>> buffer = replay.extend(buffer, {"reward": jnp.arange(10.0)})
    >>> batch = replay.sample(buffer, jax.random.key(0), batch_size=32)
    >>> batch.data["reward"].shape, bool(batch.mask.all())
    ((32,), True)
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    batch = _sample(buffer, key, batch_size, view)
    if trees.is_concrete(batch.mask) and not np.asarray(batch.mask).any() and int(size(buffer)) == 0:
        raise ValueError("the buffer is empty: append steps before sampling (replay.can_sample tells)")
    return batch


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _sample(buffer: Buffer, key: jax.Array, batch_size: int, view: View) -> Sample:
    stored = buffer.rings

    def usable(rows: Rows) -> jax.Array:
        return _usable(stored, rows, view)

    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    narrowed = jax.eval_shape(lambda x: view.usable(rings.find(stored, Rows(time=x, env=x))), one) is not None
    rows, found = buffer.sampler.draw(buffer.sampler_state, stored, key, batch_size, usable, narrowed)
    return _read(buffer, _stale_unless(stored, found, rows), view)


def take(buffer: Buffer, rows: Rows, view: View = transition()) -> Sample:  # noqa: B008
    """Read given rows `[...]` through a view: `Sample`, leaves `[..., *shape]`.

    Rows that are stale, void, removed or out of range, and those that the view cannot start from, come back with `mask`
    False and zeros. `probability` is that of drawing the row from the buffer.
    """
    return _take(buffer, check_rows(buffer, rows), view)


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _take(buffer: Buffer, rows: Rows, view: View) -> Sample:
    shape = rows.time.shape
    flat = jax.tree.map(jnp.ravel, rows)
    usable = _usable(buffer.rings, flat, view)
    got = _read(buffer, _stale_unless(buffer.rings, usable, flat), view)
    got = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), got)
    return got.replace(rows=rows)


def pop(buffer: Buffer, n: int) -> tuple[Buffer, Sample]:
    """Take the n oldest slices out, for on-policy learners: `(buffer, batch)`, the batch's leaves `[n, E, ...]`.

    They are consumed: their rows are stale afterwards. Where fewer than n slices are held, the rest has `mask` False.
    For a single stream the leaves are `[n, ...]`.
    """
    n = trees.check_count("n", n)
    if n > buffer.rings.num_slots:
        raise ValueError(f"n: {n} slices were asked for, and the ring holds at most {buffer.rings.num_slots}")
    return _pop(buffer, n)


@functools.partial(jax.jit, static_argnames="n", inline=True)
def _pop(buffer: Buffer, n: int) -> tuple[Buffer, Sample]:
    stored = buffer.rings
    time = stored.clock.time - stored.clock.held + jnp.arange(n, dtype=jnp.int32)
    if buffer.single:
        rows = Rows(time=time, env=jnp.zeros((n,), jnp.int32))
    else:
        env = jnp.arange(stored.num_envs, dtype=jnp.int32)
        rows = Rows(*jnp.broadcast_arrays(time[:, None], env[None]))
    batch = _take(buffer, rows, transition())
    clock = stored.clock.replace(held=jnp.maximum(stored.clock.held - n, 0))
    return buffer.replace(rings=stored.replace(clock=clock)), batch


def epoch(buffer: Buffer, key: jax.Array, batch_size: int, view: View = transition()) -> Rows:  # noqa: B008
    """Put every row that can be read, and that the view can start from, in random order: `Rows`, `[num_batches, B]`.

    The number of batches is that of a full ring, `ceil(T * E / B)`; past the last row come rows that nothing can read,
    so `take` gives them with `mask` False. Scan over it: `lax.scan(step, state, replay.epoch(buffer, key, 256))`.
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    return _epoch(buffer, key, batch_size, view)


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _epoch(buffer: Buffer, key: jax.Array, batch_size: int, view: View) -> Rows:
    stored = buffer.rings
    every, _ = all_rows(buffer)
    shuffled = jax.tree.map(lambda x: x[jax.random.permutation(key, every.time.shape[0])], every)
    valid = _usable(stored, shuffled, view)
    order = jnp.argsort(~valid, stable=True)
    rows = _stale_unless(stored, valid[order], jax.tree.map(lambda x: x[order], shuffled))
    batches = -(-order.shape[0] // batch_size)
    missing = batches * batch_size - order.shape[0]
    rows = jax.tree.map(lambda x: jnp.pad(x, (0, missing)), rows)
    rows = _stale_unless(stored, jnp.arange(batches * batch_size) < order.shape[0], rows)
    return jax.tree.map(lambda x: x.reshape(batches, batch_size), rows)


def sample_episodes(buffer: Buffer, key: jax.Array, n: int, max_length: int, complete: bool = True) -> Sample:
    """Draw n episodes uniformly, with replacement: `Sample`, leaves `[n, max_length, ...]`, padded with zeros.

    Each begins with its oldest held step and is cut after `max_length` of them; `mask` `[n, max_length]` says which
    steps are there (removed ones are not), `probability` `[n]` is the episode's.
    complete: draw only episodes that have ended and of which no step was overwritten; False admits open ones, and the
    held part of old ones.

    Costs one pass over the records of episodes. Raises ValueError for independent items, and outside jit where no
    episode can be drawn.
    """
    n, max_length = trees.check_count("n", n), trees.check_count("max_length", max_length)
    trees.check_key(key)
    need_episodes(buffer, "sample_episodes")
    batch = _sample_episodes(buffer, key, n, max_length, bool(complete))
    if trees.is_concrete(batch.mask) and not np.asarray(batch.mask).any():
        kind = "complete episode" if complete else "episode"
        raise ValueError(f"the buffer holds no {kind} to sample" + (" (see complete=False)" if complete else ""))
    return batch


@functools.partial(jax.jit, static_argnames=("n", "max_length", "complete"), inline=True)
def _sample_episodes(buffer: Buffer, key: jax.Array, n: int, max_length: int, complete: bool) -> Sample:
    stored = buffer.rings
    found = live_records(stored)
    oldest = stored.clock.time - stored.clock.held
    eligible = found.mask & (found.ended & (found.start - oldest >= 0) if complete else True)
    ends = jnp.cumsum(eligible.ravel(), dtype=jnp.int32)
    count = ends[-1]
    nth = jax.random.randint(key, (n,), 0, jnp.maximum(count, 1), jnp.int32)
    chosen = jnp.minimum(jnp.searchsorted(ends, nth, side="right").astype(jnp.int32), ends.shape[0] - 1)
    start, length = found.start.ravel()[chosen], found.length.ravel()[chosen]
    overwritten = jnp.maximum(oldest - start, 0)
    step = jnp.arange(max_length, dtype=jnp.int32)
    within = (count > 0) & (step < (length - overwritten)[:, None])
    time = (start + overwritten)[:, None] + step
    env = jnp.broadcast_to((chosen % stored.num_envs)[:, None], time.shape)
    got = _take(buffer, _stale_unless(stored, within, Rows(time=time, env=env)), transition())
    probability = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1).astype(jnp.float32), 0.0)
    return got.replace(probability=jnp.broadcast_to(probability, (n,)))


def _usable(stored: Rings, rows: Rows, view: View) -> jax.Array:
    span = rings.find(stored, rows)
    usable: Any = view.usable(span)
    return span.valid if usable is None else span.valid & usable


def _read(buffer: Buffer, rows: Rows, view: View) -> Sample:
    data, span = read(buffer.rings, rows, view)
    probability = buffer.sampler.probability(buffer.sampler_state, buffer.rings, rows)
    return Sample(data=data, rows=rows, probability=jnp.where(span.valid, probability, 0.0), mask=span.valid)


def _stale_unless(stored: Rings, keep: jax.Array, rows: Rows) -> Rows:
    """Make rows that are not to be read stale for ever: older than anything the ring can hold."""
    never = stored.clock.time - (stored.num_slots + 1)
    return Rows(time=jnp.where(keep, rows.time, never), env=rows.env)
