"""The two rings, of steps and of episodes: writing a block, and every question about a row, in O(1) of the capacity.

Each array has `T` slots of steps, then one slot that stays zero, then (where episodes are kept, in the arrays that need
it) `K` slots of episodes: `[T + 1 + K, E, ...]`. An episode's slot holds the observation that followed its newest step,
so a step's next observation is one index into the same array as its observation, whether the episode goes on (the next
step's slot) or not (the episode's slot), and what must read as zeros is an index too (the zero slot).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxreplay._core import clock as ring
from jaxreplay._core import episode_numbers as numbering
from jaxreplay._core import layout
from jaxreplay._core.clock import Clock
from jaxreplay._core.episode_numbers import VOID, Envs
from jaxreplay._core.layout import Layout
from jaxreplay._core.loops import vary_as
from jaxreplay.types import Rows

MAX_INDEX = 2**31 - 1


class Rings(struct.PyTreeNode):
    """Both rings, and what an append must know.

    arrays: first the packed records, `[T + 1 + K, E, R]` uint32, then the large leaves, each by itself. A step's record
    begins with (episode, ordinal): its episode's number, VOID, or a removed row's code; and how many rows of its env
    were recorded and not removed before it. An episode's record begins with (start, newest): the times of its first and
    newest step.
    num_records: K, 0 for independent items.
    """

    arrays: tuple[jax.Array, ...]
    clock: Clock
    envs: Envs
    layout: Layout = struct.field(pytree_node=False)
    num_records: int = struct.field(pytree_node=False)

    @property
    def num_slots(self) -> int:
        """T."""
        return self._shape[0] - 1 - self.num_records

    @property
    def num_envs(self) -> int:
        """E."""
        return self._shape[1]

    @property
    def _shape(self) -> tuple[int, int]:
        """All slots and E. Raises ValueError for a batch of buffers, which only vmap can take apart."""
        *batch, slots, num_envs, _ = self.arrays[0].shape
        if batch:
            raise ValueError(f"a batch of buffers {tuple(batch)} came where one is expected; use jax.vmap over them")
        return slots, num_envs


class Span(struct.PyTreeNode):
    """Where rows are, and how far the held part of their episodes reaches; `[B]` each.

    valid: bool, the row can be read. time, env: int32, the row. slot: int32, where it is in the arrays.
    before, after: int32, held steps of its episode before and after it; a view may narrow them.
    newest: int32, steps to its episode's newest, whose next observation is in the slot `record`.
    index: int32, the step's position in its episode, from 0. open: bool, the episode has not ended.
    bits: uint32 `[B, n]`, random, for a view that draws, else None.
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
    bits: jax.Array | None = None


def make_rings(layout: Layout, num_slots: int, num_envs: int, num_records: int) -> Rings:
    """Allocate empty rings, every array its own. Raises ValueError where 32-bit indices do not reach."""
    slots = num_slots + 1 + num_records
    if slots * num_envs > MAX_INDEX:
        raise ValueError(f"capacity: {slots * num_envs} rows, those of episodes included, do not fit in 31-bit indices")
    arrays = [jnp.zeros((slots, num_envs, layout.num_words), jnp.uint32)]
    for array in range(1, layout.num_arrays):
        index = layout.array_leaf(array)
        leaf = layout.leaves[index]
        kept = slots if index in layout.followed else num_slots + 1
        arrays.append(jnp.zeros((kept, num_envs, *leaf.raw_shape), leaf.raw_dtype))
    return Rings(
        arrays=tuple(arrays),
        clock=ring.start_clock(),
        envs=numbering.start_envs(num_envs),
        layout=layout,
        num_records=num_records,
    )


def write(rings: Rings, leaves: list[jax.Array], valid: jax.Array, ended: jax.Array) -> tuple[Rings, jax.Array]:
    """Append a block of slices; return the slots it went to as well, `[min(L, T)]`.

    leaves: of the whole step, those that follow from others included, `[L, E, ...]`.
    valid, ended: `[L, E]` bool, see `numbering.number_steps`.
    """
    chex.assert_shape([valid, ended], (None, rings.num_envs))
    length, num_slots = valid.shape[0], rings.num_slots
    counted = valid.astype(jnp.int32)
    ordinal = rings.envs.recorded[None] + jnp.cumsum(counted, axis=0, dtype=jnp.int32) - counted
    if rings.num_records:
        envs, steps = numbering.number_steps(rings.envs, rings.clock.time, valid, ended, rings.num_records)
        number = jnp.where(valid, steps.number, VOID)
    else:
        envs, steps = rings.envs.replace(recorded=rings.envs.recorded + jnp.sum(valid, axis=0, dtype=jnp.int32)), None
        number = jnp.where(valid, 0, VOID)
    kept = min(length, num_slots)
    clock = ring.advance(rings.clock, length, num_slots)
    slots = ring.slot_of_age(clock, kept - jnp.arange(kept, dtype=jnp.int32), num_slots)
    arrays = _write_slots(rings, leaves, jnp.stack([number, ordinal], axis=-1), slots)
    if steps is not None:
        arrays = _write_records(rings, arrays, leaves, steps, envs)
    return rings.replace(arrays=arrays, clock=clock, envs=envs), slots


