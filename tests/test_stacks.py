"""A stack of buffers: each member is a buffer of its own, and all are read as one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxreplay as replay
from jaxreplay import samplers, views

MEMBERS, SLOTS = 3, 6
SAMPLERS = {"uniform": samplers.uniform(), "distinct": samplers.uniform(replacement=False)}
extend = jax.jit(replay.extend)
take = jax.jit(replay.take, static_argnums=2)
sample = jax.jit(replay.sample, static_argnums=(2, 3))


def steps(rng: np.random.Generator, lead: tuple[int, ...]) -> replay.Transition:
    """Steps of random numbers, with a leaf of its own array; episodes end at random."""
    number = rng.random(lead).astype(np.float32)
    frames = rng.integers(0, 256, (*lead, 300)).astype(np.uint8)
    after = rng.integers(0, 256, (*lead, 300)).astype(np.uint8)
    return replay.Transition(frames, number, number, rng.random(lead) < 0.2, rng.random(lead) < 0.1, after)


def one_step() -> replay.Transition:
    return jax.tree.map(lambda x: x[0], steps(np.random.default_rng(0), (1,)))


class Pair:
    """A stack, and a buffer for each of its members: what is done to one is done to both."""

    def __init__(self, num_envs: int | None, seed: int = 0, num_records: int = SLOTS, **settings: Any):
        self.rng, self.num_envs = np.random.default_rng(seed), num_envs
        self.lead = () if num_envs is None else (num_envs,)
        self.share = num_envs or 1
        rows = MEMBERS * SLOTS * self.share
        create = functools.partial(replay.create, one_step(), episode_data={"goal": jnp.int32(0)}, **settings)
        records = num_records * self.share
        self.stack = create(rows, num_envs and MEMBERS * num_envs, num_buffers=MEMBERS, max_episodes=MEMBERS * records)
        self.parts = [create(SLOTS * self.share, num_envs, max_episodes=records) for _ in range(MEMBERS)]

    def extend(self, member: int, length: int, mask: bool = True) -> None:
        block, valid = steps(self.rng, (length, *self.lead)), None
        if mask:
            valid = self.rng.random((length, *self.lead)) < 0.8
        self.stack = extend(self.stack, block, valid, jnp.int32(member))
        self.parts[member] = extend(self.parts[member], block, valid)

    def fill(self) -> Pair:
        for member, length in ((2, 5), (0, 1), (2, 4), (0, 2), (2, 1), (1, 0), (0, 9)):
            self.extend(member, length)
        return self

    def own(self, rows: replay.Rows, member: int) -> replay.Rows:
        """Number rows as a member does; those of others are of no env."""
        env = np.asarray(rows.env) - member * self.share
        return replay.Rows(np.asarray(rows.time), np.where((env >= 0) & (env < self.share), env, -1))

    def check(self, view: Any = views.transition()) -> None:  # noqa: B008
        """Every row reads as the member's own buffer reads it, and no other is there."""
        rows, mask = replay.rows(self.stack)
        got, found = take(self.stack, rows, view), np.zeros(rows.time.shape, bool)
        for member, part in enumerate(self.parts):
            mine = take(part, self.own(rows, member), view)
            there = np.asarray(mine.mask)
            found |= there
            assert there.sum() == int(replay.size(part)) or view.refuses
            jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[there], y[there]), got.data, mine.data)  # noqa: B023
        np.testing.assert_array_equal(got.mask, found)
        if not view.refuses:
            np.testing.assert_array_equal(mask, found)
        assert int(replay.size(self.stack)) == sum(int(replay.size(part)) for part in self.parts)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("num_envs", [None, 2])
def test_each_member_has_what_was_written_to_it(num_envs: int | None, platform: str) -> None:
    pair = Pair(num_envs, num_records=3, platform=platform).fill()
    pair.check()
    pair.check(views.compose(views.frame_stack(2), views.n_step(2, 0.9)))
    pair.check(views.sequence(2, across=True))
    block = steps(pair.rng, (4, MEMBERS * pair.share))
    pair.stack = extend(pair.stack, block)
    for i in range(MEMBERS):
        mine = jax.tree.map(lambda x: x[:, i * pair.share : (i + 1) * pair.share], block)  # noqa: B023
        mine = mine if num_envs else jax.tree.map(lambda x: x[:, 0], mine)
        pair.parts[i] = extend(pair.parts[i], mine)
    pair.check()


