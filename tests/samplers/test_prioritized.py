"""Prioritized buffers: weights against a plain-Python model, draws by chi-square, and what updates may not do.

The statistical tests compare counts with a chi-square test at a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.samplers import prioritized, sum_tree
from tests.model import Model, random_steps

KEY = jax.random.key(0)
EXPONENT = 0.5
SHAPES = [(5, None, 2), (6, 3, 5), (1, 2, 2)]  # slots, envs, records an env
SEQUENCE, N_STEP = views.sequence(3), views.n_step(3, 0.9, complete=True)
ACROSS = views.sequence(3, across=True, every=2)
VIEWS: dict[str, Any] = {
    "any view": None,
    "complete sequences": SEQUENCE,
    "every other sequence across episodes": ACROSS,
    "every other sequence": views.sequence(3, every=2),
    "complete n steps": N_STEP,
}

Lives = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "extend", "prioritize", "prioritize", "remove", "pop", "clear"]),
        st.integers(0, 2**20),
        st.sampled_from([0.0, 0.3, 0.9]),  # how often episodes end
        st.sampled_from([0.0, 0.0, 0.3]),  # how often an env records nothing
        st.sampled_from([2, 3, 9]),
    ),
    max_size=14,
)


def steps_of(rng: np.random.Generator, lead: tuple[int, ...], end_rate: float) -> dict[str, Any]:
    steps = random_steps(rng, lead, end_rate)
    return {name: steps[name] for name in ("reward", "done", "obs.vector", "next_obs.vector")}


def as_transition(steps: dict[str, Any]) -> replay.Transition:
    done = jnp.asarray(steps["done"])
    return replay.Transition(
        observation=jnp.asarray(steps["obs.vector"]),
        action=jnp.zeros(done.shape, jnp.int32),
        reward=jnp.zeros(done.shape),
        terminated=done,
        truncated=jnp.zeros(done.shape, bool),
        next_observation=jnp.asarray(steps["next_obs.vector"]),
    )


@functools.cache
def empty(shape: Any, view: Any) -> replay.Buffer:
    slots, envs, records = shape
    example = jax.tree.map(lambda x: x[0], as_transition(steps_of(np.random.default_rng(0), (1,), 0.5)))
    sampler = prioritized(EXPONENT, view=view)
    return replay.create(example, slots * (envs or 1), envs, max_episodes=records * (envs or 1), sampler=sampler)


append, extend, set_priorities, remove, read_priorities = map(
    jax.jit, (replay.append, replay.extend, replay.set_priorities, replay.remove, replay.priorities)
)


class Weights:
    """The priority of every row that was ever stored, by `(time, env)`, and the largest seen."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], float] = {}
        self.largest = 1.0


def live(buffer: replay.Buffer, model: Model, weights: Weights, operation: Any) -> replay.Buffer:
    """Do one operation to all."""
    kind, seed, end_rate, void_rate, length = operation
    rng, envs = np.random.default_rng(seed), model.num_envs
    if kind in ("append", "extend"):
        length = 1 if kind == "append" else length
        steps = steps_of(rng, (length, envs), end_rate)
        mask = rng.random((length, envs)) >= void_rate
        for i in range(length):
            for env in range(envs):
                weights.of[len(model.slices), env] = weights.largest
            model.append({path: x[i] for path, x in steps.items()}, mask[i])
        block, mask = as_transition(steps), jnp.asarray(mask)
        if buffer.single:
            block, mask = jax.tree.map(lambda x: x[:, 0], (block, mask))
        if kind == "append":
            return append(buffer, *jax.tree.map(lambda x: x[0], (block, mask)))
        return extend(buffer, block, mask)
    now = len(model.slices)
    time, env = rng.integers(-2, now + 2, 6), rng.integers(-1, envs + 1, 6)
    time[rng.integers(6)], env[rng.integers(6)] = time[0], env[0]
    rows = replay.Rows(time=jnp.asarray(time, jnp.int32), env=jnp.asarray(env, jnp.int32))
    if kind == "prioritize":
        values = np.where(rng.random(6) < 0.2, 0, rng.exponential(size=6) * 3).astype(np.float32)
        wrong = rng.random(6) < 0.2
        given_values = np.where(wrong, rng.choice([np.nan, np.inf, -1.0], 6), values).astype(np.float32)
        for t, e, value, bad in zip(time, env, values, wrong):
            if model.valid(t, e) and not bad:
                weights.of[t, e] = float(value)
                weights.largest = max(weights.largest, float(value))
        return set_priorities(buffer, rows, jnp.asarray(given_values))
    if kind == "remove":
        for t, e in zip(time, env):
            model.remove(t, e)
        return remove(buffer, rows)
    if kind == "pop":
        n = min(length, model.num_slots)
        model.pop(n)
        return replay.pop(buffer, n)[0]
    model.clear()
    return replay.clear(buffer)


