"""Priorities of stored rows, and the weights that make up for drawing by them (Schaul et al. 2016)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.buffer import check_rows
from jaxreplay.stacks import BUFFER, from_owner, is_sharded, on_parts, rows_axis
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Rows, Sample, SourceRows


def set_priorities(buffer: Buffer, rows: Rows | SourceRows, priorities: Any) -> Buffer:
    """Set the priorities of rows `[...]` to plain magnitudes `[...]`, as `abs(td_error) + 1e-6`; floating.

    Stale, void, removed and out-of-range rows are ignored, so a slow learner cannot poison newer data. If a row is
    given twice, the last value wins. NaN, negative and infinite priorities raise ValueError outside jit; inside it they
    leave the old priority in place. Raises ValueError for a sampler without priorities, and for shapes that differ.
    """
    _need_priorities("set_priorities", buffer)
    rows = check_rows(buffer, rows)
    shape, dtype = trees.shape_dtype("priorities", priorities)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"priorities: expected floating numbers, got {trees.describe(shape, dtype)}")
    if shape != rows.time.shape:
        raise ValueError(f"priorities: expected the shape of rows {list(rows.time.shape)}, got {list(shape)}")
    if trees.is_concrete(priorities):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            values = np.asarray(jax.device_get(priorities)).astype(np.float32)
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            raise ValueError(
                f"priorities: expected finite numbers of at least 0, got {values[wrong].ravel()[0]} "
                f"(and {int(wrong.sum()) - 1} more)"
            )
    return _set_priorities(buffer, rows, jnp.asarray(priorities))


@functools.partial(jax.jit, inline=True)
def _set_priorities(buffer: Buffer, rows: Rows, priorities: jax.Array) -> Buffer:
    if is_sharded(buffer):
        axis = rows_axis(buffer, rows)
        return on_parts(_set_priorities, buffer, (rows, priorities), (axis, axis), BUFFER)
    flat = jax.tree.map(jnp.ravel, rows)
    sampler: Any = buffer.sampler
    state = sampler.set_priorities(buffer.sampler_state, buffer.as_one, flat, priorities.ravel())
    return buffer.replace(sampler_state=state)


def priorities(buffer: Buffer, rows: Rows | SourceRows) -> jax.Array:
    """Read the priorities of rows `[...]`: plain magnitudes `[...]` float32, as `set_priorities` takes them.

    A row that was not set has the priority that it was appended with. Rows that cannot be read (stale, void, removed or
    out of range) give 0, as do rows of priority zero, which are never drawn either. A row that waits for the sampler's
    view gives the priority that it will have. The sampler keeps `priority**exponent`, so a magnitude comes back to
    about `1e-7 / exponent` of itself, and for the exponent 0 as 1. Raises ValueError for a sampler without priorities.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0)}, 8, sampler=replay.samplers.prioritized(1.0))
    >>> buffer = replay.extend(buffer, {"x": jnp.arange(3)})
    >>> rows = replay.Rows(time=jnp.arange(4), env=jnp.zeros(4, jnp.int32))
    >>> buffer = replay.set_priorities(buffer, rows, jnp.array([0.0, 3.0, 0.5, 7.0]))
    >>> replay.priorities(buffer, rows).tolist()
    [0.0, 3.0, 0.5, 0.0]
    """
    _need_priorities("priorities", buffer)
    return _priorities(buffer, check_rows(buffer, rows))


@functools.partial(jax.jit, inline=True)
def _priorities(buffer: Buffer, rows: Rows) -> jax.Array:
    if is_sharded(buffer):
        axis = rows_axis(buffer, rows)
        if axis is not None:
            return on_parts(_priorities, buffer, (rows,), (axis,), axis)
        return from_owner(buffer, rows, on_parts(lambda *args: _priorities(*args)[None], buffer, (rows,), (None,), 0))
    sampler: Any = buffer.sampler
    return sampler.priorities(buffer.sampler_state, buffer.as_one, jax.tree.map(jnp.ravel, rows)).reshape(
        rows.time.shape
    )


def _need_priorities(what: str, buffer: Buffer) -> None:
    """Raise unless it is a buffer whose sampler has a method of this name."""
    check_buffer(what, buffer)
    if not hasattr(buffer.sampler, what):
        raise ValueError(
            f"{what}: this buffer draws with {buffer.sampler}; create it with sampler=samplers.prioritized()"
        )


def importance_weights(sample: Sample, beta: Any) -> jax.Array:
    """Weigh the rows of a sample so that prioritized draws estimate a uniform mean: `[B]` float32, at most 1.

    `(N p)**-beta` over the largest of the batch, with N rows and probabilities p (Schaul et al. 2016, section 3.4); N
    cancels. beta: from 0, no correction, to 1, the full one; a number, which may be traced. Weights are 0 where the
    sample's mask is False or the probability 0, and all 1 for uniform draws. Raises TypeError for what is no sample or
    no number, and ValueError for a sample of episodes, whose rows have no probability of their own.
    """
    if not isinstance(sample, Sample):
        raise TypeError(f"sample: expected what replay.sample or replay.take gives, got {type(sample).__name__}")
    if sample.probability.shape != sample.mask.shape:
        raise ValueError("sample: its probabilities are those of episodes, not of rows; draw rows with replay.sample")
    shape, dtype = trees.shape_dtype("beta", beta)
    if shape or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"beta: expected a number, got {trees.describe(shape, dtype)}")
    return _importance_weights(sample.probability, sample.mask, beta)


@functools.partial(jax.jit, inline=True)
def _importance_weights(probability: jax.Array, mask: jax.Array, beta: Any) -> jax.Array:
    drawn = mask & (probability > 0)
    p = jnp.where(drawn, probability, 1.0)
    return jnp.where(drawn, (jnp.min(p, initial=1.0) / p) ** jnp.asarray(beta, jnp.float32), 0.0)


def sequence_priorities(errors: jax.Array, mask: jax.Array | None = None, mix: float = 0.9) -> jax.Array:
    """Make priorities `[B]` of the errors `[B, L]` of sequences: `mix * maximum + (1 - mix) * mean` of the magnitudes.

    mask: `[B, L]` bool, which steps count, as a `Sequence`'s `learn`; a sequence without any gets 0.
    Source: Kapturowski et al. 2019, section 2.3, with `mix` called eta. Raises ValueError or TypeError for a mask that
    is not like the errors, and for errors without an axis of steps.
    """
    shape, dtype = trees.shape_dtype("errors", errors)
    if not shape or jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(f"errors: expected numbers [B, L], got {trees.describe(shape, dtype)}")
    if mask is not None:
        trees.check_leaf("mask", mask, shape, np.dtype(bool), "It says of each error whether its step counts.")
    return _sequence_priorities(jnp.asarray(errors), mask, mix)


@functools.partial(jax.jit, inline=True)
def _sequence_priorities(errors: jax.Array, mask: jax.Array | None, mix: Any) -> jax.Array:
    size = jnp.abs(errors)
    if mask is None:
        mask = jnp.ones(size.shape, jnp.bool_)
    size = jnp.where(mask, size, 0)
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(size.dtype)
    mean = jnp.sum(size, axis=-1) / count
    return mix * jnp.max(size, axis=-1, initial=0) + (1 - mix) * mean