def test_what_changes_rows_changes_those_of_their_member() -> None:
    pair = Pair(2).fill()
    batch = sample(pair.stack, jax.random.key(0), 8)
    rewards = np.arange(8, dtype=np.float32)
    pair.stack = replay.put(pair.stack, batch.rows, {"reward": rewards})
    first = jax.tree.map(lambda x: x[:2], batch.rows)
    pair.stack = replay.remove(pair.stack, first)
    ends = np.arange(MEMBERS * 2) % 2 == 0
    pair.stack = replay.end_episodes(pair.stack, ends)
    pair.stack = replay.set_episode_data(pair.stack, np.arange(6), {"goal": np.arange(6, dtype=np.int32) + 1})
    for i, part in enumerate(pair.parts):
        part = replay.put(part, pair.own(batch.rows, i), {"reward": rewards})
        part = replay.remove(part, pair.own(first, i))
        part = replay.end_episodes(part, ends[2 * i : 2 * i + 2])
        goals = {"goal": np.arange(2, dtype=np.int32) + 1 + 2 * i}
        pair.parts[i] = replay.set_episode_data(part, np.arange(2), goals)
    pair.check()
    pair.check(views.with_episode())
    together = [replay.stats(part) for part in pair.parts]
    got = replay.stats(pair.stack)
    assert all(
        int(getattr(got, name)) == sum(int(getattr(x, name)) for x in together)
        for name in ("held", "size", "void", "removed", "lost", "num_episodes", "open_episodes", "capacity")
    )
    assert int(got.time) == max(int(x.time) for x in together)
    for function in (replay.episodes, replay.episode_data):
        each = [function(part) for part in pair.parts]
        joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *each)
        jax.tree.map(np.testing.assert_array_equal, function(pair.stack), joined)
    assert int(replay.num_episodes(pair.stack)) == int(got.num_episodes)
    popped, batch = replay.pop(pair.stack, 2)
    for i, part in enumerate(pair.parts):
        pair.parts[i], mine = replay.pop(part, 2)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, 2 * i : 2 * i + 2], y), batch.data, mine.data)  # noqa: B023
    pair.stack = popped
    pair.check()
    pair.stack, pair.parts = replay.clear(pair.stack), [replay.clear(part) for part in pair.parts]
    pair.check()


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_give_every_row_of_every_member_the_same_probability(name: str) -> None:
    pair = Pair(None, sampler=SAMPLERS[name]).fill()
    rows, mask = replay.rows(pair.stack)
    size, draws = int(mask.sum()), 200_000 if name == "uniform" else 4  # false alarms: 1e-6
    keys = jax.random.split(jax.random.key(1), 1 if name == "uniform" else 30_000)
    got = jax.jit(jax.vmap(lambda key: replay.sample(pair.stack, key, draws)))(keys)
    index = np.asarray(got.rows.time).ravel() * MEMBERS + np.asarray(got.rows.env).ravel()
    held = np.asarray(rows.time * MEMBERS + rows.env)[np.asarray(mask)]
    values, counts = np.unique(index, return_counts=True)
    np.testing.assert_array_equal(values, np.sort(held))
    # Rows of one batch without replacement are less spread than independent ones, so the test errs on the quiet side.
    assert stats.chisquare(counts).pvalue > 1e-6
    np.testing.assert_allclose(got.probability, 1 / size, rtol=1e-6)
    every = replay.epoch(pair.stack, jax.random.key(2), 5)
    seen = np.asarray(every.time * MEMBERS + every.env)[np.asarray(every.env) >= 0]
    np.testing.assert_array_equal(np.sort(seen), np.sort(held))
    drawn = replay.sample_episodes(pair.stack, jax.random.key(3), 64, 3, complete=False)
    assert set(np.unique(np.asarray(drawn.rows.env)[np.asarray(drawn.mask)])) == {0, 2}


