"""Bad input raises at trace time, and the message names the leaf, what came, what was expected, and the way out."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay


def make(num_envs: int | None = 3) -> replay.Buffer:
    example = {"obs": {"camera": jnp.zeros((2, 2), jnp.uint8), "speed": jnp.float32(0)}, "done": jnp.bool_(False)}
    example["next_obs"] = example["obs"]
    return replay.create(example, 12, num_envs, next_of={"next_obs": "obs"}, episode_end="done")


def steps(*lead: int) -> dict[str, Any]:
    obs = {"camera": jnp.zeros((*lead, 2, 2), jnp.uint8), "speed": jnp.zeros(lead)}
    return {"obs": obs, "done": jnp.zeros(lead, bool), "next_obs": dict(obs)}


def expect(error: type[Exception], *words: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


def with_leaf(value: Any, *path: str, lead: tuple[int, ...] = (3,)) -> dict[str, Any]:
    out = steps(*lead)
    node = out
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return out


def test_a_missing_leaf() -> None:
    step = steps(3)
    del step["obs"]["camera"]
    with expect(ValueError, "missing obs.camera", "Expected leaves", "obs.speed"):
        replay.append(make(), step)


def test_an_unknown_leaf() -> None:
    with expect(ValueError, "unknown obs.lidar"):
        replay.append(make(), with_leaf(jnp.zeros(3), "obs", "lidar"))


def test_the_right_leaves_in_the_wrong_containers() -> None:
    buffer = replay.create((jnp.zeros(2), jnp.zeros(3)), 4)
    with expect(ValueError, "containers differ"):
        replay.append(buffer, [jnp.zeros(2), jnp.zeros(3)])


@pytest.mark.parametrize("jitted", [False, True])
def test_a_wrong_shape(jitted: bool) -> None:
    append = jax.jit(replay.append) if jitted else replay.append
    with expect(ValueError, "obs.camera: expected uint8[3,2,2], got uint8[3,2,5]", "num_envs=3"):
        append(make(), with_leaf(jnp.zeros((3, 2, 5), jnp.uint8), "obs", "camera"))


@pytest.mark.parametrize("jitted", [False, True])
def test_a_wrong_dtype_is_not_cast(jitted: bool) -> None:
    append = jax.jit(replay.append) if jitted else replay.append
    with expect(TypeError, "obs.camera: expected uint8[3,2,2], got int32[3,2,2]", "Nothing is cast silently"):
        append(make(), with_leaf(jnp.zeros((3, 2, 2), jnp.int32), "obs", "camera"))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_a_numpy_array_of_another_dtype_is_not_cast(dtype: Any) -> None:
    with expect(TypeError, "obs.speed: expected float32[3]", np.dtype(dtype).name):
        replay.append(make(), with_leaf(np.zeros(3, dtype), "obs", "speed"))


def test_a_wrong_env_axis() -> None:
    with expect(ValueError, "expected bool[3], got bool[2]", "num_envs=3"):
        replay.append(make(), steps(2))
    with expect(ValueError, "expected bool[], got bool[3]", "no env axis"):
        replay.append(make(None), steps(3))
    with expect(ValueError, "expected bool[3], got bool[]", "[E, ...]"):
        replay.append(make(), steps())


def test_a_block_given_to_append_and_a_slice_given_to_extend() -> None:
    with expect(ValueError, "expected bool[3], got bool[5,3]"):
        replay.append(make(), steps(5, 3))
    with expect(ValueError, "[L, E, ...]"):
        replay.extend(make(), steps(3))


def test_a_block_of_leaves_of_different_lengths() -> None:
    with expect(ValueError, "obs.camera: expected uint8[5,3,2,2], got uint8[4,3,2,2]"):
        replay.extend(make(), with_leaf(jnp.zeros((4, 3, 2, 2), jnp.uint8), "obs", "camera", lead=(5, 3)))


def test_a_wrong_mask() -> None:
    with expect(ValueError, "mask: expected bool[3], got bool[2]"):
        replay.append(make(), steps(3), jnp.ones(2, bool))
    with expect(TypeError, "mask: expected bool[3], got float32[3]"):
        replay.append(make(), steps(3), jnp.ones(3))


def test_a_leaf_that_is_no_array() -> None:
    with expect(TypeError, "obs.speed", "str"):
        replay.append(make(), with_leaf("fast", "obs", "speed"))
    with expect(TypeError, "action", "dtype object"):
        replay.create({"action": np.array([None])}, 4)
    with expect(ValueError, "at least one array"):
        replay.create({}, 4)


def test_a_capacity_that_is_not_a_multiple_names_the_nearest() -> None:
    with expect(ValueError, "capacity: 1000 is not a multiple of num_envs=128", "896 or 1024"):
        replay.create({"x": jnp.zeros(2)}, 1000, 128)
    with expect(ValueError, "nearest that are: 128"):
        replay.create({"x": jnp.zeros(2)}, 100, 128)


@pytest.mark.parametrize("capacity", [0, -8])
def test_no_capacity(capacity: int) -> None:
    with expect(ValueError, f"capacity: expected at least 1, got {capacity}"):
        replay.create({"x": jnp.zeros(2)}, capacity)


def test_sizes_that_are_no_whole_numbers() -> None:
    with expect(TypeError, "capacity: expected a Python int", "float 1000.0"):
        replay.create({"x": jnp.zeros(2)}, 1e3)  # type: ignore[arg-type]
    with expect(ValueError, "num_envs: expected at least 1"):
        replay.create({"x": jnp.zeros(2)}, 8, 0)
    with expect(ValueError, "max_episodes: expected at least 1"):
        replay.create({"x": jnp.zeros(2)}, 8, episode_end=lambda s: s["x"][0] > 0, max_episodes=0)
    with expect(ValueError, "31-bit"):
        jax.eval_shape(lambda: replay.create({"x": jnp.zeros(2)}, 2**31))


def test_an_example_of_64_bits_while_they_are_off() -> None:
    with expect(TypeError, "x: the example has dtype float64", "float32", "jax_enable_x64"):
        replay.create({"x": np.zeros(2)}, 8)


@pytest.mark.parametrize("dtype", [">f4", np.longdouble, [("a", "f4")]], ids=str)
def test_an_example_of_a_dtype_that_jax_has_not(dtype: Any) -> None:
    with expect(TypeError, "obs.speed: the example has dtype", "convert it"):
        replay.create({"obs": {"speed": np.zeros(2, dtype)}}, 4)


def test_a_next_of_that_does_not_fit() -> None:
    example = {"obs": jnp.zeros(2), "next": jnp.zeros(3), "done": jnp.bool_(False)}
    with expect(ValueError, "next: expected float32[2] like obs", "got float32[3]"):
        replay.create(example, 8, next_of={"next": "obs"}, episode_end="done")
    with expect(ValueError, "there is no such part 'image'", "leaves: done, next, obs"):
        replay.create(example, 8, next_of={"next": "image"}, episode_end="done")
    with expect(ValueError, "there is no such part 'nxt'", "leaves: done, next, obs"):
        replay.create(example, 8, next_of={"nxt": "obs"}, episode_end="done")
    with expect(ValueError, "'next' must have the structure of 'obs'"):
        replay.create(example | {"next": {"a": jnp.zeros(2)}}, 8, next_of={"next": "obs"}, episode_end="done")
    with expect(ValueError, "next_of needs episode_end"):
        replay.create(example, 8, next_of={"next": "obs"})
    with expect(ValueError, "cannot both"):
        replay.create(example | {"next": jnp.zeros(2)}, 8, next_of={"next": "obs", "obs": "next"}, episode_end="done")


@pytest.mark.parametrize("next_of", [["next", "obs"], "next", {"next": 3}], ids=str)
def test_a_next_of_that_is_no_mapping_of_paths(next_of: Any) -> None:
    example = {"obs": jnp.zeros(2), "next": jnp.zeros(2), "done": jnp.bool_(False)}
    with expect(TypeError, "next_of: expected paths by path", "got"):
        replay.create(example, 8, next_of=next_of, episode_end="done")


def test_a_leaf_that_would_be_the_next_value_of_two() -> None:
    example = {"obs": {"a": 0, "b": 0}, "next": {"a": 0, "b": 0}, "done": False}
    with expect(ValueError, "next_of: next.a", "two parts"):
        replay.create(example, 8, next_of={"next": "obs", "next.a": "obs.b"}, episode_end="done")


def test_a_next_of_the_wrong_way_round() -> None:
    example = {"obs": jnp.zeros(2), "next_obs": jnp.zeros(2), "done": jnp.bool_(False)}
    with expect(ValueError, "the later value is the key", "Swap them: {'next_obs': 'obs'}"):
        replay.create(example, 8, next_of={"obs": "next_obs"}, episode_end="done")
    unnamed = {"later" if name == "next_obs" else name: leaf for name, leaf in example.items()}
    replay.create(unnamed, 8, next_of={"later": "obs"}, episode_end="done")


@pytest.mark.parametrize("done", [jnp.float32(0), jnp.int32(0), jnp.uint8(0)])
def test_an_episode_end_that_is_a_number_is_to_be_compared(done: Any) -> None:
    with expect(ValueError, "episode_end: expected a bool scalar", f"got {done.dtype}[]", 'step["done"] > 0'):
        replay.create({"x": jnp.zeros(2), "done": done}, 8, episode_end=lambda step: step["done"])


def test_an_episode_end_that_is_no_flag() -> None:
    with expect(ValueError, "episode_end: expected a bool scalar", "float32[2]"):
        replay.create({"x": jnp.zeros(2)}, 8, episode_end=lambda s: s["x"])
    with expect(ValueError, "episode_end: the function raised TypeError", "the step's leaves: x"):
        replay.create({"x": jnp.zeros(2)}, 8, episode_end=lambda s, t: s["x"])
    with expect(ValueError, "max_episodes and episode_data need episode_end"):
        replay.create({"x": jnp.zeros(2)}, 8, max_episodes=4)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing(batch_size: int) -> None:
    buffer = replay.append(make(), steps(3))
    with expect(ValueError, f"batch_size: expected at least 1, got {batch_size}"):
        replay.sample(buffer, jax.random.key(0), batch_size)
    with expect(ValueError, "batch_size"):
        replay.epoch(buffer, jax.random.key(0), batch_size)


@pytest.mark.parametrize("n", ["3", None, 2.5, np.arange(2)], ids=repr)
def test_a_number_of_rows_that_is_none(n: Any) -> None:
    with expect(TypeError, "n: expected"):
        replay.can_sample(make(), n)


def test_a_traced_batch_size() -> None:
    buffer = replay.append(make(), steps(3))
    with expect(TypeError, "batch_size: expected a Python int", "traced"):
        jax.jit(lambda n: replay.sample(buffer, jax.random.key(0), n))(3)


@pytest.mark.parametrize("complete", ["no", 1, None])
def test_settings_that_are_no_flags(complete: Any) -> None:
    buffer, key = replay.append(make(), steps(3)), jax.random.key(0)
    for call in (
        lambda flag: replay.pop(buffer, 1, complete=flag),
        lambda flag: replay.sample_episodes(buffer, key, 1, 2, complete=flag),
        lambda flag: replay.views.sequence(2, complete=flag),
        lambda flag: replay.views.n_step(2, 0.9, complete=flag),
    ):
        with expect(TypeError, "complete: expected"):
            call(complete)
        with expect(TypeError, "complete: expected True or False (it shapes the program), got a traced value"):
            jax.jit(call)(True)


@pytest.mark.parametrize(
    "key",
    [0, None, np.zeros(2), np.zeros(3, np.uint32), lambda: jax.random.split(jax.random.key(0), 2)],
    ids=["int", "none", "floats", "three words", "two keys"],
)
def test_keys_of_the_wrong_kind(key: Any) -> None:
    buffer = replay.append(make(), steps(3))
    key = key() if callable(key) else key
    for draw in (replay.sample, replay.epoch):
        with expect(TypeError, "key: expected", "jax.random.key(seed)"):
            draw(buffer, key, 4)
    with expect(TypeError, "key: expected"):
        replay.sample_episodes(buffer, key, 4, 2)


def test_rows_that_are_no_rows() -> None:
    buffer = replay.append(make(), steps(3))
    with expect(TypeError, "rows: expected Rows(time, env), got int"):
        replay.take(buffer, 3)  # type: ignore[arg-type]
    with expect(TypeError, "rows.time: expected int32, got float32"):
        replay.take(buffer, replay.Rows(jnp.zeros(2), jnp.zeros(2, jnp.int32)))
    with expect(ValueError, "one shape", "(2,)", "(3,)"):
        replay.take(buffer, replay.Rows(jnp.zeros(2, jnp.int32), jnp.zeros(3, jnp.int32)))


def test_negative_stale_and_out_of_range_rows_read_as_nothing_and_change_nothing() -> None:
    buffer = replay.extend(make(), with_leaf(jnp.ones((6, 3)), "obs", "speed", lead=(6, 3)))
    time = np.array([-1, 1, 6, 5, 5, 2**31 - 1, -(2**31), 2**32 + 5])
    rows = replay.Rows(time, np.array([0, 0, 0, -1, 3, 0, 0, 0]))
    batch = replay.take(buffer, rows)
    assert not batch.mask.any()
    assert not batch.probability.any()
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(batch.data))
    for changed in (
        replay.put(buffer, rows, {"obs": {"speed": jnp.full(8, 9.0)}}),
        replay.remove(buffer, rows),
    ):
        for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(buffer)):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("big", [2**32, np.int64(2**32), np.uint32(2**32 - 1)], ids=repr)
def test_numbers_of_more_than_32_bits_name_no_row_no_env_no_episode_and_no_member(big: Any) -> None:
    example = {"x": jnp.int32(0), "done": jnp.bool_(False)}
    buffer = replay.create(example, 4, episode_end="done", episode_data={"goal": jnp.int32(0)})
    buffer = replay.append(buffer, {"x": 7, "done": False})
    assert not replay.take(buffer, replay.Rows(time=big, env=0)).mask
    assert not replay.take(buffer, replay.nth(buffer, big)).mask
    for env, number in ((big, None), (0, big)):
        changed = replay.set_episode_data(buffer, env, {"goal": 1}, number)
        assert not replay.episode_data(changed)["goal"].any()
    stack = replay.create({"x": jnp.int32(0)}, 4, num_buffers=2)
    assert int(replay.size(replay.append(stack, {"x": 7}, member=big))) == 0


def test_an_int_of_more_than_32_bits_in_a_step() -> None:
    buffer = replay.create({"n": {"x": jnp.int32(0)}}, 4)
    with expect(ValueError, "n.x: 2147483648 does not fit in int32"):
        replay.append(buffer, {"n": {"x": 2**31}})


def test_numbers_of_episodes_are_whole_and_one_for_each_env() -> None:
    example = {"x": jnp.int32(0), "done": jnp.bool_(False)}
    buffer = replay.create(example, 6, 3, episode_end="done", episode_data={"goal": jnp.int32(0)})
    data = {"goal": jnp.zeros(3, jnp.int32)}
    with expect(TypeError, "number: expected int32, got float32[]"):
        replay.set_episode_data(buffer, jnp.arange(3), data, 0.5)
    with expect(ValueError, "number: expected the shape of env [3], got [2]"):
        replay.set_episode_data(buffer, jnp.arange(3), data, jnp.zeros(2, jnp.int32))


def test_what_cannot_be_put() -> None:
    buffer = replay.append(make(), steps(3))
    rows, _ = replay.rows(buffer)
    with expect(ValueError, "next_obs.speed", "is obs.speed of the next row", "cannot be put"):
        replay.put(buffer, rows, {"next_obs": {"speed": jnp.zeros(12)}})
    with expect(ValueError, "put: there is no 'reward'", "obs.speed"):
        replay.put(buffer, rows, {"reward": jnp.zeros(12)})
    with expect(TypeError, "obs.speed: expected float32[12], got int32[12]"):
        replay.put(buffer, rows, {"obs": {"speed": jnp.zeros(12, jnp.int32)}})
    with expect(ValueError, "obs.speed: expected float32[12], got float32[3]"):
        replay.put(buffer, rows, {"obs": {"speed": jnp.zeros(3)}})


def test_a_path_of_two_leaves_cannot_be_put() -> None:
    buffer = replay.append(replay.create({"a.b": 0, "a": {"b": 0}}, 4), {"a.b": 1, "a": {"b": 2}})
    with expect(ValueError, "two leaves have the path 'a.b'"):
        replay.put(buffer, replay.Rows(time=0, env=0), {"a": {"b": 3}})


def test_views_that_need_what_is_not_stored() -> None:
    buffer = replay.append(make(), steps(3))
    with expect(ValueError, "n_step(3, 0.9)", "'observation'", "'reward'", "obs.camera"):
        replay.sample(buffer, jax.random.key(0), 4, replay.views.n_step(3, 0.9))
    items = replay.append(replay.create({"reward": jnp.float32(0)}, 4), {"reward": jnp.float32(1)})
    with expect(ValueError, "n_step(3, 0.9)", "independent items", "episode_end"):
        replay.sample(items, jax.random.key(0), 4, replay.views.n_step(3, 0.9))
    with expect(ValueError, "n: expected at least 1, got 0"):
        replay.views.n_step(0, 0.9)
    with expect(ValueError, "discount: expected a number from 0 to 1, got 1.5"):
        replay.views.n_step(3, 1.5)


@pytest.mark.parametrize("view", [replay.views.sequence(2), replay.views.window(1, 1), replay.views.n_step(2, 0.9)])
def test_a_view_that_cannot_read_the_buffer_is_refused_before_anything_is_read(view: Any) -> None:
    buffer = replay.append(replay.create({"x": jnp.int32(0)}, 4), {"x": 1})
    key, (rows, _) = jax.random.key(0), replay.rows(buffer)
    for read in (
        lambda: replay.can_sample(buffer, 1, view),
        lambda: replay.epoch(buffer, key, 2, view),
        lambda: replay.sample(buffer, key, 2, view),
        lambda: replay.take(buffer, rows, view),
    ):
        with expect(ValueError, "this buffer holds independent items"):
            read()


def test_more_slices_popped_than_the_ring_holds() -> None:
    with expect(ValueError, "n: 5 slices", "at most 4"):
        replay.pop(make(), 5)


def test_episodes_of_independent_items() -> None:
    buffer = replay.append(replay.create({"x": jnp.zeros(2)}, 8), {"x": jnp.ones(2)})
    for ask in (replay.episodes, lambda b: replay.sample_episodes(b, jax.random.key(0), 1, 2)):
        with expect(ValueError, "independent items", "episode_end"):
            ask(buffer)
    assert int(replay.num_episodes(buffer)) == 0
    with expect(ValueError, "keeps no episode data", "episode_data="):
        replay.episode_data(buffer)


def test_a_refused_step_leaves_the_buffer_as_it_was() -> None:
    buffer = replay.append(make(), steps(3))
    before = [np.asarray(x).copy() for x in jax.tree.leaves(buffer)]
    append = jax.jit(replay.append, donate_argnums=0)
    with pytest.raises(ValueError, match=r"obs\.camera"):
        append(buffer, with_leaf(jnp.zeros((3, 2, 5), jnp.uint8), "obs", "camera"))
    for a, b in zip(before, jax.tree.leaves(buffer)):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_buffers_outside_vmap() -> None:
    buffers = jax.vmap(lambda _: make())(jnp.arange(2))
    for use in (lambda b: replay.append(b, steps(3)), replay.capacity, replay.size, replay.stats):
        with expect(ValueError, "a batch of buffers (2,)", "jax.vmap"):
            use(buffers)
    with expect(ValueError, "a batch of buffers"):
        replay.sample(buffers, jax.random.key(0), 2)
