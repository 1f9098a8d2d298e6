"""The two rings, of steps and of episodes: the arrays, and where in them a row and a record of an episode are.

Each array has `T` slots of steps, then one slot that stays zero, then (where episodes are kept, in the arrays that need
it) `K` slots of episodes: `[T + 1 + K, E, ...]`. An episode's slot holds the observation that followed its newest step,
so a step's next observation is one index into the same array as its observation, whether the episode goes on (the next
step's slot) or not (the episode's slot), and what must read as zeros is an index too (the zero slot).
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core.clock import Clock, start_clock
from jaxreplay._core.episode_numbers import Envs, start_envs
from jaxreplay._core.layout import Layout
from jaxreplay._core.memory import Memory
from jaxreplay._core.plain import Arrays
from jaxreplay.types import PyTree

MAX_INDEX = 2**31 - 1


class Rings(struct.PyTreeNode):
    """Both rings, and what an append must know.

    arrays: first the packed records, then the large leaves, each by itself, as `memory` lays them. A step's record
    begins with (episode, ordinal): its episode's number, VOID, or a removed row's code; and how many rows of its env
    were recorded and not removed before it. An episode's record begins with (start, newest): the times of its first and
    newest step.
    episode_data: `EpisodeData`, what the user keeps for each recorded episode, or None. memory: how the arrays lie.
    """

    arrays: Arrays
    clock: Clock
    envs: Envs
    episode_data: PyTree
    layout: Layout = struct.field(pytree_node=False)
    memory: Memory = struct.field(pytree_node=False)

    @functools.cached_property
    def num_records(self) -> int:
        """K, 0 for independent items."""
        return self.memory.num_records

    @functools.cached_property
    def num_envs(self) -> int:
        """E. Raises ValueError for a batch of buffers, which only vmap can take apart."""
        *batch, num_envs = self.envs.number.shape
        if batch:
            raise ValueError(f"a batch of buffers {tuple(batch)} came where one is expected; use jax.vmap over them")
        return num_envs

    @functools.cached_property
    def num_slots(self) -> int:
        """T."""
        return self.memory.sizes(self.arrays)[-2]


class Span(struct.PyTreeNode):
    """Where rows are, and how far the held part of their episodes reaches; `[B]` each.

    valid: bool, the row can be read. time, env: int32, the row. slot: int32, where it is in the arrays.
    before, after: int32, held steps of its episode before and after it; a view may narrow them.
    newest: int32, steps to its episode's newest, whose next observation is in the slot `record`.
    index: int32, the step's position in its episode, from 0. open: bool, the episode has not ended.
    number: int32, the episode's number in its env; any where the row is not valid.
    bits: uint32 `[B, n]`, random, for a view that draws, else None.
    episode_data: what is kept for the row's episode, leaves `[B, ...]`, for a view that reads it, else None.
    begins: bool `[B, L]`, which steps begin an episode, for a view that reads on past the row's, else None.
    """

    valid: jax.Array
    time: jax.Array
    env: jax.Array
    slot: jax.Array
    before: jax.Array
    after: jax.Array
    newest: jax.Array
    index: jax.Array
    open: jax.Array
    record: jax.Array
    number: jax.Array
    bits: jax.Array | None = None
    episode_data: PyTree = None
    begins: jax.Array | None = None


def make_rings(layout: Layout, num_slots: int, num_envs: int, memory: Memory, episode_data: PyTree) -> Rings:
    """Allocate empty rings, every array its own. Raises ValueError where 32-bit indices do not reach."""
    slots = num_slots + 1 + memory.num_records
    if slots * num_envs > MAX_INDEX:
        raise ValueError(f"capacity: {slots * num_envs} rows, those of episodes included, do not fit in 31-bit indices")
    return Rings(
        arrays=memory.allocate(layout, num_slots, num_envs),
        clock=start_clock(),
        envs=start_envs(num_envs),
        episode_data=episode_data,
        layout=layout,
        memory=memory,
    )


def as_one(rings: Rings) -> Rings:
    """See the rings of A stacked buffers of E envs as those of one buffer of A * E envs, each with its own clock.

    The arrays stay as they are: `memory` finds an env's buffer in them.
    """
    num_envs = rings.envs.number.shape[1]
    clock = jax.tree.map(lambda x: jnp.repeat(x, num_envs), rings.clock)
    envs = jax.tree.map(lambda x: x.reshape(-1), rings.envs)
    return rings.replace(clock=clock, envs=envs)


def nowhere(end: int, count: int) -> jax.Array:
    """Different indices `[count]` past the end of an axis: what is written there is dropped, and none comes twice."""
    return end + jnp.arange(count, dtype=jnp.int32)