def test_an_actor_that_stops_in_mid_episode_harms_nobody_and_is_closed_later() -> None:
    pair = Pair(None)
    never = jax.tree.map(np.zeros_like, (np.zeros(3, bool), np.zeros(3, bool)))
    for member in (0, 1, 0, 0):
        block = steps(pair.rng, (3,)).replace(terminated=never[0], truncated=never[1])
        pair.stack = extend(pair.stack, block, None, jnp.int32(member))
    found = replay.episodes(pair.stack)
    assert found.length.max(axis=0).tolist() == [9, 3, 0]  # one episode each, however the others were interleaved
    closed = replay.end_episodes(pair.stack, np.array([False, True, False]))
    assert int(replay.stats(closed).open_episodes) == 1
    other = extend(pair.stack, steps(pair.rng, (2,)), None, jnp.int32(7))
    np.testing.assert_array_equal(replay.rows(other)[1], replay.rows(pair.stack)[1])  # there is no member 7
    jax.tree.map(np.testing.assert_array_equal, other.rings.clock, pair.stack.rings.clock)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_write_to_one_member_is_in_place_and_compiles_once(platform: str) -> None:
    buffer = replay.create(one_step(), 64 * 256, num_buffers=64, platform=platform)
    block = steps(np.random.default_rng(0), (2,))
    write = lambda buffer, block, member: replay.extend(buffer, block, member=member)  # noqa: E731
    assert replay.check_in_place(write, buffer, block, jnp.int32(3))

    def cycle(buffer: Any, block: Any, member: Any) -> Any:
        buffer = replay.extend(buffer, block, member=member)
        return buffer, replay.sample(buffer, jax.random.key(0), 8)

    assert replay.check_in_place(cycle, buffer, block, jnp.int32(3))
    traced = 0

    def counted(buffer: Any, block: Any, member: Any) -> Any:
        nonlocal traced
        traced += 1
        return replay.extend(buffer, block, member=member)

    write = jax.jit(counted, donate_argnums=0)
    for member in range(3):
        buffer = write(buffer, block, jnp.int32(member))
    assert traced == 1


def test_a_sample_of_many_members_is_a_program_of_the_same_size() -> None:
    def operations(members: int) -> int:
        buffer = jax.eval_shape(lambda: replay.create(one_step(), members * 32, num_buffers=members))
        text = str(jax.make_jaxpr(lambda b, k: replay.sample(b, k, 8))(buffer, jax.random.key(0)))
        return text.count("\n")

    assert abs(operations(1024) - operations(4)) <= 0.1 * operations(4)  # the search over members is a few bits deeper


def test_what_a_stack_cannot_do_is_refused_by_name() -> None:
    pair = Pair(2).fill()
    with pytest.raises(ValueError, match=r"num_envs: 5 is not a multiple of num_buffers=3.*: 3 or 6"):
        replay.create(one_step(), 30, 5, num_buffers=3)
    with pytest.raises(ValueError, match="member: this buffer is no stack"):
        replay.extend(pair.parts[0], steps(pair.rng, (1, 2)), member=0)
    with pytest.raises(TypeError, match="member: expected int32"):
        replay.extend(pair.stack, steps(pair.rng, (1, 2)), member=0.5)
    with pytest.raises(ValueError, match=r"observation.*\[L, E, \.\.\.\]"):
        replay.extend(pair.stack, steps(pair.rng, (1, 6)), member=0)
    for call in (lambda: replay.nth(pair.stack, 0), lambda: replay.subset(pair.stack, replay.rows(pair.stack)[0])):
        with pytest.raises(TypeError, match="a stack of buffers"):
            call()


def test_concats_and_mixtures_read_stacks() -> None:
    pair = Pair(None).fill()
    plain = extend(replay.create(one_step(), 8, episode_data={"goal": jnp.int32(0)}), steps(pair.rng, (8,)))
    both = replay.concat([pair.stack, plain])
    assert int(replay.size(both)) == int(replay.size(pair.stack)) + 8
    batch = replay.sample(both, jax.random.key(0), 64)
    assert set(np.asarray(batch.rows.source).tolist()) == {0, 1}
    again = replay.take(both, batch.rows)
    jax.tree.map(np.testing.assert_array_equal, again.data, batch.data)
    mine = take(pair.stack, batch.rows.of(0), views.transition())
    chosen = np.asarray(mine.mask)
    np.testing.assert_array_equal(mine.data.reward[chosen], batch.data.reward[chosen])
    mixed = replay.sample(replay.mixture([pair.stack, plain], [0.5, 0.5]), jax.random.key(1), 8)
    assert np.asarray(mixed.rows.source).tolist() == [0] * 4 + [1] * 4


