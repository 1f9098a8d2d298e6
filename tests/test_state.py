"""Every function that wants a buffer refuses all else and names the way out; and how a buffer is shown."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxreplay as replay
from tests.test_errors import expect
from tests.test_next_observation import buffer_of, step

KEY = jax.random.key(0)
ROWS = replay.Rows(time=jnp.zeros(2, jnp.int32), env=jnp.zeros(2, jnp.int32))
OF_A_BUFFER = {
    "append": lambda b: replay.append(b, step(0)),
    "extend": lambda b: replay.extend(b, step(0)),
    "put": lambda b: replay.put(b, ROWS, {"reward": jnp.zeros(2)}),
    "remove": lambda b: replay.remove(b, ROWS),
    "clear": replay.clear,
    "stats": replay.stats,
    "pop": lambda b: replay.pop(b, 1),
    "episodes": replay.episodes,
    "num_episodes": replay.num_episodes,
    "episode_data": replay.episode_data,
    "set_episode_data": lambda b: replay.set_episode_data(b, 0, {}),
    "end_episodes": replay.end_episodes,
    "sample_episodes": lambda b: replay.sample_episodes(b, KEY, 1, 2),
    "resize": lambda b: replay.resize(b, 4),
    "priorities": lambda b: replay.priorities(b, ROWS),
    "set_priorities": lambda b: replay.set_priorities(b, ROWS, jnp.ones(2)),
    "from_buffer": lambda b: replay.datasets.Dataset.from_buffer(b),
    "rollout": lambda b: replay.record.rollout(None, lambda o, k: o, b, KEY, 2),
}
OF_A_SOURCE = {
    "size": replay.size,
    "capacity": replay.capacity,
    "can_sample": replay.can_sample,
    "rows": replay.rows,
    "sample": lambda b: replay.sample(b, KEY, 2),
    "take": lambda b: replay.take(b, ROWS),
    "epoch": lambda b: replay.epoch(b, KEY, 2),
    "nth": lambda b: replay.nth(b, 0),
    "newest": lambda b: replay.newest(b, 2),
    "subset": lambda b: replay.subset(b, ROWS),
    "split": lambda b: replay.split(b, KEY, [0.5, 0.5]),
}


def sources() -> dict[str, Any]:
    buffer = buffer_of(step(0))
    part = replay.subset(buffer, ROWS)
    return {
        "Concat": replay.concat([buffer, buffer]),
        "Mixture": replay.mixture([buffer, buffer], [0.5, 0.5]),
        "Subset": part,
    }


@pytest.mark.parametrize("name", OF_A_BUFFER | OF_A_SOURCE)
@pytest.mark.parametrize("came", [3, None, "buffer", {}])
def test_what_is_no_buffer_is_refused_by_name(name: str, came: Any) -> None:
    with expect(TypeError, f"{name}: expected a", type(came).__name__):
        (OF_A_BUFFER | OF_A_SOURCE)[name](came)


@pytest.mark.parametrize("name", OF_A_BUFFER)
@pytest.mark.parametrize("kind", ["Concat", "Mixture", "Subset"])
def test_a_source_where_a_buffer_is_wanted_names_the_buffer_in_it(name: str, kind: str) -> None:
    way_out = "the buffer that it was made of" if kind == "Subset" else "one of the buffers that it was made of"
    with expect(TypeError, f"{name}: expected a Buffer", kind, way_out):
        OF_A_BUFFER[name](sources()[kind])


@pytest.mark.parametrize("name", OF_A_BUFFER | OF_A_SOURCE)
@pytest.mark.parametrize("jitted", [False, True])
def test_an_nnx_variable_that_holds_a_buffer_is_refused_and_never_written_to_in_vain(name: str, jitted: bool) -> None:
    use = (OF_A_BUFFER | OF_A_SOURCE)[name]
    variable = nnx.Variable(buffer_of(step(0)))
    with expect(TypeError, f"{name}: expected a", "Variable", "variable.get_value()", "variable.set_value(buffer)"):
        nnx.jit(use)(variable) if jitted else use(variable)


def test_an_object_whose_value_is_a_buffer_names_it() -> None:
    class Box:
        value = buffer_of(step(0))

    with expect(TypeError, "append: expected a Buffer", "Box", "variable.value"):
        replay.append(Box(), step(0))  # type: ignore[arg-type]


def test_what_pop_returns_is_to_be_unpacked() -> None:
    with expect(TypeError, "append: expected a Buffer", "got tuple", "unpack it, as buffer, batch = replay.pop"):
        replay.append(replay.pop(buffer_of(step(0)), 1), step(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OF_A_BUFFER)
def test_a_batch_of_buffers_is_to_be_vmapped(name: str) -> None:
    batch = jax.vmap(lambda _: replay.create(step(0), 8, episode_data={"seed": jnp.int32(0)}))(jnp.arange(2))
    with expect(ValueError, "a batch of buffers (2,)", "jax.vmap"):
        OF_A_BUFFER[name](batch)


def test_a_buffer_is_shown_by_its_sizes_and_leaves_and_no_array_is_read() -> None:
    """So also one that was donated, or is traced, abstract, or a batch."""
    make = lambda: replay.create({"obs": {"x": jnp.zeros(3)}, "done": False}, 12, 3, episode_end="done", max_episodes=6)  # noqa: E731
    shown = (
        "Buffer(capacity=12, num_envs=3, max_episodes=6, sampler=Uniform(replacement=True), episode_end=('done',), "
        "leaves={done: bool[], obs.x: float32[3]})"
    )
    buffer = make()
    assert repr(buffer) == str(buffer) == shown
    assert repr(jax.eval_shape(make)) == shown
    seen: list[str] = []
    new = jax.jit(lambda b: (seen.append(repr(b)), replay.clear(b))[1], donate_argnums=0)(buffer)
    assert buffer.rings.arrays[0].is_deleted()
    assert repr(buffer) == repr(new) == seen[0] == shown
    assert repr(jax.vmap(lambda _: make())(jnp.arange(2))) == shown.replace("(capacity", "(batch=(2,), capacity")
    assert repr(jax.tree.map(lambda _: None, buffer)).startswith("Buffer(")


def test_a_function_is_shown_by_its_name() -> None:
    """Its address would differ from run to run."""
    buffer = replay.create({"done": False}, 4, episode_end=lambda s: s["done"])
    assert "<lambda>" in repr(buffer)
    assert "0x" not in repr(buffer)
