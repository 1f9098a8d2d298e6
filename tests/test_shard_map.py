"""Inside `jax.shard_map`, with its checks of what varies over the mesh: all cases in one process of four devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxreplay as replay
from jaxreplay import samplers, views
from tests.devices import Cases

DEVICES, ENVS, SLOTS, BATCH = 4, 2, 8, 6
SAMPLERS = {
    "uniform": samplers.uniform(),
    "distinct": samplers.uniform(replacement=False),
    "prioritized": samplers.prioritized(),
    "prioritized for a view": samplers.prioritized(view=views.n_step(3, 0.9, complete=True)),
}
VIEWS = {
    "transition": views.transition(),
    "n_step": views.n_step(3, 0.9),
    "complete n_step": views.n_step(3, 0.9, complete=True),
    "frame_stack": views.frame_stack(3),
    "sequence": views.sequence(2),
    "window": views.window(2, 1),
    "with episode": views.with_episode(),
}
cases = Cases(DEVICES)
case = cases.case


def steps(length: int, lead: tuple[int, ...] = ()) -> replay.Transition:
    """Steps `[*lead, L, E]` of episodes of four steps, all different."""
    number = jnp.arange(np.prod([*lead, length, ENVS]), dtype=jnp.float32).reshape(*lead, length, ENVS)
    ended = jnp.broadcast_to((jnp.arange(length) % 4 == 3)[:, None], number.shape)
    return replay.Transition(number, number.astype(jnp.int32), number, ended, jnp.zeros_like(ended), number + 0.5)


def one_step() -> replay.Transition:
    return jax.tree.map(lambda x: x[0, 0], steps(1))


def filled(sampler: Any = samplers.uniform(), platform: str | None = None) -> replay.Buffer:  # noqa: B008
    return replay.extend(replay.create(one_step(), SLOTS * ENVS, ENVS, sampler=sampler, platform=platform), steps(11))


def each(function: Callable[..., Any], in_specs: Any) -> Callable[..., Any]:
    """Run a function on every device, its results stacked along a new first axis, one device after the other."""

    def body(*arguments: Any) -> Any:
        return jax.tree.map(lambda x: x[None], function(*arguments))

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(body, mesh=mesh, in_specs=in_specs, out_specs=P("data")))


def keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), DEVICES)


def assert_same(got: Any, expected: list[Any]) -> None:
    """Compare what the devices gave with one result for each of them, bit for bit."""
    for i, one in enumerate(expected):
        mine = jax.tree.map(lambda x: x[i], got)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(mine), jax.device_get(one))


@case(*SAMPLERS)
def each_device_samples_a_replicated_buffer_with_its_own_key(sampler: str) -> None:
    buffer = filled(SAMPLERS[sampler])
    sample = functools.partial(replay.sample, batch_size=BATCH)
    got = each(lambda b, k: sample(b, k[0]), (P(), P("data")))(buffer, keys())
    assert_same(got, [jax.jit(sample)(buffer, key) for key in keys()])


@case(*SAMPLERS)
def each_device_appends_its_own_steps_in_a_scan_and_samples_them(sampler: str) -> None:
    stacked = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), filled(SAMPLERS[sampler]))
    rollouts = steps(5, (DEVICES,))

    def work(buffer: Any, rollout: Any, key: Any) -> Any:
        buffer = jax.lax.scan(lambda b, step: (replay.append(b, step), None), buffer, rollout)[0]
        buffer = replay.extend(buffer, rollout)
        return buffer, replay.sample(buffer, key, BATCH)

    got = each(lambda *x: work(*jax.tree.map(lambda leaf: leaf[0], x)), P("data"))(stacked, rollouts, keys())
    own = [jax.tree.map(lambda x: x[i], (stacked, rollouts, keys())) for i in range(DEVICES)]  # noqa: B023
    assert_same(got, [jax.jit(work)(*x) for x in own])


@case(*SAMPLERS)
def each_device_fills_a_buffer_that_it_creates(sampler: str) -> None:
    def work(rollout: Any, key: Any) -> Any:
        buffer = replay.create(one_step(), SLOTS * ENVS, ENVS, sampler=SAMPLERS[sampler])
        buffer = replay.append(replay.extend(buffer, rollout), jax.tree.map(lambda x: x[0], rollout))
        return replay.sample(buffer, key, BATCH)

    jax.eval_shape(
        each(lambda r, k: work(jax.tree.map(lambda x: x[0], r), k[0]), P("data")), steps(5, (DEVICES,)), keys()
    )


@case(*VIEWS)
def every_view_reads_and_every_source_draws(view: str) -> None:
    def work(buffer: Any, key: Any) -> Any:
        chosen = VIEWS[view]
        few = replay.subset(buffer, replay.sample(buffer, key, 3).rows)
        sources = [buffer, few, replay.concat([few, buffer]), replay.mixture([few, buffer], [0.3, 0.7])]
        drawn = [replay.sample(source, key, BATCH, chosen) for source in sources]
        rows = replay.epoch(buffer, key, BATCH, chosen)
        read = [replay.take(source, batch.rows, chosen) for source, batch in zip(sources, drawn, strict=True)]
        return drawn, read, rows, replay.take(buffer, rows, chosen), replay.sample_episodes(buffer, key, 2, 3)

    jax.eval_shape(each(lambda b, k: work(b, k[0]), (P(), P("data"))), filled(), keys())


@case("uniform", "prioritized for a view", "prioritized in tiles")
def rows_are_found_in_order_and_a_resized_buffer_goes_on(sampler: str) -> None:
    sampler, _, tiles = sampler.partition(" in ")
    one = filled(SAMPLERS[sampler], "tpu" if tiles else "cpu")
    stacked = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), one)

    def work(buffer: Any, index: Any) -> Any:
        buffer = replay.resize(buffer, 2 * SLOTS * ENVS)
        step = jax.tree.map(lambda x: x[0], steps(1))
        buffer = jax.lax.scan(lambda b, _: (replay.append(b, step), None), buffer, None, 2)[0]
        part, _ = replay.split(replay.subset(buffer, replay.newest(buffer, 9)), jax.random.key(0), [0.5, 0.5])
        found = [replay.nth(buffer, index), replay.nth(buffer, index, 0), replay.newest(buffer, 3)]
        return found, replay.nth(part, index), replay.pop(buffer, 3, complete=True)

    def work_on_first(buffer: Any, index: Any) -> Any:
        return work(jax.tree.map(lambda x: x[0], buffer), index)

    jax.eval_shape(each(work_on_first, (P("data"), P())), stacked, jnp.arange(3))
    jax.eval_shape(each(work, (P(), P("data"))), one, jnp.arange(DEVICES))


@case()
def frames_made_outside_and_split_are_a_scans_carry() -> None:
    frames = views.init_frames(views.frame_stack(3), jnp.float32(0), DEVICES * ENVS)
    shown = jnp.arange(5.0 * DEVICES * ENVS).reshape(5, DEVICES * ENVS)

    def work(frames: Any, shown: Any) -> Any:
        def body(frames: Any, now: Any) -> Any:
            frames = views.push_frames(frames, now, now % 7 == 0)
            return frames, frames.stacked

        return jax.lax.scan(body, frames, shown)[1]

    got = each(work, (P("data"), P(None, "data")))(frames, shown)
    whole = work(jax.tree.map(jnp.asarray, frames), shown).reshape(5, DEVICES, ENVS, 3)
    assert_same(got, [whole[:, i] for i in range(DEVICES)])


@case()
def steps_with_a_constant_end_are_appended_in_a_scan() -> None:
    example = {"x": jnp.float32(0), "next": jnp.float32(0)}
    constant = functools.partial(replay.create, next_of={"next": "x"}, episode_end=lambda step: jnp.bool_(False))
    buffer = constant(example, SLOTS)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), buffer)
    numbers = jnp.arange(5.0 * DEVICES).reshape(DEVICES, 5)
    rollout = {"x": numbers, "next": numbers + 1}

    def work(buffer: Any, rollout: Any) -> Any:
        return jax.lax.scan(lambda b, step: (replay.append(b, step), None), buffer, rollout)[0]

    got = each(lambda *x: work(*jax.tree.map(lambda leaf: leaf[0], x)), P("data"))(stacked, rollout)
    assert_same(got, [work(buffer, jax.tree.map(lambda x: x[i], rollout)) for i in range(DEVICES)])  # noqa: B023


@case(*SAMPLERS)
def whatever_changes_a_buffer_can_be_a_scans_body(sampler: str) -> None:
    stacked = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), filled(SAMPLERS[sampler]))

    def change(buffer: replay.Buffer, _: None) -> tuple[replay.Buffer, None]:
        rows = replay.rows(buffer)[0]
        buffer = replay.put(
            replay.append(buffer, jax.tree.map(lambda x: x[0], steps(1))), rows, {"reward": jnp.ones(SLOTS * ENVS)}
        )
        if "prioritized" in sampler:
            buffer = replay.set_priorities(buffer, rows, jnp.ones(SLOTS * ENVS))
        buffer = replay.pop(replay.remove(buffer, jax.tree.map(lambda x: x[:1], rows)), 1)[0]
        return replay.clear(replay.end_episodes(buffer)), None

    jax.eval_shape(
        each(lambda b: jax.lax.scan(change, jax.tree.map(lambda x: x[0], b), None, 2)[0], P("data")), stacked
    )


@pytest.mark.parametrize("name", cases.named)
def test_it_works_inside_shard_map(name: str) -> None:
    cases.check(name, __name__)


if __name__ == "__main__":
    cases.main()
