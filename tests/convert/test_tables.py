"""Tables against `take`: every view, row by row, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.convert.reading import Table, read_table
from jaxreplay.convert.sources import plain
from jaxreplay.convert.torch_rows import RowsDataset
from tests.convert.streams import assert_same, buffer_with_holes, rows_to_read
from tests.model import bits, make_buffer, random_steps, to_steps

VIEWS = {
    "transition": views.transition(),
    "window": views.window(3, 2),
    "zeroed window": views.window(1, 1, "zero"),
    "offsets": views.offsets((-4, 0, 3)),
    "sequence": views.sequence(3),
    "sparse sequence": views.sequence(2, every=2, first="reward"),
    "sequence across episodes": views.sequence(4, across=True),
    "padded sequence": views.sequence(4, complete=False, burn_in=1),
    "stack": views.frame_stack(3),
    "stack on the last axis": views.frame_stack(3, axis=-1, fill="zero"),
    "n steps over stacks": views.compose(views.frame_stack(2), views.n_step(3, 0.9)),
    "windows of stacks": views.compose(views.frame_stack(2, axis=1, parts=("observation.pixels",)), views.window(1, 1)),
    "columns": views.select("observation", "extras.half"),
}

SLOW = ("window", "zeroed window", "sequence", "stack", "columns")  # others cover the same, but for its arguments


@pytest.fixture(scope="module")
def holes() -> replay.Buffer:
    return buffer_with_holes()


def words(x: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def read_all(table: Table) -> Any:
    """All items of a table, leaves `[N, ...]`."""
    return jax.tree.map(table.read(range(len(table))).__getitem__, table.structure)


def check(buffer: replay.Buffer, view: Any) -> None:
    table = read_table(buffer, view)
    every, _ = replay.rows(buffer)
    sample = replay.take(buffer, every, view)
    mask = np.asarray(sample.mask)
    assert 0 < len(table) < mask.size
    np.testing.assert_array_equal(table.time, np.asarray(every.time)[mask])
    np.testing.assert_array_equal(table.env, np.asarray(every.env)[mask])
    expected = [words(x)[mask] for x in jax.tree.leaves(sample.data)]
    assert jax.tree.structure(table.structure) == jax.tree.structure(sample.data)
    for x, y in zip(jax.tree.leaves(read_all(table)), expected, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(bits(x), bits(y))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in VIEWS])
def test_a_table_holds_what_take_gives_of_every_row_that_can_be_read(name: str, holes: replay.Buffer) -> None:
    check(holes, VIEWS[name])


@pytest.mark.parametrize("num_envs", [None, 3])
def test_every_dtype_keeps_its_bits(num_envs: int | None) -> None:
    rng = np.random.default_rng(0)
    lead = (37,) if num_envs is None else (37, num_envs)
    steps = to_steps(random_steps(rng, lead, 0.2))
    buffer = replay.extend(make_buffer(20, num_envs, 4), steps, rng.random(lead) < 0.9)
    check(buffer, views.transition() if num_envs is None else views.window(1, 1, "zero"))


def test_observations_are_kept_once_whatever_the_view(holes: replay.Buffer) -> None:
    for name in ("transition", "window", "stack", "n steps over stacks"):
        table = read_table(holes, VIEWS[name])
        kept = {id(column.values): column.values for column in table.columns}
        pixels = [values for values in kept.values() if values.shape[1:] == (9, 30)]
        assert len(pixels) == 1
        assert len(pixels[0]) < len(table) + 24


def test_what_a_view_computes_is_kept_for_each_item(holes: replay.Buffer) -> None:
    table = read_table(holes, views.map(lambda step: {"a": step.observation["pixels"], "b": step.reward * 2}))
    assert [column.index is None for column in table.columns] == [False, True]


def test_a_view_that_draws_gives_what_take_gives_with_the_same_key() -> None:
    example = replay.Transition(
        observation={"achieved_goal": jnp.zeros(()), "desired_goal": jnp.zeros(())},
        action=jnp.int32(0),
        reward=jnp.float32(0),
        terminated=jnp.bool_(False),
        truncated=jnp.bool_(False),
        next_observation={"achieved_goal": jnp.zeros(()), "desired_goal": jnp.zeros(())},
    )
    block = jax.tree.map(lambda x: jnp.broadcast_to(x, (30,)), example)
    goal = {"achieved_goal": jnp.arange(30.0), "desired_goal": -jnp.ones(30)}
    block = block.replace(observation=goal, next_observation=goal, terminated=jnp.arange(30) % 7 == 6)
    buffer = replay.extend(replay.create(example, 30, max_episodes=8), block)
    view = views.hindsight("future", 0.5, compute_reward=lambda a, b: -jnp.abs(a - b))
    key = jax.random.key(3)
    table = read_table(buffer, view, key)
    rows = replay.Rows(time=jnp.asarray(table.time), env=jnp.asarray(table.env))
    expected = replay.take(buffer, rows, view, key).data
    for x, y in zip(jax.tree.leaves(read_all(table)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="draws at random: give a key"):
        read_table(buffer, view)


def test_a_subset_is_read_in_order_of_time_and_env(holes: replay.Buffer) -> None:
    rows, _ = rows_to_read(holes, views.transition())
    chosen = [rows[i] for i in (7, 3, 3, 11)]
    few = replay.subset(holes, replay.Rows(*(jnp.array(x, jnp.int32) for x in zip(*chosen))))
    table = read_table(few, views.transition())
    assert list(zip(table.time.tolist(), table.env.tolist())) == [rows[3], rows[7], rows[11]]


def test_the_order_holds_where_times_overflow() -> None:
    buffer = replay.create({"x": jnp.int32(0)}, 8)
    clock = buffer.rings.clock
    buffer = buffer.replace(rings=buffer.rings.replace(clock=clock.replace(time=jnp.int32(2**31 - 4))))
    buffer = replay.extend(buffer, {"x": jnp.arange(8, dtype=jnp.int32)})
    assert read_all(read_table(buffer, views.transition()))["x"].tolist() == list(range(8))


def test_items_are_read_alone_together_and_from_the_end(holes: replay.Buffer) -> None:
    table = read_table(holes, views.window(1, 0))
    rows = RowsDataset(table)
    items = rows.__getitems__([3, -1, 0])
    assert len(items) == len(list(items)) == 3
    assert_same(items[0], rows[3])
    assert_same(items[-1], rows[0])
    assert_same(items[1:2][0], rows[len(table) - 1])
    stacked = items.stacked()
    assert_same(jax.tree.map(lambda x: x[2], stacked), items[2])
    for wrong in (len(table), -len(table) - 1):
        with pytest.raises(IndexError, match=f"item {wrong} of {len(table)}"):
            rows.__getitems__([0, wrong])
    with pytest.raises(IndexError):
        items[3]


def test_an_empty_source_and_a_view_without_rows_are_named(holes: replay.Buffer) -> None:
    with pytest.raises(ValueError, match="the source is empty"):
        read_table(replay.clear(holes), views.transition())
    with pytest.raises(ValueError, match=r"can start from none of the \d+ rows"):
        read_table(holes, views.sequence(24))
    with pytest.raises(ValueError, match="the ring holds only 24"):
        read_table(holes, views.window(30, 0))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda b: len(read_table(b, views.transition())))(holes)


def test_any_containers_become_plain_ones() -> None:
    window = views.Window(data={"b": (1, [2, None]), "a": replay.Rows(time=3, env=4)}, mask=5)  # type: ignore[arg-type]
    came = plain(window)
    assert came == {"data": {"b": (1, [2, None]), "a": {"time": 3, "env": 4}}, "mask": 5}
    assert plain(window, lambda x: -x)["data"]["b"] == (-1, [-2, None])
