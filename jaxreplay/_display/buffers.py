"""How a buffer shows itself. Of its arrays are read: three scalars and a few numbers an env, and a bounded sample of
episodes' records and priorities. What it costs does not grow with the capacity."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxreplay._core import lookup, trees
from jaxreplay._core.clock import is_held
from jaxreplay._core.layout import OWN_WORDS
from jaxreplay._core.rings import Rings
from jaxreplay._display import charts
from jaxreplay._display.arrays import fetch, num_bytes, why_unreadable
from jaxreplay._display.panel import Panel, Table, bytes_text
from jaxreplay.types import PyTree, Rows

SAMPLED = 512  # records of episodes, and priorities, that are read at most, over all buffers of a batch


class Figures(struct.PyTreeNode):
    """What a display reads of a buffer.

    time, held: slices appended, and kept. size: `[E]` int32, rows that can be read. begun: `[E]` int32, the number of
    the newest episode, counted from 1. open: `[E]` bool. length: `[n, E]` int32, of the newest episodes, 0 where there
    is none. priority: `[N]` float32, of rows at even distances, 0 where a row cannot be drawn; None without priorities.
    """

    time: Any
    held: Any
    size: Any
    begun: Any
    open: Any
    length: Any
    priority: Any


@functools.partial(jax.jit, static_argnames=("sampler", "axes", "limit"))
def read_figures(rings: Rings, state: PyTree, sampler: Any, axes: int, limit: int) -> Figures:
    """Read the figures; of a batch of buffers with so many `axes`, of each. limit: of episodes and of priorities."""
    if axes:
        return jax.vmap(lambda rings, state: read_figures(rings, state, sampler, axes - 1, limit))(rings, state)
    envs, length, priority = rings.envs, jnp.zeros((0, rings.num_envs), jnp.int32), None
    if rings.num_records:
        count = min(rings.num_records, max(1, limit // rings.num_envs))
        number = envs.number[None] - jnp.arange(count, dtype=jnp.int32)[:, None]
        slot = lookup.record_slot(rings, jnp.maximum(number, 0))
        env = jnp.broadcast_to(jnp.arange(rings.num_envs, dtype=jnp.int32), slot.shape)
        start, newest = lookup.own_words(rings, slot, env, "episodes")
        length = jnp.where((number >= 0) & is_held(rings.clock, newest), newest - start + 1, 0)
    if hasattr(sampler, "priorities"):
        rows = _spread(rings, limit)
        priority = sampler.priorities(state, rings, rows)
    return Figures(
        rings.clock.time, rings.clock.held, lookup.counts(rings), envs.number + 1, envs.open, length, priority
    )


def _spread(rings: Rings, count: int) -> Rows:
    """Give up to `count` rows `[N]` at about even distances over the whole ring, env by env in turn."""
    total = rings.num_slots * rings.num_envs
    at = np.arange(min(total, count), dtype=np.int64) * total // min(total, count)
    ages, env = (at // rings.num_envs + 1).astype(np.int32), (at % rings.num_envs).astype(np.int32)
    return Rows(time=rings.clock.time - jnp.asarray(ages), env=jnp.asarray(env))


def sizes_of(buffer: Any) -> tuple[tuple[int, ...], int, int, int] | None:
    """Read sizes off shapes, see `Buffer.sizes`; None where JAX put others in the place of arrays."""
    try:
        return buffer.sizes
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


def is_split(buffer: Any, axes: int) -> bool:
    """Tell whether an array is split over devices within a buffer, so that reading parts of it could gather it whole.

    axes: those of a batch of buffers; devices that hold some of the batch each read their own.
    """
    leaves = [x for x in jax.tree.leaves((buffer.rings.arrays, buffer.sampler_state)) if isinstance(x, jax.Array)]
    return any(x.sharding.shard_shape(x.shape)[axes:] != x.shape[axes:] for x in leaves)


def buffer_panel(buffer: Any) -> Panel:
    """Show what a buffer is made for, and where its values can be read, how full it is, of what."""
    rings, sizes = buffer.rings, sizes_of(buffer)
    if sizes is None:
        return Panel("Buffer", [("holds", "other things in the place of its arrays")])
    batch, count, num_slots, each = sizes
    joined = buffer.stack is not None and buffer.stack.joined
    batch, num_envs = (batch, count * each) if joined or buffer.stack is None else ((*batch, count), each)
    facts = [("batch", f"{' x '.join(map(str, batch))} buffers, each of:")] if batch else []
    shape = "a single stream" if buffer.single else f"{num_slots:,} slots x {num_envs:,} envs"
    facts.append(("capacity", f"{num_slots * num_envs:,} steps: {shape}"))
    figures, why = None, why_unreadable(buffer)
    if not why and not isinstance(rings.arrays[0], jax.Array):
        why = "on the host, as NumPy arrays"
    if not why and (joined or is_split(buffer, len(batch))):
        held = fetch(rings.clock.held) * each
        why = f"{_each(held.sum(-1) if joined else held)} steps are held; what is split over devices is not read"
    if not why:
        limit = max(1, SAMPLED // math.prod(batch)) if batch else SAMPLED
        figures = fetch(read_figures(rings, buffer.sampler_state, buffer.sampler, len(batch), limit))
        why = "" if figures else "traced: its values are not known yet"
    facts += [("size", why)] if figures is None else _size_facts(figures, num_slots, num_envs)
    if rings.num_records:
        facts += _episode_facts(figures, rings.num_records * num_envs)
    facts.append(("sampler", repr(buffer.sampler)))
    if buffer.episode_end is not None:
        ends = buffer.episode_end
        facts.append(("episode ends", ends.__qualname__ if callable(ends) else " or ".join(ends)))
    facts.append(("bytes", f"{bytes_text(sum(map(num_bytes, jax.tree.leaves(buffer))))}{_device(rings, why)}"))
    parts = [] if figures is None else _charts(figures, num_slots)
    return Panel("Buffer", facts, [*parts, _structure(rings, num_slots * num_envs)])


def _size_facts(figures: Figures, num_slots: int, num_envs: int) -> list[tuple[str, str]]:
    size, held = figures.size.sum(-1), figures.held * num_envs
    other = np.maximum(held - size, 0)
    facts = [("size", f"{_each(size)} steps that can be read ({(size / (num_slots * num_envs)).mean():.0%})")]
    if other.any():
        facts.append(("not readable", f"{_each(other)} void, removed or lost; replay.stats(buffer) tells which"))
    return [*facts, ("appended", f"{_each(figures.time)} slices")]


def _episode_facts(figures: Figures | None, most: int) -> list[tuple[str, str]]:
    if figures is None:
        return [("episodes", f"records of {most:,} at most")]
    begun, going = figures.begun.sum(-1), figures.open.sum(-1)
    return [("episodes", f"{_each(begun)} begun, {_each(going)} open; records of {most:,} are kept")]


def _each(values: np.ndarray) -> str:
    """Write one number, or the range of those of a batch of buffers."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _charts(figures: Figures, num_slots: int) -> list[charts.Chart]:
    """Draw how full each env is, or each buffer of a batch; lengths; priorities."""
    size, held = figures.size, figures.held[..., None]
    names, other = "env", np.maximum(held - size, 0)
    if held.ndim > 1:
        names, size, other = "buffer", size.mean(-1).ravel(), other.mean(-1).ravel()
    kinds = [("readable", size), ("void, removed or lost", other)]
    made = [charts.fill(f"fill of the ring, by {names}", names, kinds, num_slots)]
    lengths = figures.length[figures.length > 0]
    if lengths.size:
        made.append(charts.histogram(f"lengths of the newest {lengths.size:,} episodes", lengths, "steps"))
    if figures.priority is not None and (drawable := figures.priority[figures.priority > 0]).size:
        made.append(charts.histogram(f"priorities of {drawable.size:,} rows that can be drawn", drawable, ""))
    return made


def _structure(rings: Rings, capacity: int) -> Table:
    """List the leaves of a step, and how each is stored."""
    own = 4 * OWN_WORDS
    rows = [("(episode, number)", "int32[2]", "the library's own", f"{own}", bytes_text(own * capacity))]
    for leaf in rings.layout.leaves:
        how, size = "packed with others", 4 * leaf.num_words
        if leaf.next_of is not None:
            how, size = f"next {rings.layout.leaves[leaf.next_of].path}, not stored", 0
        elif leaf.array:
            how, size = "an array of its own", leaf.num_bytes
        rows.append((leaf.path, trees.describe(leaf.shape, leaf.dtype), how, f"{size:,}", bytes_text(size * capacity)))
    return Table("structure of a step", ("leaf", "array", "stored", "bytes a step", "in all"), rows, words=3)


def _device(rings: Rings, why: str) -> str:
    """Name the device, or count them, where the arrays have one."""
    array = rings.arrays[0]
    if why.startswith(("traced", "donated")) or not isinstance(array, jax.Array):
        return ""
    devices = list(array.sharding.device_set)
    return f" on {devices[0]}" if len(devices) == 1 else f" on {len(devices)} devices"
