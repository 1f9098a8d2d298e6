"""The clock of the ring: how times become slots, and what is still held.

Times are int32 and compared by their distance to the clock: int32 subtraction wraps around, so the distance of two
times that are less than 2**31 slices apart is right also where one of them has passed 2**31.
"""

import jax
import jax.numpy as jnp
from flax import struct


class Clock(struct.PyTreeNode):
    """Three int32 scalars: `time` slices were appended, the next goes to slot `head`, the newest `held` are kept.

    Of buffers that are read as one they are `[E]` each, a clock an env.
    """

    time: jax.Array
    head: jax.Array
    held: jax.Array

    def of(self, env: jax.Array) -> "Clock":
        """Return the clocks of envs `[...]`: the one that all share, or each one's own, `[...]`."""
        if not self.time.ndim:
            return self
        return jax.tree.map(lambda x: x.at[env].get(mode="clip", wrap_negative_indices=False), self)


def start_clock() -> Clock:
    return Clock(*(jnp.zeros((), jnp.int32) for _ in range(3)))


def advance(clock: Clock, length: int, num_slots: int) -> Clock:
    """Append `length` slices to a ring of `num_slots`."""
    head = clock.head + length % num_slots
    return Clock(
        time=clock.time + jnp.int32(length),
        head=jnp.where(head >= num_slots, head - num_slots, head),
        held=jnp.minimum(clock.held, num_slots - min(length, num_slots)) + min(length, num_slots),
    )


def age(clock: Clock, time: jax.Array) -> jax.Array:
    """Return how many slices ago a time was: 1 for the newest slice, `held` for the oldest one kept."""
    return clock.time - time


def oldest(clock: Clock) -> jax.Array:
    """Return the time of the oldest slice that is held; the clock's own if none is."""
    return clock.time - clock.held


def is_held(clock: Clock, time: jax.Array) -> jax.Array:
    """Tell which times are in the ring: not overwritten, not consumed, not in the future."""
    ages = age(clock, time)
    return (ages >= 1) & (ages <= clock.held)


def slot_of_age(clock: Clock, ages: jax.Array, num_slots: int) -> jax.Array:
    """Return the slot of a slice, given its age from 1 to `num_slots`: `time % num_slots`, without a division."""
    slot = clock.head - ages
    return jnp.where(slot < 0, slot + num_slots, slot)


def slots_in_order(clock: Clock, newer: jax.Array, num_slots: int) -> tuple[jax.Array, jax.Array]:
    """Return the first and the last slot `[...]` of a part of the ring in which slots are in order of time.

    newer: `[...]`, the part before the head rather than that from it on, where the held slices wrap round the ring.
    """
    first = clock.head - clock.held
    newer = (clock.head > 0) & ((first >= 0) | newer)
    first = jnp.where(newer, jnp.maximum(first, 0), first + num_slots)
    return first, jnp.where(newer, clock.head, num_slots) - 1


def slot_of_time(clock: Clock, time: jax.Array, num_slots: int) -> tuple[jax.Array, jax.Array]:
    """Return the slot of each time's slice, and whether it is held; if not, the slot of the newest slice."""
    held = is_held(clock, time)
    return slot_of_age(clock, jnp.where(held, age(clock, time), 1), num_slots), held


def time_of_slot(clock: Clock, slot: jax.Array, num_slots: int) -> jax.Array:
    """Return the time of the slice in a slot; a time that is not held if the slot was never written."""
    ages = clock.head - slot
    return clock.time - jnp.where(ages <= 0, ages + num_slots, ages)


def all_times(clock: Clock, num_slots: int) -> jax.Array:
    """List the times of all slots in order, int32, `[T, 1]`, or `[T, E]` where each env has a clock of its own.

    Those never written come first and are not held.
    """
    return jnp.atleast_1d(clock.time)[None] - num_slots + jnp.arange(num_slots, dtype=jnp.int32)[:, None]


def is_last_of_equals(index: jax.Array) -> jax.Array:
    """Mark the last of each group of equal numbers `[B]`, by one stable sort."""
    order = jnp.argsort(index, stable=True)
    ordered = index[order]
    last = jnp.concatenate([ordered[1:] != ordered[:-1], jnp.ones((1,), jnp.bool_)])[: index.shape[0]]
    return jnp.zeros(index.shape, jnp.bool_).at[order].set(last, unique_indices=True)