def is_usable(model: Model, view: Any, time: int, env: int) -> bool:
    if not model.valid(time, env):
        return False
    episode = model.episodes[env][model.slices[time][env]["episode"]]  # type: ignore[index]
    after = episode.start + episode.length - 1 - time
    if view is ACROSS:
        steps = range(time, time + 3)
        return time % 2 == 0 and all(model.valid(t, env) for t in steps)
    if isinstance(view, type(SEQUENCE)):
        return after >= 2 and (time - episode.start) % view.every == 0
    return view is None or after >= 2 or episode.closed


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(settings.get_profile("short"), max_examples=15)
@given(operations=Lives)
def test_weights_are_those_of_the_plain_model(shape: Any, view: str, operations: list[Any]) -> None:
    check_weights(shape, view, operations)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(settings.get_profile("long"), max_examples=200)
@given(operations=Lives)
def test_weights_over_many_more_lives(shape: Any, view: str, operations: list[Any]) -> None:
    check_weights(shape, view, operations)


def check_weights(shape: Any, view: str, operations: list[Any]) -> None:
    """Every leaf is the row's priority to the exponent, and counts where the row can be read and the view can start."""
    if isinstance(VIEWS[view], type(SEQUENCE)) and shape[0] < 3:
        return
    buffer, model, weights = empty(shape, VIEWS[view]), Model(shape[0], shape[1] or 1, shape[2]), Weights()
    for operation in operations:
        buffer = live(buffer, model, weights, operation)
    rows, _ = replay.rows(buffer)
    drawn = replay.take(buffer, rows, VIEWS[view] or views.transition())
    usable = {
        (t, e): weights.of[t, e] ** EXPONENT
        for t, e in zip(rows.time.tolist(), rows.env.tolist())
        if is_usable(model, VIEWS[view], t, e)
    }
    tree = buffer.sampler_state.tree
    np.testing.assert_allclose(float(sum_tree.total(tree)), sum(usable.values()), rtol=1e-5, atol=1e-6)
    for i, place in enumerate(zip(rows.time.tolist(), rows.env.tolist())):
        wanted = usable.get(place, 0.0) / max(float(sum_tree.total(tree)), 1e-30)
        np.testing.assert_allclose(float(drawn.probability[i]), wanted, rtol=1e-5, atol=1e-7)
    wanted = [weights.of[t, e] if model.valid(t, e) else 0 for t, e in zip(rows.time.tolist(), rows.env.tolist())]
    np.testing.assert_allclose(read_priorities(buffer, rows), wanted, rtol=1e-5)


def buffer_of(count: int, capacity: int = 64, envs: int | None = None, **options: Any) -> replay.Buffer:
    """Items numbered by their time and env."""
    buffer = replay.create({"x": jnp.int32(0)}, capacity, envs, sampler=prioritized(**options))
    lead = (count,) if envs is None else (count, envs)
    return extend(buffer, {"x": jnp.arange(np.prod(lead), dtype=jnp.int32).reshape(lead)})


def rows_of(*times: int) -> replay.Rows:
    return replay.Rows(time=jnp.array(times, jnp.int32), env=jnp.zeros(len(times), jnp.int32))


@functools.partial(jax.jit, static_argnames=("batches", "batch_size"))
def draw_many(buffer: replay.Buffer, key: jax.Array, batches: int, batch_size: int) -> Any:
    def draw(key: jax.Array) -> Any:
        batch = replay.sample(buffer, key, batch_size)
        return batch.rows, batch.mask, batch.probability

    return jax.tree.map(jnp.ravel, jax.lax.map(draw, jax.random.split(key, batches)))


