"""Random episodes of nested structures and many dtypes, a buffer of them, and comparison bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory
from tests.model import bits, random_leaf

DEVICE_DTYPES = ("float32", "float16", "uint8", "uint16", "uint32", "int8", "int32", "bool", "complex64")
HOST_DTYPES = ("float64", "float32", "float16", "uint8", "uint16", "uint32", "uint64", "int8", "int32", "int64", "bool")
ENDS = ((True, False), (False, True), (False, False))


def random_structure(rng: np.random.Generator, dtypes: Sequence[str], depth: int = 2) -> Any:
    """A random nesting of dicts and tuples, `(shape, dtype)` as leaves."""
    kind = rng.integers(0, 3 if depth else 1)
    if kind == 0:
        shape = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
        return jax.ShapeDtypeStruct(shape, np.dtype(rng.choice(dtypes)))
    inner = [random_structure(rng, dtypes, depth - 1) for _ in range(rng.integers(1, 3))]
    return {f"part{i}": x for i, x in enumerate(inner)} if kind == 1 else tuple(inner)


def random_arrays(rng: np.random.Generator, structure: Any, length: int) -> Any:
    """Random bits for a structure, leaves `[length, *shape]`."""
    return jax.tree.map(lambda x: random_leaf(rng, (length,), x.shape, x.dtype), structure)


def random_dataset(
    seed: int,
    dtypes: Sequence[str] = HOST_DTYPES,
    lengths: Sequence[int] = (1, 2, 7),
    extras: bool = True,
    **fields: Any,
) -> Dataset:
    """Episodes of a random structure that end in every way; fields of `Trajectory` by name, functions of the length."""
    rng = np.random.default_rng(seed)
    observation, action = random_structure(rng, dtypes), random_structure(rng, dtypes)
    more = {"log_prob": random_structure(rng, dtypes, 1)} if extras else None
    return Dataset(
        Trajectory(
            random_arrays(rng, observation, length + 1),
            random_arrays(rng, action, length),
            rng.random(length, np.float32),
            *ENDS[(seed + i) % len(ENDS)],
            extras=random_arrays(rng, more, length),
            **{name: make(length) for name, make in fields.items()},
        )
        for i, length in enumerate(lengths)
    )


def assert_same(came: Any, expected: Any) -> None:
    """The same containers, dtypes, shapes and bits."""
    assert jax.tree.structure(came) == jax.tree.structure(expected)
    for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(came)[0], jax.tree.leaves(expected)):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype) == (y.shape, y.dtype), path
        np.testing.assert_array_equal(bits(x), bits(y), err_msg=str(path))


def assert_same_episodes(came: Dataset, expected: Dataset, fields: Sequence[str] = ()) -> None:
    """The same episodes, bit for bit; `fields` are compared as they print, beside the arrays and flags."""
    assert came.num_episodes == expected.num_episodes
    for mine, theirs in zip(came, expected):
        for part in ("observations", "actions", "rewards", "extras"):
            assert_same(getattr(mine, part), getattr(theirs, part))
        assert (mine.terminated, mine.truncated) == (theirs.terminated, theirs.truncated)
        for field in fields:
            assert repr(getattr(mine, field)) == repr(getattr(theirs, field))


def steps(lead: tuple[int, ...], seed: int = 0, end_rate: float = 0.2) -> replay.Transition:
    """Random transitions `[*lead, ...]` whose observations tell themselves."""
    rng = np.random.default_rng(seed)
    count = np.arange(np.prod(lead), dtype=np.float32).reshape(lead)
    pixels = rng.integers(0, 256, (*lead, 9, 30), dtype=np.uint8)  # more bytes than are packed
    observation = {"count": jnp.asarray(count), "pixels": jnp.asarray(pixels)}
    return replay.Transition(
        observation=observation,
        action=jnp.asarray(rng.integers(0, 5, (*lead, 2), dtype=np.int32)),
        reward=jnp.asarray(rng.random(lead, np.float32)),
        terminated=jnp.asarray(rng.random(lead) < end_rate / 2),
        truncated=jnp.asarray(rng.random(lead) < end_rate / 2),
        next_observation={"count": jnp.asarray(count + 0.5), "pixels": jnp.asarray(255 - pixels)},
        extras={"half": jnp.asarray(rng.random((*lead, 3)), jnp.bfloat16)},
    )


def buffer_with_holes(num_envs: int | None = 2, slots: int = 24, length: int = 60) -> replay.Buffer:
    """A ring that wrapped around, with void rows, removed rows and many episodes."""
    lead = (length,) if num_envs is None else (length, num_envs)
    block = steps(lead)
    example = jax.tree.map(lambda x: x[(0,) * len(lead)], block)
    buffer = replay.create(example, slots * (num_envs or 1), num_envs, max_episodes=20 * (num_envs or 1))
    mask = jnp.asarray(np.random.default_rng(1).random(lead) < 0.9)
    buffer = replay.extend(buffer, block, mask)
    time = jnp.array([length - 5, length - 9, 0], jnp.int32)  # the last is stale
    return replay.remove(buffer, replay.Rows(time=time, env=jnp.zeros(3, jnp.int32)))


def rows_of(table: Any) -> replay.Rows:
    return replay.Rows(time=jnp.asarray(table.time), env=jnp.asarray(table.env))


def rows_to_read(source: Any, view: Any) -> tuple[list[tuple[int, int]], Any]:
    """The rows that can be read through a view, in order, and the batch of them."""
    every, _ = replay.rows(source)
    sample = replay.take(source, every, view)
    mask = np.asarray(sample.mask)
    rows = list(zip(np.asarray(every.time)[mask].tolist(), np.asarray(every.env)[mask].tolist()))
    return rows, jax.tree.map(lambda x: np.asarray(x)[mask], sample.data)
