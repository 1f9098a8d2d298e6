"""A buffer that is split over a mesh: it is what a buffer for each device with its share of the envs would be."""

from __future__ import annotations

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

import jaxreplay as replay
from jaxreplay import joining, samplers, views
from jaxreplay.convert.reading import read_table
from tests.devices import Cases

SLOTS = 8
COLLECTIVE = re.compile(r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\b")
EXPLICIT = "three devices, explicit axes"
MESHES = {  # shape of the mesh, types of its axes, envs
    "four devices": ((4,), AxisType.Auto, 8),
    EXPLICIT: ((3,), AxisType.Explicit, 9),
    "two of four devices": ((2, 2), AxisType.Auto, 6),
    "two of four devices, explicit axes": ((2, 2), AxisType.Explicit, 2),
}
SAMPLERS = {
    "uniform": samplers.uniform(),
    "distinct": samplers.uniform(replacement=False),
    "prioritized": samplers.prioritized(),
    "prioritized for a view": samplers.prioritized(view=views.n_step(2, 0.9, complete=True)),
}
VIEWS = (views.compose(views.frame_stack(3), views.n_step(2, 0.9)), views.sequence(2, complete=False))
cases = Cases(4)
case = cases.case


def mesh_of(name: str) -> jax.sharding.Mesh:
    shape, kind, _ = MESHES[name]
    return jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(kind,) * len(shape))


def steps(seed: int, length: int, num_envs: int) -> replay.Transition:
    """Steps `[L, E]`, all different; episodes end at random."""
    rng = np.random.default_rng(seed)
    number = np.float32(1000 * seed) + np.arange(length * num_envs, dtype=np.float32).reshape(length, num_envs)
    flag = lambda rate: rng.random((length, num_envs)) < rate  # noqa: E731
    return replay.Transition(number, number.astype(np.int32), number, flag(0.2), flag(0.1), number + np.float32(0.5))


def one_step() -> replay.Transition:
    return jax.tree.map(lambda x: x[0, 0], steps(0, 1, 1))


class Pair:
    """A buffer over a mesh, and one for each device of its share of the envs: what is done to one is done to both."""

    def __init__(self, name: str, **settings: Any):
        self.mesh, self.num_envs = mesh_of(name), MESHES[name][2]
        self.devices = self.mesh.shape["data"]
        self.share = self.num_envs // self.devices
        create = functools.partial(replay.create, one_step(), episode_data={"goal": jnp.int32(0)}, **settings)
        sharding = NamedSharding(self.mesh, P("data"))
        self.whole = create(SLOTS * self.num_envs, self.num_envs, sharding=sharding)
        self.parts = [create(SLOTS * self.share, self.share) for _ in range(self.devices)]

    def mine(self, x: Any, device: int, axis: int) -> Any:
        """What a device has of arrays that are split along an axis."""
        return jax.tree.map(lambda x: np.split(np.asarray(x), self.devices, axis)[device], x)

    def rows(self, rows: replay.Rows, device: int) -> replay.Rows:
        """The rows of a device, as its own buffer numbers them."""
        time, env = self.mine((rows.time, rows.env), device, -1)
        return replay.Rows(time, np.where(env < 0, -1, env - device * self.share))

    def change(self, function: Any, *args: Any, axis: int | None = None) -> None:
        self.whole = function(self.whole, *args)
        for i, part in enumerate(self.parts):
            own = [self.rows(x, i) if isinstance(x, replay.Rows) else self.mine(x, i, axis) for x in args]
            self.parts[i] = function(part, *own)

    def check(self, got: Any, each: Any, axis: int, scale: float = 1.0) -> None:
        """Compare what the whole gave with what the devices' own buffers gave, bit for bit."""
        for i, mine in enumerate(each):
            there = self.mine(got, i, axis) if not isinstance(got, replay.Sample) else self.sample_of(got, i, axis)
            if isinstance(mine, replay.Sample):
                mine = mine.replace(probability=mine.probability / self.devices)
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(there), jax.device_get(mine))

    def sample_of(self, got: replay.Sample, device: int, axis: int) -> replay.Sample:
        there = self.mine(got.replace(rows=None), device, axis)
        return there.replace(rows=self.rows(got.rows, device))