@pytest.mark.optimized
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_rows_are_drawn_with_their_stated_probability(exponent: float, stratified: bool) -> None:
    """After wrap-around, with void rows, many envs, and priorities over six orders of magnitude."""
    rng = np.random.default_rng(0)
    buffer = replay.create({"x": jnp.int32(0)}, 90, 3, sampler=prioritized(exponent, stratified=stratified))
    mask = jnp.asarray(rng.random((47, 3)) < 0.8)
    buffer = extend(buffer, {"x": jnp.zeros((47, 3), jnp.int32)}, mask)
    rows, valid = replay.rows(buffer)
    priorities = 10.0 ** rng.uniform(-3, 3, 90) * (rng.random(90) < 0.9)
    buffer = set_priorities(buffer, rows, jnp.asarray(priorities, jnp.float32))
    weight = np.where(np.asarray(valid) & (priorities > 0), priorities**exponent, 0)
    stated = np.asarray(replay.take(buffer, rows).probability)
    np.testing.assert_allclose(stated, weight / weight.sum(), rtol=1e-5)
    drawn, found, probability = draw_many(buffer, KEY, 400, 500)
    assert bool(found.all())
    place = (np.asarray(drawn.time) - 17) * 3 + np.asarray(drawn.env)
    np.testing.assert_allclose(probability, stated[place], rtol=1e-6)
    counts, expected = np.bincount(place, minlength=90), 200_000 * weight / weight.sum()
    assert counts[weight == 0].sum() == 0
    often = expected >= 20
    if stratified:  # varies less than independent draws do
        assert (np.abs(counts - expected)[often] < 6 * np.sqrt(expected[often])).all()
        return
    rare = [expected[~often].sum()] if expected[~often].sum() >= 1 else []
    seen = np.append(counts[often], [counts[~often].sum()] if rare else [])
    wanted = np.append(expected[often], rare)
    assert stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-6


def test_stratified_draws_take_one_of_each_equal_part() -> None:
    batch = replay.sample(buffer_of(64), KEY, 64)
    assert sorted(batch.data["x"].tolist()) == list(range(64))


def test_new_rows_have_the_largest_priority_seen_or_the_given_one() -> None:
    buffer = set_priorities(buffer_of(4, exponent=1.0), rows_of(0, 1), jnp.array([8.0, 0.5]))
    buffer = set_priorities(buffer, rows_of(0), jnp.array([2.0]))
    buffer = replay.append(buffer, {"x": jnp.int32(4)})
    weight = replay.take(buffer, rows_of(0, 1, 2, 4)).probability
    np.testing.assert_allclose(weight / weight[0], [1, 0.25, 0.5, 4])
    given_one = buffer_of(4, exponent=1.0, new_priority=5.0)
    given_one = replay.append(set_priorities(given_one, rows_of(0), jnp.array([10.0])), {"x": jnp.int32(4)})
    weight = replay.take(given_one, rows_of(0, 1, 4)).probability
    np.testing.assert_allclose(weight / weight[0], [1, 0.5, 0.5])


@pytest.mark.parametrize("jitted", [True, False])
def test_of_rows_given_twice_the_last_value_counts(jitted: bool) -> None:
    times = rows_of(3, 1, 3, 3, 1)
    update = set_priorities if jitted else replay.set_priorities
    buffer = update(buffer_of(4, exponent=1.0), times, jnp.array([9.0, 7.0, 8.0, 2.0, 3.0]))
    weight = replay.take(buffer, rows_of(0, 1, 2, 3)).probability
    np.testing.assert_allclose(weight / weight[0], [1, 3, 1, 2])


def test_stale_void_removed_and_out_of_range_rows_are_ignored() -> None:
    buffer = buffer_of(70, capacity=64)
    buffer = remove(buffer, rows_of(20))
    buffer = replay.append(buffer, {"x": jnp.int32(0)}, jnp.bool_(False))
    rows = replay.Rows(time=jnp.array([0, 5, 6, 20, 70, 71, -1, 30]), env=jnp.array([0, 0, 0, 0, 0, 0, 0, 1]))
    after = set_priorities(buffer, rows, jnp.full(8, 100.0))
    jax.tree.map(np.testing.assert_array_equal, after.sampler_state, buffer.sampler_state)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("exponent", [0.0, 0.1, 0.6, 1.0, 2.0])
