"""Random whole numbers below a bound that is known only when the program runs, with integers alone."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames="shape", inline=True)
def bounded(key: jax.Array, shape: tuple[int, ...], below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw whole numbers in `[0, below)`, int32, and say which are fair: those that are not must be drawn again.

    The high word of bits times `below` is exactly uniform once the few products that would favour some numbers are
    refused (Lemire 2019, "Fast random integer generation in an interval", algorithm 5); no number needs a division.
    """
    below = below.astype(jnp.uint32)
    high, low = multiply(jax.random.bits(key, shape, jnp.uint32), below)
    threshold = (jnp.uint32(0) - below) % jnp.maximum(below, 1)
    return high.astype(jnp.int32), (low >= threshold) & (below > 0)


def nearly_bounded(key: jax.Array, count: int, below: jax.Array) -> jax.Array:
    """Draw whole numbers `[count]` in `[0, below)`, int32, of 64 random bits each: none is favoured by over 2**-33."""
    below = below.astype(jnp.uint32)
    high, low = jax.random.bits(key, (2, count), jnp.uint32)
    number, rest = multiply(high, below)
    more, _ = multiply(low, below)
    return (number + (rest + more < rest).astype(jnp.uint32)).astype(jnp.int32)


def multiply(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the high and low words of the 64-bit product of two uint32 arrays, by halves of words."""
    half, mask = jnp.uint32(16), jnp.uint32(0xFFFF)
    low_low = (a & mask) * (b & mask)
    middle = (a >> half) * (b & mask) + (low_low >> half)
    other = (a & mask) * (b >> half) + (middle & mask)
    return (a >> half) * (b >> half) + (middle >> half) + (other >> half), a * b


def below(bits: jax.Array, bound: jax.Array) -> jax.Array:
    """Make numbers in `[0, bound)`, int32, of random words, uint32; no number is favoured by more than 2**-32."""
    return multiply(bits, bound.astype(jnp.uint32))[0].astype(jnp.int32)
