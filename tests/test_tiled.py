"""The laws under the layout of a TPU: the same bits come out, whatever the arrays look like.

The first tests are those of `test_laws.py`, on buffers made for a TPU. The others compare such a buffer with one made
for a CPU after the same calls, leaf by leaf: with few and many envs, so that slices share rows or take several.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.samplers import prioritized, uniform
from tests import test_laws as laws

extend = jax.jit(replay.extend)
sample = jax.jit(replay.sample, static_argnames=("batch_size", "view"))
take = jax.jit(replay.take, static_argnames="view")


@pytest.fixture(autouse=True)
def _made_for_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the laws create be made as by default on a TPU."""
    monkeypatch.setattr("jaxreplay.buffer._check_platform", lambda platform: platform or "tpu")


@pytest.mark.parametrize("shape", [laws.SHAPES[1], *(pytest.param(x, marks=pytest.mark.slow) for x in laws.SHAPES)])
def test_a_buffer_gives_back_exactly_what_the_plain_model_holds(shape: Any) -> None:
    laws.test_a_buffer_gives_back_exactly_what_the_plain_model_holds(shape)


@pytest.mark.parametrize(
    "length", [5, pytest.param(1, marks=pytest.mark.slow), pytest.param(13, marks=pytest.mark.slow)]
)
def test_extend_equals_folding_append(length: int) -> None:
    laws.test_extend_equals_folding_append(laws.SHAPES[1], length)


@pytest.mark.slow
@pytest.mark.parametrize("shape", laws.SHAPES)
def test_jit_scan_and_vmap_change_no_result(shape: Any) -> None:
    laws.test_scan_and_jit_change_no_result(shape)
    laws.test_vmap_over_buffers_changes_no_result(shape)


def example() -> replay.Transition:
    flag = jnp.bool_(False)
    observation = {"vector": jnp.zeros(3), "image": jnp.zeros((9, 40), jnp.uint8)}
    return replay.Transition(observation, jnp.int32(0), jnp.float32(0), flag, flag, observation)


def steps(rng: np.random.Generator, lead: tuple[int, ...]) -> replay.Transition:
    def some(x: jax.Array) -> jax.Array:
        values = rng.random((*lead, *x.shape))
        return jnp.asarray(values < 0.1) if x.dtype == jnp.bool_ else jnp.asarray((200 * values).astype(x.dtype))

    return jax.tree.map(some, example())


def history(platform: str, num_envs: int | None, length: int, sampler: Any, view: views.View) -> list[Any]:
    """All that can be read after each of some calls."""
    envs = num_envs or 1
    options = {"max_episodes": 5 * envs, "episode_data": {"goal": jnp.zeros(2)}, "sampler": sampler}
    buffer = replay.create(example(), 20 * envs, num_envs, platform=platform, **options)
    rng, seen = np.random.default_rng(0), []
    for i in range(6):
        lead = (length,) if num_envs is None else (length, envs)
        buffer = extend(buffer, steps(rng, lead), jnp.asarray(rng.random(lead) < 0.9))
        some = jnp.asarray(rng.integers(0, envs, 5), jnp.int32)
        buffer = replay.set_episode_data(buffer, some, {"goal": jnp.asarray(rng.random((5, 2)), jnp.float32)})
        rows, mask = replay.rows(buffer)
        batch = sample(buffer, jax.random.key(i), 32, view)
        seen += [mask, take(buffer, rows), take(buffer, rows, view), batch, replay.episodes(buffer)]
        if isinstance(sampler, type(prioritized())):
            buffer = replay.set_priorities(buffer, batch.rows, jnp.asarray(rng.random(32) ** 4, jnp.float32))
        if i % 3 == 1:
            buffer = replay.remove(buffer, jax.tree.map(lambda x: x[::7], rows))
            some = jax.tree.map(lambda x: x[::5], rows)
            new = steps(rng, some.time.shape)
            part = {"vector": new.observation["vector"], "image": new.observation["image"]}
            buffer = replay.put(buffer, some, replay.Transition(part, None, new.reward, None, None, None, None))
            buffer = replay.end_episodes(buffer)
    return [*seen, replay.stats(buffer)]


