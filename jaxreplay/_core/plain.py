"""How the rings lie in memory on CPUs and GPUs: as NumPy arrays do. See `memory`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxreplay._core.layout import OWN_WORDS, Layout

Arrays: TypeAlias = tuple[jax.Array, ...]
Ring: TypeAlias = Literal["steps", "episodes", "both"]
"""Which ring the slots that are read belong to, as far as it is known when the program is made."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """Arrays `[T + 1 + K, E, ...]`: first the records, `[..., R]` uint32, then the large leaves, each by itself.

    A large leaf that nothing follows from has no final value to keep, and so no slots of episodes.
    Arrays of a stack of buffers have one axis more in front, `[A, T + 1 + K, E, ...]`, and its envs count over all.
    """

    num_records: int
    at_once: bool  # rather than in loops whose end only the data decide
    shares_reads: ClassVar[bool] = True  # between large leaves that read the same places

    def sizes(self, arrays: Arrays, joined: int = 1) -> tuple[int, ...]:
        """Return T and E; before them the axes of a batch of buffers, if it is one.

        joined: of how many buffers the arrays are, one after the other along the axis of slots.
        """
        *batch, slots, num_envs, _ = arrays[0].shape
        return (*batch, slots // joined - 1 - self.num_records, num_envs)

    def resized(self, num_slots: int, num_records: int) -> Plain:
        """Return how rings of other sizes lie."""
        return dataclasses.replace(self, num_records=num_records)

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
        index = _row(arrays[0], 1, slot, env)
        if 0 < count <= OWN_WORDS and not self.at_once:  # a few words cost less one by one than rows cut down to them
            words = [flat.at[index, jnp.full_like(slot, first + i)] for i in range(count)]
            return jnp.stack([x.get(mode="promise_in_bounds", wrap_negative_indices=False) for x in words], axis=-1)
        rows = flat.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return rows[..., first : first + count]

    def read_leaf(self, arrays: Arrays, layout: Layout, array: int, slot: jax.Array, env: jax.Array) -> jax.Array:
        """Read a large leaf at slots and envs `[...]`: `[..., *raw shape]`."""
        rank = len(layout.large[array - 1][1].raw.shape)
        if self.at_once:  # else XLA for GPUs finds the places anew in kernels of parts of what is read
            slot, env = lax.optimization_barrier((slot, env))
        flat = lax.collapse(arrays[array], 0, arrays[array].ndim - rank)
        index = _row(arrays[array], rank, slot, env)
        return flat.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)

    def write_slots(
        self,
        arrays: Arrays,
        layout: Layout,
        slots: jax.Array,
        blocks: list[jax.Array],
        member: jax.Array | None = None,
    ) -> Arrays:
        """Write blocks `[L, E, ...]`, one an array, to neighbouring slots `[L]` of steps, round the ring.

        member: which buffer of a stack; one past its end, and nothing is written.
        """
        if member is not None:
            index = jnp.broadcast_to(member, slots.shape), slots
            return tuple(scatter(array, index, block) for array, block in zip(arrays, blocks, strict=True))
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
            out[array] = scatter(out[array], place(out[array], block.ndim - 1, slot, env), block)
        return tuple(out)

    def put(
        self, arrays: Arrays, layout: Layout, index: int, slot: jax.Array, env: jax.Array, raw: jax.Array
    ) -> Arrays:
        """Overwrite a leaf of different steps `[B]` with its raw words or values; those past the end not."""
        leaf, out = layout.leaves[index], list(arrays)
        if leaf.array:
            out[leaf.array] = scatter(out[leaf.array], place(out[leaf.array], raw.ndim - 1, slot, env), raw)
        else:
            at = out[0].at[(*place(out[0], 1, slot, env), slice(leaf.word, leaf.word + leaf.num_words))]
            out[0] = at.set(raw, mode="drop", unique_indices=True, wrap_negative_indices=False)
        return tuple(out)

    def own_words(self, arrays: Arrays, layout: Layout) -> jax.Array:
        """Read the library's own words of all steps, `[T, E, 2]`; of a stack, those of all envs."""
        num_slots = self.sizes(arrays)[-2]
        if arrays[0].ndim == 3:
            return arrays[0][:num_slots, :, :OWN_WORDS]
        return lax.collapse(arrays[0][:, :num_slots, :, :OWN_WORDS].swapaxes(0, 1), 1, 3)

    def set_own_words(self, arrays: Arrays, layout: Layout, words: jax.Array) -> Arrays:
        """Write the library's own words of all steps, `[T, E, 2]`."""
        return (arrays[0].at[: words.shape[0], :, :OWN_WORDS].set(words), *arrays[1:])


def place(array: jax.Array, rank: int, slot: jax.Array, env: jax.Array) -> tuple[jax.Array, ...]:
    """Return the index of slots and envs `[...]` in an array of items of `rank` axes: in a stack's, member first."""
    if array.ndim == rank + 2:
        return slot, env
    member, env = member_of(env, array.shape[2])
    return member, slot, env


def member_of(env: jax.Array, num_envs: int) -> tuple[jax.Array, jax.Array]:
    """Return in which buffer of a stack an env is, and its number among the E there."""
    each = jnp.int32(num_envs)
    return lax.div(env, each), lax.rem(env, each)


def _row(array: jax.Array, rank: int, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Return the index of slots and envs `[...]` once all axes before those of an item are one."""
    *member, slot, env = place(array, rank, slot, env)
    index = slot * array.shape[-rank - 1] + env
    return index + member[0] * (array.shape[1] * array.shape[2]) if member else index


def scatter(array: jax.Array, index: tuple[jax.Array, ...], values: jax.Array) -> jax.Array:
    """Write values at different places; those past the end are dropped."""
    return array.at[index].set(values, mode="drop", unique_indices=True, wrap_negative_indices=False)
