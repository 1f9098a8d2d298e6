"""Rows by their number in order: against the plain-Python model, and at a price that does not grow with the ring."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxreplay as replay
from jaxreplay import views
from tests.model import Model, make_buffer
from tests.test_in_place import SMALL, abstract_buffer
from tests.test_laws import operate, operations

KEY = jax.random.key(0)
nth = jax.jit(replay.nth)
newest = jax.jit(replay.newest, static_argnames="n")


def as_pairs(rows: replay.Rows) -> list[tuple[int, int] | None]:
    """Rows as `(time, env)`, None where nothing can read them."""
    return [(t, e) if e >= 0 else None for t, e in zip(rows.time.ravel().tolist(), rows.env.ravel().tolist())]


def pick(rows: list[Any], index: int) -> Any:
    return rows[index] if -len(rows) <= index < len(rows) else None


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("shape", [(5, None, 2), (4, 3, 5)])  # slots, envs, records an env
@settings(settings.get_profile("short"), max_examples=20)
@given(operations=operations)
def test_rows_have_the_numbers_that_the_plain_model_gives_them(
    platform: str, shape: Any, operations: list[Any]
) -> None:
    """With void, removed and lost rows, popped and cleared: in the whole buffer, and env by env."""
    buffer, model = make_buffer(*shape, platform=platform), Model(shape[0], shape[1] or 1, shape[2])
    for operation in operations:
        buffer = operate(buffer, model, operation)
    times = range(model.oldest, len(model.slices))
    every = [(t, e) for t in times for e in range(model.num_envs) if model.valid(t, e)]
    index = np.arange(-14, 14, dtype=np.int32)
    assert as_pairs(nth(buffer, index)) == [pick(every, i) for i in index]
    for n in (1, 4, 14):
        assert as_pairs(newest(buffer, n)) == [pick(every, i) for i in range(-n, 0)]
    env = np.arange(-1, 4, dtype=np.int32)
    wanted = [pick([row for row in every if row[1] == e], i) for i in index for e in env]
    assert as_pairs(nth(buffer, index[:, None], env)) == wanted


def stored(count: int = 20, **options: Any) -> replay.Buffer:
    """Numbers in order of time, then env, some of them void."""
    buffer = replay.create({"x": jnp.int32(0)}, 24, 2, **options)
    mask = np.arange(2 * count).reshape(count, 2) % 7 != 3
    return replay.extend(buffer, {"x": jnp.arange(2 * count, dtype=jnp.int32).reshape(count, 2)}, jnp.asarray(mask))


def test_numbers_keep_their_shape_and_broadcast_with_envs() -> None:
    buffer = stored()
    assert nth(buffer, 0).time.shape == ()
    assert nth(buffer, np.zeros((2, 3), np.int8)).env.shape == (2, 3)
    per_env = nth(buffer, np.arange(-3, 0)[:, None], np.arange(2))
    got = replay.take(buffer, per_env)
    assert got.data["x"].tolist() == [[32, 35], [34, 37], [36, 39]]
    assert bool(got.mask.all())


def test_the_newest_rows_are_those_of_the_last_numbers() -> None:
    buffer = stored()
    for n in (1, 5, 16, 30):
        jax.tree.map(np.testing.assert_array_equal, newest(buffer, n), nth(buffer, np.arange(-n, 0)))
    assert replay.take(buffer, newest(buffer, 4)).data["x"].tolist() == [35, 36, 37, 39]


def test_under_vmap_and_in_a_scan() -> None:
    buffers = [stored(count) for count in (0, 3, 20)]
    many = jax.tree.map(lambda *x: jnp.stack(x), *buffers)
    index = jnp.array([-1, 0, 5, 19])
    came = jax.vmap(lambda b: (replay.nth(b, index), replay.newest(b, 5)))(many)
    for i, buffer in enumerate(buffers):
        wanted = nth(buffer, index), newest(buffer, 5)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[i], came), wanted)  # noqa: B023

    def step(buffer: replay.Buffer, x: jax.Array) -> Any:
        buffer = replay.append(buffer, {"x": jnp.stack([x, x])})
        return buffer, replay.take(buffer, replay.newest(buffer, 3)).data["x"]

    _, seen = jax.lax.scan(step, buffers[0], jnp.arange(3, dtype=jnp.int32))
    assert seen.tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 2]]


def test_the_order_of_sources() -> None:
    buffer = stored()
    rows, mask = replay.rows(buffer)
    every = np.flatnonzero(mask)
    few = replay.subset(buffer, jax.tree.map(lambda x: x[every[::3][::-1]], rows))
    at = lambda source, rows: replay.take(source, rows).data["x"].tolist()  # noqa: E731
    wanted = replay.take(buffer, rows).data["x"][every[::3]].tolist()
    assert at(few, nth(few, np.arange(len(wanted)))) == wanted
    assert at(few, newest(few, 2)) == wanted[-2:]
    part, _ = replay.split(buffer, KEY, [0.5, 0.5])
    assert at(part, newest(part, 24))[-int(part.count) :] == sorted(at(part, newest(part, 24)))[-int(part.count) :]
    both = replay.concat([few, buffer])
    assert at(both, nth(both, np.array([0, len(wanted) - 1, len(wanted), -1]))) == [wanted[0], wanted[-1], 16, 39]


def test_what_has_no_order_is_refused_with_the_way_out() -> None:
    buffer = stored()
    both, mixed = replay.concat([buffer, buffer]), replay.mixture([buffer, buffer], [0.5, 0.5])
    for error, message, call in (
        (TypeError, "nth: a mixture .* concat its sources", lambda: replay.nth(mixed, 0)),
        (TypeError, "newest: a mixture .* take the newest of each", lambda: replay.newest(mixed, 2)),
        (TypeError, "newest: a concat .* take the newest of each", lambda: replay.newest(both, 2)),
        (TypeError, "nth of an env: expected a Buffer, got Concat", lambda: replay.nth(both, 0, 0)),
        (TypeError, r"index: expected int32, got float32\[\]", lambda: replay.nth(buffer, 0.5)),
        (TypeError, r"env: expected int32, got float32\[\]", lambda: replay.nth(buffer, 0, 0.5)),
        (ValueError, "n: expected at least 1, got 0", lambda: replay.newest(buffer, 0)),
        (
            ValueError,
            r"nth: shapes \(3,\) of index and \(2,\) of env",
            lambda: replay.nth(buffer, np.arange(3), np.arange(2)),
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_numbers_that_int32_cannot_hold_are_of_no_row() -> None:
    buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 4), {"x": jnp.arange(6)})
    for wide in (np.array([2**32, -(2**32) - 1, 2**31]), np.array([2**32 - 1], np.uint32), jnp.uint32(2**32 - 1)):
        assert (np.asarray(replay.nth(buffer, wide).env) == -1).all()
    assert int(replay.nth(buffer, np.int64(0), np.int64(2**32)).env) == -1


@pytest.mark.parametrize("sampler", [replay.samplers.uniform(), replay.samplers.prioritized()])
def test_nothing_moves_to_the_device_but_what_is_given(sampler: Any) -> None:
    example = {"obs": jnp.zeros(3), "next": jnp.zeros(3), "end": jnp.bool_(False)}
    buffer = replay.create(
        example, 8, next_of={"next": "obs"}, episode_end="end", episode_data={"x": jnp.int32(0)}, sampler=sampler
    )
    buffer = replay.append(buffer, example)
    index, key, rows = jnp.arange(3), jax.random.key(0), replay.newest(buffer, 3)
    frames = jax.device_put(views.init_frames(views.frame_stack(3), jnp.zeros(3), 2))

    def work() -> Any:
        few = replay.subset(replay.subset(buffer, rows), rows)
        parts = replay.split(few, key, [0.5, 0.5])
        if sampler == replay.samplers.prioritized():
            replay.priorities(buffer, rows)
        replay.take(few, replay.newest(few, 2), views.with_episode())
        replay.take(buffer, rows, views.ravel("obs"))
        return parts, replay.nth(buffer, index), replay.nth(buffer, index, index), replay.pop(buffer, 2, complete=True)

    shown, resets = jnp.zeros((2, 3)), jnp.zeros(2, bool)
    for guard in ("allow", "disallow"):  # what is compiled once may be moved
        with jax.transfer_guard(guard):
            work()
            replay.resize(buffer, 16)
            views.push_frames(frames, shown, resets)


@pytest.mark.compiler
def test_no_more_is_read_of_a_larger_ring_but_for_the_steps_of_the_bisection() -> None:
    def work(buffer: replay.Buffer, index: jax.Array) -> Any:
        return replay.nth(buffer, index), replay.nth(buffer, index, 3), replay.newest(buffer, 32)

    def cost(slots: int) -> tuple[int, float]:
        buffer = abstract_buffer(SMALL, 16, slots)
        compiled = jax.jit(work).lower(buffer, jax.ShapeDtypeStruct((8,), jnp.int32)).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes, compiled.cost_analysis()["flops"]

    (small, small_flops), (large, large_flops) = cost(1000), cost(64000)
    assert large == small
    assert large_flops <= 1.01 * small_flops