def test_priorities_are_read_as_they_were_set(exponent: float, platform: str) -> None:
    """Of rows in any shape; a positive one never comes back as zero, nor a finite one as infinite."""
    buffer = replay.create({"x": jnp.int32(0)}, 8, sampler=prioritized(exponent), platform=platform)
    buffer = extend(buffer, {"x": jnp.arange(6, dtype=jnp.int32)})
    values = jnp.array([[0.0, 3.0, 1e-5], [1e4, 1e-38, 3e38]])
    rows = jax.tree.map(lambda x: x.reshape(2, 3), rows_of(0, 1, 2, 3, 4, 5))
    came = np.asarray(read_priorities(set_priorities(buffer, rows, values), rows))
    wanted = np.asarray(values) if exponent else (np.asarray(values) > 0).astype(np.float32)
    assert came.shape == (2, 3)
    np.testing.assert_allclose(came[:, :2][:1], wanted[:, :2][:1], rtol=1e-5)
    np.testing.assert_allclose(came[[0, 1], [2, 0]], wanted[[0, 1], [2, 0]], rtol=1e-5)
    assert ((came > 0) == (np.asarray(values) > 0)).all()
    assert np.isfinite(came).all()


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float4_e2m1fn, jnp.bfloat16])
def test_priorities_of_small_floats_are_set_though_these_have_no_infinity(dtype: Any) -> None:
    values = jnp.array([0.0, 1.0, 6.0, 0.5]).astype(dtype)
    came = read_priorities(set_priorities(buffer_of(4, exponent=1.0), rows_of(0, 1, 2, 3), values), rows_of(0, 1, 2, 3))
    np.testing.assert_array_equal(came, [0, 1, 6, 0.5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 1e300])
def test_values_that_are_no_priorities(value: float) -> None:
    buffer = buffer_of(4)
    with pytest.raises(ValueError, match="priorities: expected finite numbers of at least 0"):
        replay.set_priorities(buffer, rows_of(0, 1), np.array([1.0, value]))
    with np.errstate(over="ignore"):
        values = np.array([2.0, value]).astype(np.float32)
    after = set_priorities(buffer, rows_of(0, 1), values)
    alone = set_priorities(buffer, rows_of(0, 2), jnp.array([2.0, 1.0]))
    jax.tree.map(np.testing.assert_array_equal, after.sampler_state, alone.sampler_state)


def test_priorities_of_the_wrong_kind() -> None:
    buffer = buffer_of(4)
    for error, message, rows, values in (
        (ValueError, r"expected the shape of rows \[2\], got \[3\]", rows_of(0, 1), jnp.ones(3)),
        (TypeError, "expected floating numbers, got int32", rows_of(0, 1), jnp.ones(2, jnp.int32)),
        (TypeError, "rows: expected Rows", 3, jnp.ones(2)),
    ):
        with pytest.raises(error, match=message):
            replay.set_priorities(buffer, rows, values)
    with pytest.raises(ValueError, match=r"create it with sampler=samplers\.prioritized"):
        replay.set_priorities(replay.create({"x": jnp.int32(0)}, 4), rows_of(0), jnp.ones(1))
    with pytest.raises(ValueError, match=r"^priorities: .* create it with sampler=samplers\.prioritized"):
        replay.priorities(replay.create({"x": jnp.int32(0)}, 4), rows_of(0))
    with pytest.raises(TypeError, match="expected a Buffer, got Concat"):
        replay.set_priorities(replay.concat([buffer]), rows_of(0), jnp.ones(1))
    for options in ({"exponent": -1.0}, {"exponent": float("nan")}, {"new_priority": float("inf")}):
        with pytest.raises(ValueError, match="expected a number of at least 0"):
            prioritized(**options)
    with pytest.raises(TypeError, match="view: expected a view, as"):
        prioritized(view="sequence")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="with its parentheses"):
        replay.create({"x": jnp.int32(0)}, 4, sampler=prioritized)  # type: ignore[arg-type]


def test_the_largest_numbers_neither_overflow_nor_break_the_others() -> None:
    buffer = buffer_of(64, exponent=1.0)
    most = float(jnp.finfo(jnp.float32).max)
    buffer = set_priorities(buffer, rows_of(*range(64)), jnp.full(64, most).at[0].set(0.0))
    drawn, found, probability = draw_many(buffer, KEY, 10, 500)
    assert bool(found.all())
    assert 0 not in np.asarray(drawn.time)
    np.testing.assert_allclose(probability, 1 / 63, rtol=1e-5)


