"""Reading rows through views: `sample`, `take`, `pop` and `epoch`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay._core import trees
from jaxreplay._core.clock import age, oldest
from jaxreplay.inspection import can_sample, size
from jaxreplay.sources.base import Source
from jaxreplay.sources.checks import check_source_rows
from jaxreplay.sources.mixture import Mixture
from jaxreplay.sources.whole import Whole, as_source
from jaxreplay.stacks import BUFFER, KEY, check_divides, from_owner, is_sharded, num_parts, on_parts, rows_axis
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import Rows, Sample, SourceRows, out_of_range_unless
from jaxreplay.views import View, transition
from jaxreplay.views.base import check_reads, check_view


def sample(source: Buffer | Source, key: jax.Array, batch_size: int, view: View = transition()) -> Sample:  # noqa: B008
    """Draw a batch of rows with the buffer's sampler and read them through a view: `Sample`, leaves `[B, ...]`.

    source: a buffer, or what `subset`, `split`, `concat` and `mixture` make of buffers. Rows are drawn independently,
    each with the sampler's stated distribution over the rows that can be read and that the view can start from. The key
    decides everything. What could not be filled has `mask` False and zeros; outside jit, where nothing can be drawn, as
    from an empty buffer, it raises ValueError and says why.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"reward": jnp.float32(0)}, capacity=100)
    >>> buffer = replay.extend(buffer, {"reward": jnp.arange(10.0)})
    >>> batch = replay.sample(buffer, jax.random.key(0), batch_size=32)
    >>> batch.data["reward"].shape, bool(batch.mask.all())
    ((32,), True)
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    made = as_source("sample", source)
    batch = _sample(made, key, batch_size, check_view(view))
    if trees.is_concrete(batch.mask) and not jax.device_get(batch.mask).all():
        _check_filled(made, view, batch)
    return batch


def _check_filled(source: Source, view: View, batch: Sample) -> None:
    """Raise ValueError where nothing could be drawn, of the source or of one that a mixture draws from."""
    if not isinstance(source, Mixture):
        if not jax.device_get(batch.mask).any():
            _explain_nothing(source, view, "the buffer")
        return
    for i, (part, share) in enumerate(zip(source.sources, source.proportions, strict=True)):
        if share and not bool(can_sample(part, 1, view)):
            _explain_nothing(part, view, f"source {i} of the mixture")


def _explain_nothing(source: Source, view: View, name: str) -> None:
    count = int(size(source))
    if count == 0:
        raise ValueError(f"{name} is empty: append steps before sampling (replay.can_sample tells)")
    if bool(can_sample(source, 1, view)):
        raise ValueError(f"{name} holds {count} rows, but none could be drawn: all their priorities are zero")
    needs = f"it needs {view.needs}, and there are none yet" if view.needs else "see its `usable`"
    raise ValueError(
        f"{name} holds {count} rows, but {view} can start from none of them: {needs} "
        "(replay.can_sample(buffer, n, view) tells)"
    )


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _sample(source: Source, key: jax.Array, batch_size: int, view: View) -> Sample:
    if any(buffer.stack for buffer in source.buffers) and is_sharded(source):
        share = check_divides("batch_size", batch_size, source)
        batch = on_parts(lambda part, key: part.sample(key, share, view), source, (key,), (KEY,), 0)
        return batch.replace(probability=batch.probability / num_parts(source))
    return source.sample(key, batch_size, view)


def take(source: Buffer | Source, rows: Rows | SourceRows, view: View = transition(), key: Any = None) -> Sample:  # noqa: B008
    """Read given rows `[...]` through a view: `Sample`, leaves `[..., *shape]`.

    Rows that are stale, void, removed, out of range or left out by a subset, and those that the view cannot start from,
    come back with `mask` False and zeros. `probability` is that of drawing the row from the source. Several buffers are
    addressed by `SourceRows`. key: for a view that draws, as `hindsight`. Raises TypeError for rows of another kind.
    """
    made = as_source("take", source)
    rows = check_source_rows(made, rows)
    check_view(view)
    if key is not None:
        trees.check_key(key)
    elif view.num_bits:
        raise ValueError(f"{view} draws at random: give take a key for it")
    return _take(made, rows, view, key)


@functools.partial(jax.jit, static_argnames="view", inline=True)
def _take(source: Source, rows: Rows | SourceRows, view: View, key: jax.Array | None = None) -> Sample:
    if is_sharded(source):
        return _take_from_parts(source, rows, view, key)
    shape = rows.time.shape
    got = source.take(jax.tree.map(jnp.ravel, rows), view, key)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), got).replace(rows=rows)


def _take_from_parts(source: Source, rows: Any, view: View, key: jax.Array | None) -> Sample:
    """Read rows where they lie, or on every device, where that is not known."""
    axis = rows_axis(source, rows)
    if axis is not None:
        got = on_parts(lambda part, rows, key: _take(part, rows, view, key), source, (rows, key), (axis, KEY), axis)
    else:
        take_all = lambda part, rows, key: jax.tree.map(lambda x: x[None], _take(part, rows, view, key))  # noqa: E731
        got = from_owner(source, rows, on_parts(take_all, source, (rows, key), (None, KEY), 0))
    return got.replace(rows=rows, probability=got.probability / num_parts(source))


