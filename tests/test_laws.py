"""The laws of the data model, against a plain-Python model, over random interleavings of all that changes a buffer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from tests.model import Model, as_tree, bits, from_steps, make_buffer, random_steps, to_steps

SHAPES = [(5, None, 2), (5, 2, 2), (4, 3, 5)]  # slots T, num_envs, records K
ODD_SHAPES = [(1, None, 2), (1, 2, 2), (3, 1, 2)]
LENGTHS = [1, 2, 3, 9]  # of blocks; the longest is longer than every ring

operations = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "append", "extend", "extend", "put", "remove", "pop", "clear", "end", "end"]
        ),
        st.integers(0, 2**20),  # seed of the operation's data
        st.sampled_from([0.0, 0.3, 0.9]),  # how often episodes end
        st.sampled_from([0.0, 0.0, 0.3]),  # how often an env records nothing
        st.sampled_from(LENGTHS),
    ),
    max_size=14,
)


def operate(buffer: replay.Buffer, model: Model, operation: Any) -> replay.Buffer:
    """Do one operation to both."""
    kind, seed, end_rate, void_rate, length = operation
    rng = np.random.default_rng(seed)
    single = buffer.single
    if kind in ("append", "extend"):
        length = 1 if kind == "append" else length
        steps = random_steps(rng, (length, model.num_envs), end_rate)
        mask = rng.random((length, model.num_envs)) >= void_rate
        for i in range(length):
            model.append({path: x[i] for path, x in steps.items()}, mask[i])
        if single:
            steps, mask = {path: x[:, 0] for path, x in steps.items()}, mask[:, 0]
        if kind == "append":
            return replay.append(buffer, to_steps({path: x[0] for path, x in steps.items()}), mask[0])
        return replay.extend(buffer, to_steps(steps), mask)
    if kind == "end":
        mask = rng.random(model.num_envs) < 0.6
        chosen = {
            path: random_steps(rng, (model.num_envs,), end_rate)[path] for path in ("done", "reward", "obs.pixels")
        }
        model.end(mask, chosen)
        if single:
            mask, chosen = mask[0], {path: x[0] for path, x in chosen.items()}
        return replay.end_episodes(buffer, mask, as_tree(chosen))
    now = len(model.slices)
    time = rng.integers(-2, now + 2, 6)
    env = rng.integers(-1, model.num_envs + 1, 6)
    time[rng.integers(6)], env[rng.integers(6)] = time[0], env[0]
    rows = replay.Rows(time=time.astype(np.int32), env=env.astype(np.int32))
    if kind == "put":
        steps = random_steps(rng, (6,), end_rate)
        chosen = {path: steps[path] for path in ("reward", "obs.pixels", "obs.vector", "extras.flags", "extras.short")}
        for i in range(6):
            model.put(time[i], env[i], {path: x[i] for path, x in chosen.items()})
        return replay.put(buffer, rows, as_tree(chosen))
    if kind == "remove":
        for t, e in zip(time, env):
            model.remove(t, e)
        return replay.remove(buffer, rows)
    if kind == "pop":
        n = min(2, model.num_slots)
        wanted = model.pop(n)
        buffer, batch = replay.pop(buffer, n)
        assert batch.mask.shape == ((n,) if single else (n, model.num_envs))
        check_read(batch, wanted)
        return buffer
    model.clear()
    return replay.clear(buffer)


def check_read(batch: replay.Sample, wanted: list[Any]) -> None:
    """A sample holds what the model says, bit for bit, and zeros where it says nothing."""
    mask = np.asarray(batch.mask).ravel()
    np.testing.assert_array_equal(mask, [w is not None for w in wanted])
    lead = batch.mask.ndim
    for path, came in from_steps(batch.data).items():
        came = came.reshape(len(wanted), *came.shape[lead:])
        for i, want in enumerate(wanted):
            expected = np.zeros_like(came[i]) if want is None else want[path]
            assert came[i].dtype == expected.dtype, path
            np.testing.assert_array_equal(bits(came[i]), bits(expected), err_msg=f"{path}, row {i}")


def check_all(buffer: replay.Buffer, model: Model) -> None:
    """Every slot reads as the model says, stale and future rows as nothing, and the counts agree."""
    rows, mask = replay.rows(buffer)
    now = len(model.slices)
    places = [(now - model.num_slots + i, e) for i in range(model.num_slots) for e in range(model.num_envs)]
    np.testing.assert_array_equal(np.stack([rows.time, rows.env], 1), places)
    wanted = [model.get(t, e) for t, e in places]
    np.testing.assert_array_equal(mask, [w is not None for w in wanted])
    check_read(replay.take(buffer, rows), wanted)
    assert int(replay.size(buffer)) == model.size
    outside = [(-1, 0), (now, 0), (now - model.num_slots - 1, 0), (now - 1, model.num_envs), (now - 1, -1)]
    rows = replay.Rows(*jnp.array(outside, jnp.int32).T)
    check_read(replay.take(buffer, rows), [None] * len(outside))
    counts = replay.stats(buffer)
    assert int(counts.held) == (now - model.oldest) * model.num_envs
    assert int(counts.size) == model.size
    held = [model.slices[t][e] for t, e in places if model.holds(t, e)]
    assert int(counts.void) == sum(row is None for row in held)
    assert int(counts.removed) == sum(row is not None and row["removed"] for row in held)
    lost = [(t, e) for t, e in places if model.holds(t, e) and model.slices[t][e] and not model.valid(t, e)]
    assert int(counts.lost) == sum(not model.slices[t][e]["removed"] for t, e in lost)  # type: ignore[index]
    check_episodes(buffer, model)


def check_episodes(buffer: replay.Buffer, model: Model) -> None:
    found = replay.episodes(buffer)
    if buffer.single:
        found = jax.tree.map(lambda x: x[:, None], found)
    finals = from_steps(found.final_observation)
    found = jax.device_get(found.replace(final_observation=None))
    total = 0
    for env, mine in enumerate(model.episodes):
        for k in range(model.num_records):
            number = len(mine) - model.num_records + k
            live = number >= 0 and mine[number].start + mine[number].length - 1 >= model.oldest
            assert bool(found.mask[k, env]) == live
            if live:
                total += 1
                episode = mine[number]
                came = [int(x[k, env]) for x in (found.number, found.start, found.length, found.ended)]
                assert came == [number, episode.start, episode.length, episode.closed]
                for path, final in episode.final.items():
                    np.testing.assert_array_equal(bits(finals[path[4:]][k, env]), bits(final))
    assert int(replay.num_episodes(buffer)) == total


@pytest.mark.parametrize("shape", SHAPES + ODD_SHAPES)
@given(operations=operations)
def test_a_buffer_gives_back_exactly_what_the_plain_model_holds(shape: Any, operations: list[Any]) -> None:
    num_slots, num_envs, num_records = shape
    buffer, model = make_buffer(*shape), Model(num_slots, num_envs or 1, num_records)
    for operation in operations:
        buffer = operate(buffer, model, operation)
    check_all(buffer, model)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES + ODD_SHAPES)
@settings(settings.get_profile("long"))
@given(operations=operations)
def test_the_same_over_many_more_sequences(shape: Any, operations: list[Any]) -> None:
    num_slots, num_envs, num_records = shape
    buffer, model = make_buffer(*shape), Model(num_slots, num_envs or 1, num_records)
    for operation in operations:
        buffer = operate(buffer, model, operation)
        check_all(buffer, model)


def assert_same(a: Any, b: Any) -> None:
    """Two pytrees are equal bit for bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(bits(x), bits(y))


