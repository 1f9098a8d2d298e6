"""The numbering of episodes: which steps begin one, which are its newest, and whose record the ring still keeps.

Episodes are numbered per env from 0. The record of episode n is in slot `n % K` of that env, so an env's newest K
episodes have one. Numbers wrap after the largest multiple of K below 2**31, so that the slots follow on.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxreplay._core.loops import vary_as

VOID = -1  # the episode word of a row where nothing was recorded


class Envs(struct.PyTreeNode):
    """What an append must know about each env, `[E]` each; kept beside the rings, so that no append reads them.

    number: int32, of the newest episode (-1: none yet). start: int32, the time it began. open: bool, it goes on.
    recorded: int32, steps recorded so far and not removed (modulo 2**32).
    """

    number: jax.Array
    start: jax.Array
    open: jax.Array
    recorded: jax.Array


class Numbering(struct.PyTreeNode):
    """What each step of a block `[L, E]` belongs to: `number` and `start` of its episode, and whether the step is the
    block's `newest` one of that episode."""

    number: jax.Array
    start: jax.Array
    newest: jax.Array


def start_envs(num_envs: int) -> Envs:
    return Envs(
        number=jnp.full((num_envs,), -1, jnp.int32),
        start=jnp.zeros((num_envs,), jnp.int32),
        open=jnp.zeros((num_envs,), jnp.bool_),
        recorded=jnp.zeros((num_envs,), jnp.int32),
    )


def number_steps(
    envs: Envs, time: jax.Array, valid: jax.Array, ended: jax.Array, num_records: int
) -> tuple[Envs, Numbering]:
    """Number a block of steps that begins at `time`.

    valid: `[L, E]` bool, a step was recorded; where it was not, the env's open episode is closed.
    ended: `[L, E]` bool, the step is its episode's last.
    """
    length = valid.shape[0]
    goes_on = valid & ~ended
    open_before = jnp.concatenate([envs.open[None], goes_on[:-1]])
    begins = valid & ~open_before
    number = envs.number[None] + jnp.cumsum(begins, axis=0, dtype=jnp.int32)
    limit = number_limit(num_records)
    number = jnp.where((number >= limit) | (number < -1), number - limit, number)
    step = jnp.arange(length, dtype=jnp.int32)[:, None]
    begun = lax.cummax(jnp.where(begins, step, -1), axis=0)
    start = jnp.where(begun >= 0, time + begun, envs.start[None])
    followed = goes_on & jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    recorded = envs.recorded + jnp.sum(valid, axis=0, dtype=jnp.int32)
    after = Envs(number=number[-1], start=start[-1], open=vary_as(goes_on[-1], envs.open), recorded=recorded)
    return after, Numbering(number=number, start=start, newest=valid & ~followed)


@functools.cache
def number_limit(num_records: int) -> int:
    """Return where episode numbers start again from 0: the largest multiple of K below 2**31."""
    return (2**31 - 1) // num_records * num_records


def removed_word(number: jax.Array) -> jax.Array:
    """Return the episode word of a removed row: negative, below VOID, and its own inverse."""
    return -2 - number
