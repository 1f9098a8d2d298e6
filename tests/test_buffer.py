"""What a buffer is and answers: capacities, puts, removals, episode data, and structures of the user's own."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay import convert, datasets, record
from tests.model import Model, make_buffer
from tests.test_laws import check_all, check_read, operate, operations
from tests.test_next_observation import buffer_of, next_of, step


def rows_of(*times: int) -> replay.Rows:
    return replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))


def test_counts_of_an_empty_and_a_full_buffer() -> None:
    buffer = buffer_of()
    assert replay.capacity(buffer) == 8
    assert (int(replay.size(buffer)), int(replay.num_episodes(buffer))) == (0, 0)
    assert not replay.can_sample(buffer, 1)
    buffer = buffer_of(*map(step, range(11)))
    assert (int(replay.size(buffer)), int(replay.num_episodes(buffer))) == (8, 1)
    assert bool(replay.can_sample(buffer, 8))
    assert not replay.can_sample(buffer, 9)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("num_envs", [None, 8])
def test_short_episodes_of_small_steps_fill_a_buffer_at_the_default(length: int, num_envs: int | None) -> None:
    capacity = 8192
    buffer = replay.create(step(0), capacity, num_envs, episode_data={"seed": jnp.int32(0)})
    slots = capacity // (num_envs or 1)
    lead = (2 * slots,) if num_envs is None else (2 * slots, num_envs)
    steps = jax.tree.map(lambda x: jnp.zeros(lead, x.dtype), step(0))
    ends = jnp.arange(2 * slots) % length == length - 1
    steps = steps.replace(terminated=jnp.broadcast_to(ends.reshape(-1, *[1] * (len(lead) - 1)), lead))
    buffer = replay.extend(buffer, steps)
    assert int(replay.size(buffer)) == capacity
    assert int(replay.num_episodes(buffer)) == capacity // length
    assert int(replay.stats(buffer).lost) == 0


def records(example: Any, capacity: int, **options: Any) -> tuple[int, int]:
    """K by default, and the bytes that these records take."""
    make = lambda k: jax.eval_shape(lambda: replay.create(example, capacity, 4, max_episodes=k, **options))  # noqa: E731
    size = lambda b: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(b))  # noqa: E731
    default = make(None)
    count = default.rings.num_records
    return count, (size(default) - size(make(8))) * count // max(count - 2, 1)


def test_records_of_episodes_take_64_mib_by_default_or_an_eighth_of_the_ring_if_that_is_more() -> None:
    free = 64 * 2**20
    image = step(0).replace(observation=jnp.zeros((84, 84), jnp.uint8), next_observation=jnp.zeros((84, 84), jnp.uint8))
    for example, capacity, options in (
        (step(0), 2**24, {}),
        (image, 2**15, {}),
        (step(0), 2**20, {"episode_data": {"goal": jnp.zeros(100)}}),
    ):
        count, taken = records(example, capacity, **options)
        slots = capacity // 4
        assert count < slots
        assert count == slots // 8 or 0.999 * free < taken <= free
    assert records(image, 2**20)[0] == 2**20 // 4 // 8
    assert records(image, 2**10)[0] == 2**10 // 4


def test_arrays_of_numpy_and_python_scalars_are_taken_where_the_dtype_is_theirs() -> None:
    buffer = replay.create({"x": np.float32(0), "n": 0, "f": False, "g": 0.0}, 4)
    buffer = replay.append(buffer, {"x": np.float32(2), "n": 3, "f": True, "g": 0.5})
    got = replay.take(buffer, rows_of(0)).data
    assert [got[k].tolist() for k in ("x", "n", "f", "g")] == [[2], [3], [True], [0.5]]
    with pytest.raises(TypeError, match="expected int32"):
        replay.append(buffer, {"x": np.float32(2), "n": 3.0, "f": True, "g": 0.5})


def test_what_was_appended_is_copied() -> None:
    """An environment may hand out the same array at every step."""
    buffer, reused = replay.create({"x": np.zeros(2, np.float32)}, 4), np.zeros(2, np.float32)
    for i in range(3):
        reused[:] = i
        buffer = replay.append(buffer, {"x": reused})
    reused[:] = 9
    assert replay.take(buffer, rows_of(0, 1, 2)).data["x"][:, 0].tolist() == [0, 1, 2]


def test_independent_items_have_no_episodes_and_all_are_kept() -> None:
    buffer = replay.create((jnp.int32(0), [jnp.zeros(2)]), 6, 2)
    items = (jnp.arange(8, dtype=jnp.int32).reshape(4, 2), [jnp.ones((4, 2, 2))])
    buffer = replay.extend(buffer, items, np.arange(8).reshape(4, 2) != 5)
    _, mask = replay.rows(buffer)
    assert mask.tolist() == [True, True, True, False, True, True]
    assert replay.take(buffer, replay.rows(buffer)[0]).data[0].tolist() == [2, 3, 4, 0, 6, 7]
    assert int(replay.stats(buffer).lost) == 0


def test_episodes_without_a_next_part_and_nested_next_parts() -> None:
    buffer = replay.create({"x": jnp.float32(0), "end": jnp.bool_(False)}, 6, episode_end="end")
    steps = {"x": jnp.arange(4.0), "end": jnp.array([False, True, False, False])}
    buffer = replay.extend(buffer, steps)
    assert replay.episodes(buffer).length.tolist()[-2:] == [2, 2]
    example = {"now": {"a": {"b": jnp.float32(0)}}, "then": {"b": jnp.float32(0)}, "end": jnp.bool_(False)}
    buffer = replay.create(example, 6, next_of={"then": "now.a"}, episode_end="end")
    buffer = replay.extend(
        buffer, {"now": {"a": {"b": steps["x"]}}, "then": {"b": steps["x"] + 50}, "end": steps["end"]}
    )
    assert replay.take(buffer, rows_of(0, 1, 2, 3)).data["then"]["b"].tolist() == [1, 51, 3, 53]


def test_parts_that_are_stored_apart_are_read_as_the_others() -> None:
    example = {"x": jnp.zeros(2), "state": {"h": jnp.zeros(3), "c": jnp.int32(0)}, "end": jnp.bool_(False)}
    rng = np.random.default_rng(0)
    steps = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 9, (12, 2, *x.shape))).astype(x.dtype), example)
    together, apart = (
        replay.extend(replay.create(example, 16, 2, episode_end="end", apart=parts), steps) for parts in ((), "state")
    )
    assert [len(buffer.rings.arrays) for buffer in (together, apart)] == [1, 3]
    for view in (replay.views.transition(), replay.views.sequence(3, first="state"), replay.views.sequence(2)):
        rows, _ = replay.rows(apart)
        jax.tree.map(np.testing.assert_array_equal, replay.take(apart, rows, view), replay.take(together, rows, view))
    with pytest.raises(ValueError, match=r"apart: there is no 'states'; there are: end, state\.c, state\.h, x"):
        replay.create(example, 16, 2, episode_end="end", apart=("states",))


def test_put_changes_chosen_leaves_and_the_last_of_duplicates_wins() -> None:
    buffer = buffer_of(*map(step, range(4)))
    changed = replay.put(buffer, rows_of(1, 3, 1, 9), {"reward": jnp.array([5.0, 6.0, 7.0, 8.0])})
    got = replay.take(changed, rows_of(0, 1, 2, 3)).data
    assert got.reward.tolist() == [1, 7, 1, 6]
    assert got.action.tolist() == [0, 1, 2, 3]
    changed = replay.put(buffer, rows_of(2), {"observation": jnp.array([40.0])})
    assert next_of(changed, 1, 2) == [40, 3]


def test_removing_twice_or_what_is_not_there_changes_nothing_more() -> None:
    buffer = replay.remove(buffer_of(*map(step, range(4))), rows_of(1, 1, 9, -3))
    assert int(replay.size(buffer)) == 3
    again = replay.remove(buffer, rows_of(1))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(buffer)):
        np.testing.assert_array_equal(a, b)
    assert int(replay.stats(again).removed) == 1


def test_a_lost_row_that_is_removed_still_counts_as_lost() -> None:
    buffer = buffer_of(*(step(i, terminated=True) for i in range(5)), max_episodes=2)
    assert [int(replay.stats(buffer).lost), int(replay.stats(buffer).removed)] == [3, 0]
    removed = replay.stats(replay.remove(buffer, rows_of(0, 1, 4)))
    assert [int(removed.lost), int(removed.removed), int(removed.size)] == [3, 1, 1]


def test_a_removed_row_whose_record_is_overwritten_later_still_counts_as_removed() -> None:
    buffer = replay.remove(buffer_of(step(0, terminated=True), max_episodes=2), rows_of(0))
    for i in range(1, 4):
        buffer = replay.append(buffer, step(i, terminated=True))
    counts = replay.stats(buffer)
    assert [int(counts.lost), int(counts.removed), int(counts.size)] == [1, 1, 2]


@pytest.mark.parametrize("num_envs", [None, 2])
def test_an_append_of_device_arrays_moves_nothing_to_the_device(num_envs: int | None) -> None:
    one = step(0) if num_envs is None else jax.tree.map(lambda x: jnp.stack([x] * num_envs), step(0))
    block = jax.tree.map(lambda x: x[None], one)
    buffer = replay.create(step(0), 8, num_envs)
    with jax.transfer_guard("disallow"):
        buffer = replay.extend(replay.append(buffer, one), block)
    assert int(replay.size(buffer)) == 2 * (num_envs or 1)


def test_clear_keeps_old_rows_stale_and_closes_episodes() -> None:
    buffer = replay.clear(buffer_of(step(0), step(1)))
    assert int(replay.size(buffer)) == int(replay.num_episodes(buffer)) == 0
    buffer = replay.append(buffer, step(2))
    assert next_of(buffer, 0, 1, 2) == [None, None, 3]
    assert replay.episodes(buffer).number.tolist()[-2:] == [-1, 1]


def test_a_popped_queue_gives_every_slice_once_in_order() -> None:
    buffer, seen = buffer_of(capacity=5), []
    for i in range(12):
        buffer = replay.append(buffer, step(i, truncated=i % 4 == 3))
        if i % 3 == 2:
            buffer, batch = replay.pop(buffer, 3)
            assert bool(batch.mask.all())
            seen += batch.data.observation.tolist()
    assert seen == list(range(12))
    buffer, batch = replay.pop(replay.append(buffer, step(12)), 3)
    assert batch.mask.tolist() == [True, False, False]
    assert next_of(buffer, 12) == [None]


def test_pop_of_a_slice_with_the_next_one_still_held() -> None:
    buffer, batch = replay.pop(buffer_of(step(0), step(1), step(2)), 1)
    assert batch.data.next_observation.tolist() == [1]
    assert int(replay.size(buffer)) == 2


@pytest.mark.parametrize(("platform", "shape"), [("cpu", (5, None, 2)), ("tpu", (4, 3, 5))])
@given(operations=operations, n=st.sampled_from([1, 3, 4]))
def test_a_pop_of_finished_episodes_stops_at_the_first_step_of_an_open_one(
    platform: str, shape: Any, operations: list[Any], n: int
) -> None:
    buffer, model = make_buffer(*shape, platform=platform), Model(shape[0], shape[1] or 1, shape[2])
    for operation in operations:
        buffer = operate(buffer, model, operation)
    goes_on = [mine[-1].start for mine in model.episodes if mine and not mine[-1].closed]
    end = max(min([model.oldest + n, len(model.slices), *goes_on]), model.oldest)
    places = [(t, e) for t in range(model.oldest, model.oldest + n) for e in range(model.num_envs)]
    wanted = [model.get(t, e) if t < end else None for t, e in places]
    buffer, batch = jax.jit(replay.pop, static_argnames=("n", "complete"))(buffer, n, complete=True)
    check_read(batch, wanted)
    model.oldest = end
    check_all(buffer, model)


def test_independent_items_are_in_no_episode_that_is_finished() -> None:
    items = replay.append(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.int32(0)})
    with pytest.raises(ValueError, match="pop: complete=True: this buffer holds independent items"):
        replay.pop(items, 2, complete=True)


DATA = {"seed": jnp.int32(0), "goal": jnp.zeros(2), "key": jax.random.key(0)}


def test_episode_data_belong_to_their_episode_and_leave_with_it() -> None:
    buffer = buffer_of(step(0), step(1, terminated=True), step(2), max_episodes=2, episode_data=DATA)
    assert replay.episode_data(buffer)["seed"].tolist() == [0, 0]
    buffer = replay.set_episode_data(buffer, 0, {"seed": jnp.int32(7), "goal": jnp.ones(2)})
    buffer = replay.set_episode_data(buffer, 0, {"seed": jnp.int32(5)}, number=0)
    got = replay.episode_data(buffer)
    assert got["seed"].tolist() == [5, 7]
    assert got["goal"].tolist() == [[0, 0], [1, 1]]
    assert got["key"].shape == (2,)
    buffer = replay.set_episode_data(buffer, 0, {"seed": jnp.int32(8)})
    assert replay.episode_data(buffer)["goal"].tolist() == [[0, 0], [1, 1]]
    buffer = replay.append(replay.append(buffer, step(3, terminated=True)), step(4))
    assert replay.episode_data(buffer)["seed"].tolist() == [8, 0]
    lost = replay.set_episode_data(buffer, 0, {"seed": jnp.int32(9)}, number=0)
    assert replay.episode_data(lost)["seed"].tolist() == [8, 0]


def test_episode_data_of_many_envs_under_jit() -> None:
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (3,)), step(0))
    buffer = replay.append(replay.create(step(0), 24, 3, episode_data=DATA), steps)
    buffer = jax.jit(replay.set_episode_data)(buffer, jnp.array([2, 0, 2, 7]), {"seed": jnp.array([1, 2, 3, 4])})
    assert replay.episode_data(buffer)["seed"][-1].tolist() == [2, 0, 3]
    with pytest.raises(ValueError, match="there is no 'return'"):
        replay.set_episode_data(buffer, 0, {"return": jnp.float32(1)})
    with pytest.raises(TypeError, match="seed: expected int32"):
        replay.set_episode_data(buffer, 0, {"seed": jnp.float32(1)})


def test_rows_of_any_shape_are_taken_in_that_shape() -> None:
    buffer = buffer_of(*map(step, range(6)))
    rows = replay.Rows(jnp.arange(6, dtype=jnp.int32).reshape(2, 3), jnp.int32(0))
    batch = replay.take(buffer, rows)
    assert batch.data.observation.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert replay.take(buffer, replay.Rows(jnp.int32(4), jnp.int32(0))).data.observation.shape == ()
    assert replay.take(buffer, jax.tree.map(lambda x: x[:0], rows_of(1))).data.observation.shape == (0,)


def test_a_step_of_grad_passes_through_a_buffer() -> None:
    buffer = buffer_of(*map(step, range(6)))

    def loss(w: jax.Array, buffer: replay.Buffer) -> jax.Array:
        return (w * replay.sample(buffer, jax.random.key(0), 4).data.observation).sum()

    drawn = replay.sample(buffer, jax.random.key(0), 4).data.observation
    assert float(jax.jit(jax.grad(loss))(jnp.float32(2), buffer)) == float(drawn.sum()) > 0


def test_equal_buffers_share_one_compiled_program() -> None:
    traced = []

    @jax.jit
    def append(buffer: replay.Buffer, step: Any) -> replay.Buffer:
        traced.append(step)
        return replay.append(buffer, step)

    for _ in range(3):
        append(buffer_of(), step(0))
    assert len(traced) == 1


WIDE = """
import jax; jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np, jaxreplay as replay
rng = np.random.default_rng(0)
example = {"f": np.float64(0), "i": np.zeros(3, np.int64), "u": np.uint64(0), "c": np.zeros(2, np.complex128),
           "next": np.zeros((2, 50)), "obs": np.zeros((2, 50)), "end": np.bool_(False)}