def test_when_all_priorities_are_zero_nothing_is_drawn() -> None:
    buffer = set_priorities(buffer_of(4), rows_of(0, 1, 2, 3), jnp.zeros(4))
    batch = jax.jit(lambda b: replay.sample(b, KEY, 8))(buffer)
    assert not batch.mask.any()
    assert not batch.probability.any()
    with pytest.raises(ValueError, match="all their priorities are zero"):
        replay.sample(buffer, KEY, 8)


def test_a_block_is_as_if_appended_one_by_one() -> None:
    """Also one longer than the ring, with void rows, over the ring's end, and for each of several seeds."""
    rng = np.random.default_rng(0)
    for slots, envs in ((7, 3), (40, 1), (5, 16)):
        for length in (1, 2, 6, 45):
            buffer = replay.create({"x": jnp.int32(0)}, slots * envs, envs, sampler=prioritized(1.0))
            mask = jnp.asarray(rng.random((3 + length, envs)) < 0.8)
            one, many = buffer, buffer
            for part in (slice(0, 3), slice(3, 3 + length)):
                block = {"x": jnp.zeros(mask[part].shape, jnp.int32)}
                many = extend(many, block, mask[part])
            for i in range(3 + length):
                one = append(one, {"x": jnp.zeros(envs, jnp.int32)}, mask[i])
            jax.tree.map(np.testing.assert_array_equal, one.sampler_state, many.sampler_state)