@pytest.mark.parametrize(
    ("platform", "num_envs", "length", "sampler", "view"),
    [
        ("gpu", 3, 7, uniform(), views.compose(views.frame_stack(3), views.n_step(3, 0.9))),
        ("tpu", None, 1, uniform(), views.compose(views.frame_stack(3), views.with_episode())),
        ("tpu", 3, 25, uniform(), views.compose(views.frame_stack(3), views.n_step(3, 0.9))),
        ("tpu", 3, 1, prioritized(0.7), views.transition()),
        ("tpu", 30, 2, uniform(replacement=False), views.n_step(2, 0.9, complete=True)),
        ("tpu", 30, 7, prioritized(0.7, view=views.sequence(3)), views.sequence(3)),
        ("tpu", 3, 7, uniform(), views.sequence(3, across=True, every=2, first="observation.vector")),
    ],
)
def test_what_comes_out_does_not_depend_on_the_layout(
    platform: str, num_envs: int | None, length: int, sampler: Any, view: views.View
) -> None:
    wanted, came = (history(made_for, num_envs, length, sampler, view) for made_for in ("cpu", platform))
    jax.tree.map(np.testing.assert_array_equal, came, wanted)


def test_arrays_are_rows_of_whole_tiles() -> None:
    """A TPU copies arrays whose last axis is no multiple of 128 before it can index their rows."""
    for num_envs in (None, 3, 200):
        buffer = replay.create(example(), 600, num_envs, sampler=prioritized())
        tree, envs = buffer.sampler_state.tree, num_envs or 1
        assert all(x.ndim == 2 and x.shape[1] % 128 == 0 for x in (*buffer.rings.arrays, *tree))
        stored = sum(x.nbytes for x in buffer.rings.arrays)
        payload = (600 // envs + 1 + buffer.rings.num_records) * envs * (4 * buffer.rings.layout.num_words + 360)
        assert stored <= 1.35 * payload  # mostly the image's: 384 bytes for 360


@pytest.mark.parametrize("num_envs", [1, 40])
def test_an_episodes_record_keeps_its_final_values_wherever_they_lie_in_it(num_envs: int) -> None:
    """Leaves that nothing follows from come before, between and after those that something follows from."""
    step = {"a": jnp.int32(0), "b": jnp.zeros(3), "c": jnp.uint8(0), "d": jnp.zeros((2, 2), jnp.bfloat16), "e": 0.0}
    follow = {"next.b": "b", "next.d": "d"}
    example = step | {"next": {"b": step["b"], "d": step["d"]}}
    ends = jnp.arange(14)[:, None] % 5 == 4
    value = jnp.arange(14 * num_envs).reshape(14, num_envs)

    def read(platform: str) -> Any:
        options = {"next_of": follow, "episode_end": lambda step: step["e"] > 0, "max_episodes": 4 * num_envs}
        buffer = replay.create(example, 8 * num_envs, num_envs, platform=platform, **options)

        def fill(x: jax.Array) -> jax.Array:
            each = value.reshape(14, num_envs, *[1] * x.ndim)
            return jnp.broadcast_to(each, (14, num_envs, *x.shape)).astype(x.dtype)

        steps = jax.tree.map(lambda x: fill(jnp.asarray(x)), example)
        steps["e"] = jnp.broadcast_to(ends, (14, num_envs)).astype(jnp.float32)
        steps["next"] = jax.tree.map(lambda x: -x, steps["next"])
        buffer = extend(buffer, steps)
        return take(buffer, replay.rows(buffer)[0]), replay.episodes(buffer), buffer.rings

    (*wanted, _), (*came, rings) = read("cpu"), read("tpu")
    jax.tree.map(np.testing.assert_array_equal, came, wanted)
    assert float(wanted[0].data["next"]["b"].min()) < 0  # the final ones, which are no row's own
    assert rings.layout.final_words == 2 + 1 + 3 + 1 + 2


def test_an_episodes_record_takes_the_words_it_needs() -> None:
    """Of a step with an image apart it is two words, and so 64 lie in a row of 128."""
    frame = jnp.zeros((9, 40), jnp.uint8)
    flag = jnp.bool_(False)
    step = replay.Transition(frame, jnp.int32(0), jnp.float32(0), flag, flag, frame)
    buffer = replay.create(step, 640, 2, max_episodes=256)
    assert buffer.rings.arrays[-1].shape == (2 * 2, 128)