def _write_slots(rings: Rings, leaves: list[jax.Array], own: jax.Array, slots: jax.Array) -> tuple[jax.Array, ...]:
    """Write the last slices of a block to slots of the ring of steps, `[min(L, T)]`."""
    kept, stored = slots.shape[0], rings.layout
    values = {i: x[-kept:] for i, x in enumerate(leaves) if stored.leaves[i].next_of is None}
    blocks = [layout.pack(stored, own[-kept:], values)]
    blocks += [layout.to_raw(values[stored.array_leaf(array)]) for array in range(1, stored.num_arrays)]
    if kept == 1:  # one contiguous write
        return tuple(
            lax.dynamic_update_slice(array, block, (slots[0], *[jnp.int32(0)] * (array.ndim - 1)))
            for array, block in zip(rings.arrays, blocks, strict=True)
        )
    return tuple(
        array.at[slots].set(block, mode="promise_in_bounds", unique_indices=True, wrap_negative_indices=False)
        for array, block in zip(rings.arrays, blocks, strict=True)
    )


def _write_records(
    rings: Rings,
    arrays: tuple[jax.Array, ...],
    leaves: list[jax.Array],
    steps: numbering.Numbering,
    envs: Envs,
) -> tuple[jax.Array, ...]:
    """Write the record of every episode with steps in the block, as its newest step there leaves it."""
    length, num_envs = steps.number.shape
    step = jnp.arange(length, dtype=jnp.int32)[:, None]
    end = rings.num_slots + 1 + rings.num_records
    keep = steps.newest & numbering.has_record(envs.number[None], steps.number, rings.num_records)
    # What is not kept goes past the end, each to a place of its own, so that indices are unique as promised.
    slot = jnp.where(keep, rings.num_slots + 1 + steps.number % rings.num_records, end + step)
    env = jnp.broadcast_to(jnp.arange(num_envs, dtype=jnp.int32), (length, num_envs))
    own = jnp.stack([steps.start, jnp.broadcast_to(rings.clock.time + step, steps.start.shape)], axis=-1)
    finals = {leaf.next_of: x for x, leaf in zip(leaves, rings.layout.leaves, strict=True) if leaf.next_of is not None}
    # One axis for steps and envs before anything is packed: XLA would pack anew, and slowly, to bring two in its order.
    slot, env, own, finals = jax.tree.map(lambda x: lax.collapse(x, 0, 2), (slot, env, own, finals))
    packed = {i: x for i, x in finals.items() if rings.layout.leaves[i].array == 0}
    blocks = {0: layout.pack(rings.layout, own, packed)}
    for index in finals.keys() - packed.keys():
        blocks[rings.layout.leaves[index].array] = layout.to_raw(finals[index])
    out = list(arrays)
    for array, block in blocks.items():
        out[array] = out[array].at[slot, env].set(block, mode="drop", unique_indices=True, wrap_negative_indices=False)
    return tuple(out)


def flat_index(rings: Rings, slot: jax.Array, env: jax.Array) -> jax.Array:
    """The number of the row of a slot and env once both are one axis: `[T + 1 + K, E]` as `[(T + 1 + K) * E]`."""
    return slot * rings.num_envs + env


def own_word(rings: Rings, slot: jax.Array, env: jax.Array, word: int) -> jax.Array:
    """Read one of the library's own words of records, int32, in the shape of `slot` and `env`."""
    flat = rings.arrays[0].reshape(-1, rings.layout.num_words)
    column = jnp.full_like(slot, word)
    words = flat.at[flat_index(rings, slot, env), column].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return lax.bitcast_convert_type(words, jnp.int32)