def filled(name: str, sampler: str = "uniform", **settings: Any) -> Pair:
    """A pair whose ring went round, with void rows, and other numbers of rows on each device."""
    pair = Pair(name, sampler=SAMPLERS[sampler], **settings)
    rng = np.random.default_rng(1)
    mask = rng.random((SLOTS, pair.num_envs)) < np.linspace(0.6, 1.0, pair.num_envs)
    pair.change(replay.extend, steps(1, SLOTS, pair.num_envs), mask, axis=1)
    pair.change(replay.append, jax.tree.map(lambda x: x[0], steps(2, 1, pair.num_envs)), axis=0)
    return pair


@case(*MESHES)
def it_holds_what_the_buffers_of_a_share_hold(name: str) -> None:
    pair = filled(name)
    size = sum(int(replay.size(part)) for part in pair.parts)
    assert int(replay.size(pair.whole)) == size
    assert int(replay.num_episodes(pair.whole)) == sum(int(replay.num_episodes(part)) for part in pair.parts)
    for field in ("held", "size", "void", "removed", "lost", "capacity", "open_episodes"):
        each = [int(getattr(replay.stats(part), field)) for part in pair.parts]
        assert int(getattr(replay.stats(pair.whole), field)) == sum(each), field
    assert int(replay.stats(pair.whole).time) == SLOTS + 1
    pair.check(replay.episodes(pair.whole), map(replay.episodes, pair.parts), 1)
    rows, mask = replay.rows(pair.whole)
    assert np.array_equal(np.asarray(rows.time), np.sort(np.asarray(rows.time)))
    assert int(np.asarray(mask).sum()) == size
    got = replay.take(pair.whole, rows)
    for i, part in enumerate(pair.parts):
        of_part = np.asarray(rows.env) // pair.share == i
        own = replay.Rows(np.asarray(rows.time)[of_part], np.asarray(rows.env)[of_part] - i * pair.share)
        mine = replay.take(part, own)
        np.testing.assert_array_equal(np.asarray(got.mask)[of_part], mine.mask)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[of_part], y), got.data, mine.data)  # noqa: B023


@case(("four devices", "uniform"), ("four devices", "prioritized for a view"), (EXPLICIT, "prioritized"))
def it_draws_and_changes_what_the_buffers_of_a_share_do(names: tuple[str, str]) -> None:
    pair = filled(*names)
    batch, key = 4 * pair.devices, jax.random.key(3)
    keys = [jax.random.fold_in(key, i) for i in range(pair.devices)]
    for view in VIEWS:
        got = replay.sample(pair.whole, key, batch, view)
        pair.check(got, [replay.sample(p, k, 4, view) for p, k in zip(pair.parts, keys, strict=True)], 0)
        again = replay.take(pair.whole, got.rows, view)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.data), jax.device_get(got.data))
        anywhere = replay.take(pair.whole, replay.Rows(got.rows.time, got.rows.env), view)
        for x, y in zip(jax.tree.leaves(anywhere.replace(rows=None)), jax.tree.leaves(again.replace(rows=None))):
            np.testing.assert_array_equal(jax.device_get(x), jax.device_get(y))
    pair.change(replay.put, got.rows, {"reward": np.arange(batch, dtype=np.float32)}, axis=0)
    if "prioritized" in names[1]:
        pair.change(replay.set_priorities, got.rows, np.linspace(0.1, 2, batch).astype(np.float32), axis=0)
        own = [replay.priorities(part, pair.rows(got.rows, i)) for i, part in enumerate(pair.parts)]
        pair.check(replay.priorities(pair.whole, got.rows), own, 0)
        anywhere = replay.priorities(pair.whole, replay.Rows(got.rows.time, got.rows.env))
        np.testing.assert_array_equal(jax.device_get(anywhere), np.concatenate(own))
    first = jax.tree.map(lambda x: jnp.asarray(np.asarray(x).reshape(pair.devices, -1)[:, :1].ravel()), got.rows)
    pair.change(replay.remove, first.replace(axis=-1), axis=0)
    pair.change(replay.end_episodes, np.arange(pair.num_envs) % 2 == 0, axis=0)
    got = replay.sample(pair.whole, key, batch)
    pair.check(got, [replay.sample(p, k, 4) for p, k in zip(pair.parts, keys, strict=True)], 0)
    popped, parts = replay.pop(pair.whole, 3), [replay.pop(part, 3) for part in pair.parts]
    pair.check(popped[1], [batch for _, batch in parts], 1)
    assert int(replay.size(popped[0])) == sum(int(replay.size(part)) for part, _ in parts)
    episodes = replay.sample_episodes(pair.whole, key, 2 * pair.devices, 3, complete=False)
    whole = [replay.sample_episodes(p, k, 2, 3, complete=False) for p, k in zip(pair.parts, keys, strict=True)]
    np.testing.assert_array_equal(jax.device_get(episodes.mask), np.concatenate([x.mask for x in whole]))