PRIORITIZED = {
    "plain": samplers.prioritized(0.7),
    "for a view": samplers.prioritized(1.0, view=views.n_step(2, 0.9, complete=True)),
    "for sequences across ends": samplers.prioritized(1.0, view=views.sequence(2, across=True)),
}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", PRIORITIZED)
def test_priorities_of_every_member_are_those_of_its_own_buffer(name: str, platform: str) -> None:
    pair = Pair(2, sampler=PRIORITIZED[name], num_records=3, platform=platform).fill()
    rows, _ = replay.rows(pair.stack)
    priorities = pair.rng.random(rows.time.shape).astype(np.float32) + np.float32(0.1)
    pair.stack = replay.set_priorities(pair.stack, rows, priorities)
    for i, part in enumerate(pair.parts):
        pair.parts[i] = replay.set_priorities(part, pair.own(rows, i), priorities)
    for member in (0, 2, 1, 1):
        largest = float(np.asarray(pair.stack.sampler_state.largest).max())
        state = pair.parts[member].sampler_state
        pair.parts[member] = pair.parts[member].replace(sampler_state=state.replace(largest=jnp.float32(largest)))
        pair.extend(member, 1 if member else 3)
    rows, _ = replay.rows(pair.stack)
    got = replay.priorities(pair.stack, rows)
    each = [replay.priorities(part, pair.own(rows, i)) for i, part in enumerate(pair.parts)]
    np.testing.assert_array_equal(got, np.sum(each, axis=0))
    weights = [replay.take(part, pair.own(rows, i)).probability for i, part in enumerate(pair.parts)]
    totals = np.array([float(_total(part)) for part in pair.parts])
    expected = np.sum([w * t for w, t in zip(weights, totals, strict=True)], axis=0) / totals.sum()
    np.testing.assert_allclose(replay.take(pair.stack, rows).probability, expected, rtol=1e-4, atol=1e-7)
    draws = 100_000  # false alarms: 1e-6
    batch = jax.jit(lambda stack, key: replay.sample(stack, key, draws))(pair.stack, jax.random.key(0))
    index = lambda rows: np.asarray(rows.time) * 6 + np.asarray(rows.env)  # noqa: E731
    counts = np.bincount(index(batch.rows), minlength=index(rows).max() + 1)[index(rows).clip(0)]
    kept = expected > 0
    assert counts[kept].sum() == draws
    assert stats.chisquare(counts[kept], draws * expected[kept] / expected[kept].sum()).pvalue > 1e-6


def _total(buffer: replay.Buffer) -> Any:
    from jaxreplay.samplers import sum_tree

    return sum_tree.total(buffer.sampler_state.tree)


def test_a_prioritized_write_to_one_member_is_in_place() -> None:
    buffer = replay.create(one_step(), 16 * 1024, num_buffers=16, sampler=samplers.prioritized())

    def cycle(buffer: Any, block: Any, member: Any) -> Any:
        buffer = replay.extend(buffer, block, member=member)
        batch = replay.sample(buffer, jax.random.key(0), 8)
        return replay.set_priorities(buffer, batch.rows, batch.data.reward), batch

    assert replay.check_in_place(cycle, buffer, steps(np.random.default_rng(0), (2,)), jnp.int32(3))


@pytest.mark.parametrize("sampler", [samplers.uniform(), samplers.prioritized()], ids=["uniform", "prioritized"])
def test_a_stack_of_one_buffer_is_that_buffer(sampler: Any) -> None:
    rng = np.random.default_rng(0)
    stack = replay.create(one_step(), SLOTS * 2, 2, num_buffers=1, sampler=sampler)
    plain = replay.create(one_step(), SLOTS * 2, 2, sampler=sampler)
    for length in (4, 3):
        block = steps(rng, (length, 2))
        stack, plain = replay.extend(stack, block, member=0), replay.extend(plain, block)
    rows, mask = replay.rows(plain)
    jax.tree.map(np.testing.assert_array_equal, replay.take(stack, rows), replay.take(plain, rows))
    batch = replay.sample(stack, jax.random.key(0), 64)
    held = {(int(t), int(e)) for t, e in zip(rows.time[mask], rows.env[mask])}
    assert {(int(t), int(e)) for t, e in zip(batch.rows.time, batch.rows.env)} <= held
    np.testing.assert_allclose(batch.probability, 1 / len(held), rtol=1e-5)
    assert replay.capacity(replay.resize(stack, 4 * SLOTS)) == 4 * SLOTS