def test_each_seed_of_a_vmapped_buffer_has_its_own_priorities() -> None:
    keys = jax.random.split(KEY, 3)
    values = jax.random.uniform(KEY, (3, 8))

    def run(key: jax.Array, values: jax.Array) -> Any:
        buffer = set_priorities(buffer_of(8, 8), rows_of(*range(8)), values)
        buffer = append(buffer, {"x": jnp.int32(9)})
        return replay.sample(buffer, key, 32)

    together = jax.jit(jax.vmap(run))(keys, values)
    for i in range(3):
        alone = run(keys[i], values[i])
        np.testing.assert_array_equal(together.rows.time[i], alone.rows.time)
        np.testing.assert_allclose(together.probability[i], alone.probability, rtol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("view", [None, SEQUENCE])
def test_a_step_that_appends_samples_and_updates_needs_no_copy(view: Any) -> None:
    """By itself, in a scan, and for several seeds."""

    def step(buffer: replay.Buffer, xs: Any) -> Any:
        transition, key = xs
        buffer = replay.append(buffer, transition)
        batch = replay.sample(buffer, key, 16, view or views.transition())
        weights = replay.importance_weights(batch, 0.5)
        return replay.set_priorities(buffer, batch.rows, weights), weights.sum()

    def train(buffer: replay.Buffer, xs: Any) -> Any:
        return jax.lax.scan(step, buffer, xs)

    steps = as_transition(steps_of(np.random.default_rng(0), (3, 8), 0.5))
    xs = (steps, jax.random.split(KEY, 3))
    one = jax.tree.map(lambda x: x[0], xs)
    buffer = jax.eval_shape(lambda: empty((2**13, 8, 512), view))
    assert replay.check_in_place(step, buffer, one)
    assert replay.check_in_place(train, buffer, xs)
    seeds = jax.eval_shape(jax.vmap(lambda _: empty((2**13, 8, 512), view)), jnp.arange(3))
    assert replay.check_in_place(jax.vmap(step), seeds, jax.tree.map(lambda x: jnp.stack([x] * 3), one))


@pytest.mark.parametrize("view", [SEQUENCE, N_STEP])
def test_views_that_need_what_follows_are_never_drawn_in_vain(view: Any) -> None:
    rng = np.random.default_rng(1)
    buffer = empty((40, 2, 20), view)
    buffer = extend(buffer, as_transition(steps_of(rng, (90, 2), 0.25)))
    rows, _ = replay.rows(buffer)
    usable = np.asarray(replay.take(buffer, rows, view).mask)
    batch = jax.jit(lambda b, k: replay.sample(b, k, 4096, view))(buffer, KEY)
    assert bool(batch.mask.all())
    counts = np.bincount((np.asarray(batch.rows.time) - 50) * 2 + np.asarray(batch.rows.env), minlength=80)
    assert (counts[usable] > 0).all()
    assert counts[~usable].sum() == 0
    assert counts.max() - counts[usable].min() <= 2  # equal priorities, stratified
    np.testing.assert_allclose(batch.probability, 1 / usable.sum(), rtol=1e-5)


@pytest.mark.parametrize("view", [ACROSS, SEQUENCE])
def test_consumed_rows_have_no_weight(view: Any) -> None:
    """Also those before another row that was consumed, which the view could have started from."""
    buffer = empty((6, 3, 5), view)
    buffer = extend(buffer, as_transition(steps_of(np.random.default_rng(0), (4, 3), 0.0)))
    assert float(sum_tree.total(buffer.sampler_state.tree)) > 0
    assert float(sum_tree.total(replay.pop(buffer, 2)[0].sampler_state.tree)) == 0


def test_without_the_view_such_rows_are_drawn_again() -> None:
    rng = np.random.default_rng(1)
    buffer = extend(empty((40, 2, 20), None), as_transition(steps_of(rng, (90, 2), 0.25)))
    batch = jax.jit(lambda b, k: replay.sample(b, k, 4096, SEQUENCE))(buffer, KEY)
    assert bool(batch.mask.all())
    assert bool(batch.data.mask.all())


def test_rows_that_lost_their_record_have_no_weight() -> None:
    rng = np.random.default_rng(1)
    buffer = extend(empty((40, 2, 3), None), as_transition(steps_of(rng, (90, 2), 0.25)))
    assert int(replay.stats(buffer).lost) > 20
    batch = replay.sample(buffer, KEY, 500)
    assert bool(batch.mask.all())
    np.testing.assert_allclose(batch.probability, 1 / int(replay.size(buffer)), rtol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize(("exponent", "small"), [(2.0, 1e-30), (1.0, 1e-40), (0.5, 1e-45), (10.0, 1e-4)])
def test_a_priority_that_underflows_is_the_smallest_that_can_be_drawn(
    exponent: float, small: float, jitted: bool
) -> None:
    """Also where float32 has it below its normal numbers, which compilers take for zero."""
    prioritize = set_priorities if jitted else replay.set_priorities
    buffer = buffer_of(48, exponent=exponent)
    buffer = prioritize(buffer, rows_of(*range(48)), jnp.where(jnp.arange(48) % 4 == 0, 0.0, jnp.float32(small)))
    assert float(sum_tree.total(buffer.sampler_state.tree)) >= 36 * sum_tree.LEAST
    batch = replay.sample(buffer, KEY, 36_000)
    assert bool(batch.mask.all())
    counts = np.bincount(batch.data["x"], minlength=48)
    assert not counts[::4].any()
    assert stats.chisquare(counts[np.arange(48) % 4 > 0]).pvalue > 1e-6
    np.testing.assert_allclose(batch.probability, 1 / 36, rtol=1e-6)
    np.testing.assert_allclose(replay.importance_weights(batch, 1.0), 1, rtol=1e-6)


def test_probabilities_and_weights_stay_finite_beside_the_largest_priorities() -> None:
    buffer = set_priorities(buffer_of(8, exponent=2.0), rows_of(*range(8)), jnp.array([1e-30, 0.0, *[1e30] * 6]))
    every = replay.take(buffer, rows_of(*range(8)))
    assert float(every.probability[0]) > 0
    assert float(every.probability[1]) == 0
    np.testing.assert_allclose(every.probability[2:], 1 / 6, rtol=1e-5)
    both = replay.take(buffer, rows_of(0, 2, 3))
    assert bool(jnp.isfinite(replay.importance_weights(both, 1.0)).all())


def test_a_small_new_priority_can_be_drawn() -> None:
    batch = replay.sample(buffer_of(8, new_priority=1e-50, exponent=0.6), KEY, 64)
    assert bool(batch.mask.all())


def test_clear_keeps_the_largest_priority_seen() -> None:
    buffer = set_priorities(buffer_of(4, exponent=1.0), rows_of(0), jnp.array([9.0]))
    for clear in (replay.clear, jax.jit(replay.clear)):
        after = replay.extend(clear(buffer), {"x": jnp.arange(2)})
        after = set_priorities(after, rows_of(4), jnp.array([1.0]))
        np.testing.assert_allclose(replay.take(after, rows_of(4, 5)).probability, [0.1, 0.9], rtol=1e-6)


@pytest.mark.parametrize("wrong", ["0.6", True, None, [0.6], np.array([0.6, 0.7]), np.bool_(True)])
def test_settings_that_are_no_numbers(wrong: Any) -> None:
    with pytest.raises(TypeError, match="exponent: expected a number of at least 0, got"):
        prioritized(wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="new_priority: expected a number of at least 0, got"):
            prioritized(new_priority=wrong)


def test_settings_are_python_and_numpy_numbers_and_nothing_traced() -> None:
    assert prioritized(np.float32(0.5)) == prioritized(0.5) == prioritized(jnp.float32(0.5))
    assert prioritized(np.int64(1), new_priority=2) == prioritized(1.0, new_priority=2.0)
    with pytest.raises(TypeError, match=r"exponent: expected a Python number .*traced"):
        jax.jit(lambda x: prioritized(x))(0.6)


def test_importance_weights_are_those_of_the_paper() -> None:
    buffer = set_priorities(buffer_of(8, exponent=0.7), rows_of(*range(8)), jnp.arange(1.0, 9.0))
    batch = replay.sample(buffer, KEY, 16)
    p = np.arange(1.0, 9.0) ** 0.7 / (np.arange(1.0, 9.0) ** 0.7).sum()
    wanted = (8 * p[np.asarray(batch.rows.time)]) ** -0.4
    came = jax.jit(replay.importance_weights)(batch, 0.4)
    np.testing.assert_allclose(came, wanted / wanted.max(), rtol=1e-5)
    np.testing.assert_array_equal(replay.importance_weights(batch, 0.0), jnp.ones(16))
    masked = batch.replace(mask=batch.mask.at[0].set(False), probability=batch.probability.at[0].set(0))
    assert float(replay.importance_weights(masked, 0.4)[0]) == 0
    assert bool(jnp.isfinite(replay.importance_weights(masked, 0.4)).all())


@pytest.mark.parametrize("beta", [1, 0.4, np.float16(0.4), jnp.bfloat16(0.4), jnp.int32(1)], ids=repr)
def test_weights_are_finite_floats_of_32_bits_for_any_beta_and_any_rows(beta: Any) -> None:
    buffer = set_priorities(buffer_of(8), rows_of(0), jnp.zeros(1))
    with jax.debug_nans(True):
        for times in ((0, 1, 99), (99,), ()):  # never drawn, drawn and not there; none that is there; no row
            weights = replay.importance_weights(replay.take(buffer, rows_of(*times)), beta)
            assert weights.dtype == jnp.float32
            assert weights.tolist() == [float(time == 1) for time in times]


def test_weights_of_what_has_none() -> None:
    buffer = buffer_of(8)
    batch = replay.sample(buffer, KEY, 4)
    with pytest.raises(TypeError, match=r"sample: expected what replay.sample .* got Buffer"):
        replay.importance_weights(buffer, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"beta: expected a number, got float32\[4\]"):
        replay.importance_weights(batch, jnp.ones(4))
    with pytest.raises(ValueError, match="those of episodes"):
        replay.importance_weights(batch.replace(mask=jnp.ones((4, 3), bool)), 0.5)


def test_sequence_priorities_mix_the_largest_and_the_mean() -> None:
    errors = jnp.array([[1.0, -3.0, 2.0], [4.0, 0.0, 100.0], [5.0, 5.0, 5.0]])
    mask = jnp.array([[True, True, True], [True, True, False], [False, False, False]])
    np.testing.assert_allclose(replay.sequence_priorities(errors, mask), [0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 2, 0])
    np.testing.assert_allclose(replay.sequence_priorities(errors, mix=0.0), [2, 104 / 3, 5], rtol=1e-6)
    with pytest.raises(ValueError, match=r"mask: expected bool\[3,3\], got bool\[3,2\]"):
        replay.sequence_priorities(errors, mask[:, :2])
    with pytest.raises(ValueError, match=r"errors: expected numbers \[B, L\], got float32\[\]"):
        replay.sequence_priorities(errors[0, 0])