buffer = replay.create(example, 12, 2, next_of={"next": "obs"}, episode_end="end", max_episodes=12)
steps = {k: np.ascontiguousarray(rng.integers(0, 256, (9, 2, *np.shape(x), x.dtype.itemsize), np.uint8)).view(x.dtype)
         .reshape(9, 2, *np.shape(x)) for k, x in example.items() if k != "end"}
steps["end"] = rng.random((9, 2)) < 0.2
buffer = replay.extend(buffer, steps)
rows, mask = replay.rows(buffer)
batch = replay.take(buffer, rows)
assert mask.all()
assert all(x.dtype == np.int32 for x in jax.tree.leaves((rows, buffer.rings.clock, replay.stats(buffer))))
for k in ("f", "i", "u", "c", "obs"):
    x = np.asarray(batch.data[k])
    assert x.dtype == example[k].dtype and x.tobytes() == steps[k][3:].tobytes(), k
names = dict(observation="obs", action="i", reward="f", terminated="end", next_observation="next")
again = replay.sample(buffer, jax.random.key(0), 8, replay.views.n_step(2, 0.9, **names))
assert again.data.reward.dtype == np.float64 and again.mask.all()
replay.pop(replay.remove(buffer, rows), 2), replay.epoch(buffer, jax.random.key(0), 5), replay.episodes(buffer)
replay.sample_episodes(buffer, jax.random.key(0), 2, 3, complete=False)
buffer = jax.jit(lambda b, s: jax.lax.scan(lambda b, x: (replay.append(b, x), None), b, s)[0])(buffer, steps)
"""


def test_64_bit_leaves_are_kept_when_they_are_switched_on() -> None:
    done = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("nothing", [None, {}, ()], ids=repr)
def test_a_transition_without_an_observation_is_stored_as_any_other(nothing: Any) -> None:
    done = jnp.array([False, True, False])
    steps = replay.Transition(nothing, jnp.arange(3), jnp.ones(3), done, jnp.zeros(3, bool), nothing)
    buffer = replay.extend(replay.create(jax.tree.map(lambda x: x[0], steps), 4), steps)
    batch = replay.take(buffer, replay.newest(buffer, 3), replay.views.n_step(2, 0.5)).data
    assert (batch.observation, batch.next_observation) == (nothing, nothing)
    assert batch.reward.tolist() == [1.5, 1, 1]
    assert replay.episodes(buffer).length[-2:].tolist() == [2, 1]


def test_floats_of_four_bits_come_back_bit_for_bit() -> None:
    values = np.arange(16).astype(np.uint8).view(ml_dtypes.float4_e2m1fn)
    example = {"small": jax.ShapeDtypeStruct((3,), values.dtype), "large": jax.ShapeDtypeStruct((300,), values.dtype)}
    steps = {"small": np.resize(values, (7, 3)), "large": np.resize(values, (7, 300))}
    buffer = replay.extend(replay.create(example, 5), steps)
    for name, came in replay.take(buffer, replay.rows(buffer)[0]).data.items():
        assert np.asarray(came).tobytes() == steps[name][2:].tobytes()


def test_importing_the_core_imports_none_of_the_extras() -> None:
    extras = ["gymnasium", "optax", "matplotlib", "tqdm", "torch", "grain", "minari", "orbax", "hypothesis"]
    code = f"import sys, jaxreplay; bad = [m for m in {extras} if m in sys.modules]; assert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_documented() -> None:
    """A dataclass without a docstring gets its own signature as one, and a class inherits none."""
    for module in (replay, replay.views, replay.samplers, convert, datasets, record):
        things = {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
        for name, thing in things.items():
            documented = inspect.isclass(thing) or inspect.isroutine(thing)
            assert not documented or thing.__doc__ not in (None, ""), name
            assert not documented or not thing.__doc__.startswith(f"{thing.__name__}("), name
        assert things


def test_masks_of_python_and_numpy() -> None:
    buffer = replay.append(buffer_of(step(0)), step(1), mask=False)
    buffer = replay.append(buffer, step(2), mask=np.True_)
    assert replay.rows(buffer)[1].tolist()[-3:] == [True, False, True]
