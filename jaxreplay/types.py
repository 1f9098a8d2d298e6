"""What passes through the public functions, and the words that all docstrings use.

step        what one env yields at one time; the user's pytree, often a `Transition`
slice       one step of every env; `append` writes one
time        the number of slices appended before; it never wraps with the ring
slot        where a slice lies in the ring: `time % T`
row         one stored step, addressed by `Rows(time, env)`
stale row   a row whose slice was overwritten or consumed
void row    a row where an env recorded nothing (`mask` False)
removed row a row that `remove` took out; its neighbours still read it as context
lost row    a row whose episode's record was overwritten
record      what is kept for each episode: its first and newest time, the observation after the newest step, user's data
source      what rows are drawn and read from: a buffer, or a subset, concat or mixture of buffers
view        how rows become a batch
plan        which steps a view reads of each stored leaf; made once for a view and a structure
span        where rows are, and how far the held part of their episodes reaches
leaf, part  an array of a step; a subtree of it, named by its path, as `observation.camera`

Axes: T slots, E envs, L the length of a block, B batch, W window, K records of episodes an env, R words of a row.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct

from jaxreplay._display import samples as display

PyTree: TypeAlias = Any
"""Any nesting of containers that JAX knows, with arrays as leaves."""


class Transition(struct.PyTreeNode):
    """What one step of one env yields, in Gymnasium's terms.

    Each field may be any pytree of arrays. `terminated` and `truncated` are scalars per step.
    `next_observation` has the structure of `observation`: it is the observation that this step led to,
    at an episode's end the true final one, never the observation after a reset.
    """

    observation: PyTree
    action: PyTree
    reward: PyTree
    terminated: PyTree
    truncated: PyTree
    next_observation: PyTree
    extras: PyTree = struct.field(default_factory=dict)


class Rows(struct.PyTreeNode):
    """Addresses of stored rows, `[...]` int32 each.

    `time` counts the slices that were appended before the row's own; it never wraps with the ring, so a row
    whose slice was overwritten is stale and is never mistaken for the one that took its slot. (It is counted
    modulo 2**32: only a row that is 2**32 slices old could be mistaken.) `env` is 0 where there is a single stream.
    """

    time: jax.Array
    env: jax.Array

    def __repr__(self) -> str:
        return display.short_repr(self)


class SourceRows(struct.PyTreeNode):
    """Addresses of rows in several buffers, `[...]` int32 each: which `source`, from 0, and `time` and `env` there."""

    source: jax.Array
    time: jax.Array
    env: jax.Array

    def __repr__(self) -> str:
        return display.short_repr(self)

    def of(self, source: int) -> Rows:
        """Address the rows of one source, in the same places; those of others are out of range (env -1), so ignored."""
        return Rows(time=self.time, env=jnp.where(self.source == source, self.env, -1))


class Sample(struct.PyTreeNode):
    """A batch: its data, where it came from, how likely each row was, and which rows are real.

    data: what the view made, leaves `[B, ...]`; zeros where `mask` is False.
    rows: `[B]` addresses, for `take`, `put`, `remove` and priorities; out of range (env -1) where nothing was found.
        Of several buffers they are `SourceRows`.
    probability: `[B]` float32, of drawing that row in one draw; 0 where `mask` is False.
    mask: `[B]` bool.
    """

    data: PyTree
    rows: Rows | SourceRows
    probability: jax.Array
    mask: jax.Array

    def __repr__(self) -> str:
        return display.sample_repr(self)

    def _repr_html_(self) -> str:
        return display.show_sample(self)


class Episodes(struct.PyTreeNode):
    """The episodes that the buffer keeps a record of, oldest first, `[K, E]` each (`[K]` for a single stream).

    number: int32, counted per env from 0; -1 where `mask` is False.
    start: int32, the time of the first step, which may have been overwritten since.
    length: int32, steps so far, those overwritten since included.
    ended: bool; False for an env's open episode.
    final_observation: what followed the newest step, in the structure of the parts that `next_of` names.
    mask: bool, whether the record is of an episode that still has rows in the ring.
    """

    number: jax.Array
    start: jax.Array
    length: jax.Array
    ended: jax.Array
    final_observation: PyTree
    mask: jax.Array

    def __repr__(self) -> str:
        return display.short_repr(self)

    def _repr_html_(self) -> str:
        return display.show_episodes(self)


class Stats(struct.PyTreeNode):
    """What the ring holds, int32 scalars. `held` rows are `size + void + removed + lost`.

    size: rows that can be read. void: rows where an env recorded nothing. removed: taken out by `remove`.
    lost: rows whose episode's record was overwritten because an env had more than K episodes; if this is
    not 0, create the buffer with a larger `max_episodes`. capacity: rows the ring has room for.
    time: slices appended so far. num_episodes: episodes with rows in the ring; open_episodes: of these, not ended.
    """

    capacity: jax.Array
    time: jax.Array
    held: jax.Array
    size: jax.Array
    void: jax.Array
    removed: jax.Array
    lost: jax.Array
    num_episodes: jax.Array
    open_episodes: jax.Array

    def __repr__(self) -> str:
        return display.short_repr(self)

    def _repr_html_(self) -> str:
        return display.show_stats(self)


def out_of_range_unless(keep: jax.Array, rows: Any) -> Any:
    """Make rows that are not to be read out of range, in an env that is none."""
    return rows.replace(env=jnp.where(keep, rows.env, -1))
