"""Subsets, splits, concatenations and mixtures: what they hold, how they draw, and what they refuse.

The statistical tests compare counts with a chi-square test at a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_next_observation import buffer_of, step
from tests.test_sampling import assert_uniform

KEY = jax.random.key(0)


def steps(first: int, count: int, ends: set[int]) -> list[replay.Transition]:
    return [step(i, terminated=i in ends) for i in range(first, first + count)]


def one() -> replay.Buffer:
    """Times 4 to 11 of episodes (3..5), (6..9), (10..)."""
    return buffer_of(*steps(0, 12, {2, 5, 9}), capacity=8, max_episodes=8)


def two() -> replay.Buffer:
    """Observations 100 to 104 at times 0 to 4, one of them removed: episodes (100..102), (103..104)."""
    buffer = buffer_of(*steps(100, 5, {102, 104}), capacity=6)
    return replay.remove(buffer, replay.Rows(time=jnp.array([1]), env=jnp.array([0])))


def at(*times: int) -> replay.Rows:
    return replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))


def seen(source: Any, draws: int = 20_000, view: Any = views.transition()) -> Counter[float]:  # noqa: B008
    """How often each observation is drawn; a masked row counts as None."""
    batch = jax.jit(lambda s, k: replay.sample(s, k, draws, views.compose(view, views.select("observation"))))(
        source, KEY
    )
    values = np.asarray(batch.data["observation"]).reshape(draws, -1)[:, 0].tolist()
    return Counter(x if m else None for x, m in zip(values, batch.mask.tolist()))


def test_a_subset_draws_uniformly_over_its_readable_rows() -> None:
    few = replay.subset(one(), at(5, 8, 5, 11, 1, 99))  # 1 was overwritten, 99 is not yet written
    counts = seen(few)
    assert sorted(counts) == [5, 8, 11]
    assert_uniform(np.array(list(counts.values())))
    assert int(replay.size(few)) == 3
    rows, mask = replay.rows(few)
    assert sorted(np.asarray(rows.time)[np.asarray(mask)].tolist()) == [5, 8, 11]
    batch = replay.sample(few, KEY, 4)
    np.testing.assert_allclose(batch.probability, 1 / 3, rtol=1e-6)


def test_rows_outside_a_subset_still_serve_as_context() -> None:
    batch = replay.take(replay.subset(one(), at(8)), at(8), views.frame_stack(3)).data
    assert batch.observation.tolist() == [[6, 7, 8]]
    assert batch.next_observation.tolist() == [[7, 8, 9]]


def test_a_subset_of_episodes_holds_their_rows() -> None:
    buffer = one()
    found = replay.episodes(buffer)
    long = found.replace(mask=found.mask & (found.length >= 3) & found.ended)
    assert sorted(seen(replay.subset(buffer, long))) == [4, 5, 6, 7, 8, 9]
    none = found.replace(mask=jnp.zeros_like(found.mask))
    assert int(replay.size(replay.subset(buffer, none))) == 0


def test_a_subset_under_a_view_that_narrows_it() -> None:
    few = replay.subset(one(), at(4, 5, 6, 7, 8, 9, 10))
    counts = seen(few, view=views.compose(views.sequence(3), views.map(lambda s: s.data)))
    assert sorted(counts) == [6, 7]
    assert_uniform(np.array(list(counts.values())))
    nothing = jax.jit(lambda s: replay.sample(s, KEY, 4, views.sequence(3)))(replay.subset(one(), at(10)))
    assert not nothing.mask.any()


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.2), (0.25, 0.5, 0.25), (1.0,)])
def test_a_split_is_disjoint_whole_by_episodes_and_complete(fractions: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    buffer = replay.create(step(0), 400, 4, max_episodes=200)
    lead = (130, 4)
    ends = jnp.asarray(rng.random(lead) < 0.2)
    block = jax.tree.map(lambda x: jnp.broadcast_to(x, lead), step(0)).replace(terminated=ends)
    buffer = replay.extend(buffer, block, jnp.asarray(rng.random(lead) < 0.95))
    parts = jax.jit(lambda b, k: replay.split(b, k, fractions))(buffer, KEY)
    total, longest = int(replay.size(buffer)), int(replay.episodes(buffer).length.max())
    owner: dict[tuple[int, int], int] = {}
    for i, (part, fraction) in enumerate(zip(parts, fractions)):
        rows, mask = replay.rows(part)
        mine = {(int(t), int(e)) for t, e in zip(rows.time[mask], rows.env[mask])}
        assert len(mine) == int(replay.size(part))
        assert abs(len(mine) - fraction * total) <= longest
        assert not mine & owner.keys()
        owner |= dict.fromkeys(mine, i)
        drawn = replay.sample(part, KEY, 500)
        assert {(int(t), int(e)) for t, e in zip(drawn.rows.time, drawn.rows.env)} <= mine
    assert len(owner) == total
    every = replay.rows(buffer)[0]
    after = np.asarray(replay.take(buffer, every, views.compose(views.window(0, 1), views.map(_mask))).data)
    for time, env, goes_on in zip(every.time.tolist(), every.env.tolist(), after):
        if goes_on:  # the next row is of the same episode
            assert owner[time, env] == owner[time + 1, env]


def _mask(window: views.Window) -> jax.Array:
    return window.mask[:, 1]


def test_a_split_is_decided_by_its_key_and_differs_between_keys() -> None:
    buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 64), {"x": jnp.arange(50)})

    def first_part(seed: int) -> set[int]:
        part, _ = replay.split(buffer, jax.random.key(seed), (0.5, 0.5))
        rows, mask = replay.rows(part)
        return set(np.asarray(rows.time[mask]).tolist())

    assert first_part(0) == first_part(0) != first_part(1)
    assert len(first_part(0)) == 25


def test_an_epoch_of_a_split_gives_each_of_its_rows_once() -> None:
    part, rest = replay.split(one(), KEY, (0.5, 0.5))
    times = [replay.epoch(p, KEY, 3) for p in (part, rest)]
    read = [replay.take(p, rows) for p, rows in zip((part, rest), times)]
    seen_times = sorted(t for r, b in zip(times, read) for t in np.asarray(r.time)[np.asarray(b.mask)].tolist())
    assert seen_times == list(range(4, 12))


def held(source: Any) -> list[Any]:
    """What a source holds, in order: times, or `(source, time)` of several buffers."""
    rows, mask = replay.rows(source)
    places = (rows.source, rows.time) if isinstance(rows, replay.SourceRows) else (rows.time,)
    found = [x for x, there in zip(zip(*(place.tolist() for place in places)), mask.tolist(), strict=True) if there]
    return sorted(x if len(x) > 1 else x[0] for x in found)


def test_a_subset_of_a_subset_holds_the_rows_of_both() -> None:
    buffer = one()
    few = replay.subset(buffer, at(5, 8, 10, 11))
    less = jax.jit(replay.subset)(few, at(4, 5, 11, 5))
    assert held(less) == sorted(seen(less)) == [5, 11]
    assert int(replay.size(less)) == 2
    assert replay.take(less, at(8, 5)).mask.tolist() == [False, True]
    found = replay.episodes(buffer)
    assert held(replay.subset(few, found.replace(mask=found.mask & found.ended))) == [5, 8]
    part, _ = replay.split(buffer, KEY, [0.5, 0.5])
    assert held(replay.subset(part, at(*range(4, 12)))) == held(part)
    assert held(replay.subset(replay.subset(few, at()), at(5))) == []


def test_a_split_of_a_split_is_disjoint_whole_by_episodes_and_complete() -> None:
    buffer = replay.create(step(0), 60, 3)
    ended = np.arange(20)[:, None] % np.array([3, 4, 5]) == 2
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (20, 3, *x.shape)), step(0))
    buffer = replay.extend(buffer, many.replace(terminated=jnp.asarray(ended)))

    def places(source: Any) -> set[tuple[int, int]]:
        rows, mask = replay.rows(source)
        return {(t, e) for t, e, m in zip(rows.time.tolist(), rows.env.tolist(), mask.tolist()) if m}

    rows, _ = replay.rows(buffer)
    few = replay.subset(buffer, jax.tree.map(lambda x: x[::2], rows))
    number = replay.take(buffer, rows, views.with_episode()).data.number
    episode = {(t, e): (n, e) for t, e, n in zip(rows.time.tolist(), rows.env.tolist(), number.tolist())}
    for source in (*replay.split(buffer, KEY, [0.7, 0.3]), few):
        parts = jax.jit(lambda s: replay.split(s, KEY, [0.6, 0.4]))(source)
        held = [places(part) for part in parts]
        assert set.union(*held) == places(source)
        assert [len(x) for x in held] == [int(replay.size(part)) for part in parts]
        assert all(held)
        of = [{episode[place] for place in part} for part in held]
        assert not of[0] & of[1]
        batch = replay.sample(parts[1], KEY, 64)
        assert set(zip(batch.rows.time.tolist(), batch.rows.env.tolist())) <= held[1]


def test_a_subset_and_a_split_of_a_concat_are_concats() -> None:
    both = replay.concat([one(), two(), replay.subset(one(), at(4, 9))])
    rows = replay.SourceRows(jnp.array([0, 0, 1, 1, 2, 2]), jnp.array([4, 5, 1, 4, 9, 5]), jnp.zeros(6, jnp.int32))
    few = jax.jit(replay.subset)(both, rows)
    assert held(few) == [(0, 4), (0, 5), (1, 4), (2, 9)]
    assert sorted(seen(few)) == [4, 5, 9, 104]
    parts = replay.split(both, KEY, [0.5, 0.5])
    assert all(isinstance(part, type(both)) for part in parts)
    assert sorted(held(parts[0]) + held(parts[1])) == held(both)
    again = replay.split(parts[0], KEY, [0.5, 0.5])
    assert sorted(held(again[0]) + held(again[1])) == held(parts[0])


def test_a_concat_draws_every_row_of_all_with_the_same_probability() -> None:
    both = replay.concat([one(), two()])
    counts = seen(both, 60_000)
    assert sorted(counts) == [4, 5, 6, 7, 8, 9, 10, 11, 100, 102, 103, 104]
    assert_uniform(np.array(list(counts.values())))
    assert int(replay.size(both)) == 12
    batch = replay.sample(both, KEY, 64)
    np.testing.assert_allclose(batch.probability, 1 / 12, rtol=1e-6)
    again = replay.take(both, batch.rows)
    jax.tree.map(np.testing.assert_array_equal, again, batch)
    assert bool(((batch.rows.source == 1) == (batch.data.observation >= 100)).all())


def test_a_concat_of_subsets_and_concats_under_a_view_that_narrows_it() -> None:
    nested = replay.concat([replay.subset(one(), at(6, 7, 8)), replay.concat([two(), one()])])
    counts = seen(nested, 60_000, views.compose(views.sequence(2), views.map(lambda s: s.data)))
    # twice in 6, 7, 8: by the subset and by the whole; 101 is removed, so no sequence begins there
    once = {4: 1, 6: 2, 7: 2, 8: 2, 10: 1, 100: 1, 103: 1}
    assert counts.keys() == once.keys()
    assert_uniform(np.array([counts[x] / n for x, n in once.items()]))


def test_an_epoch_of_a_concat_gives_every_row_once() -> None:
    both = replay.concat([one(), two()])
    rows = replay.epoch(both, KEY, 5)
    batch = jax.jit(replay.take)(both, rows)
    assert rows.time.shape == (3, 5)
    values = np.asarray(batch.data.observation)[np.asarray(batch.mask)]
    assert sorted(values.tolist()) == [4, 5, 6, 7, 8, 9, 10, 11, 100, 102, 103, 104]


def test_a_mixture_of_whole_parts_has_exactly_these_rows_of_each() -> None:
    batch = replay.sample(replay.mixture([one(), two()], [0.75, 0.25]), KEY, 8)
    assert batch.rows.source.tolist() == [0] * 6 + [1] * 2
    assert (batch.data.observation >= 100).tolist() == [False] * 6 + [True] * 2
    np.testing.assert_allclose(batch.probability, [0.75 / 8] * 6 + [0.25 / 4] * 2, rtol=1e-6)
    again = replay.take(replay.mixture([one(), two()], [0.75, 0.25]), batch.rows)
    jax.tree.map(np.testing.assert_array_equal, again, batch)


@pytest.mark.parametrize("proportions", [(0.5, 0.5), (0.9, 0.1), (0.37, 0.63), (1.0, 0.0)])
def test_a_mixtures_sources_are_in_exact_proportion_and_uniform_within(proportions: tuple[float, float]) -> None:
    """Every batch has one more or one less than its share at most, and on average exactly its share."""
    mixture, batch_size, batches = replay.mixture([one(), two()], proportions), 13, 4000
    draw = jax.jit(jax.vmap(lambda m, k: replay.sample(m, k, batch_size), in_axes=(None, 0)))
    got = draw(mixture, jax.random.split(KEY, batches))
    assert bool(got.mask.all())
    firsts = np.asarray((got.rows.source == 0).sum(axis=1))
    share = proportions[0] * batch_size
    assert set(firsts.tolist()) <= {int(np.floor(share + 1e-9)), int(np.ceil(share - 1e-9))}
    rest = share - np.floor(share)
    assert abs(firsts.mean() - share) <= 6 * np.sqrt(rest * (1 - rest) / batches) + 1e-9  # six standard errors
    values = np.asarray(got.data.observation).ravel()
    for mine in (values[values < 100], values[values >= 100]):
        if mine.size:
            assert_uniform(np.unique(mine, return_counts=True)[1])


def test_a_mixture_of_a_buffer_with_offline_subsets_numbers_the_buffers() -> None:
    offline = replay.concat([replay.subset(two(), at(0)), replay.subset(two(), at(3))])
    batch = replay.sample(replay.mixture([one(), offline], [0.5, 0.5]), KEY, 64)
    assert set(batch.rows.source.tolist()) == {0, 1, 2}
    assert set(np.asarray(batch.data.observation)[np.asarray(batch.rows.source) == 2].tolist()) == {103}
    of_online = batch.rows.of(0)
    changed = replay.put(one(), of_online, {"reward": jnp.full(64, 7.0)})
    rows, _ = replay.rows(changed)
    drawn = np.isin(rows.time, np.asarray(batch.rows.time)[np.asarray(batch.rows.source) == 0])
    np.testing.assert_array_equal(replay.take(changed, rows).data.reward == 7, drawn)


def test_sources_work_in_jit_vmap_and_scan() -> None:
    batched = jax.vmap(lambda x: replay.append(one(), step(0).replace(observation=x)))(jnp.array([50.0, 60.0]))

    @jax.jit
    @jax.vmap
    def draw(buffer: replay.Buffer, key: jax.Array) -> jax.Array:
        newest = replay.subset(buffer, replay.Rows(time=jnp.array([12]), env=jnp.array([0])))
        mixed = replay.mixture([newest, replay.concat([buffer, two()])], [0.5, 0.5])

        def body(total: jax.Array, key: jax.Array) -> Any:
            return total + replay.sample(mixed, key, 4).data.observation[:2].sum(), None

        return jax.lax.scan(body, jnp.float32(0), jax.random.split(key, 3))[0]

    assert draw(batched, jax.random.split(KEY, 2)).tolist() == [50 * 6, 60 * 6]


def test_leaves_of_every_dtype_come_through_sources() -> None:
    example = {"key": jax.random.key(0), "half": jnp.bfloat16(0), "flag": jnp.bool_(False), "image": jnp.zeros((9, 9))}
    lead = {name: jnp.broadcast_to(x, (4, *x.shape)) for name, x in example.items() if name != "key"}
    block = {**lead, "key": jax.random.split(KEY, 4)}
    a, b = (replay.extend(replay.create(example, 4), block) for _ in range(2))
    for source in (replay.concat([a, b]), replay.mixture([a, b], [0.3, 0.7])):
        batch = replay.sample(source, KEY, 6)
        wanted = jax.random.key_data(block["key"])[batch.rows.time]
        np.testing.assert_array_equal(jax.random.key_data(batch.data["key"]), wanted)
        assert batch.data["half"].dtype == jnp.bfloat16


def test_an_empty_source_is_named_outside_jit_and_masked_inside() -> None:
    mixed = replay.mixture([one(), replay.clear(two())], [0.5, 0.5])
    with pytest.raises(ValueError, match="source 1 of the mixture is empty"):
        replay.sample(mixed, KEY, 4)
    assert jax.jit(lambda m: replay.sample(m, KEY, 4).mask)(mixed).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(replay.subset(one(), at(99)), KEY, 4)


def other(**leaves: Any) -> replay.Buffer:
    return replay.create({"x": jnp.zeros(3), "y": jnp.int32(0)} | leaves, 4)


@pytest.mark.parametrize("build", [replay.concat, lambda s: replay.mixture(s, [0.5, 0.5])])
@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"x": jnp.zeros(4)}, r"source 1 differs from source 0 at x: got float32\[4\], expected float32\[3\]"),
        ({"y": jnp.float32(0)}, r"source 1 differs from source 0 at y: got float32\[\], expected int32\[\]"),
        ({"z": jnp.zeros(())}, "source 1 differs from source 0: only it has z"),
    ],
)
def test_sources_of_different_structures(build: Any, second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build([other(), other(**second)])
    if "z" in second:
        with pytest.raises(ValueError, match="it has no z"):
            build([other(**second), other()])


@pytest.mark.parametrize("proportions", [(0.5, 0.4), (1.2, -0.2), (float("nan"), 1.0), ()])
def test_proportions_that_do_not_add_up(proportions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="proportions: expected numbers from 0 to 1 that add up to 1"):
        replay.mixture([other(), other()], proportions)
    with pytest.raises(ValueError, match="fractions: expected numbers from 0 to 1 that add up to 1"):
        replay.split(other(), KEY, proportions)


def test_no_sources() -> None:
    for make in (replay.concat, lambda sources: replay.mixture(sources, [])):
        with pytest.raises(ValueError, match="expected at least one source"):
            make([])


def test_sources_that_are_none() -> None:
    mixed = replay.mixture([other(), other()], [0.5, 0.5])
    for error, message, build in (
        (ValueError, "expected one for each of 2 sources, got 3", lambda: replay.mixture([other()] * 2, [0.5, 0.5, 0])),
        (TypeError, "concat: source 1 is a mixture", lambda: replay.concat([other(), mixed])),
        (TypeError, "mixture: source 0 is a mixture", lambda: replay.mixture([mixed, other()], [0.5, 0.5])),
        (TypeError, "concat: expected a list", lambda: replay.concat(other())),
        (TypeError, "source 0: expected a buffer, .* got int", lambda: replay.concat([3])),
        (TypeError, "rows: expected SourceRows", lambda: replay.subset(replay.concat([other()]), at(1))),
        (TypeError, "subset: a mixture .* subset its sources", lambda: replay.subset(mixed, at(1))),
        (TypeError, "split: a mixture .* split its sources", lambda: replay.split(mixed, KEY, [0.5, 0.5])),
        (
            TypeError,
            "episodes are those of one buffer; subset the sources",
            lambda: replay.subset(replay.concat([one()]), replay.episodes(one())),
        ),
        (TypeError, "rows: expected Rows", lambda: replay.subset(other(), [1, 2])),
        (TypeError, "rows: expected SourceRows", lambda: replay.take(mixed, at(0))),
        (TypeError, "epoch: a mixture", lambda: replay.epoch(mixed, KEY, 2)),
        (TypeError, "expected a buffer", lambda: replay.sample({"x": 1}, KEY, 2)),
    ):
        with pytest.raises(error, match=message):
            build()