@case(*list(MESHES)[:2])
def rows_and_priorities_anywhere_are_found_on_their_device(name: str) -> None:
    pair = filled(name, "prioritized")
    batch = 2 * pair.devices
    got = replay.sample(pair.whole, jax.random.key(0), batch).rows
    turned = replay.Rows(np.asarray(got.time)[::-1].copy(), np.asarray(got.env)[::-1].copy())
    rewards = np.arange(batch, dtype=np.float32)
    changed = replay.put(pair.whole, turned, {"reward": rewards})
    changed = replay.set_priorities(changed, turned, rewards)
    last = {(int(t), int(e)): r for t, e, r in zip(turned.time, turned.env, rewards, strict=True)}
    found = replay.take(changed, turned)
    expected = [last[int(t), int(e)] for t, e in zip(turned.time, turned.env, strict=True)]
    np.testing.assert_array_equal(jax.device_get(found.data.reward), expected)
    np.testing.assert_allclose(jax.device_get(replay.priorities(changed, turned)), expected, rtol=1e-5)
    assert int(replay.size(replay.remove(changed, turned))) == int(replay.size(changed)) - len(last)


@case(("four devices", "uniform"), ("four devices", "prioritized"), (EXPLICIT, "uniform"))
def probabilities_are_true_where_devices_hold_different_numbers_of_rows(names: tuple[str, str]) -> None:
    name, sampler = names
    pair = Pair(name, sampler=SAMPLERS[sampler])
    mask = np.arange(SLOTS)[:, None] < 1 + 2 * (np.arange(pair.num_envs) // pair.share)[None]
    pair.change(replay.extend, steps(1, SLOTS, pair.num_envs), mask, axis=1)
    rows, held = replay.rows(pair.whole)
    if sampler == "prioritized":
        pair.whole = replay.set_priorities(pair.whole, rows, 1 + np.arange(rows.time.shape[0], dtype=np.float32) % 3)
    draws = 400_000 // pair.devices * pair.devices  # false alarms: 1e-6
    batch = jax.jit(replay.sample, static_argnums=2)(pair.whole, jax.random.key(5), draws)
    index = lambda time, env: np.asarray(time) * pair.num_envs + np.asarray(env)  # noqa: E731
    count = np.bincount(index(batch.rows.time, batch.rows.env), minlength=SLOTS * pair.num_envs)
    expected = np.zeros(SLOTS * pair.num_envs)
    taken = replay.take(pair.whole, rows)
    held = np.asarray(held)
    expected[index(rows.time, rows.env)[held]] = np.asarray(taken.probability)[held]
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    assert count[expected == 0].sum() == 0
    kept = expected > 0
    assert stats.chisquare(count[kept], draws * expected[kept] / expected[kept].sum()).pvalue > 1e-6
    np.testing.assert_allclose(
        jax.device_get(batch.probability), expected[index(batch.rows.time, batch.rows.env)], rtol=1e-4
    )


@case(
    ("four devices", "distinct"),
    ("four devices", "prioritized"),
    (EXPLICIT, "prioritized"),
    ("two of four devices", "uniform"),
)
def no_device_asks_another(names: tuple[str, str]) -> None:
    pair = Pair(names[0], sampler=SAMPLERS[names[1]])
    envs, batch = pair.num_envs, 4 * pair.devices
    over_envs, key = NamedSharding(pair.mesh, P(None, "data")), jax.random.key(0)
    block = jax.tree.map(lambda x: jax.device_put(x, over_envs), steps(1, 3, envs))

    def step(buffer: replay.Buffer, block: Any, key: Any) -> Any:
        buffer = replay.extend(buffer, block)
        buffer = replay.append(buffer, jax.tree.map(lambda x: x[0], block))
        out = replay.sample(buffer, key, batch, views.n_step(2, 0.9))
        buffer = replay.put(buffer, out.rows, {"reward": out.data.reward})
        if "prioritized" in names[1]:
            buffer = replay.set_priorities(buffer, out.rows, out.data.reward)
        buffer, popped = replay.pop(buffer, 2)
        return buffer, out, popped, replay.take(buffer, out.rows)

    compiled = jax.jit(step, donate_argnums=0).lower(pair.whole, block, key).compile()
    assert not COLLECTIVE.findall(compiled.as_text())


@case(("four devices", "distinct"), ("four devices", "prioritized"), (EXPLICIT, "uniform"))
def a_step_writes_in_place_on_every_device(names: tuple[str, str]) -> None:
    name, sampler = names
    pair = Pair(name, sampler=SAMPLERS[sampler])
    block = jax.device_put(steps(1, 1, pair.num_envs), NamedSharding(pair.mesh, P(None, "data")))

    def step(buffer: replay.Buffer, key: Any) -> Any:
        buffer = replay.append(buffer, jax.tree.map(lambda x: x[0], block))
        out = replay.sample(buffer, key, 2 * pair.devices)
        return (replay.set_priorities(buffer, out.rows, out.data.reward) if sampler == "prioritized" else buffer), out

    assert replay.check_in_place(step, replay.resize(pair.whole, 4096 * pair.num_envs), jax.random.key(0))


PROGRAMS = [(does, kind, n) for does in ("append", "append; sample") for kind in ("episodes", "items") for n in (1, 2)]


@case(*PROGRAMS, ("append; sample", "episodes, prioritized", 2))
def a_scan_copies_no_ring(what: tuple[str, str, int]) -> None:
    """Temporary memory is the same at any capacity, and what is held is what came in, also for seeds under vmap."""
    does, kind, seeds = what
    mesh, num_envs, lead = mesh_of("four devices"), 8, (2,) * (seeds > 1)
    block = {"x": np.zeros((3, num_envs, 5), np.float32)} if kind == "items" else steps(1, 3, num_envs)
    create = functools.partial(
        replay.create,
        jax.tree.map(lambda x: x[0, 0], block),
        num_envs=num_envs,
        sharding=NamedSharding(mesh, P("data")),
        sampler=SAMPLERS["prioritized" if "prioritized" in kind else "uniform"],
    )

    def run(buffer: replay.Buffer, key: Any) -> Any:
        def step(buffer: replay.Buffer, step: Any) -> Any:
            buffer = replay.append(buffer, step)
            return buffer, replay.sample(buffer, key, 16).data if "sample" in does else None

        return jax.lax.scan(step, buffer, block)

    temporary = []
    for slots in (5_000, 20_000):
        made = jax.eval_shape(functools.partial(create, capacity=slots * num_envs))
        laid = NamedSharding(mesh, P(*[None] * len(lead), "data"))
        buffer = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=laid), made)  # noqa: B023
        keys = jax.random.split(jax.random.key(0), lead)
        compiled = jax.jit(jax.vmap(run) if lead else run, donate_argnums=0).lower(buffer, keys).compile()
        analysis = compiled.memory_analysis()
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(buffer)) // mesh.size
        assert analysis.alias_size_in_bytes >= held
        temporary.append(analysis.temp_size_in_bytes)
    assert temporary[1] - temporary[0] < 1024, temporary


