"""Loops: one that copies nothing under vmap, one in chunks, bisection; and the types of carries in `jax.shard_map`."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

C = TypeVar("C")


def while_needed(needed: Callable[[C], jax.Array], step: Callable[[C], C], carry: C) -> C:
    """Repeat `step` while it is needed; a step must change nothing where it is not.

    Under vmap `lax.while_loop` selects between the old and the new carry of each member, and so copies it. This one
    goes on for all while any needs it. Both functions may use their argument only, so constants go in the carry.
    """

    @custom_vmap
    def loop(carry: C) -> C:
        return lax.while_loop(lambda carry: jnp.any(needed(carry)), step, carry)

    @loop.def_vmap
    def _(axis_size: int, in_batched: list[C], carry: C) -> tuple[C, C]:
        def batch(x: jax.Array, batched: bool) -> jax.Array:
            return x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))

        carry = jax.tree.map(batch, carry, in_batched[0])
        return while_needed(jax.vmap(needed), jax.vmap(step), carry), jax.tree.map(lambda _: True, carry)

    return loop(carry)


def vary_as(new: C, old: C) -> C:
    """Return `new`, varying over a mesh wherever `old` does, to whose shapes and dtypes it fits.

    Inside `jax.shard_map` a type says over which axes of the mesh a value may vary, and what takes the place of another
    in a carry must vary as it does. The compiler folds this away.
    """
    return jax.tree.map(lambda x, y: jnp.where(False, y.astype(x.dtype), x), new, old)


def in_chunks(function: Callable[[C], jax.Array], xs: C, size: int) -> jax.Array:
    """Apply a function of arrays `[B, ...]` to long ones, `[N, ...]`, in turns that need little memory."""
    count = jax.tree.leaves(xs)[0].shape[0]
    turns = -(-count // size)
    filled = jax.tree.map(lambda x: jnp.pad(x, [(0, turns * size - count), *[(0, 0)] * (x.ndim - 1)]), xs)
    out = lax.map(function, jax.tree.map(lambda x: x.reshape(turns, size, *x.shape[1:]), filled))
    return lax.collapse(out, 0, 2)[:count]


def bisect(most: int, holds: Callable[[jax.Array], jax.Array], like: jax.Array, unroll: bool = True) -> jax.Array:
    """Find the last number `[B]` in `[0, most]` for which `holds`, which does from 1 up to it, and not beyond.

    like: `[B]`, which varies over a mesh as what `holds` returns does. unroll: without a loop, for accelerators.
    """
    first = vary_as(jnp.zeros(like.shape, jnp.int32), like)
    return bisect_between(first, jnp.int32(most), most, holds, unroll)


def bisect_between(
    first: jax.Array, last: jax.Array, most: int, holds: Callable[[jax.Array], jax.Array], unroll: bool = True
) -> jax.Array:
    """Find the last of the numbers from `first` `[B]` to `last` for which `holds`; it does for all from the first on.

    It is never asked of the first. most: what last and first differ by at most. unroll: see `bisect`.
    """
    steps = most.bit_length()

    def halve(i: jax.Array | int, number: jax.Array) -> jax.Array:
        # XLA for GPUs makes one kernel of as many turns as its limit of operations has room for: so these are few.
        more = jnp.minimum(number + (jnp.int32(1) << (steps - 1 - i)), last)
        return jnp.where(holds(more), more, number)

    return lax.fori_loop(0, steps, halve, first, unroll=unroll)


def find_interval(ends: jax.Array, number: jax.Array) -> jax.Array:
    """Find in which interval `[0, ends[0])`, `[ends[0], ends[1])`, ... each number `[B]` lies, int32, by bisection.

    Inside `jax.shard_map` either may vary over a mesh and the other not.
    """
    like = vary_as(number, ends[:1])
    return bisect(ends.shape[0], lambda count: ends[count - 1] <= number, like)
