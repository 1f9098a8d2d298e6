"""How the rings lie in memory: the one place that knows the shapes of their arrays.

Everything else names a place by `(slot, env)`. The slots of an env are the T of the ring of steps, then one that stays
zero, then the K of its ring of episodes' records.

`Plain` lies as NumPy arrays do, `[T + 1 + K, E, ...]`, which suits CPUs and GPUs: one index into one array finds a step
and the record of an episode alike.

`Tiled` suits TPUs, whose memory is made of tiles of 128 lanes. Rows of any other width are copied whole to another form
before a program can index them. So all arrays are rows of a multiple of 128 lanes. Records of R words lie several to a
row: those of steps slice after slice, those of episodes env after env. So no two envs share a row of episodes, and one
append writes no row twice. Large leaves are padded to whole rows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.layout import OWN_WORDS, Layout
from jaxreplay._core.loops import in_chunks

LANES = 128
CHUNK = 2**13  # records that are read at once from rows of tiles, each of which is 512 bytes or more
Arrays: TypeAlias = tuple[jax.Array, ...]
Ring: TypeAlias = Literal["steps", "episodes", "both"]
"""Which ring the slots that are read belong to, as far as it is known when the program is made."""
Which: TypeAlias = Ring | tuple[Ring, ...]


@dataclasses.dataclass(frozen=True)
class Plain:
    """Arrays `[T + 1 + K, E, ...]`: first the records, `[..., R]` uint32, then the large leaves, each by itself.

    A large leaf that nothing follows from has no final value to keep, and so no slots of episodes.
    """

    num_records: int
    at_once: bool  # rather than in loops whose end only the data decide

    def sizes(self, arrays: Arrays) -> tuple[int, ...]:
        """Return T and E; before them the axes of a batch of buffers, if it is one."""
        *batch, slots, num_envs, _ = arrays[0].shape
        return (*batch, slots - 1 - self.num_records, num_envs)

    def doubled(self) -> Plain:
        """Return how rings of twice the slots and records lie."""
        return dataclasses.replace(self, num_records=2 * self.num_records)

    def allocate(self, layout: Layout, num_slots: int, num_envs: int) -> Arrays:
        slots = num_slots + 1 + self.num_records
        arrays = [jnp.zeros((slots, num_envs, layout.num_words), jnp.uint32)]
        for index, leaf in layout.large:
            kept = slots if index in layout.followed else num_slots + 1
            arrays.append(jnp.zeros((kept, num_envs, *leaf.raw.shape), leaf.raw.dtype))
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
        """Read words `[..., count]` of the records at slots and envs `[...]`, from word number `first` on.

        ring: which slots they are, or which each column of `[B, W]` is.
        """
        flat = arrays[0].reshape(-1, layout.num_words)
        index = slot * arrays[0].shape[1] + env
        if count <= OWN_WORDS:  # a few words cost less one by one than rows cut down to them
            words = [flat.at[index, jnp.full_like(slot, first + i)] for i in range(count)]
            return jnp.stack([x.get(mode="promise_in_bounds", wrap_negative_indices=False) for x in words], axis=-1)
        rows = flat.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return rows[..., first : first + count]

    def read_leaf(self, arrays: Arrays, layout: Layout, array: int, slot: jax.Array, env: jax.Array) -> jax.Array:
        """Read a large leaf at slots and envs `[...]`: `[..., *raw shape]`."""
        flat = lax.collapse(arrays[array], 0, 2)
        index = slot * arrays[array].shape[1] + env
        return flat.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)

    def write_slots(self, arrays: Arrays, layout: Layout, slots: jax.Array, blocks: list[jax.Array]) -> Arrays:
        """Write blocks `[L, E, ...]`, one an array, to neighbouring slots `[L]` of steps, round the ring."""
        if slots.shape[0] == 1:  # one contiguous write
            return tuple(
                lax.dynamic_update_slice(array, block, (slots[0], *[jnp.int32(0)] * (array.ndim - 1)))
                for array, block in zip(arrays, blocks, strict=True)
            )
        return tuple(
            array.at[slots].set(block, mode="promise_in_bounds", unique_indices=True, wrap_negative_indices=False)
            for array, block in zip(arrays, blocks, strict=True)
        )

    def write_records(
        self, arrays: Arrays, layout: Layout, slot: jax.Array, env: jax.Array, blocks: Mapping[int, jax.Array]
    ) -> Arrays:
        """Write `[N, ...]` records of episodes, by array, at different slots and envs `[N]`; those past the end not."""
        out = list(arrays)
        for array, block in blocks.items():
            out[array] = _scatter(out[array], (slot, env), block)
        return tuple(out)

    def put(
        self, arrays: Arrays, layout: Layout, index: int, slot: jax.Array, env: jax.Array, raw: jax.Array
    ) -> Arrays:
        """Overwrite a leaf of different steps `[B]` with its raw words or values; those past the end not."""
        leaf, out = layout.leaves[index], list(arrays)
        if leaf.array:
            out[leaf.array] = _scatter(out[leaf.array], (slot, env), raw)
        else:
            at = out[0].at[slot, env, leaf.word : leaf.word + leaf.num_words]
            out[0] = at.set(raw, mode="drop", unique_indices=True, wrap_negative_indices=False)
        return tuple(out)

    def own_words(self, arrays: Arrays, layout: Layout) -> jax.Array:
        """Read the library's own words of all steps, `[T, E, 2]`."""
        return arrays[0][: self.sizes(arrays)[0], :, :OWN_WORDS]

    def set_own_words(self, arrays: Arrays, layout: Layout, words: jax.Array) -> Arrays:
        """Write the library's own words of all steps, `[T, E, 2]`."""
        return (arrays[0].at[: words.shape[0], :, :OWN_WORDS].set(words), *arrays[1:])


