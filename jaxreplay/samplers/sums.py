"""The arithmetic of a sum tree's draws: which of a node's children a random position falls into."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

FAN_OUT = 8  # measured against 4, 16 and 32: sums are cheaper, and the tree is not much deeper
RESOLUTION = 2.0**-24  # of a float32 in [0, 1)
MARK = 2.0**101  # above any number in a tree

Tree: TypeAlias = tuple[jax.Array, ...]


class Descent(NamedTuple):
    """Draws on their way down a tree, `[B]` each: where in a node they are.

    node: int32. position: float32, in [0, 1) of the node's number. open_part: how coarse that is. value: the number.
    """

    node: jax.Array
    position: jax.Array
    open_part: jax.Array
    value: jax.Array


def begin(position: jax.Array) -> Descent:
    """Begin at the root, with positions `[B]` of 24 bits."""
    coarse = jnp.full(position.shape, RESOLUTION)
    return Descent(jnp.zeros(position.shape, jnp.int32), position, coarse, coarse)


def descend(at: Descent, numbers: jax.Array, bits: jax.Array, level: int) -> Descent:
    """Go on to a child, given the numbers of the children `[B, F]`.

    A position has 24 bits, too few for many leaves or very different ones. So what it leaves open is drawn anew at
    every level, of the random words `bits` `[B]`.
    """
    position = at.position + at.open_part * unit(scramble(bits, level))
    position -= jnp.floor(position)
    before = sums_before(numbers)
    whole = before[:, -1] + numbers[:, -1]
    target = position * whole
    child, value, start = last_begun(numbers, before, target)
    share = 1 / jnp.maximum(value, jnp.finfo(jnp.float32).tiny)
    open_part = jnp.minimum(RESOLUTION * whole * share, 1.0)
    return Descent(at.node * FAN_OUT + child, (target - start) * share, open_part, value)


def descend_by_child(at: Descent, numbers: list[jax.Array], bits: jax.Array, level: int) -> Descent:
    """Do what `descend` does, given the numbers of each child, `[B]`: one kernel on a GPU."""
    position = at.position + at.open_part * unit(scramble(bits, level))
    position -= jnp.floor(position)
    before = [jnp.zeros_like(numbers[0])]
    for number in numbers:
        before.append(before[-1] + number)
    target = position * before[-1]
    child, value, start = jnp.zeros_like(at.node), jnp.zeros_like(target), jnp.zeros_like(target)
    for i, number in enumerate(numbers):
        begun = (number > 0) & (before[i] <= target)
        child, value, start = (
            jnp.where(begun, i, child),
            jnp.where(begun, number, value),
            jnp.where(begun, before[i], start),
        )
    share = 1 / jnp.maximum(value, jnp.finfo(jnp.float32).tiny)
    open_part = jnp.minimum(RESOLUTION * before[-1] * share, 1.0)
    return Descent(at.node * FAN_OUT + child, (target - start) * share, open_part, value)


def last_begun(numbers: jax.Array, before: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find the last of children `[B, F]` above zero that begins at or before the target `[B]`: index, number, start.

    However sums are rounded, there is one wherever any child is above zero; else it is child 0.
    """
    begun = (numbers > 0) & (before <= target[:, None])
    child = jnp.where(begun, jnp.arange(FAN_OUT, dtype=jnp.int32)[None], -1)

    def later(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        is_later = b[0] > a[0]
        return tuple(jnp.where(is_later, y, x) for x, y in zip(a, b, strict=True))

    none = (jnp.int32(-1), jnp.float32(0), jnp.float32(0))
    child, number, start = lax.reduce((child, numbers, before), none, later, (1,))
    return jnp.maximum(child, 0), number, start


def unit(bits: jax.Array) -> jax.Array:
    """Random words as float32 in [0, 1), with all of its 24 bits."""
    return (bits >> 8).astype(jnp.float32) * RESOLUTION


def scramble(bits: jax.Array, depth: int) -> jax.Array:
    """Other random words for each depth: the mixing `lowbias32` (Wellons 2018, "Prospecting for hash functions")."""
    word = bits + jnp.uint32(0x9E3779B9 * (depth + 1) % 2**32)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def sum_children(children: jax.Array) -> jax.Array:
    """Sum `[..., F]`, one term after the other: a plain sum may add up in another order in each program."""
    ones = (1,) * (children.ndim - 1)
    window, pads = (*ones, FAN_OUT - 1), (*((0, 0) for _ in ones), (0, -1))  # of the whole, it would be a plain sum
    before = lax.reduce_window(children, 0.0, lax.add, window, (1,) * children.ndim, pads)
    return before[..., 0] + children[..., -1]


def sums_before(numbers: jax.Array) -> jax.Array:
    """Sum what comes before each of `[..., F]`."""
    ones = (1,) * (numbers.ndim - 1)
    window, pads = (*ones, FAN_OUT), (*((0, 0) for _ in ones), (FAN_OUT, -1))
    return lax.reduce_window(numbers, 0.0, lax.add, window, (1,) * numbers.ndim, pads)


def mark(count: int) -> jax.Array:
    """Make marks `[count]`, numbers above any in a tree, each larger than those before."""
    order = lax.bitcast_convert_type(jnp.float32(MARK), jnp.int32) + jnp.arange(count, dtype=jnp.int32)
    return lax.bitcast_convert_type(order, jnp.float32)
