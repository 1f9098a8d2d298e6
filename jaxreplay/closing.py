"""Ending episodes after their last step was appended: `end_episodes`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreplay import ends
from jaxreplay._core import layout, trees
from jaxreplay._core.edit import overwrite
from jaxreplay._core.layout import Layout
from jaxreplay._episodes import need_episodes
from jaxreplay.stacks import BUFFER, on_parts
from jaxreplay.state import Buffer, check_buffer
from jaxreplay.types import PyTree, Rows, Transition


def end_episodes(buffer: Buffer, mask: Any = None, leaves: PyTree = None) -> Buffer:
    """End the open episodes of chosen envs after their newest step, as if that step had been appended as the last.

    No row is written, so nothing is lost: the use is for ends that are known late, as success, or a reset from outside.
    The next step of such an env begins an episode. Envs without an open episode are left alone.

    mask: `[E]` bool (a scalar for a single stream), which envs; None for all.
    leaves: what to overwrite in the newest steps of these envs, a part of the step's structure with leaves `[E, ...]`
        (`[...]` for a single stream), flags included: `{"terminated": success, "reward": reward}`. Of a `Transition`,
        `truncated` is set as well, unless it is given, or `terminated` is given and set. Of another structure, nothing
        but `leaves` is written: whatever the flags say, the episode ends here as if truncated.

    Costs the same at any capacity. Raises ValueError or TypeError for what does not fit, and for independent items.

    >>> import jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.create({"x": jnp.int32(0), "end": jnp.bool_(False)}, 8, episode_end="end")
    >>> for x in range(4):
    ...     buffer = replay.append(buffer, {"x": x, "end": False})
    ...     buffer = replay.end_episodes(buffer, x == 2)
    >>> replay.episodes(buffer).length[-2:].tolist()
    [3, 1]
    """
    check_buffer("end_episodes", buffer)
    need_episodes(buffer, "end_episodes")
    stored = buffer.rings
    lead = () if buffer.single else (buffer.num_envs,)
    axes = "a single stream: no env axis" if buffer.single else f"num_envs={buffer.num_envs}"
    if mask is not None:
        trees.check_leaf("mask", mask, lead, jnp.dtype(bool), f"({axes}.)")
    given = {} if leaves is None else layout.check_part(stored.layout, leaves, lead, "end_episodes", axes)
    return _end_episodes(buffer, mask, given)


@functools.partial(jax.jit, inline=True)
def _end_episodes(buffer: Buffer, mask: Any, given: dict[int, Any]) -> Buffer:
    if buffer.stack is not None:
        return on_parts(_end_episodes, buffer, (mask, given), (0, 0), BUFFER, each=True)
    stored = buffer.rings
    values = {i: jnp.asarray(x).reshape(stored.num_envs, *stored.layout.leaves[i].shape) for i, x in given.items()}
    values |= _truncated(stored.layout, values, stored.num_envs)
    chosen = stored.envs.open if mask is None else stored.envs.open & jnp.asarray(mask)
    env = jnp.where(chosen, jnp.arange(stored.num_envs, dtype=jnp.int32), -1)
    stored = overwrite(stored, Rows(time=jnp.broadcast_to(stored.clock.time - 1, env.shape), env=env), values)
    stored = stored.replace(envs=stored.envs.replace(open=stored.envs.open & ~chosen))
    sampler: Any = buffer.sampler
    state = buffer.sampler_state
    if hasattr(sampler, "on_close"):
        state = sampler.on_close(state, stored)
    return buffer.replace(rings=stored, sampler_state=state)


def _truncated(described: Layout, given: dict[int, jax.Array], num_envs: int) -> dict[int, jax.Array]:
    """Make the flags `truncated` of a transition that are not given: set, unless `terminated` is given and set."""
    if not isinstance(described.one_step(), Transition):
        return {}
    terminated, truncated = ends.OF_TRANSITION
    index = {path: i for i, path in enumerate(described.paths)}
    flags = {}
    for i, leaf in enumerate(described.leaves):
        if i in given or not trees.is_below(leaf.path, truncated):
            continue
        shape = (num_envs, *leaf.shape)
        twin = given.get(index.get(terminated + leaf.path.removeprefix(truncated), -1))
        done = jnp.zeros(shape, jnp.bool_) if twin is None else twin.astype(jnp.bool_)
        if done.shape != shape:  # one of the two has a flag for each agent: an env is done when all are
            done = jnp.all(done.reshape(num_envs, -1), axis=1)
            done = jnp.broadcast_to(trees.to_rank(done, len(shape)), shape)
        flags[i] = (~done).astype(leaf.dtype)
    return flags