@dataclasses.dataclass(frozen=True)
class Tiled:
    """Rows of 128 lanes, or multiples of them: `[N, width]`.

    The first array has the records of steps, `per_row` to a row. Where a slice has fewer envs, a row has `per_lane_row`
    whole slices; else a slice has `rows_per_slice` rows of its own, so that an append writes whole rows. The last array
    has the records of episodes, in rows of one env. Between them are the large leaves, `[(T + 1 + K) * E, width]`.
    """

    num_records: int
    num_slots: int
    num_envs: int
    num_words: int
    at_once: ClassVar[bool] = True

    def sizes(self, arrays: Arrays) -> tuple[int, ...]:
        return (*arrays[0].shape[:-2], self.num_slots, self.num_envs)

    def doubled(self) -> Tiled:
        return dataclasses.replace(self, num_slots=2 * self.num_slots, num_records=2 * self.num_records)

    @functools.cached_property
    def width(self) -> int:
        return _padded(self.num_words)

    @functools.cached_property
    def per_row(self) -> int:
        return max(1, LANES // self.num_words)

    @functools.cached_property
    def slices_per_row(self) -> int:
        return max(1, self.per_row // self.num_envs)

    @functools.cached_property
    def rows_per_slice(self) -> int:
        return -(-self.num_envs // self.per_row)

    @functools.cached_property
    def rows_per_env(self) -> int:
        """Rows of episodes' records."""
        return -(-self.num_records // self.per_row)

    def allocate(self, layout: Layout, num_slots: int, num_envs: int) -> Arrays:
        rows = -(-(num_slots + 1) // self.slices_per_row) * self.rows_per_slice
        arrays = [jnp.zeros((rows, self.width), jnp.uint32)]
        for index, leaf in layout.large:
            kept = num_slots + 1 + (self.num_records if index in layout.followed else 0)
            arrays.append(jnp.zeros((kept * num_envs, _padded(math.prod(leaf.raw.shape))), leaf.raw.dtype))
        if self.num_records:
            arrays.append(jnp.zeros((num_envs * self.rows_per_env, self.width), jnp.uint32))
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
        found = []
        if ring != "episodes":
            row, part = self._step_place(jnp.minimum(slot, self.num_slots), env)
            parts = self.slices_per_row * self.num_envs if self.slices_per_row > 1 else self.per_row
            found.append(self._pick(_rows(arrays[0], row), part, parts, first, count))
        if ring != "steps" and self.num_records:
            row, part = self._record_place(jnp.maximum(slot - (self.num_slots + 1), 0), env)
            found.append(self._pick(_rows(arrays[-1], row), part, min(self.per_row, self.num_records), first, count))
        if len(found) == 1:
            return found[0]
        return jnp.where((slot <= self.num_slots)[..., None], *found)

    def read_leaf(self, arrays: Arrays, layout: Layout, array: int, slot: jax.Array, env: jax.Array) -> jax.Array:
        shape = layout.leaves[layout.array_leaf(array)].raw.shape
        rows = _rows(arrays[array], slot * self.num_envs + env)
        return rows[..., : math.prod(shape)].reshape(*slot.shape, *shape)

    def write_slots(self, arrays: Arrays, layout: Layout, slots: jax.Array, blocks: list[jax.Array]) -> Arrays:
        records, *large = blocks
        out = list(arrays)
        out[0] = self._write_steps(arrays[0], slots, records)
        env = jnp.arange(self.num_envs, dtype=jnp.int32)[None]
        for array, block in enumerate(large, 1):
            rows = _pad_lanes(block.reshape(slots.shape[0] * self.num_envs, -1), arrays[array].shape[1])
            if slots.shape[0] == 1:
                out[array] = lax.dynamic_update_slice(out[array], rows, (slots[0] * self.num_envs, jnp.int32(0)))
            else:
                out[array] = _scatter(out[array], ((slots[:, None] * self.num_envs + env).ravel(),), rows)
        return tuple(out)

    def _write_steps(self, array: jax.Array, slots: jax.Array, records: jax.Array) -> jax.Array:
        """Write records `[L, E, R]` of neighbouring slots `[L]`, round the ring."""
        length = slots.shape[0]
        if self.slices_per_row == 1:
            padded = jnp.pad(records, ((0, 0), (0, self.rows_per_slice * self.per_row - self.num_envs), (0, 0)))
            rows = _pad_lanes(padded.reshape(length * self.rows_per_slice, self.per_row * self.num_words), self.width)
            if length == 1:
                return lax.dynamic_update_slice(array, rows, (slots[0] * self.rows_per_slice, jnp.int32(0)))
            within = jnp.arange(self.rows_per_slice, dtype=jnp.int32)[None]
            return _scatter(array, ((slots[:, None] * self.rows_per_slice + within).ravel(),), rows)
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
        old = _rows(array, row)
        new = jnp.where(_pad_lanes(changed, self.width), _pad_lanes(fresh, self.width), old)
        return _scatter(array, (row,), new)

    def write_records(
        self, arrays: Arrays, layout: Layout, slot: jax.Array, env: jax.Array, blocks: Mapping[int, jax.Array]
    ) -> Arrays:
        out = list(arrays)
        for array, block in blocks.items():
            if array:
                rows = _pad_lanes(block.reshape(block.shape[0], -1), out[array].shape[1])
                out[array] = _scatter(out[array], (slot * self.num_envs + env,), rows)
        slices = jax.tree.map(lambda x: x.reshape(-1, self.num_envs, *x.shape[1:]), (slot, env, blocks[0]))

        def write_one(array: jax.Array, one: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            slot, env, records = one
            known = slot <= self.num_slots + self.num_records
            row, part = self._record_place(jnp.clip(slot - (self.num_slots + 1), 0, self.num_records - 1), env)
            lane_part = jnp.arange(self.width, dtype=jnp.int32) // self.num_words
            here = (lane_part[None] == part[:, None]) & known[:, None]
            repeated = _pad_lanes(jnp.tile(records, (1, self.per_row)), self.width)
            return _scatter(array, (row,), jnp.where(here, repeated, _rows(array, row))), None

        if slices[0].shape[0] == 1:
            out[-1], _ = write_one(out[-1], jax.tree.map(lambda x: x[0], slices))
        else:  # two episodes of an env can lie in one row: slice by slice
            out[-1], _ = lax.scan(write_one, out[-1], slices)
        return tuple(out)

    def put(
        self, arrays: Arrays, layout: Layout, index: int, slot: jax.Array, env: jax.Array, raw: jax.Array
    ) -> Arrays:
        leaf, out = layout.leaves[index], list(arrays)
        known = slot < self.num_slots
        if leaf.array:
            past = jnp.arange(slot.shape[0], dtype=jnp.int32) + out[leaf.array].shape[0]
            row = jnp.where(known, slot * self.num_envs + env, past)
            rows = _pad_lanes(raw.reshape(raw.shape[0], -1), out[leaf.array].shape[1])
            out[leaf.array] = _scatter(out[leaf.array], (row,), rows)
            return tuple(out)
        row, part = self._step_place(jnp.minimum(slot, self.num_slots), env)
        past = jnp.arange(slot.shape[0], dtype=jnp.int32) + out[0].shape[0]
        lane = part[:, None] * self.num_words + leaf.word + jnp.arange(leaf.num_words, dtype=jnp.int32)[None]
        row = jnp.broadcast_to(jnp.where(known, row, past)[:, None], lane.shape)
        out[0] = _scatter(out[0], (row, lane), raw)
        return tuple(out)

    def own_words(self, arrays: Arrays, layout: Layout) -> jax.Array:
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

    def _step_place(self, slot: jax.Array, env: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of a step's record, and its number in it."""
        if self.slices_per_row > 1:
            return slot // self.slices_per_row, slot % self.slices_per_row * self.num_envs + env
        return slot * self.rows_per_slice + env // self.per_row, env % self.per_row

    def _record_place(self, record: jax.Array, env: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of an episode's record, and its number in it."""
        return env * self.rows_per_env + record // self.per_row, record % self.per_row

    def _pick(self, rows: jax.Array, part: jax.Array, parts: int, first: int, count: int) -> jax.Array:
        """Pick words of one record in each row `[..., width]`, by selects: a TPU gathers along rows slowly."""
        picked = rows[..., first : first + count]
        for p in range(1, parts):
            begin = p * self.num_words + first
            picked = jnp.where((part == p)[..., None], rows[..., begin : begin + count], picked)
        return picked


Memory: TypeAlias = Plain | Tiled


def make_memory(platform: str, layout: Layout, num_slots: int, num_envs: int, num_records: int) -> Memory:
    """Choose how the rings of a buffer lie, for a platform as JAX names it."""
    if platform == "tpu":
        return Tiled(num_records, num_slots, num_envs, layout.num_words)
    return Plain(num_records, at_once=platform != "cpu")


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def _pad_lanes(rows: jax.Array, width: int) -> jax.Array:
    return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _rows(array: jax.Array, row: jax.Array) -> jax.Array:
    return array.at[row].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _scatter(array: jax.Array, index: tuple[jax.Array, ...], values: jax.Array) -> jax.Array:
    return array.at[index].set(values, mode="drop", unique_indices=True, wrap_negative_indices=False)
