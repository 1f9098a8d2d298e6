"""What every framework trains here: two calls of a loop that appends, samples and updates a linear network.

The laws: the buffer is what plain appends make of the same steps, bit for bit; its rings stay at their addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay

NUM_ENVS, CAPACITY, LENGTH, BATCH = 4, 64, 10, 8
FEATURES = 3
KEYS = jax.random.split(jax.random.key(0), (2, LENGTH))
EXAMPLE = replay.Transition(
    observation=jnp.zeros(FEATURES),
    action=jnp.int32(0),
    reward=jnp.float32(0),
    terminated=jnp.bool_(False),
    truncated=jnp.bool_(False),
    next_observation=jnp.zeros(FEATURES),
)


def create() -> replay.Buffer:
    """Make a buffer of 16 slots, fewer than the 20 steps of two calls: it wraps."""
    return replay.create(EXAMPLE, CAPACITY, NUM_ENVS)


def step(key: jax.Array) -> replay.Transition:
    """Make one step of every env, `[E, ...]`, that the key decides."""
    lead = (NUM_ENVS,)
    observation = jax.random.normal(key, (*lead, FEATURES))
    return replay.Transition(
        observation=observation,
        action=jnp.zeros(lead, jnp.int32),
        reward=observation[:, 0],
        terminated=observation[:, 1] > 1,
        truncated=jnp.zeros(lead, jnp.bool_),
        next_observation=observation + 1,
    )


def append_and_sample(buffer: replay.Buffer, key: jax.Array) -> tuple[replay.Buffer, jax.Array]:
    """Append the key's step, and draw observations `[B, 3]`: append first, so that the ring stays in place."""
    buffer = replay.append(buffer, step(key))
    return buffer, replay.sample(buffer, key, BATCH).data.observation


@jax.jit
def _plain(buffer: replay.Buffer, keys: jax.Array) -> replay.Buffer:
    return jax.lax.scan(lambda b, key: (replay.append(b, step(key)), None), buffer, keys)[0]


def assert_appended(buffer: replay.Buffer, keys: jax.Array) -> None:
    """Hold a buffer to what plain appends of the keys' steps, `[N]`, make."""
    expected = _plain(create(), keys)
    assert jax.tree.structure(buffer) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(buffer), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, wanted)


def addresses(buffer: replay.Buffer) -> list[int]:
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(buffer.rings.arrays)]


def train_twice(train: Callable[[jax.Array], Any], buffer: Callable[[], replay.Buffer]) -> None:
    """Train with each of the two rows of keys; `buffer()` reads the buffer as it is then."""
    before = addresses(buffer())
    for keys in KEYS:
        train(keys)
    assert addresses(buffer()) == before
    assert_appended(buffer(), KEYS.ravel())


class Traces:
    """Count how often a function is traced: call it in the body of that function."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def batched(buffer: replay.Buffer) -> Iterator[replay.Buffer]:
    """Take the buffers of a batched one, `[S, ...]`, apart."""
    for seed in range(buffer.rings.clock.time.shape[0]):
        yield jax.tree.map(lambda x: x[seed], buffer)  # noqa: B023
