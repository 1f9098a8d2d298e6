"""Structure of the compiled programs: no copy of a ring, and nothing that grows with the capacity."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay

SMALL = {
    "observation": ((4,), jnp.float32),
    "action": ((), jnp.int32),
}
IMAGE = {
    "observation": ((20, 20), jnp.uint8),
    "action": ((100,), jnp.float32),
}
ENVS = [None, 1, 16]


def example(kind: dict[str, Any], lead: tuple[int, ...] = ()) -> replay.Transition:
    leaf = {name: jax.ShapeDtypeStruct((*lead, *shape), dtype) for name, (shape, dtype) in kind.items()}
    flag = jax.ShapeDtypeStruct(lead, jnp.bool_)
    return replay.Transition(
        observation=leaf["observation"],
        action=leaf["action"],
        reward=jax.ShapeDtypeStruct(lead, jnp.float32),
        terminated=flag,
        truncated=flag,
        next_observation=leaf["observation"],
    )


def abstract_buffer(kind: dict[str, Any], num_envs: int | None, slots: int = 1000) -> replay.Buffer:
    capacity = slots * (num_envs or 1)
    return jax.eval_shape(lambda: replay.create(example(kind), capacity, num_envs))


def lead_of(num_envs: int | None, *before: int) -> tuple[int, ...]:
    return (*before, *(() if num_envs is None else (num_envs,)))


KEY = jax.random.key(0)


def append_then_sample(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
    buffer = replay.append(buffer, step)
    return buffer, replay.sample(buffer, key, 8)


def sample_then_append(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
    batch = replay.sample(buffer, key, 8)
    return replay.append(buffer, step), batch


def in_scan(step: Any) -> Any:
    def scanned(buffer: replay.Buffer, steps: Any, keys: Any) -> Any:
        return jax.lax.scan(lambda b, x: step(b, *x), buffer, (steps, keys))

    return scanned


@pytest.mark.parametrize("kind", [SMALL, IMAGE], ids=["small", "image"])
@pytest.mark.parametrize("num_envs", ENVS)
def test_a_donated_append_and_extend_allocate_no_second_ring(kind: Any, num_envs: int | None) -> None:
    buffer = abstract_buffer(kind, num_envs)
    mask = jax.ShapeDtypeStruct(lead_of(num_envs), jnp.bool_)
    masks = jax.ShapeDtypeStruct(lead_of(num_envs, 5), jnp.bool_)
    assert replay.check_in_place(replay.append, buffer, example(kind, lead_of(num_envs)), mask)
    assert replay.check_in_place(replay.extend, buffer, example(kind, lead_of(num_envs, 5)), masks)


@pytest.mark.parametrize("kind", [SMALL, IMAGE], ids=["small", "image"])
@pytest.mark.parametrize("num_envs", ENVS)
def test_a_step_that_appends_and_then_samples_stays_in_place(kind: Any, num_envs: int | None) -> None:
    """In a donated call, and in a scan."""
    buffer = abstract_buffer(kind, num_envs)
    assert replay.check_in_place(append_then_sample, buffer, example(kind, lead_of(num_envs)), KEY)
    keys = jax.eval_shape(lambda: jax.random.split(KEY, 3))
    steps = example(kind, lead_of(num_envs, 3))
    assert replay.check_in_place(in_scan(append_then_sample), buffer, steps, keys)


@pytest.mark.parametrize("num_envs", [None, 16])
def test_the_same_under_vmap_over_seeds(num_envs: int | None) -> None:
    seeds = 2
    buffer = jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), abstract_buffer(SMALL, num_envs))
    keys = jax.eval_shape(lambda: jax.random.split(KEY, (seeds, 3)))
    steps = example(SMALL, (seeds, *lead_of(num_envs, 3)))
    assert replay.check_in_place(jax.vmap(in_scan(append_then_sample)), buffer, steps, keys)


def test_put_and_pop_stay_in_place() -> None:
    def put(buffer: replay.Buffer, rows: replay.Rows, reward: jax.Array, observation: jax.Array) -> replay.Buffer:
        return replay.put(buffer, rows, {"reward": reward, "observation": observation})

    buffer = abstract_buffer(IMAGE, 16)
    rows = replay.Rows(*(jax.ShapeDtypeStruct((8,), jnp.int32),) * 2)
    pixels = jax.ShapeDtypeStruct((8, 20, 20), jnp.uint8)
    assert replay.check_in_place(put, buffer, rows, jax.ShapeDtypeStruct((8,), jnp.float32), pixels)
    assert replay.check_in_place(lambda b: replay.pop(b, 4), buffer)


def test_the_check_finds_a_copy_and_a_buffer_that_is_not_returned() -> None:
    buffer = abstract_buffer(SMALL, None)
    copying = replay.check_in_place(sample_then_append, buffer, example(SMALL), KEY)
    assert not copying
    assert copying.growth > 0.9
    assert "Append before you sample" in str(copying)
    lost = replay.check_in_place(lambda b, s: replay.size(replay.append(b, s)), buffer, example(SMALL))
    assert not lost
    assert not lost.returned_in_place
    with pytest.raises(ValueError, match="no argument holds a Buffer"):
        replay.check_in_place(lambda x: x, 1)


def test_a_branch_around_an_append_is_found_under_vmap() -> None:
    def branching(buffer: replay.Buffer, step: Any, go: jax.Array) -> replay.Buffer:
        return jax.lax.cond(go, lambda: replay.append(buffer, step), lambda: buffer)

    buffer = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), abstract_buffer(SMALL, None))
    go = jax.ShapeDtypeStruct((2,), jnp.bool_)
    assert not replay.check_in_place(jax.vmap(branching), buffer, example(SMALL, (2,)), go)


@pytest.mark.compiler
def test_programs_do_not_grow_with_the_capacity() -> None:
    """The instructions of append and sample are the same but for constants, and so are the operations they count."""

    def program(slots: int) -> tuple[list[str], float]:
        buffer = abstract_buffer(SMALL, 16, slots)
        compiled = jax.jit(append_then_sample, donate_argnums=0).lower(buffer, example(SMALL, (16,)), KEY).compile()
        return re.findall(r" = \S+ ([\w-]+)\(", compiled.as_text()), compiled.cost_analysis()["flops"]

    (small, small_flops), (large, large_flops) = program(1000), program(64000)
    assert len(small) > 50
    assert sorted(small) == sorted(large)
    assert large_flops <= 1.01 * small_flops


def test_every_leaf_has_memory_of_its_own() -> None:
    """Arrays that share memory cannot be donated; `create` runs the same inside and outside jit."""
    make = lambda: replay.create(replay.Transition(*[jnp.zeros(3)] * 3, *[jnp.bool_(False)] * 2, jnp.zeros(3)), 64, 2)  # noqa: E731
    for buffer in (make(), jax.jit(make)()):
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(buffer)]
        assert len(set(pointers)) == len(pointers)
        step = jax.tree.map(lambda x: jnp.zeros((2, *x.shape), x.dtype), example_of(buffer))
        donated = jax.jit(replay.append, donate_argnums=0)(buffer, step)
        assert int(replay.size(donated)) == 2


def example_of(buffer: replay.Buffer) -> Any:
    stored = buffer.rings.layout
    return jax.tree.unflatten(stored.treedef, [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in stored.leaves])


@pytest.mark.parametrize("num_envs", [None, 128])
def test_a_stored_step_takes_at_most_115_percent_of_one_image(num_envs: int | None) -> None:
    kind = {"observation": ((84, 84, 4), jnp.uint8), "action": ((), jnp.int32)}
    envs = num_envs or 1
    buffer = jax.eval_shape(lambda: replay.create(example(kind), 20_000 // envs * envs, num_envs))
    stored = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(buffer))
    assert stored / replay.capacity(buffer) <= 1.15 * 84 * 84 * 4