def place(rings: Rings, rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `(slot, env, held)` of rows; where a row is not held (stale, or out of range) it is the zero slot's."""
    held = ring.is_held(rings.clock, rows.time) & (rows.env >= 0) & (rows.env < rings.num_envs)
    ages = jnp.where(held, ring.age(rings.clock, rows.time), 1)
    slot = jnp.where(held, ring.slot_of_age(rings.clock, ages, rings.num_slots), rings.num_slots)
    return slot, jnp.where(held, rows.env, 0), held


def find(rings: Rings, rows: Rows) -> Span:
    """Say where rows are and what surrounds them: the one place that decides whether a row can be read."""
    chex.assert_equal_shape([rows.time, rows.env])
    slot, env, held = place(rings, rows)
    number = own_word(rings, slot, env, 0)
    if not rings.num_records:
        valid, none = held & (number >= 0), jnp.zeros_like(slot)
        reach = {"before": none, "after": none, "newest": none, "index": none, "open": none > 0}
        record = none + rings.num_slots
    else:
        last_number = rings.envs.number[env]
        valid = held & numbering.has_record(last_number, number, rings.num_records)
        record = rings.num_slots + jnp.where(valid, 1 + number % rings.num_records, 0)
        index = jnp.where(valid, rows.time - own_word(rings, record, env, 0), 0)
        before = jnp.minimum(index, rings.clock.held - ring.age(rings.clock, rows.time))
        after = jnp.where(valid, own_word(rings, record, env, 1) - rows.time, 0)
        reach = {
            "before": jnp.where(valid, before, 0),
            "after": after,
            "newest": after,
            "index": index,
            "open": valid & (number == last_number) & rings.envs.open[env],
        }
    slot = jnp.where(valid, slot, rings.num_slots)
    return Span(valid=valid, time=rows.time, env=env, slot=slot, record=record, **reach)


def all_rows(rings: Rings) -> Rows:
    """Every slot's row in order of time, then env, `[T*E]` each."""
    shape = (rings.num_slots, rings.num_envs)
    time = ring.all_times(rings.clock, rings.num_slots)[:, None]
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    return Rows(*(jnp.broadcast_to(x, shape).ravel() for x in (time, env)))


def is_valid(rings: Rings, rows: Rows) -> jax.Array:
    """Tell which rows can be read: `find(...).valid`, and nothing else of it is computed."""
    return find(rings, rows).valid


def gather_leaf(rings: Rings, index: int, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Read one stored leaf at slots and envs of any one shape `[...]`: `[..., *shape]`."""
    return decode_leaf(rings, index, gather_bits(rings, index, slot, env))


def gather_bits(rings: Rings, index: int, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Read one stored leaf as it is stored, the axes of `slot` first; `decode_leaf` makes values of it.

    What comes in between, as picking some of the rows, is done with integers and so changes no bit.
    """
    leaf = rings.layout.leaves[index]
    source = rings.arrays[leaf.array]
    flat = lax.collapse(source, 0, 2)
    got = flat.at[flat_index(rings, slot, env)].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return got if leaf.array else got[..., leaf.word : leaf.word + leaf.num_words]


def decode_leaf(rings: Rings, index: int, bits: jax.Array) -> jax.Array:
    """Give the values of what `gather_bits` read."""
    leaf = rings.layout.leaves[index]
    return layout.from_raw(bits, leaf.dtype) if leaf.array else layout.from_words(leaf, bits)


def oldest_recorded(rings: Rings) -> jax.Array:
    """The age of each env's oldest row that has not lost its episode's record, `[E]`; at most `held`."""
    held = jnp.broadcast_to(rings.clock.held, (rings.num_envs,))
    if not rings.num_records:
        return held
    number, some_lost = numbering.oldest_recorded(rings.envs.number, rings.num_records)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    start = own_word(rings, rings.num_slots + 1 + number % rings.num_records, env, 0)
    return jnp.where(some_lost, jnp.clip(ring.age(rings.clock, start), 0, held), held)


def counts(rings: Rings) -> jax.Array:
    """How many rows of each env can be read, `[E]` int32. Costs two reads an env, whatever the capacity."""
    ages = oldest_recorded(rings)
    env = jnp.arange(rings.num_envs, dtype=jnp.int32)
    slot = ring.slot_of_age(rings.clock, jnp.maximum(ages, 1), rings.num_slots)
    return jnp.where(ages > 0, rings.envs.recorded - own_word(rings, slot, env, 1), 0)


def rank(rings: Rings, span: Span) -> jax.Array:
    """The number, from 0, of each valid row of a span among those of its env that can be read, oldest first, `[B]`."""
    return own_word(rings, span.slot, span.env, 1) - (rings.envs.recorded - counts(rings))[span.env]


def nth_rows(rings: Rings, nth: jax.Array, env: jax.Array) -> Rows:
    """The rows that are number `nth` (from 0) of those of their env that can be read, `[B]`; by bisection over time.

    Ordinals rise by one after each such row, so the n-th is the newest whose ordinal is at most the oldest's plus n.
    """
    target = rings.envs.recorded[env] - counts(rings)[env] + nth

    def halve(_, bounds):
        newer, older = bounds  # ages; the answer lies in [newer, older]
        middle = (newer + older) // 2
        slot = ring.slot_of_age(rings.clock, jnp.maximum(middle, 1), rings.num_slots)
        fits = own_word(rings, slot, env, 1) - target <= 0
        return jnp.where(fits, newer, middle + 1), jnp.where(fits, middle, older)

    older = jnp.broadcast_to(jnp.maximum(rings.clock.held, 1), nth.shape)
    bounds = vary_as((jnp.ones_like(older), older), (target, target))
    ages, _ = lax.fori_loop(0, rings.num_slots.bit_length(), halve, bounds)
    return Rows(time=rings.clock.time - ages, env=env)