def stream(length: int, num_envs: int | None, seed: int) -> tuple[Any, np.ndarray]:
    """A random block; without NaNs in small floats, since XLA's own slicing of those may lose their payload."""
    rng = np.random.default_rng(seed)
    lead = (length,) if num_envs is None else (length, num_envs)
    steps = random_steps(rng, lead, 0.3)
    for x in steps.values():
        if x.dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
            with np.errstate(invalid="ignore"):
                x[x != x] = 1
    return to_steps(steps), rng.random(lead) > 0.2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [0, 1, 4, 5, 13])
def test_extend_equals_folding_append(shape: Any, length: int) -> None:
    """Also for what no read shows: clocks, numbers and ordinals."""
    buffer = make_buffer(*shape)
    buffer = replay.extend(buffer, *stream(3, shape[1], 1))
    steps, mask = stream(length, shape[1], 2)
    folded = buffer
    for i in range(length):
        folded = replay.append(folded, jax.tree.map(lambda x, i=i: x[i], steps), mask[i])
    extended = replay.extend(buffer, steps, mask)
    assert_same((extended.rings.clock, extended.rings.envs), (folded.rings.clock, folded.rings.envs))
    rows, _ = replay.rows(extended)
    assert_same(replay.take(extended, rows), replay.take(folded, rows))
    assert_same(replay.episodes(extended), replay.episodes(folded))
    if length <= shape[0]:  # beyond, records that were overwritten at once may differ in the words no one reads
        assert_same(extended.rings.arrays[0][: shape[0]], folded.rings.arrays[0][: shape[0]])