@case()
def a_number_over_all_costs_one_reduction_of_scalars() -> None:
    pair = filled("four devices")
    for function in (replay.size, replay.num_episodes):
        text = jax.jit(function).lower(pair.whole).compile().as_text()
        assert set(COLLECTIVE.findall(text)) == {"all-reduce"}
        assert re.search(r"s32\[\] all-reduce|s32\[\] %?all-reduce", text.replace("{}", "")), text


@case(*list(MESHES)[:3])
def it_is_born_split(name: str) -> None:
    mesh, num_envs = mesh_of(name), MESHES[name][2]
    sharding = NamedSharding(mesh, P("data"))
    create = functools.partial(
        replay.create, one_step(), SLOTS * num_envs, num_envs, sharding=sharding, sampler=samplers.prioritized()
    )
    for x in jax.tree.leaves(create()):
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), x.ndim)
        assert all(shard.data.nbytes * mesh.shape["data"] == x.nbytes for shard in x.addressable_shards)
    analysis = jax.jit(create).lower().compile().memory_analysis()
    part = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(create))) // mesh.shape["data"]
    assert analysis.temp_size_in_bytes + analysis.output_size_in_bytes < 1.1 * part + 4096


@case("uniform", "prioritized")
def a_device_holds_the_arrays_of_a_buffer_by_itself(sampler: str) -> None:
    """But for scalars, which have an axis of the devices; apart, the buffers of a share are there one by one."""
    pair = filled("four devices", sampler)
    assert (replay.capacity(pair.whole), pair.whole.num_slots) == (SLOTS * pair.num_envs, SLOTS)
    for i, shards in enumerate(zip(*(x.addressable_shards for x in jax.tree.leaves(pair.whole)), strict=True)):
        for shard, own in zip(shards, jax.tree.leaves(pair.parts[i]), strict=True):
            np.testing.assert_array_equal(shard.data, own if own.ndim else own[None])
    members = joining.apart(pair.whole)
    for i, part in enumerate(pair.parts):
        jax.tree.map(lambda x, own: np.testing.assert_array_equal(x[i], own), jax.device_get(members), part)  # noqa: B023
    jax.tree.map(np.testing.assert_array_equal, joining.together(members, pair.whole.stack), pair.whole)


