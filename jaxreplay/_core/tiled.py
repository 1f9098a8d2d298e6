"""How the rings lie in memory on TPUs: in rows of whole tiles. See `memory`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.layout import OWN_WORDS, Layout
from jaxreplay._core.loops import in_chunks
from jaxreplay._core.plain import Arrays, Ring, member_of, scatter

LANES = 128
CHUNK = 2**13  # records that are read at once from rows of tiles, each of which is 512 bytes or more


@dataclasses.dataclass(frozen=True)
class Tiled:
    """Rows of 128 lanes, or multiples of them: `[N, width]`.

    The first array has the records of steps, `per_row` to a row. Where a slice has few envs, a row has `slices_per_row`
    whole slices; else a slice has `rows_per_slice` rows of its own, so that an append writes whole rows. The last array
    has the records of episodes, in rows of one env, and of each only the words that it needs. Between them are the
    large leaves, `[(T + 1 + K) * E, width]`.
    Arrays of a stack of buffers have one axis more in front, and its envs count over all.
    """

    num_records: int
    num_slots: int
    num_envs: int
    num_words: int
    final_words: int
    at_once: ClassVar[bool] = True
    shares_reads: ClassVar[bool] = False

    def sizes(self, arrays: Arrays, joined: int = 1) -> tuple[int, ...]:
        return (*arrays[0].shape[:-2], self.num_slots, self.num_envs)

    def resized(self, num_slots: int, num_records: int) -> Tiled:
        return dataclasses.replace(self, num_slots=num_slots, num_records=num_records)

    @functools.cached_property
    def width(self) -> int:
        return _padded(self.num_words)

    @functools.cached_property
    def per_row(self) -> int:
        return max(1, LANES // self.num_words)

    @functools.cached_property
    def finals_per_row(self) -> int:
        """Episodes' records in a row."""
        return max(1, LANES // self.final_words)

    @functools.cached_property
    def slices_per_row(self) -> int:
        return max(1, self.per_row // self.num_envs)

    @functools.cached_property
    def rows_per_slice(self) -> int:
        return -(-self.num_envs // self.per_row)

    @functools.cached_property
    def rows_per_env(self) -> int:
        """Rows of episodes' records."""
        return -(-self.num_records // self.finals_per_row)

    def allocate(self, layout: Layout, num_slots: int, num_envs: int) -> Arrays:
        rows = -(-(num_slots + 1) // self.slices_per_row) * self.rows_per_slice
        arrays = [jnp.zeros((rows, self.width), jnp.uint32)]
        for index, leaf in layout.large:
            kept = num_slots + 1 + (self.num_records if index in layout.followed else 0)
            arrays.append(jnp.zeros((kept * num_envs, _padded(math.prod(leaf.raw.shape))), leaf.raw.dtype))
        if self.num_records:
            arrays.append(jnp.zeros((num_envs * self.rows_per_env, _padded(self.final_words)), jnp.uint32))
        return tuple(arrays)

    def read_words(
        self,
        arrays: Arrays,
        layout: Layout,
        slot: jax.Array,
        env: jax.Array,
        ring: Ring | tuple[Ring, ...],
        first: int,
        count: int,
    ) -> jax.Array:
        if isinstance(ring, tuple):
            if len(set(ring)) == 1:
                return self.read_words(arrays, layout, slot, env, ring[0], first, count)
            each = [
                self.read_words(arrays, layout, slot[:, i : i + 1], env[:, i : i + 1], one, first, count)
                for i, one in enumerate(ring)
            ]
            return jnp.concatenate(each, axis=1)
        if slot.size > CHUNK:
            read = functools.partial(self.read_words, arrays, layout, ring=ring, first=first, count=count)
            return in_chunks(lambda places: read(*places), (slot.ravel(), env.ravel()), CHUNK).reshape(
                *slot.shape, count
            )
        found, (member, env) = [], self._member(arrays, env)
        if ring != "episodes":
            row, part = self._step_place(jnp.minimum(slot, self.num_slots), env)
            parts = self.slices_per_row * self.num_envs if self.slices_per_row > 1 else self.per_row
            found.append(_pick(_rows(arrays[0], row, member), part, parts, self.num_words, first, count))
        if ring != "steps" and self.num_records:
            row, part = self._record_place(jnp.maximum(slot - (self.num_slots + 1), 0), env)
            parts, kept = min(self.finals_per_row, self.num_records), max(0, min(count, self.final_words - first))
            words = _pick(_rows(arrays[-1], row, member), part, parts, self.final_words, first, kept)
            found.append(jnp.pad(words, [(0, 0)] * slot.ndim + [(0, count - kept)]))
        if len(found) == 1:
            return found[0]
        return jnp.where((slot <= self.num_slots)[..., None], *found)

    def read_leaf(self, arrays: Arrays, layout: Layout, array: int, slot: jax.Array, env: jax.Array) -> jax.Array:
        shape = layout.large[array - 1][1].raw.shape
        member, env = self._member(arrays, env)
        rows = _rows(arrays[array], slot * self.num_envs + env, member)
        return rows[..., : math.prod(shape)].reshape(*slot.shape, *shape)

    def write_slots(
        self,
        arrays: Arrays,
        layout: Layout,
        slots: jax.Array,
        blocks: list[jax.Array],
        member: jax.Array | None = None,
    ) -> Arrays:
        records, *large = blocks
        out = list(arrays)
        out[0] = self._write_steps(arrays[0], slots, records, member)
        env = jnp.arange(self.num_envs, dtype=jnp.int32)[None]
        for array, block in enumerate(large, 1):
            rows = _pad_lanes(block.reshape(slots.shape[0] * self.num_envs, -1), arrays[array].shape[-1])
            if slots.shape[0] == 1:
                out[array] = _write_rows(out[array], slots[0] * self.num_envs, rows, member)
            else:
                out[array] = scatter(out[array], _at((slots[:, None] * self.num_envs + env).ravel(), member), rows)
        return tuple(out)

    def _write_steps(
        self, array: jax.Array, slots: jax.Array, records: jax.Array, member: jax.Array | None
    ) -> jax.Array:
        """Write records `[L, E, R]` of neighbouring slots `[L]`, round the ring."""
        length = slots.shape[0]
        if self.slices_per_row == 1:
            padded = jnp.pad(records, ((0, 0), (0, self.rows_per_slice * self.per_row - self.num_envs), (0, 0)))
            rows = _pad_lanes(padded.reshape(length * self.rows_per_slice, self.per_row * self.num_words), self.width)
            if length == 1:
                return _write_rows(array, slots[0] * self.rows_per_slice, rows, member)
            within = jnp.arange(self.rows_per_slice, dtype=jnp.int32)[None]
            return scatter(array, _at((slots[:, None] * self.rows_per_slice + within).ravel(), member), rows)
        # Rows that several slices share: read, changed in the lanes of the block, and written back.
        num_rows = -(-self.num_slots // self.slices_per_row)
        touched = 1 if length == 1 else min(num_rows, (length - 1) // self.slices_per_row + 3)
        row = (slots[0] // self.slices_per_row + jnp.arange(touched, dtype=jnp.int32)) % num_rows
        slot = row[:, None] * self.slices_per_row + jnp.arange(self.slices_per_row, dtype=jnp.int32)[None]
        place = slot - slots[0]
        place = jnp.where(place < 0, place + self.num_slots, place)
        fresh = records[jnp.minimum(place, length - 1)].reshape(touched, -1)
        words = self.num_envs * self.num_words
        changed = jnp.repeat((place < length) & (slot < self.num_slots), words, axis=1)
        old = _rows(array, row, member)
        new = jnp.where(_pad_lanes(changed, self.width), _pad_lanes(fresh, self.width), old)
        return scatter(array, _at(row, member), new)

    def write_records(
        self, arrays: Arrays, layout: Layout, slot: jax.Array, env: jax.Array, blocks: Mapping[int, jax.Array]
    ) -> Arrays:
        out, (member, own) = list(arrays), self._member(arrays, env)
        for array, block in blocks.items():
            if array:
                rows = _pad_lanes(block.reshape(block.shape[0], -1), out[array].shape[-1])
                out[array] = scatter(out[array], _at(slot * self.num_envs + own, member), rows)
        slices = jax.tree.map(lambda x: x.reshape(-1, self.num_envs, *x.shape[1:]), (slot, env, blocks[0]))

        def write_one(array: jax.Array, one: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            slot, env, records = one
            member, env = self._member((array,), env)
            known = slot <= self.num_slots + self.num_records
            row, part = self._record_place(jnp.clip(slot - (self.num_slots + 1), 0, self.num_records - 1), env)
            width = array.shape[-1]
            lane_part = jnp.arange(width, dtype=jnp.int32) // self.final_words
            here = (lane_part[None] == part[:, None]) & known[:, None]
            repeated = _pad_lanes(jnp.tile(records[:, : self.final_words], (1, self.finals_per_row)), width)
            return scatter(array, _at(row, member), jnp.where(here, repeated, _rows(array, row, member))), None

        if slices[0].shape[0] == 1:
            out[-1], _ = write_one(out[-1], jax.tree.map(lambda x: x[0], slices))
        else:  # two episodes of an env can lie in one row: slice by slice
            out[-1], _ = lax.scan(write_one, out[-1], slices)
        return tuple(out)

    def put(
        self, arrays: Arrays, layout: Layout, index: int, slot: jax.Array, env: jax.Array, raw: jax.Array
    ) -> Arrays:
        leaf, out, (member, env) = layout.leaves[index], list(arrays), self._member(arrays, env)
        known = slot < self.num_slots
        if leaf.array:
            past = jnp.arange(slot.shape[0], dtype=jnp.int32) + out[leaf.array].shape[-2]
            row = jnp.where(known, slot * self.num_envs + env, past)
            rows = _pad_lanes(raw.reshape(raw.shape[0], -1), out[leaf.array].shape[-1])
            out[leaf.array] = scatter(out[leaf.array], _at(row, member), rows)
            return tuple(out)
        row, part = self._step_place(jnp.minimum(slot, self.num_slots), env)
        past = jnp.arange(slot.shape[0], dtype=jnp.int32) + out[0].shape[-2]
        lane = part[:, None] * self.num_words + leaf.word + jnp.arange(leaf.num_words, dtype=jnp.int32)[None]
        row = jnp.broadcast_to(jnp.where(known, row, past)[:, None], lane.shape)
        out[0] = scatter(out[0], (*_at(row, None if member is None else member[:, None]), lane), raw)
        return tuple(out)

    def own_words(self, arrays: Arrays, layout: Layout) -> jax.Array:
        if arrays[0].ndim == 3:
            words = jax.vmap(lambda first: self.own_words((first,), layout), out_axes=1)(arrays[0])
            return lax.collapse(words, 1, 3)
        rows, parts = arrays[0], self.slices_per_row * self.num_envs if self.slices_per_row > 1 else self.per_row
        each = [rows[:, p * self.num_words : p * self.num_words + OWN_WORDS] for p in range(parts)]
        words = jnp.stack(each, axis=1)  # [rows, parts, 2]
        if self.slices_per_row > 1:
            return words.reshape(-1, self.num_envs, OWN_WORDS)[: self.num_slots]
        words = words.reshape(-1, self.rows_per_slice * self.per_row, OWN_WORDS)
        return words[: self.num_slots, : self.num_envs]

    def set_own_words(self, arrays: Arrays, layout: Layout, words: jax.Array) -> Arrays:
        slices = jnp.arange(self.num_slots, dtype=jnp.int32)[:, None]
        row, part = self._step_place(slices, jnp.arange(self.num_envs, dtype=jnp.int32)[None])
        lane = part[..., None] * self.num_words + jnp.arange(OWN_WORDS, dtype=jnp.int32)[None, None]
        index = jnp.broadcast_arrays(row[..., None], lane)
        return (arrays[0].at[*index].set(words, unique_indices=True), *arrays[1:])

    def _member(self, arrays: Arrays, env: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """Return which buffer of a stack each env is in, None if it is no stack, and its number there."""
        if arrays[0].ndim == 2:
            return None, env
        return member_of(env, self.num_envs)

    def _step_place(self, slot: jax.Array, env: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of a step's record, and its number in it."""
        if self.slices_per_row > 1:
            return slot // self.slices_per_row, slot % self.slices_per_row * self.num_envs + env
        return slot * self.rows_per_slice + env // self.per_row, env % self.per_row

    def _record_place(self, record: jax.Array, env: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of an episode's record, and its number in it."""
        return env * self.rows_per_env + record // self.finals_per_row, record % self.finals_per_row


def _pick(rows: jax.Array, part: jax.Array, parts: int, size: int, first: int, count: int) -> jax.Array:
    """Pick words of one record of a size in each row `[..., width]`: a TPU gathers along rows slowly.

    A few words are picked by sums over the row, of which all others are zero; more by selects.
    """
    if 0 < count <= OWN_WORDS:
        lane = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1) - (part * size + first)[..., None]
        words = [jnp.sum(jnp.where(lane == i, rows, 0), -1, dtype=rows.dtype) for i in range(count)]
        return jnp.stack(words, axis=-1)
    picked = rows[..., first : first + count]
    for p in range(1, parts):
        begin = p * size + first
        picked = jnp.where((part == p)[..., None], rows[..., begin : begin + count], picked)
    return picked


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def _pad_lanes(rows: jax.Array, width: int) -> jax.Array:
    return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _at(row: jax.Array, member: jax.Array | None) -> tuple[jax.Array, ...]:
    """Return the index of rows, of buffers of a stack if there is one."""
    return (row,) if member is None else (jnp.broadcast_to(member, row.shape), row)


def _rows(array: jax.Array, row: jax.Array, member: jax.Array | None) -> jax.Array:
    return array.at[_at(row, member)].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _write_rows(array: jax.Array, first: jax.Array, rows: jax.Array, member: jax.Array | None) -> jax.Array:
    """Write neighbouring rows."""
    if member is None:
        return lax.dynamic_update_slice(array, rows, (first, jnp.int32(0)))
    return scatter(array, _at(first + jnp.arange(rows.shape[0], dtype=jnp.int32), member), rows)
