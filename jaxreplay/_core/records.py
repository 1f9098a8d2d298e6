"""The records of episodes: which live, and the user's data for each."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._core import layout
from jaxreplay._core.clock import is_held
from jaxreplay._core.layout import Layout
from jaxreplay._core.lookup import own_words, record_slot
from jaxreplay._core.plain import place
from jaxreplay._core.rings import Rings
from jaxreplay._core.trees import to_rank
from jaxreplay.types import Episodes, PyTree


class EpisodeData(struct.PyTreeNode):
    """The user's data for each recorded episode: `leaves` `[K, E, ...]`; `number` `[K, E]` int32 says whose they are.

    Data are told by number rather than cleared when an episode begins, so an append need not touch them.
    """

    number: jax.Array
    leaves: tuple[jax.Array, ...]
    layout: Layout = struct.field(pytree_node=False)


def make_data(example: PyTree, num_records: int, num_envs: int) -> EpisodeData | None:
    """Allocate room for data like `example` for each episode, or None for none."""
    if example is None:
        return None
    described = layout.make_layout(example, {}, episodic=False)
    return EpisodeData(
        number=jnp.full((num_records, num_envs), -1, jnp.int32),
        leaves=tuple(jnp.zeros((num_records, num_envs, *x.raw.shape), x.raw.dtype) for x in described.leaves),
        layout=described,
    )


def read_data(rings: Rings, number: jax.Array, env: jax.Array, known: jax.Array) -> PyTree:
    """Read the user's data for episodes `[...]`, leaves `[..., *shape]`: zeros where none were set, or not `known`."""
    data = rings.episode_data
    slot, env = jnp.where(known, number, 0) % rings.num_records, jnp.where(known, env, 0)
    known &= data.number[place(data.number, 0, slot, env)] == number
    leaves = []
    for x, leaf in zip(data.leaves, data.layout.leaves, strict=True):
        raw = x[place(x, len(leaf.raw.shape), slot, env)]
        leaves.append(layout.from_raw(jnp.where(to_rank(known, raw.ndim), raw, 0), leaf.dtype))
    return jax.tree.unflatten(data.layout.treedef, leaves)


def live_records(rings: Rings) -> Episodes:
    """List the episodes with a record and a step in the ring, oldest first, `[K, E]`; without `final_observation`."""
    count = rings.num_records
    order = jnp.arange(count, dtype=jnp.int32)[:, None]
    number = rings.envs.number[None] - (count - 1) + order
    slot = record_slot(rings, jnp.maximum(number, 0)) if count else number
    env = jnp.broadcast_to(jnp.arange(rings.num_envs, dtype=jnp.int32), slot.shape)
    start, newest = own_words(rings, slot, env, "episodes")
    mask = (number >= 0) & is_held(rings.clock.of(env), newest)
    keep = lambda x: jnp.where(mask, x, 0)  # noqa: E731
    return Episodes(
        number=jnp.where(mask, number, -1),
        start=keep(start),
        length=keep(newest - start + 1),
        ended=mask & ~((order == count - 1) & rings.envs.open[None]),
        final_observation=None,
        mask=mask,
    )