@case()
def a_data_set_of_it_is_that_of_one_buffer() -> None:
    sharding = NamedSharding(mesh_of("four devices"), P("data"))
    made = [replay.create(one_step(), SLOTS * 8, 8, sharding=split) for split in (sharding, None)]
    got, expected = (replay.convert.to_numpy(replay.extend(buffer, steps(1, SLOTS + 3, 8))) for buffer in made)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@case()
def what_reads_a_single_buffer_refuses_it() -> None:
    whole = filled("four devices").whole
    with pytest.raises(TypeError, match="conversion: not for a buffer that is split over a mesh"):
        read_table(whole, views.transition())
    with pytest.raises(ValueError, match="n: 9 slices were asked for, and the ring holds at most 8"):
        replay.pop(whole, SLOTS + 1)


@case(*list(MESHES)[:2])
def it_is_the_state_of_a_training_step(name: str) -> None:
    """Data-parallel: parameters replicated, a batch split, gradients averaged by the compiler; scanned and donated."""
    pair = filled(name)
    batch = 4 * pair.devices
    block = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(pair.mesh, P(None, "data"))), steps(3, 1, pair.num_envs)
    )

    def train_step(carry: Any, key: Any) -> Any:
        weight, buffer = carry
        buffer = replay.extend(buffer, block)
        got = replay.sample(buffer, key, batch)
        loss = lambda w: jnp.mean((got.data.observation * w - got.data.reward) ** 2)  # noqa: E731
        return (weight - 1e-9 * jax.grad(loss)(weight), buffer), jnp.max(replay.importance_weights(got, 0.5))

    train = jax.jit(lambda carry, keys: jax.lax.scan(train_step, carry, keys), donate_argnums=0)
    weight = jax.device_put(jnp.float32(0), NamedSharding(pair.mesh, P()))
    with jax.set_mesh(pair.mesh):
        (weight, pair.whole), most = train((weight, pair.whole), jax.random.split(jax.random.key(0), 3))
    assert float(weight) > 0
    np.testing.assert_array_equal(most, 1.0)
    assert int(replay.stats(pair.whole).time) == SLOTS + 4


