"""What `flax.serialization` saved is restored bit for bit into a buffer of the same make, and refused by any other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, struct

import jaxreplay as replay
from tests.model import make_buffer
from tests.test_errors import expect
from tests.test_laws import assert_same, stream
from tests.test_next_observation import step

PRIORITIZED = replay.samplers.prioritized(view=replay.views.n_step(3, 0.9, complete=True))


def filled(buffer: replay.Buffer, length: int = 5) -> replay.Buffer:
    steps, mask = stream(length, None if buffer.single else buffer.rings.num_envs, 0)
    return replay.extend(buffer, steps, mask)


def through_bytes(target: Any, saved: Any) -> Any:
    return serialization.from_bytes(target, serialization.to_bytes(saved))


def through_a_state(target: Any, saved: Any) -> Any:
    state: Any = serialization.msgpack_restore(serialization.msgpack_serialize(serialization.to_state_dict(saved)))
    return serialization.from_state_dict(target, state)


@pytest.mark.parametrize("way", [through_bytes, through_a_state])
@pytest.mark.parametrize("num_envs", [None, 2])
def test_every_dtype_comes_back_bit_for_bit_and_goes_on_as_what_was_saved(way: Any, num_envs: int | None) -> None:
    data = {"seed": jnp.int32(0), "key": jax.random.key(0)}
    make = lambda: make_buffer(5, num_envs, 3, sampler=PRIORITIZED, episode_data=data)  # noqa: E731
    envs = jnp.arange(num_envs or 1)
    saved = replay.set_episode_data(filled(make()), envs, {"key": jax.random.split(jax.random.key(3), envs.shape)})
    for target in (make(), jax.eval_shape(make)):
        restored = way(target, saved)
        assert jax.tree.structure(restored) == jax.tree.structure(saved)
        assert_same(restored, saved)
        assert_same(filled(restored, 2), filled(saved, 2))
        assert_same(replay.episode_data(restored), replay.episode_data(saved))


def test_a_buffer_in_a_larger_state_and_a_batch_of_buffers_come_back() -> None:
    class State(struct.PyTreeNode):
        weights: jax.Array
        buffer: replay.Buffer

    make = jax.vmap(lambda _: replay.create(step(0), 8))
    buffers = make(jnp.arange(3))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (3,)), step(7))
    state = State(jnp.ones(2), jax.vmap(replay.append)(buffers, steps))
    assert_same(through_bytes(State(jnp.zeros(2), buffers), state), state)
    with expect(ValueError, "restore buffer", "batch of buffers: [3] was saved, [2] is here"):
        through_bytes(State(jnp.zeros(2), make(jnp.arange(2))), state)


@dataclasses.dataclass(frozen=True)
class Keyed(type(replay.samplers.uniform())):  # type: ignore[misc]
    """A sampler that keeps a typed key, which flax cannot save as it is."""

    def init(self, num_slots: int, num_envs: int) -> Any:
        return {"key": jax.random.key(4)}


def test_keys_in_the_state_of_ones_own_sampler_come_back() -> None:
    make = lambda: replay.create(step(0), 8, sampler=Keyed())  # noqa: E731
    saved = make()
    saved = saved.replace(sampler_state={"key": jax.random.key(9)})
    assert_same(through_bytes(make(), saved), saved)


EXAMPLE = {"x": jnp.zeros(3), "done": jnp.bool_(False)}
OTHERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "capacity": ({"capacity": 128}, ["capacity: 64 was saved, 128 is here", "max_episodes: 64", "128 is here"]),
    "max_episodes": ({"max_episodes": 16}, ["max_episodes: 64 was saved, 16 is here"]),
    "arrays of one shape": ({"capacity": 80, "max_episodes": 48}, ["capacity: 64", "80", "max_episodes: 64", "48"]),
    "num_envs": ({"num_envs": 2}, ["num_envs: 4 was saved, 2 is here"]),
    "sampler": ({"sampler": PRIORITIZED}, ["sampler: Uniform was saved, Prioritized is here"]),
    "dtype": ({"example": EXAMPLE | {"x": jnp.zeros(3, jnp.int32)}}, ["x: float32[3] was saved, int32[3] is here"]),
    "shape": ({"example": EXAMPLE | {"x": jnp.zeros(1)}}, ["x: float32[3] was saved, float32[1] is here"]),
    "path": (
        {"example": {"y": jnp.zeros(3), "done": jnp.bool_(False)}},
        ["x: float32[3] was saved, nothing is here", "y: nothing was saved, float32[3] is here"],
    ),
    "episode data": ({"episode_data": {"seed": jnp.int32(0)}}, ["episode_data: none was saved, some is here"]),
}


def make(**options: Any) -> replay.Buffer:
    options = {"example": EXAMPLE, "capacity": 64, "num_envs": 4, "episode_end": "done", **options}
    return replay.create(**options)


@pytest.mark.parametrize("way", [through_bytes, through_a_state])
@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_make_is_refused_by_what_differs(way: Any, name: str) -> None:
    options, words = OTHERS[name]
    saved = replay.append(make(), {"x": jnp.ones((4, 3)), "done": jnp.zeros(4, bool)})
    target = make(**options)
    before = jax.tree.map(np.asarray, target)
    with expect(ValueError, "what was saved does not fit this buffer", *words):
        way(target, saved)
    assert_same(target, before)


def test_arrays_of_one_shape_and_another_meaning_exist() -> None:
    """So shapes alone cannot tell."""
    options, _ = OTHERS["arrays of one shape"]
    assert jax.tree.map(jnp.shape, make().rings.arrays) == jax.tree.map(jnp.shape, make(**options).rings.arrays)


def test_samplers_that_keep_other_states_and_leaves_in_another_order_are_refused() -> None:
    with expect(ValueError, "sampler_state.kept: nothing was saved, float32[64] is here"):
        through_bytes(make(sampler=PRIORITIZED), make(sampler=replay.samplers.prioritized()))
    saved = replay.create(({"a": jnp.int32(0)}, {"b": jnp.int32(0)}), 8)
    state = serialization.to_state_dict(saved)
    leaves = [b'"0.a": "int32[]"', b'"1.b": "int32[]"']
    facts = state["facts"].tobytes().replace(b", ".join(leaves), b", ".join(leaves[::-1]))
    with expect(ValueError, "leaves: in the order 1.b, 0.a was saved"):
        serialization.from_state_dict(saved, {**state, "facts": np.frombuffer(facts, np.uint8)})
    followed = {"x": jnp.zeros(3), "y": jnp.zeros(3), "done": jnp.bool_(False)}
    with expect(ValueError, "y: float32[3] was saved, float32[3], next of x is here"):
        through_bytes(make(example=followed, next_of={"y": "x"}), make(example=followed))
    other = make(episode_data={"seed": jnp.float32(0)})
    with expect(ValueError, "episode_data.seed: int32[] was saved, float32[] is here"):
        through_bytes(other, make(episode_data={"seed": jnp.int32(0)}))


def test_a_state_that_is_not_of_a_buffer_is_refused() -> None:
    with expect(ValueError, "expected what flax.serialization made of a Buffer", "'facts'"):
        serialization.from_state_dict(make(), {"rings": {}})
    state = serialization.to_state_dict(make())
    missing = next(path for path in state if path.startswith("rings"))
    del state[missing]
    with expect(ValueError, f"{missing}: ", "nothing was saved"):
        serialization.from_state_dict(make(), state)
