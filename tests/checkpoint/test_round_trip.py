"""Law 9: what was saved is what is loaded, bit for bit, after whatever changed it since the last save."""

from __future__ import annotations

import functools
import os
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings

import jaxreplay as replay
from jaxreplay.checkpoint import pieces
from tests.extras import library
from tests.model import Model, make_buffer
from tests.test_errors import expect
from tests.test_laws import assert_same, operate, operations, stream
from tests.test_next_observation import step
from tests.test_restoring import EXAMPLE, OTHERS, PRIORITIZED, Keyed, make

library("xxhash")
DATA = {"seed": jnp.int32(0), "key": jax.random.key(0)}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small buffers are cut into many."""
    monkeypatch.setattr(pieces, "PIECE", 256)


@pytest.fixture(scope="module")
def full() -> replay.Buffer:
    """A buffer of every dtype, with priorities, rows that wait for their view, and data of episodes."""
    buffer = make_buffer(5, 2, 3, sampler=PRIORITIZED, episode_data=DATA)
    buffer = replay.extend(buffer, *stream(6, 2, 0))
    last, _ = stream(1, 2, 1)
    buffer = replay.extend(buffer, last | {"done": jnp.zeros((1, 2), bool)}, jnp.ones((1, 2), bool))
    keys = jax.random.split(jax.random.key(3), 2)
    return replay.set_episode_data(buffer, jnp.arange(2), {"key": keys})


def names(folder: pathlib.Path) -> set[str]:
    return set(os.listdir(folder / "pieces"))


def through(folder: pathlib.Path, saved: Any, like: Any = None) -> Any:
    replay.checkpoint.save(folder, saved)
    return replay.checkpoint.load(folder, saved if like is None else like)


@pytest.mark.parametrize("shape", [(5, None, 2), (4, 3, 5)])
@settings(settings.get_profile("short"), max_examples=5)
@given(operations=operations)
def test_after_any_changes_a_save_over_the_one_before_loads_bit_for_bit(shape: Any, operations: list[Any]) -> None:
    num_slots, num_envs, num_records = shape
    buffer, model = make_buffer(*shape), Model(num_slots, num_envs or 1, num_records)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        assert_same(through(folder, buffer), buffer)
        for operation in operations:
            buffer = operate(buffer, model, operation)
            assert_same(through(folder, buffer), buffer)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(5, None, 2), (4, 3, 5), (1, 2, 2)])
@settings(settings.get_profile("long"), max_examples=100)
@given(operations=operations)
def test_the_same_over_many_more_changes(shape: Any, operations: list[Any]) -> None:
    test_after_any_changes_a_save_over_the_one_before_loads_bit_for_bit.hypothesis.inner_test(shape, operations)  # type: ignore[attr-defined]


def test_it_goes_on_as_what_was_saved_from_arrays_and_from_their_shapes(full: replay.Buffer, tmp_path: Any) -> None:
    for like in (full, jax.eval_shape(lambda: full)):
        loaded = through(tmp_path, full, like)
        assert jax.tree.structure(loaded) == jax.tree.structure(full)
        assert_same(loaded, full)
        more = stream(2, 2, 5)
        assert_same(replay.extend(loaded, *more), replay.extend(full, *more))


def test_times_past_int32_come_back(full: replay.Buffer, tmp_path: pathlib.Path) -> None:
    clock = full.rings.clock.replace(time=jnp.int32(2**31 - 3))
    late = replay.extend(full.replace(rings=full.rings.replace(clock=clock)), *stream(7, 2, 0))
    assert int(late.rings.clock.time) < 0
    assert_same(through(tmp_path, late), late)


def test_a_batch_of_buffers_in_a_training_state_comes_back_with_the_rest(tmp_path: pathlib.Path) -> None:
    class State(struct.PyTreeNode):
        weights: Any
        buffer: replay.Buffer

    buffers = jax.vmap(lambda _: replay.create(step(0), 8))(jnp.arange(3))
    buffers = jax.vmap(replay.append)(buffers, jax.tree.map(lambda x: jnp.broadcast_to(x, (3,)), step(7)))
    nan = np.arange(0x7F80, 0x8100).astype(np.uint16).view(ml_dtypes.bfloat16)  # with every payload
    weights = {
        "bfloat16": jnp.asarray(nan),
        "float8": jnp.asarray(np.arange(256).astype(np.uint8).view(ml_dtypes.float8_e4m3fn)).reshape(1, 256),
        "half": jnp.asarray(np.arange(0x7C00, 0x8000).astype(np.uint16).view(np.float16)),
        "int4": jnp.asarray(np.arange(-512, 512).astype(np.int8) % 8).astype(jnp.int4),
        "keys": jax.random.split(jax.random.key(1), 70),
        "key": jax.random.key(5, impl="rbg"),
        "empty": jnp.zeros((0, 3)),
        "wide": np.arange(700.0),
        "epoch": 7,
        "rate": 0.1,
    }
    state = State(weights, buffers)
    loaded = through(tmp_path, state)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert_same(
        *(jax.tree.map(lambda x: x if hasattr(x, "dtype") else np.asarray(x), each) for each in (loaded, state))
    )
    for name in ("wide", "epoch", "rate"):
        assert type(loaded.weights[name]) is type(weights[name])
    assert isinstance(loaded.weights["keys"], jax.Array)


def test_keys_in_the_state_of_ones_own_sampler_come_back(tmp_path: pathlib.Path) -> None:
    saved = replay.create(step(0), 8, sampler=Keyed()).replace(sampler_state={"key": jax.random.key(9)})
    assert_same(through(tmp_path, saved), saved)


ROWS = replay.Rows(jnp.array([5, 6]), jnp.array([0, 1]))
CHANGES = {
    "append": lambda b: replay.extend(b, *stream(1, 2, 3)),
    "put": lambda b: replay.put(b, ROWS, {"reward": jnp.array([3.0, 4.0])}),
    "remove": lambda b: replay.remove(b, ROWS),
    "set_priorities": lambda b: replay.set_priorities(b, ROWS, jnp.array([3.0, 4.0])),
    "end_episodes": lambda b: replay.end_episodes(b),
    "set_episode_data": lambda b: replay.set_episode_data(b, jnp.arange(2), {"seed": jnp.array([8, 9])}),
    "clear": lambda b: replay.clear(b),
    "pop": lambda b: replay.pop(b, 1)[0],
}


def test_every_change_is_noticed_and_what_did_not_change_is_not_written_again(
    full: replay.Buffer, tmp_path: pathlib.Path
) -> None:
    for name, change in CHANGES.items():
        folder = tmp_path / name
        replay.checkpoint.save(folder, full)
        before = {each: os.stat(folder / "pieces" / each).st_ino for each in names(folder)}
        replay.checkpoint.save(folder, full)
        changed = change(full)
        assert_same(through(folder, changed), changed)
        after = {each: os.stat(folder / "pieces" / each).st_ino for each in names(folder)}
        new = after.keys() - before.keys()
        assert new, name
        assert {each: before.get(each) for each in after.keys() - new} == {
            each: after[each] for each in after.keys() - new
        }


def test_a_second_save_writes_as_much_as_was_appended(tmp_path: pathlib.Path) -> None:
    buffer = replay.extend(replay.create({"x": jnp.zeros(16)}, 1000), {"x": jnp.ones((1000, 16))})
    replay.checkpoint.save(tmp_path, buffer)
    before = names(tmp_path)
    assert len(before) > 200
    replay.checkpoint.save(tmp_path, replay.extend(buffer, {"x": jnp.zeros((10, 16))}))
    assert len(names(tmp_path)) == len(before)
    assert len(names(tmp_path) - before) < 12


def test_slots_that_were_never_written_take_no_room(tmp_path: pathlib.Path) -> None:
    replay.checkpoint.save(tmp_path, replay.create({"x": jnp.zeros(16)}, 1000))
    assert len(names(tmp_path)) > 200
    assert sum(os.stat(tmp_path / "pieces" / name).st_blocks * 512 for name in names(tmp_path)) < 2**14


sized = functools.partial(make_buffer, sampler=PRIORITIZED, episode_data=DATA)


@pytest.mark.parametrize("slots", [3, 9])
def test_a_smaller_or_larger_capacity_keeps_what_resize_keeps(slots: int, full: Any, tmp_path: pathlib.Path) -> None:
    replay.checkpoint.save(tmp_path, full)
    loaded = replay.checkpoint.load(tmp_path, jax.eval_shape(lambda: sized(slots, 2, 2)))
    expected = replay.resize(full, slots * 2, 4)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    assert_same(loaded, expected)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_buffer_that_lies_as_another_platform_wants_it_reads_and_draws_the_same(
    platform: str, full: Any, tmp_path: pathlib.Path
) -> None:
    replay.checkpoint.save(tmp_path, full)
    like = sized(5, 2, 3, platform=platform)
    loaded = replay.checkpoint.load(tmp_path, like)
    assert jax.tree.structure(loaded) == jax.tree.structure(like)
    rows, _ = replay.rows(full)
    assert_same(replay.rows(loaded), replay.rows(full))
    assert_same(replay.take(loaded, rows), replay.take(full, rows))
    assert_same(replay.episode_data(loaded), replay.episode_data(full))
    key = jax.random.key(0)
    assert_same(replay.sample(loaded, key, 6), replay.sample(full, key, 6))


REFUSED = {
    **{name: OTHERS[name] for name in ("num_envs", "sampler", "dtype", "shape", "path", "episode data")},
    "exponent": (
        {"sampler": replay.samplers.prioritized(0.5)},
        ["sampler's settings: exponent=0.6", "was saved, exponent=0.5"],
    ),
    "episode_end": (
        {"episode_end": lambda s: s["done"]},
        ["episode_end: ['done'] was saved, <lambda> is here"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name_before_a_piece_is_read(name: str, tmp_path: pathlib.Path) -> None:
    options, words = REFUSED[name]
    kept = {"sampler": replay.samplers.prioritized()} if name == "exponent" else {}
    replay.checkpoint.save(tmp_path, make(**kept))
    for each in names(tmp_path):
        os.unlink(tmp_path / "pieces" / each)
    with expect(ValueError, "checkpoint.json: what was saved does not fit", *words):
        replay.checkpoint.load(tmp_path, make(**options))


def test_a_state_is_refused_by_the_paths_of_its_leaves_and_buffers(tmp_path: pathlib.Path) -> None:
    replay.checkpoint.save(tmp_path, {"a": make(), "b": jnp.zeros(2)})
    with expect(ValueError, "a: a buffer was saved, none is here"):
        replay.checkpoint.load(tmp_path, {"a": jnp.zeros(2), "b": jnp.zeros(2)})
    with expect(ValueError, "a: num_envs: 4 was saved, 2 is here"):
        replay.checkpoint.load(tmp_path, {"a": make(num_envs=2), "b": jnp.zeros(2)})
    for other, words in ((jnp.zeros(3), "float32[3]"), (0.5, "Python's float"), (np.zeros(2), "float64[2]")):
        with expect(ValueError, f"b: float32[2] was saved, {words} is here"):
            replay.checkpoint.load(tmp_path, {"a": make(), "b": other})


def test_a_save_refuses_what_it_cannot_keep_and_folders_of_others(tmp_path: pathlib.Path) -> None:
    with expect(TypeError, "rings.arrays.0 is traced", "outside jit"):
        jax.jit(lambda b: replay.checkpoint.save(tmp_path / "new", b))(make())
    with expect(TypeError, "only its shape"):
        replay.checkpoint.save(tmp_path / "new", jax.eval_shape(make))
    with expect(TypeError, "word: expected an array"):
        replay.checkpoint.save(tmp_path / "new", {"word": "x"})
    with expect(TypeError, "step: expected an array of numbers"):
        replay.checkpoint.save(tmp_path / "new", {"step": 2**64})
    assert not (tmp_path / "new").exists()
    (tmp_path / "thesis.tex").touch()
    with expect(FileExistsError, "there is something already"):
        replay.checkpoint.save(tmp_path, make())
    with expect(FileNotFoundError, "there is no checkpoint"):
        replay.checkpoint.load(tmp_path / "new", make())
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_devices_that_are_no_cpus_are_read_in_pieces_too(
    full: replay.Buffer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "READ_IN_PLACE", ())
    assert_same(through(tmp_path, full), full)


@pytest.fixture
def two_saves(tmp_path: pathlib.Path) -> tuple[pathlib.Path, Any]:
    replay.checkpoint.save(tmp_path, make())
    return tmp_path, replay.append(make(), {"x": jnp.ones((4, *EXAMPLE["x"].shape)), "done": jnp.zeros(4, bool)})


def test_a_load_while_another_save_commits_gives_the_one_or_the_other(
    two_saves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, changed = two_saves
    from jaxreplay.checkpoint import loading

    read, turns = loading._read_all, []

    def replaced_meanwhile(*arguments: Any) -> Any:
        if not turns:
            turns.append(replay.checkpoint.save(folder, changed))
        return read(*arguments)

    monkeypatch.setattr(loading, "_read_all", replaced_meanwhile)
    assert_same(replay.checkpoint.load(folder, changed), changed)


def test_two_saves_at_once_are_refused(two_saves: Any) -> None:
    from jaxreplay.checkpoint import saving

    folder, changed = two_saves
    with saving._locked(folder), expect(BlockingIOError, "something else is saving to it"):
        replay.checkpoint.save(folder, changed)
    assert_same(replay.checkpoint.load(folder, make()), make())
