"""Drawing whole episodes: `sample_episodes`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay._core.loops import find_interval
from jaxreplay._episodes import live_records, need_episodes
from jaxreplay.buffer import Buffer
from jaxreplay.sampling import take
from jaxreplay.state import check_buffer
from jaxreplay.types import Rows, Sample, out_of_range_unless


def sample_episodes(buffer: Buffer, key: jax.Array, n: int, max_length: int, complete: bool = True) -> Sample:
    """Draw n episodes uniformly, with replacement: `Sample`, leaves `[n, max_length, ...]`, padded with zeros.

    Each begins with its oldest held step and is cut after `max_length` of them; `mask` `[n, max_length]` says which
    steps are there (removed ones are not), `probability` `[n]` is the episode's.
    complete: draw only episodes that have ended and of which no step was overwritten; False admits open ones, and the
    held part of old ones.

    Costs one pass over the records of episodes. Raises ValueError for independent items, and outside jit where no
    episode can be drawn.
    """
    check_buffer("sample_episodes", buffer)
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
    chosen = jnp.minimum(find_interval(ends, nth), ends.shape[0] - 1)
    start, length = found.start.ravel()[chosen], found.length.ravel()[chosen]
    overwritten = jnp.maximum(oldest - start, 0)
    step = jnp.arange(max_length, dtype=jnp.int32)[None]
    within = (count > 0) & (step < (length - overwritten)[:, None])
    time = (start + overwritten)[:, None] + step
    env = jnp.broadcast_to((chosen % stored.num_envs)[:, None], time.shape)
    got = take(buffer, out_of_range_unless(within, Rows(time=time, env=env)))
    probability = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1).astype(jnp.float32), 0.0)
    return got.replace(probability=jnp.broadcast_to(probability, (n,)))