def pop(buffer: Buffer, n: int, complete: bool = False) -> tuple[Buffer, Sample]:
    """Take the n oldest slices out, for on-policy learners: `(buffer, batch)`, the batch's leaves `[n, E, ...]`.

    They are consumed: their rows are stale afterwards. Where fewer than n slices are held, the rest has `mask` False.
    For a single stream the leaves are `[n, ...]`.

    complete: take steps of finished episodes only. The pop stops before the first step of any open episode: that slice
        and those after it stay, and have `mask` False. An episode that ends after the last slice that is taken comes in
        parts, the rest with a later pop. Raises ValueError for independent items.
    """
    check_buffer("pop", buffer)
    n = trees.check_count("n", n)
    if n > buffer.num_slots:
        raise ValueError(f"n: {n} slices were asked for, and the ring holds at most {buffer.num_slots}")
    if (complete := trees.check_flag("complete", complete)) and not buffer.rings.num_records:
        raise ValueError("pop: complete=True: this buffer holds independent items; create it with episode_end")
    return _pop(buffer, n, complete)


@functools.partial(jax.jit, static_argnames=("n", "complete"), inline=True)
def _pop(buffer: Buffer, n: int, complete: bool) -> tuple[Buffer, Sample]:
    if is_sharded(buffer):
        rest, batch = on_parts(functools.partial(_pop, n=n, complete=complete), buffer, (), (), (BUFFER, 1))
        return rest, batch.replace(probability=batch.probability / num_parts(buffer))
    if buffer.stack is None:
        rows, taken = _oldest_rows(buffer, n, complete)
        return _consume(buffer, rows, taken), _take(Whole(buffer), rows, transition())
    rows, taken = on_parts(functools.partial(_oldest_rows, n=n, complete=complete), buffer, (), (), (1, 1), each=True)
    rest = on_parts(_consume, buffer, (rows, taken), (None, 1), BUFFER, each=True)
    return rest, _take(Whole(buffer), rows.replace(axis=None), transition())


def _oldest_rows(buffer: Buffer, n: int, complete: bool) -> tuple[Rows, jax.Array]:
    """List the rows of the n oldest slices, `[n, E]`, out of range where a pop leaves them, and how many `[1, E]`."""
    rings = buffer.rings
    time = oldest(rings.clock) + jnp.arange(n, dtype=jnp.int32)
    if buffer.single:
        rows = Rows(time=time, env=jnp.zeros((n,), jnp.int32))
    else:
        env = jnp.arange(rings.num_envs, dtype=jnp.int32)
        rows = Rows(*jnp.broadcast_arrays(time[:, None], env[None]))
    taken = jnp.minimum(rings.clock.held, n)
    if complete:
        before_open = jnp.maximum(rings.envs.start - oldest(rings.clock), 0)
        taken = jnp.minimum(taken, jnp.min(jnp.where(rings.envs.open, before_open, n)))
        rows = out_of_range_unless(age(rings.clock, rows.time) > rings.clock.held - taken, rows)
    return rows, jnp.broadcast_to(taken, (1, rings.num_envs))


def _consume(buffer: Buffer, rows: Rows, taken: jax.Array) -> Buffer:
    """Make the oldest slices stale, of which `_oldest_rows` gives the rows and the count."""
    rings, taken = buffer.rings, taken[0, 0]
    clock = rings.clock.replace(held=rings.clock.held - taken)
    state = buffer.sampler.on_remove(buffer.sampler_state, rings, jax.tree.map(jnp.ravel, rows))
    return buffer.replace(rings=rings.replace(clock=clock), sampler_state=state)


def epoch(source: Buffer | Source, key: jax.Array, batch_size: int, view: View = transition()) -> Any:  # noqa: B008
    """Put every row that can be read, and that the view can start from, in random order: `Rows`, `[num_batches, B]`.

    The number of batches is that of a full ring, `ceil(T * E / B)`; past the last row come rows that nothing can read,
    so `take` gives them with `mask` False. Scan over it: `lax.scan(step, state, replay.epoch(buffer, key, 256))`.
    Of several buffers it is `SourceRows`. Raises TypeError for a mixture, whose proportions an epoch would not keep,
    and ValueError for a view that cannot read such a buffer.
    """
    batch_size = trees.check_count("batch_size", batch_size)
    trees.check_key(key)
    made = as_source("epoch", source)
    if isinstance(made, Mixture):
        raise TypeError("epoch: a mixture draws in proportions, which an epoch would not keep; concat its sources")
    check_reads(check_view(view), made.buffers)
    return _epoch(made, key, batch_size, view)


@functools.partial(jax.jit, static_argnames=("batch_size", "view"), inline=True)
def _epoch(source: Source, key: jax.Array, batch_size: int, view: View) -> Rows | SourceRows:
    if is_sharded(source):
        share = check_divides("batch_size", batch_size, source)
        return on_parts(lambda part, key: _epoch(part, key, share, view), source, (key,), (KEY,), 1)
    every, mask = source.every_row()
    count = mask.shape[0]
    order = jax.random.permutation(key, count)
    shuffled = jax.tree.map(lambda x: x[order], every)
    valid = mask[order] & source.starts(shuffled, view)
    order = jnp.argsort(~valid, stable=True)
    rows = out_of_range_unless(valid[order], jax.tree.map(lambda x: x[order], shuffled))
    batches = -(-count // batch_size)
    rows = jax.tree.map(lambda x: jnp.pad(x, (0, batches * batch_size - count)), rows)
    rows = out_of_range_unless(jnp.arange(batches * batch_size) < count, rows)
    return jax.tree.map(lambda x: x.reshape(batches, batch_size), rows)