@jax.jit
def scan_appends(buffer: replay.Buffer, steps: Any, mask: Any) -> replay.Buffer:
    def body(buffer: replay.Buffer, step: Any) -> tuple[replay.Buffer, None]:
        return replay.append(buffer, *step), None

    return jax.lax.scan(body, buffer, (steps, mask))[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_scan_and_jit_change_no_result(shape: Any) -> None:
    steps, mask = stream(13, shape[1], 3)
    eager = make_buffer(*shape)
    for i in range(13):
        with jax.disable_jit():
            eager = replay.append(eager, jax.tree.map(lambda x, i=i: x[i], steps), mask[i])
    scanned = scan_appends(make_buffer(*shape), steps, mask)
    assert_same(scanned, eager)
    key = jax.random.key(1)
    view = replay.views.n_step(1, 0.9, observation="obs", terminated="done", next_observation="next_obs")
    with jax.disable_jit():
        expected = replay.sample(eager, key, 16)
    assert_same(replay.sample(scanned, key, 16), expected)
    assert_same(
        jax.jit(replay.sample, static_argnums=(2, 3))(scanned, key, 16, view), replay.sample(eager, key, 16, view)
    )


def test_what_comes_out_of_a_scan_is_stored_bit_for_bit_as_it_comes_out() -> None:
    """On a CPU, XLA's scan itself drops NaN payloads of bfloat16 and float8; what it gives is stored as it is."""

    @jax.jit
    def run(buffer: replay.Buffer, steps: Any) -> Any:
        yielded = jax.lax.scan(lambda _, step: (None, step), None, steps)[1]
        return yielded, replay.extend(buffer, yielded)

    slots, envs, records = SHAPES[1]
    steps = to_steps(random_steps(np.random.default_rng(3), (13, envs), 0.3))
    yielded, stored = run(make_buffer(slots, envs, records), steps)
    assert_same(stored, replay.extend(make_buffer(slots, envs, records), yielded))


@pytest.mark.parametrize("shape", SHAPES)
def test_vmap_over_buffers_changes_no_result(shape: Any) -> None:
    """Appends, puts, removals, reads and samples of a batch of buffers are those of each buffer alone."""
    count = 3
    streams = [stream(13, shape[1], seed) for seed in range(count)]
    rows = [
        replay.Rows(*np.random.default_rng(s).integers(0, [13, shape[1] or 1], (4, 2), np.int32).T)
        for s in range(count)
    ]
    keys = jax.random.split(jax.random.key(0), count)

    def life(buffer: replay.Buffer, stream: Any, rows: replay.Rows, key: jax.Array) -> Any:
        buffer = scan_appends(buffer, *jax.tree.map(lambda x: x[:4], stream))
        buffer = replay.extend(buffer, *jax.tree.map(lambda x: x[4:], stream))
        buffer = replay.put(
            buffer, rows, {"reward": jnp.arange(4.0), "obs": {"vector": jnp.ones((4, 3), jnp.bfloat16)}}
        )
        buffer = replay.remove(buffer, rows)
        buffer, popped = replay.pop(buffer, 1)
        read = replay.take(buffer, replay.rows(buffer)[0])
        epoch = replay.epoch(buffer, key, 4)
        return buffer, popped, read, epoch, replay.sample(buffer, key, 8), replay.stats(buffer), replay.episodes(buffer)

    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    created = jax.jit(jax.vmap(lambda _: make_buffer(*shape)))(jnp.arange(count))
    together = jax.jit(jax.vmap(life))(created, stack(streams), stack(rows), keys)
    alone = [jax.jit(life)(make_buffer(*shape), *args) for args in zip(streams, rows, keys)]
    assert_same(together, stack(alone))
