"""Rows with `mask` False are zeros in every leaf, whatever the way there, and nothing is masked without a word."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_next_observation import step

KEY = jax.random.key(0)


def at(*times: int) -> replay.Rows:
    return replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))


def stored(sampler: Any = replay.samplers.uniform()) -> replay.Buffer:  # noqa: B008
    """Observations 11 to 17 at times 0 to 6: episodes (0..2), (3..5) and the open (6)."""
    steps = [step(11 + i, terminated=i in (2, 5)).replace(extras={}) for i in range(7)]
    buffer = replay.create(steps[0], 12, sampler=sampler, max_episodes=8)
    return replay.extend(buffer, jax.tree.map(lambda *x: jnp.stack(x), *steps))


def plus_one(batch: Any) -> Any:
    return jax.tree.map(lambda x: x + 1 if x.dtype != bool else ~x, batch)


def to_keys(batch: Any) -> Any:
    return jax.vmap(jax.random.key)(batch.observation.astype(jnp.uint32) + jnp.uint32(5))


COMPLETE = views.n_step(2, 0.9, complete=True)
VIEWS = {
    "transition": views.transition(),
    "n_step": views.n_step(2, 0.9),
    "complete n_step": COMPLETE,
    "select": views.compose(COMPLETE, views.select("observation", "action")),
    "map": views.compose(COMPLETE, views.map(plus_one)),
    "map to keys": views.compose(COMPLETE, views.map(to_keys)),
    "offsets": views.offsets((0,)),
    "frame_stack": views.frame_stack(2),
    "single frame": views.frame_stack(1),
    "stacks under n_step": views.compose(views.frame_stack(1), COMPLETE),
    "window": views.window(1, 1),
    "sequence": views.sequence(3),
    "padded sequence": views.sequence(3, complete=False),
}


def assert_masked_rows_are_zeros(batch: replay.Sample) -> None:
    masked = ~np.asarray(batch.mask)
    assert masked.any()
    assert (np.asarray(batch.probability)[masked] == 0).all()
    for leaf in jax.tree.leaves(batch.data):
        leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        assert not np.asarray(leaf)[masked].any()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_masked_rows_are_zeros_in_every_leaf(view: Any) -> None:
    """Of rows that are removed, refused by the view, or out of range, and of a subset that leaves rows out."""
    few = replay.subset(replay.remove(stored(), at(1)), at(0, 1, 3, 6))
    assert_masked_rows_are_zeros(replay.take(few, at(1, 6, -1, 99, 0, 4), view))


@pytest.mark.parametrize("view", ["transition", "map", "window"])
def test_what_could_not_be_drawn_is_zeros_in_every_leaf(view: str) -> None:
    """Past the rows there are, without replacement; of a subset without rows, and of empty buffers."""
    sample = jax.jit(lambda source: replay.sample(source, KEY, 16, VIEWS[view]))
    few = replay.create(step(0), 12, sampler=replay.samplers.uniform(replacement=False))
    few = replay.extend(few, jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), step(7)))
    assert_masked_rows_are_zeros(sample(few))
    assert_masked_rows_are_zeros(sample(replay.subset(stored(), at())))
    assert_masked_rows_are_zeros(sample(replay.concat([replay.clear(stored()), replay.clear(stored())])))


def test_a_subset_that_the_view_refuses_gives_zeros() -> None:
    refused = replay.subset(stored(), at(6))
    assert_masked_rows_are_zeros(jax.jit(lambda s: replay.sample(s, KEY, 8, COMPLETE))(refused))


def test_rows_that_are_not_in_a_subset_are_not_read() -> None:
    """Whatever order its rows were given in, directly, of a split, and through `concat` and `mixture`."""
    buffer = stored()
    few = replay.subset(buffer, at(5, 2, 4, 99, 2))
    every = at(*range(-1, 8))
    inside = [time in (2, 4, 5) for time in range(-1, 8)]
    for got in (replay.take(few, every), jax.jit(replay.take)(few, every)):
        assert got.mask.tolist() == inside
        np.testing.assert_array_equal(got.probability, np.where(inside, np.float32(1 / 3), 0))
    parts = replay.split(buffer, KEY, (0.5, 0.5))
    masks = np.stack([replay.take(part, every).mask for part in parts])
    assert masks.sum(axis=0).tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    sources = replay.SourceRows(
        source=jnp.repeat(jnp.arange(2), 9), time=jnp.tile(every.time, 2), env=jnp.zeros(18, int)
    )
    for both in (replay.concat([few, buffer]), replay.mixture([few, buffer], [0.5, 0.5])):
        assert replay.take(both, sources).mask.tolist() == [*inside, *[0 <= time < 7 for time in range(-1, 8)]]
    other = replay.concat([buffer, few])
    assert replay.take(replay.mixture([other, buffer], [0.5, 0.5]), sources).mask.tolist()[9:] == inside


def test_rows_are_found_in_a_subset_of_any_size_and_after_the_clock_overflows() -> None:
    buffer = replay.create({"x": jnp.int32(0)}, 40, 2)
    clock = buffer.rings.clock.replace(time=jnp.int32(2**31 - 8))
    buffer = buffer.replace(rings=buffer.rings.replace(clock=clock))
    buffer = replay.extend(buffer, {"x": jnp.arange(32, dtype=jnp.int32).reshape(16, 2)})
    rows, mask = replay.rows(buffer)
    rng = np.random.default_rng(0)
    for size in (0, 1, 5, 8):
        chosen = rng.permutation(np.flatnonzero(np.asarray(mask)))[:size]
        few = replay.subset(buffer, jax.tree.map(lambda x: x[chosen], rows))  # noqa: B023
        found = replay.take(few, rows).mask
        assert sorted(np.flatnonzero(np.asarray(found)).tolist()) == sorted(chosen.tolist())


NEED_EPISODES = [
    views.sequence(2),
    views.sequence(2, complete=False),
    views.window(1, 1),
    views.offsets((-2, 0)),
    views.n_step(2, 0.9, observation="x", action="x", reward="x", terminated="x", next_observation="x"),
]


@pytest.mark.parametrize("view", NEED_EPISODES, ids=lambda view: type(view).__name__)
def test_views_that_need_episodes_refuse_independent_items(view: Any) -> None:
    buffer = replay.extend(replay.create({"x": jnp.float32(0)}, 8), {"x": jnp.arange(5.0)})
    with pytest.raises(ValueError, match="independent items; create it with episode_end"):
        replay.sample(buffer, KEY, 4, view)
    with pytest.raises(ValueError, match="independent items; create it with episode_end"):
        jax.jit(lambda b: replay.take(b, at(1), view))(buffer)


def test_what_needs_no_episode_reads_independent_items() -> None:
    buffer = replay.extend(replay.create({"x": jnp.float32(0)}, 8), {"x": jnp.arange(5.0)})
    assert replay.take(buffer, at(3), views.offsets((0,))).data.data["x"].tolist() == [[3.0]]


def test_outside_jit_a_batch_that_cannot_be_filled_raises_and_says_why() -> None:
    long = views.compose(views.sequence(5), views.map(plus_one))
    with pytest.raises(ValueError, match=r"holds 7 rows, but .* needs 5 consecutive steps of one episode"):
        replay.sample(stored(), KEY, 4, long)
    with pytest.raises(ValueError, match=r"holds 1 rows, but .* needs 2 steps of an episode, or its end"):
        replay.sample(replay.subset(stored(), at(6)), KEY, 4, COMPLETE)
    with pytest.raises(ValueError, match="source 1 of the mixture holds 1 rows, but"):
        replay.sample(replay.mixture([stored(), replay.subset(stored(), at(6))], [0.5, 0.5]), KEY, 4, COMPLETE)
    idle = stored(replay.samplers.prioritized())
    idle = replay.set_priorities(idle, at(*range(7)), jnp.zeros(7))
    with pytest.raises(ValueError, match="holds 7 rows, but none could be drawn: all their priorities are zero"):
        replay.sample(idle, KEY, 4)
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(replay.clear(stored()), KEY, 4, long)
    assert not jax.jit(lambda b: replay.sample(b, KEY, 4, long))(stored()).mask.any()


def test_can_sample_counts_the_rows_that_a_view_can_start_from() -> None:
    buffer, few = stored(), replay.subset(stored(), at(3, 6))
    for count, source, view in [(7, buffer, views.transition()), (6, buffer, COMPLETE), (2, buffer, views.sequence(3))]:
        assert bool(replay.can_sample(source, count, view))
        assert not jax.jit(lambda s, n=count, v=view: replay.can_sample(s, n + 1, v))(source)
    assert bool(replay.can_sample(few, 1, COMPLETE))
    assert not bool(replay.can_sample(few, 2, COMPLETE))
    assert bool(replay.can_sample(replay.concat([few, buffer]), 7, COMPLETE))
    assert not bool(replay.can_sample(replay.mixture([few, buffer], [0.5, 0.5]), 2, COMPLETE))
    with pytest.raises(TypeError, match="view: expected a view"):
        replay.can_sample(buffer, 1, views.transition)
