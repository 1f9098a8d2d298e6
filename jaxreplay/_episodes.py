"""Episodes: which there are, how each went, the user's data for each, and drawing whole ones."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import layout, trees
from jaxreplay._core.clock import is_last_of_equals, oldest
from jaxreplay._core.gather import gather_leaf
from jaxreplay._core.lookup import flat_index, has_record, record_slot
from jaxreplay._core.loops import find_interval
from jaxreplay._core.records import live_records, read_data
from jaxreplay._core.rings import nowhere
from jaxreplay.sampling import take
from jaxreplay.stacks import BUFFER, KEY, check_divides, is_sharded, num_parts, on_parts
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Episodes, PyTree, Rows, Sample, out_of_range_unless


def episodes(buffer: Buffer) -> Episodes:
    """List the episodes that have steps in the ring, oldest first: `Episodes`, `[K, E]` each.

    For a single stream the leaves are `[K]`. Raises ValueError for a buffer of independent items.
    """
    check_buffer("episodes", buffer)
    need_episodes(buffer, "episodes")
    return _episodes(buffer)


@functools.partial(jax.jit, inline=True)
def _episodes(buffer: Buffer) -> Episodes:
    if buffer.stack is not None:
        return on_parts(_episodes, buffer, (), (), 1, each=True)
    rings = buffer.rings
    found = live_records(rings)
    slot = jnp.where(found.mask, record_slot(rings, found.number), rings.num_slots)
    env = jnp.broadcast_to(jnp.arange(rings.num_envs, dtype=jnp.int32), slot.shape)
    followed = rings.layout.followed
    step = jax.tree.unflatten(
        rings.layout.treedef,
        [gather_leaf(rings, i, slot, env, "both") if i in followed else None for i in range(len(rings.layout.leaves))],
    )
    parts = {source: trees.get_part(step, source) for source in rings.layout.sources}
    found = found.replace(final_observation=next(iter(parts.values())) if len(parts) == 1 else parts)
    return jax.tree.map(lambda x: x[:, 0], found) if buffer.single else found


def num_episodes(buffer: Buffer) -> jax.Array:
    """Count the episodes that have a record and steps in the ring, open ones included; an int32 scalar."""
    check_buffer("num_episodes", buffer)
    if not buffer.rings.num_records:
        return jnp.zeros((), jnp.int32)
    return _num_episodes(buffer)


@functools.partial(jax.jit, inline=True)
def _num_episodes(buffer: Buffer) -> jax.Array:
    if is_sharded(buffer):
        return jnp.sum(on_parts(lambda part: _num_episodes(part)[None], buffer, (), (), 0), dtype=jnp.int32)
    return jnp.sum(live_records(buffer.as_one).mask, dtype=jnp.int32)


def episode_data(buffer: Buffer) -> PyTree:
    """Return the data kept for each episode, leaves `[K, E, ...]` (`[K, ...]`), in the order of `episodes(buffer)`.

    Zeros where none were set. Raises ValueError if the buffer was created without `episode_data`.
    """
    _need_data("episode_data", buffer)
    return _episode_data(buffer)


@functools.partial(jax.jit, inline=True)
def _episode_data(buffer: Buffer) -> PyTree:
    if buffer.stack is not None:
        return on_parts(_episode_data, buffer, (), (), 1, each=True)
    found = live_records(buffer.rings)
    env = jnp.broadcast_to(jnp.arange(buffer.rings.num_envs, dtype=jnp.int32), found.number.shape)
    data = read_data(buffer.rings, found.number, env, found.mask)
    return jax.tree.map(lambda x: x[:, 0], data) if buffer.single else data


def set_episode_data(buffer: Buffer, env: Any, data: PyTree, number: Any = None) -> Buffer:
    """Set data of an episode of each given env.

    env: int32 `[...]`; 0 for a single stream. data: leaves `[..., *shape]`, the structure given to `create`, or a part
    of it (`{"return": r}`); the rest keeps its value, and is zero for an episode that had none.
    number: `[...]` int32, which episode; by default each env's newest, open or ended. An env without that episode, or
    whose record of it was overwritten, is left alone; if an env is given twice, the last value wins.
    Raises ValueError or TypeError for data that do not fit.
    """
    _need_data("set_episode_data", buffer)
    env = _none_unless_fits("env", env)
    values = layout.check_part(buffer.episode_data.layout, data, env.shape, "set_episode_data", "the shape of env")
    if number is not None:
        number = _none_unless_fits("number", number)
        if number.shape not in ((), env.shape):
            raise ValueError(f"number: expected the shape of env {list(env.shape)}, got {list(number.shape)}")
        number = jnp.broadcast_to(number, env.shape)
    return _set_episode_data(buffer, Rows(time=env, env=env), values, number)


def _none_unless_fits(name: str, value: Any) -> jax.Array:
    """Return int32, and -1, which no env and no episode has, where int32 cannot hold the value."""
    narrow, fits = trees.to_int32(name, value)
    return jnp.asarray(narrow) if fits is None else jnp.where(fits, narrow, np.int32(-1))


@functools.partial(jax.jit, inline=True)
def _set_episode_data(buffer: Buffer, of: Rows, values: dict[int, Any], number: jax.Array | None) -> Buffer:
    if buffer.stack is not None:
        return on_parts(_set_episode_data, buffer, (of, values, number), (None,) * 3, BUFFER, each=True)
    rings, data, lead = buffer.rings, buffer.episode_data, of.env.ndim
    env = of.env.ravel()
    known = (env >= 0) & (env < rings.num_envs)
    env = jnp.where(known, env, 0)
    newest = rings.envs.number[env]
    number = newest if number is None else number.ravel()
    known &= has_record(newest, number, rings.num_records)
    slot = jnp.maximum(number, 0) % rings.num_records
    known &= is_last_of_equals(jnp.where(known, flat_index(rings, slot, env), -1))
    fresh = data.number[slot, env] != number
    to = jnp.where(known, slot, nowhere(rings.num_records, env.shape[0]))
    leaves = []
    for i, x in enumerate(data.leaves):
        if i in values:
            value = jnp.asarray(values[i])
            new = layout.to_raw(value.reshape(*env.shape, *value.shape[lead:]))
        else:
            old = x[slot, env]
            new = jnp.where(trees.to_rank(fresh, old.ndim), 0, old)
        leaves.append(x.at[to, env].set(new, mode="drop", unique_indices=True))
    numbers = data.number.at[to, env].set(number, mode="drop", unique_indices=True)
    return buffer.replace(rings=rings.replace(episode_data=data.replace(number=numbers, leaves=tuple(leaves))))


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
    complete = trees.check_flag("complete", complete)
    batch = _sample_episodes(buffer, key, n, max_length, complete)
    if trees.is_concrete(batch.mask) and not jax.device_get(batch.mask).any():
        kind = "complete episode" if complete else "episode"
        raise ValueError(f"the buffer holds no {kind} to sample" + (" (see complete=False)" if complete else ""))
    return batch


@functools.partial(jax.jit, static_argnames=("n", "max_length", "complete"), inline=True)
def _sample_episodes(buffer: Buffer, key: jax.Array, n: int, max_length: int, complete: bool) -> Sample:
    if is_sharded(buffer):
        draw = functools.partial(
            _sample_episodes, n=check_divides("n", n, buffer), max_length=max_length, complete=complete
        )
        batch = on_parts(draw, buffer, (key,), (KEY,), 0)
        return batch.replace(probability=batch.probability / num_parts(buffer))
    rings = buffer.as_one
    found = live_records(rings)
    every = jnp.broadcast_to(jnp.arange(rings.num_envs, dtype=jnp.int32), found.start.shape)
    first_held = jnp.broadcast_to(oldest(rings.clock.of(every)), found.start.shape)
    eligible = found.mask & (found.ended & (found.start - first_held >= 0) if complete else True)
    ends = jnp.cumsum(eligible.ravel(), dtype=jnp.int32)
    count = ends[-1]
    nth = jax.random.randint(key, (n,), 0, jnp.maximum(count, 1), jnp.int32)
    chosen = jnp.minimum(find_interval(ends, nth), ends.shape[0] - 1)
    start, length = found.start.ravel()[chosen], found.length.ravel()[chosen]
    overwritten = jnp.maximum(first_held.ravel()[chosen] - start, 0)
    step = jnp.arange(max_length, dtype=jnp.int32)[None]
    within = (count > 0) & (step < (length - overwritten)[:, None])
    time = (start + overwritten)[:, None] + step
    env = jnp.broadcast_to((chosen % rings.num_envs)[:, None], time.shape)
    got = take(buffer, out_of_range_unless(within, Rows(time=time, env=env)))
    probability = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1).astype(jnp.float32), 0.0)
    return got.replace(probability=jnp.broadcast_to(probability, (n,)))


def need_episodes(buffer: Buffer, what: str) -> None:
    """Raise ValueError for a buffer of independent items."""
    if not buffer.rings.num_records:
        raise ValueError(f"{what}: this buffer holds independent items; create it with episode_end to have episodes")


def _need_data(what: str, buffer: Buffer) -> None:
    check_buffer(what, buffer)
    if buffer.episode_data is None:
        raise ValueError("this buffer keeps no episode data; create it with episode_data=<an example of them>")