@case()
def seeds_are_a_batch_of_buffers() -> None:
    pair = filled("four devices")
    two = jax.tree.map(lambda x: jnp.stack([x, x]), pair.whole)
    keys = jax.random.split(jax.random.key(0), 2)
    block = steps(4, 2, pair.num_envs)

    def work(buffer: replay.Buffer, key: Any) -> Any:
        buffer = replay.extend(buffer, block)
        return buffer, replay.sample(buffer, key, 8)

    got = jax.jit(jax.vmap(work))(two, keys)
    for i in range(2):
        one = jax.jit(work)(pair.whole, keys[i])
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(jax.device_get(x)[i], jax.device_get(y)), got, one)  # noqa: B023


@case()
def a_mixture_draws_of_buffers_on_one_mesh() -> None:
    online, offline = filled("four devices", "prioritized"), filled("four devices")
    both = replay.mixture([online.whole, offline.whole], [0.5, 0.5])
    batch = replay.sample(both, jax.random.key(0), 16)
    np.testing.assert_array_equal(np.asarray(batch.rows.source), np.tile([0, 0, 1, 1], 4))
    again = replay.take(both, batch.rows)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.data), jax.device_get(batch.data))
    text = jax.jit(lambda b, k: replay.sample(b, k, 16)).lower(both, jax.random.key(0)).compile().as_text()
    assert not COLLECTIVE.findall(text)
    written = replay.set_priorities(online.whole, batch.rows.of(0), jnp.full(16, 7.0))
    mine = np.asarray(batch.rows.source) == 0
    np.testing.assert_allclose(np.asarray(replay.priorities(written, batch.rows.of(0)))[mine], 7.0, rtol=1e-5)
    elsewhere = replay.create(one_step(), 8, 2)
    with pytest.raises(ValueError, match="one mesh"):
        replay.mixture([online.whole, elsewhere], [0.5, 0.5])


@case()
def what_cannot_be_split_is_refused_by_name() -> None:
    mesh = mesh_of("four devices")
    sharding = NamedSharding(mesh, P("data"))
    with pytest.raises(
        ValueError, match="num_envs: 6 is not a multiple of the 4 devices of the mesh; the nearest that are: 4 or 8"
    ):
        replay.create(one_step(), 60, 6, sharding=sharding)
    for spec in (P(), P(None), P(()), P(None, "data")):
        with pytest.raises(TypeError, match="sharding: expected NamedSharding"):
            replay.create(one_step(), 64, 8, sharding=NamedSharding(mesh, spec))
    with pytest.raises(ValueError, match="num_envs: a single stream"):
        replay.create(one_step(), 64, sharding=sharding)
    whole = filled("four devices").whole
    with pytest.raises(ValueError, match=r"batch_size: 6 is not a multiple of the 4 devices.*4 or 8"):
        replay.sample(whole, jax.random.key(0), 6)
    for call in (
        lambda: replay.nth(whole, 0),
        lambda: replay.newest(whole, 2),
        lambda: replay.subset(whole, replay.rows(whole)[0]),
        lambda: replay.split(whole, jax.random.key(0), [0.5, 0.5]),
    ):
        with pytest.raises(TypeError, match="split over a mesh"):
            call()
    with pytest.raises(ValueError, match="member"):
        replay.append(whole, jax.tree.map(lambda x: x[0], steps(0, 1, 2)), member=0)


@case()
def episode_data_goes_to_the_device_of_its_env() -> None:
    pair = filled("four devices")
    env, goals = jnp.arange(pair.num_envs), jnp.arange(pair.num_envs) * 10
    whole = replay.set_episode_data(pair.whole, env, {"goal": goals})
    newest = np.asarray(replay.episodes(whole).number).max(axis=0)
    data, number = np.asarray(replay.episode_data(whole)["goal"]), np.asarray(replay.episodes(whole).number)
    for e in range(pair.num_envs):
        np.testing.assert_array_equal(data[number[:, e] == newest[e], e], 10 * e)
    batch = replay.sample(whole, jax.random.key(1), 8, views.with_episode())
    chex.assert_shape(batch.data.episode_data["goal"], (8,))


@pytest.mark.parametrize("name", cases.named)
def test_over_a_mesh(name: str) -> None:
    cases.check(name, __name__)


if __name__ == "__main__":
    cases.main()
