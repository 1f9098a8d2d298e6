"""The buffer, and what changes it: `create`, `append`, `extend`, `put`, `remove`, `clear`."""

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxreplay import ends
from jaxreplay._core import edit, trees
from jaxreplay._core.layout import Layout, check_part, make_layout
from jaxreplay._core.loops import vary_as
from jaxreplay._core.memory import make_memory
from jaxreplay._core.records import make_data
from jaxreplay._core.rings import as_one, make_rings
from jaxreplay._core.write import write
from jaxreplay.samplers import Sampler, uniform
from jaxreplay.stacks import BUFFER, is_sharded, make_stack, nearest, on_parts, rows_axis, sampler_for
from jaxreplay.state import Buffer, Stack, check_buffer
from jaxreplay.types import PyTree, Rows, SourceRows, Transition

PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
FREE_BYTES = 64 * 2**20  # what records of episodes may take by default, so that no row of a short episode is lost


def create(
    example: PyTree,
    capacity: int,
    num_envs: int | None = None,
    *,
    sampler: Sampler = uniform(),  # noqa: B008  (a frozen dataclass)
    max_episodes: int | None = None,
    next_of: Mapping[str, str] | None = None,
    episode_end: str | Sequence[str] | Callable[[PyTree], Any] | None = None,
    episode_data: PyTree = None,
    apart: str | Sequence[str] = (),
    platform: str | None = None,
    num_buffers: int | None = None,
    sharding: NamedSharding | None = None,
) -> Buffer:
    """Make an empty buffer for steps like `example`.

    example: one step of one env, arrays or `jax.ShapeDtypeStruct`; a `Transition`, or any pytree. `append` then takes
        leaves `[E, ...]`, and `extend` `[L, E, ...]`: time comes first.
    capacity: steps kept, over all envs; a multiple of `num_envs`.
    num_envs: E, the parallel streams that are stepped together; None for a single stream, whose steps have no env axis.
    max_episodes: records of episodes kept, over all envs, rounded up to a whole number K an env, at least 2. Steps
        whose episode's record was overwritten can no longer be read; `stats` counts them. The default is one for each
        slot, so that nothing is ever lost, where that takes no more than 64 MiB; else as many as these hold, or
        `capacity // 8` if that is more: give it where steps are images and episodes are short.
    next_of: for a structure of your own, which parts are the next step's value of which others, by path:
        `{"next_obs": "obs"}`, the later value first. They are not stored twice. It needs `episode_end`.
    episode_end: which step is its episode's last: the path of a bool leaf, `"done"`, or several, any of which ends it.
        Leaves with axes, as of several agents, end it when all along them are set. Or a hashable function of one step
        that returns a bool scalar: `lambda step: step["done"] > 0`; give it once, since two equal lambdas make buffers
        of two structures. A `Transition` ends by `("terminated", "truncated")`. Without `episode_end`, the steps of
        another structure are independent items.
    episode_data: an example of what to keep for each episode (seed, goal, return), see `set_episode_data`.
    apart: parts, by path, that are stored in arrays of their own, however small. Small leaves are packed together,
        since most views read them together; one that is read at other steps than the rest, as a recurrent state at the
        first step of a sequence alone, would be read in vain with them.
    platform: the kind of device that the buffer will live on, as JAX names it ("cpu", "gpu", "tpu"). It decides how
        the arrays lie in memory, never what comes out, and the buffer works on every other platform as well. The
        default is the platform of JAX's default device, or of the mesh.
    num_buffers: A, to make a stack of so many buffers, as one for each of many actors, each with a clock of its own:
        `extend(buffer, block, member=i)` writes to one of them, and all are read as one. `capacity`, `num_envs` and
        `max_episodes` are those of all together, and rows number the envs over all: each buffer has E / A of them
        (num_envs=None: a single stream each).
    sharding: `NamedSharding(mesh, P("data"))`: the envs are split over these axes of a mesh, and no device allocates
        another's part; over its other axes the buffer is replicated. Every function keeps its meaning. A sample has B /
        n rows of each of the n devices, and lies split over its batch axis.

    Allocates once; nothing else in the library does. Raises ValueError or TypeError for what cannot be stored.

    >>> import jax, jax.numpy as jnp, jaxreplay as replay
    >>> example = {"obs": jnp.zeros(4), "action": jnp.int32(0)}
    >>> buffer = replay.create(example, capacity=1000, num_envs=10)
    >>> replay.capacity(buffer)
    1000
    """
    stack = _check_stack(num_envs, num_buffers, sharding)
    platform = _check_platform(_platform_of(sharding) if platform is None and sharding is not None else platform)
    envs = 1 if num_envs is None else trees.check_count("num_envs", num_envs)
    envs = envs if stack is None else stack.num_buffers * stack.num_envs
    num_slots = slots_of(capacity, envs)
    if isinstance(sampler, type) or not callable(getattr(sampler, "draw", None)):
        raise TypeError(f"sampler: expected a sampler, as samplers.uniform() with its parentheses, got {sampler!r}")
    if isinstance(example, Transition) and jax.tree.leaves((example.observation, example.next_observation)):
        next_of = {"next_observation": "observation"} if next_of is None else next_of
    episode_end = ends.resolve(example, episode_end)
    if next_of and episode_end is None:
        raise ValueError("next_of needs episode_end: without an end, the next row's value could be another episode's")
    layout = make_layout(example, next_of or {}, episodic=episode_end is not None, apart=apart)
    num_records = 0
    if episode_end is not None:
        ends.check(episode_end, layout)
        if max_episodes is None:
            wished = default_records(layout, num_slots, stack.envs_per_device if stack else envs, episode_data)
        else:
            wished = -(-trees.check_count("max_episodes", max_episodes) // envs)
        num_records = max(2, wished)
    elif max_episodes is not None or episode_data is not None:
        raise ValueError("max_episodes and episode_data need episode_end: without it, rows are independent items")
    envs = stack.num_envs if stack else envs
    memory = make_memory(platform, layout, num_slots, envs, num_records)
    sampler = sampler_for(sampler, memory, num_slots, stack)

    def make() -> Buffer:
        return Buffer(
            rings=make_rings(layout, num_slots, envs, memory, make_data(episode_data, num_records, envs)),
            sampler_state=sampler.init(num_slots, envs),
            sampler=sampler,
            episode_end=episode_end,
            single=num_envs is None and stack is None,
        )

    return make() if stack is None else make_stack(make, stack)


def slots_of(capacity: int, num_envs: int) -> int:
    """Return T, or raise ValueError naming the nearest capacities that are whole numbers of slices."""
    capacity = trees.check_count("capacity", capacity)
    if capacity % num_envs:
        raise ValueError(
            f"capacity: {capacity} is not a multiple of num_envs={num_envs}; the nearest that are: "
            f"{nearest(capacity, num_envs)}"
        )
    return capacity // num_envs


def _check_stack(num_envs: Any, num_buffers: Any, sharding: Any) -> Stack | None:
    """Say how a buffer is made of several, None if it is not, or raise where the envs cannot be split so."""
    if num_buffers is None and sharding is None:
        return None
    names = sharding.spec[0] if isinstance(sharding, NamedSharding) and len(sharding.spec) == 1 else None
    if sharding is not None and not (names and isinstance(names, str | tuple)):
        raise TypeError(
            "sharding: expected NamedSharding(mesh, P('data')), naming the axes of the mesh over which the envs are "
            f"split, got {sharding!r}"
        )
    devices = Stack(1, 1, False, sharding).num_devices
    count = devices if num_buffers is None else trees.check_count("num_buffers", num_buffers)
    if count % devices:
        raise ValueError(
            f"num_buffers: {count} is not a multiple of the {devices} devices of the mesh; the nearest that are: "
            f"{nearest(count, devices)}"
        )
    if num_envs is None and num_buffers is None:
        raise ValueError(f"num_envs: a single stream cannot be split over {devices} devices; give num_envs")
    envs = count if num_envs is None else trees.check_count("num_envs", num_envs)
    if envs % count:
        parts = f"the {devices} devices of the mesh" if num_buffers is None else f"num_buffers={count}"
        raise ValueError(f"num_envs: {envs} is not a multiple of {parts}; the nearest that are: {nearest(envs, count)}")
    return Stack(count, envs // count, num_envs is None, sharding, num_buffers is not None)


def _platform_of(sharding: NamedSharding) -> str:
    """Return the kind of the devices of a mesh."""
    devices: Any = sharding.mesh.devices
    return devices.flat[0].platform


def _check_platform(platform: str | None) -> str:
    """Return a kind of device, by default that of JAX's default device; raise ValueError for an unknown one."""
    if platform is None:
        device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        return jax.default_backend() if device is None else getattr(device, "platform", device)
    if platform not in PLATFORMS:
        raise ValueError(f"platform: expected one of {', '.join(PLATFORMS)}, got {platform!r}")
    return platform


def default_records(layout: Layout, num_slots: int, num_envs: int, episode_data: PyTree) -> int:
    """K, if the user does not say: as many as no episode can be lost with, or fewer where those take much memory."""
    data = jax.eval_shape(lambda: make_data(episode_data, 1, num_envs))  # allocates nothing
    record_bytes = num_envs * layout.record_bytes + sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(data))
    return min(max(FREE_BYTES // record_bytes, num_slots // 8), num_slots)


def append(buffer: Buffer, step: PyTree, mask: Any = None, member: Any = None) -> Buffer:
    """Append one step of every env, leaves `[E, ...]` (`[...]` for a single stream).

    mask: `[E]` bool (a scalar for a single stream), False where an env recorded nothing: a void row is written there,
    and the env's open episode is closed as truncated. member: see `extend`.

    Outside jit every call copies the buffer; to write in place, donate it:
    `append = jax.jit(replay.append, donate_argnums=0)`. Raises ValueError or TypeError where the step does not fit.
    """
    check_buffer("append", buffer)
    member = _check_member(buffer, member)
    leaves, _ = _check_step(buffer, step, mask, False, member is not None)
    return _extend(buffer, leaves, mask, False, member)


def extend(buffer: Buffer, steps: PyTree, mask: Any = None, member: Any = None) -> Buffer:
    """Append a block of L slices, leaves `[L, E, ...]` (`[L, ...]` for a single stream), as if one by one.

    Time comes first, as `lax.scan` stacks it: where L equals E, swapped axes cannot be noticed.
    L may be 0, or more than the ring holds. mask: `[L, E]` bool (`[L]` for a single stream), see `append`.
    member: int32, which of the `num_buffers` to write to, leaves `[L, E / A, ...]` (`[L, ...]` for single streams); the
        others stay as they are. A number that is none of them writes nothing. None for all, leaves `[L, E, ...]`.
    """
    check_buffer("extend", buffer)
    member = _check_member(buffer, member)
    leaves, (length, *_) = _check_step(buffer, steps, mask, True, member is not None)
    if length == 0:
        return buffer
    return _extend(buffer, leaves, mask, True, member)


def _check_member(buffer: Buffer, member: Any) -> Any:
    """Return which buffer of a stack is meant as an int32 scalar, None for all, or raise where there is no stack."""
    if member is None:
        return None
    if buffer.stack is None or not buffer.stack.own_clocks:
        raise ValueError("member: this buffer is no stack of buffers; create it with num_buffers=")
    if buffer.stack.sharding is not None:
        raise ValueError(
            "member: the buffers of a stack over a mesh are written together: extend(buffer, steps) with the envs of "
            "all; or create a stack without sharding"
        )
    narrow, fits = trees.to_int32("member", member)
    if narrow.shape != ():
        raise ValueError(f"member: expected a scalar, got shape {narrow.shape}")
    return jnp.asarray(narrow) if fits is None else jnp.where(fits, narrow, np.int32(-1))


def _check_step(
    buffer: Buffer, step: PyTree, mask: Any, block: bool, to_member: bool
) -> tuple[list[Any], tuple[int, ...]]:
    """Return the leaves as they came and their leading axes, or raise naming the leaf, what came, what was expected."""
    layout = buffer.rings.layout
    leaves = trees.check_structure("steps" if block else "step", step, layout.treedef, layout.paths)
    envs = () if buffer.single else (buffer.num_envs,)
    if to_member and buffer.stack is not None:
        envs = () if buffer.stack.single else (buffer.stack.num_envs,)
    axes = f"num_envs={envs[0]}" if envs else "a single stream: no env axis"
    hint = f"({'[L, E, ...]' if envs else '[L, ...]'}" if block else f"({'[E, ...]' if envs else '[...]'}"
    hint += f" with {axes}.)"
    lead: tuple[int, ...] = envs
    if block:  # the first leaf decides on L; one without any axis is found wrong below
        length = trees.shape_dtype(layout.leaves[0].path, leaves[0])[0][:1] or (1,)
        lead = (*length, *envs)
    for leaf, value in zip(layout.leaves, leaves, strict=True):
        trees.check_leaf(leaf.path, value, (*lead, *leaf.shape), leaf.dtype, hint)
    if mask is not None:
        trees.check_leaf("mask", mask, lead, jnp.dtype(bool), hint)
    return leaves, lead


@functools.partial(jax.jit, static_argnames="block", inline=True)
def _extend(
    buffer: Buffer, leaves: list[jax.Array], mask: jax.Array | None, block: bool, member: jax.Array | None = None
) -> Buffer:
    single = buffer.single
    if buffer.stack is not None:
        if member is None:
            axis = 1 if block else 0
            write_all = functools.partial(_extend, block=block)
            return on_parts(write_all, buffer, (leaves, mask), (axis, axis), BUFFER, each=True)
        single = buffer.stack.single

    def axes(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x) if block else jnp.asarray(x)[None]
        return x[:, None] if single else x

    leaves = [axes(x) for x in leaves]
    num_envs = buffer.rings.envs.number.shape[-1]
    # Made here rather than by the caller: outside jit that would move a mask to the device in every call.
    valid = jnp.ones((leaves[0].shape[0], num_envs), jnp.bool_) if mask is None else axes(mask)
    ended = jnp.zeros_like(valid)
    if buffer.episode_end is not None:
        ended = ends.ended(buffer.episode_end, buffer.rings.layout, leaves)
    if member is not None:
        return _extend_member(buffer, leaves, valid, ended, member)
    written, slots = write(buffer.rings, leaves, valid, ended)
    state = buffer.sampler.on_write(buffer.sampler_state, written, slots, valid[-slots.shape[0] :])
    return buffer.replace(rings=written, sampler_state=state)


def _extend_member(
    buffer: Buffer, leaves: list[jax.Array], valid: jax.Array, ended: jax.Array, member: jax.Array
) -> Buffer:
    """Write a block to one buffer of a stack, in place."""
    rings, sampler = buffer.rings, cast(Any, buffer.sampler)
    num_buffers = rings.envs.number.shape[0]
    member = jnp.where((member >= 0) & (member < num_buffers), member, num_buffers)  # past the end nothing is written
    clock, envs = jax.tree.map(lambda x: x.at[member].get(mode="clip"), (rings.clock, rings.envs))
    written, slots = write(rings.replace(clock=clock, envs=envs), leaves, valid, ended, member)
    clock, envs = jax.tree.map(
        lambda x, new: x.at[member].set(new, mode="drop"), (rings.clock, rings.envs), (written.clock, written.envs)
    )
    rings = rings.replace(arrays=written.arrays, clock=clock, envs=envs)
    state = sampler.on_write_member(buffer.sampler_state, as_one(rings), member, slots, valid[-slots.shape[0] :])
    return buffer.replace(rings=rings, sampler_state=state)


def put(buffer: Buffer, rows: Rows | SourceRows, leaves: PyTree) -> Buffer:
    """Overwrite chosen leaves of stored rows.

    rows: `[...]`. leaves: a part of the step's structure, as `{"reward": r}` with leaves `[..., *shape]`.
    Rows that are no longer held are left alone. If a row is given twice, the last value wins. A row's next observation
    is the next row's observation, so it cannot be put: ValueError, as for unknown leaves. Nor can the leaves that
    decide where episodes end: `end_episodes` ends open ones.
    """
    check_buffer("put", buffer)
    rows = check_rows(buffer, rows)
    values = check_part(buffer.rings.layout, leaves, rows.time.shape, "put", "the shape of rows")
    if buffer.episode_end is not None:
        _check_no_ends(ends.read_by(buffer.episode_end, buffer.rings.layout) & values.keys(), buffer)
    return _put(buffer, rows, values)


def _check_no_ends(moved: Set[int], buffer: Buffer) -> None:
    if moved:
        paths = ", ".join(buffer.rings.layout.leaves[i].path for i in sorted(moved))
        raise ValueError(
            f"put: {paths} cannot be put: it says where episodes end, and a put moves no boundary of an episode. "
            "Open episodes are ended after their newest step by replay.end_episodes(buffer, mask, leaves)"
        )


@functools.partial(jax.jit, inline=True)
def _put(buffer: Buffer, rows: Rows, values: dict[int, jax.Array]) -> Buffer:
    if is_sharded(buffer):
        axis = rows_axis(buffer, rows)
        return on_parts(_put, buffer, (rows, values), (axis, axis), BUFFER)
    written = edit.overwrite(buffer.as_one, rows, values)
    return buffer.replace(rings=buffer.rings.replace(arrays=written.arrays))


def remove(buffer: Buffer, rows: Rows | SourceRows) -> Buffer:
    """Take rows `[...]` out: they are gone for `rows`, `take` and every sampler.

    They still serve their neighbours as context: as a frame, a next observation, a step inside a window. Rows that are
    no longer held, or whose episode's record was overwritten, are ignored. Costs one pass over the ring's own words,
    8 bytes a row.
    """
    check_buffer("remove", buffer)
    return _remove(buffer, check_rows(buffer, rows))


@functools.partial(jax.jit, inline=True)
def _remove(buffer: Buffer, rows: Rows) -> Buffer:
    if buffer.stack is not None:
        return on_parts(_remove, buffer, (rows,), (rows_axis(buffer, rows),), BUFFER, each=True)
    rows = jax.tree.map(jnp.ravel, rows)
    rings = edit.remove(buffer.rings, rows)
    return buffer.replace(rings=rings, sampler_state=buffer.sampler.on_remove(buffer.sampler_state, rings, rows))


def clear(buffer: Buffer) -> Buffer:
    """Empty the buffer. Times and episode numbers go on, so rows drawn before stay stale; open episodes are closed.

    A prioritized buffer keeps the largest priority it has seen.
    """
    check_buffer("clear", buffer)
    return _clear(buffer)


@functools.partial(jax.jit, inline=True)
def _clear(buffer: Buffer) -> Buffer:
    if buffer.stack is not None:
        return on_parts(_clear, buffer, (), (), BUFFER, each=True)
    rings, sampler = buffer.rings, buffer.sampler
    old = (rings.clock.held, rings.envs.open)
    held, open_ = vary_as(jax.tree.map(jnp.zeros_like, old), old)
    rings = rings.replace(clock=rings.clock.replace(held=held), envs=rings.envs.replace(open=open_))
    on_clear: Any = getattr(sampler, "on_clear", None)
    state = on_clear(buffer.sampler_state, rings) if on_clear else sampler.init(rings.num_slots, rings.num_envs)
    return buffer.replace(rings=rings, sampler_state=vary_as(state, buffer.sampler_state))


def check_rows(buffer: Buffer, rows: Any) -> Rows:
    """Return int32 rows of one shape, or raise TypeError or ValueError saying what came.

    Any values are allowed; a number that does not fit in int32 makes a row that is never held.
    """
    if not isinstance(rows, Rows):
        hint = "; those of one buffer are rows.of(source)" if isinstance(rows, SourceRows) else ""
        raise TypeError(f"rows: expected Rows(time, env), got {type(rows).__name__}{hint}")
    narrow, fits = {}, []
    for name, value in (("time", rows.time), ("env", rows.env)):
        narrow[name], fit = trees.to_int32(f"rows.{name}", value)
        fits += [] if fit is None else [fit]
    time, env = narrow["time"], narrow["env"]
    if buffer.single and env.shape == ():
        env = jnp.broadcast_to(env, time.shape)
    if time.shape != env.shape:
        raise ValueError(f"rows: time and env must have one shape, got {time.shape} and {env.shape}")
    for fit in fits:
        env = jnp.where(fit, env, -1)
    return Rows(time=jnp.asarray(time), env=jnp.asarray(env), axis=rows.axis)
