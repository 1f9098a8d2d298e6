"""The laws of a buffer hold where it is split over a mesh, against the same plain model, in every dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreplay as replay
from tests.devices import Cases
from tests.model import Model, make_buffer
from tests.test_laws import assert_same, check_all, operate, scan_appends, stream

NUM_SLOTS, NUM_RECORDS, BATCH = 4, 2, 12
MESHES = {  # devices, types of the axis, envs
    "four devices": (4, AxisType.Auto, 8),
    "three devices, explicit axes": (3, AxisType.Explicit, 9),
}
KINDS = (
    "extend",
    "put",
    "append",
    "remove",
    "end",
    "extend",
    "pop",
    "put",
    "append",
    "clear",
    "extend",
    "end",
    "append",
)
cases = Cases(4)
case = cases.case


def split_buffer(name: str) -> replay.Buffer:
    devices, kind, num_envs = MESHES[name]
    sharding = NamedSharding(jax.make_mesh((devices,), ("data",), axis_types=(kind,)), P("data"))
    return make_buffer(NUM_SLOTS, num_envs, NUM_RECORDS, sharding=sharding)


@case(*MESHES)
def what_is_read_is_what_the_model_holds(name: str) -> None:
    buffer = split_buffer(name)
    model = Model(NUM_SLOTS, MESHES[name][2], NUM_RECORDS)
    for seed, kind in enumerate(KINDS):
        buffer = operate(buffer, model, (kind, seed, 0.3, 0.3, 3))
        check_all(buffer, model)


@case(*[(name, length) for name in MESHES for length in (1, NUM_SLOTS, 3 * NUM_SLOTS + 1)])
def extend_equals_folding_append(what: tuple[str, int]) -> None:
    """One after the other, and in a scan."""
    name, length = what
    steps, mask = stream(length, MESHES[name][2], 2)
    buffer = replay.extend(split_buffer(name), *stream(3, MESHES[name][2], 1))
    extended = replay.extend(buffer, steps, mask)
    scanned = scan_appends(buffer, steps, mask)
    folded = buffer
    for i in range(length):
        folded = replay.append(folded, jax.tree.map(lambda x, i=i: x[i], steps), mask[i])
    assert_same(jax.device_get(scanned), jax.device_get(folded))
    rows, _ = replay.rows(extended)
    for read in (lambda buffer: replay.take(buffer, rows), replay.episodes, replay.stats):
        assert_same(jax.device_get(read(extended)), jax.device_get(read(folded)))


@case(*MESHES)
def vmap_over_buffers_changes_no_result(name: str) -> None:
    num_envs = MESHES[name][2]
    streams = [stream(NUM_SLOTS + 3, num_envs, seed) for seed in range(2)]
    rows = [
        replay.Rows(*np.random.default_rng(s).integers(0, [NUM_SLOTS + 3, num_envs], (4, 2), np.int32).T)
        for s in range(2)
    ]
    keys = jax.random.split(jax.random.key(0))
    buffer = split_buffer(name)

    def life(stream: Any, rows: replay.Rows, key: jax.Array) -> Any:
        after = replay.extend(scan_appends(buffer, *jax.tree.map(lambda x: x[:4], stream)), *stream)
        after = replay.put(after, rows, {"reward": jnp.arange(4.0), "obs": {"vector": jnp.ones((4, 3), jnp.bfloat16)}})
        after, popped = replay.pop(replay.remove(after, rows), 1)
        everything = replay.take(after, replay.rows(after)[0])
        return after, popped, everything, replay.sample(after, key, BATCH), replay.stats(after), replay.episodes(after)

    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    together = jax.device_get(jax.jit(jax.vmap(life))(stack(streams), stack(rows), keys))
    jitted = jax.jit(life)
    for i, args in enumerate(zip(streams, rows, keys)):
        assert_same(jax.tree.map(lambda x, i=i: x[i], together), jax.device_get(jitted(*args)))


@case("three devices, explicit axes")
def the_same_key_gives_the_same_batch(name: str) -> None:
    """Jitted or not, and whether or not a mesh is set."""
    buffer = replay.extend(split_buffer(name), *stream(3, MESHES[name][2], 1))
    mesh = jax.tree.leaves(buffer)[0].sharding.mesh
    drawn = [replay.sample(buffer, jax.random.key(1), BATCH)]
    drawn.append(jax.jit(replay.sample, static_argnums=2)(buffer, jax.random.key(1), BATCH))
    with jax.set_mesh(mesh):
        drawn.append(jax.jit(replay.sample, static_argnums=2)(buffer, jax.random.key(1), BATCH))
    for other in drawn[1:]:
        assert_same(jax.device_get(other), jax.device_get(drawn[0]))
    again = replay.sample(buffer, jax.random.key(2), BATCH)
    assert not np.array_equal(jax.device_get(again.rows.env), jax.device_get(drawn[0].rows.env))


@case(*MESHES)
def a_wrong_step_is_refused_by_path_and_leaves_the_buffer_alone(name: str) -> None:
    num_envs = MESHES[name][2]
    buffer = replay.extend(split_buffer(name), *stream(3, num_envs, 1))
    steps, mask = stream(3, num_envs, 2)
    wrong_dtype = {**steps, "reward": steps["action"]}
    wrong_shape = {**steps, "obs": {**steps["obs"], "vector": steps["obs"]["vector"][..., :2]}}
    missing = {path: x for path, x in steps.items() if path != "action"}
    for bad, words in [(wrong_dtype, "reward.*float32"), (wrong_shape, r"obs.*vector"), (missing, "action")]:
        for call in (replay.extend, jax.jit(replay.extend)):
            with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
                call(buffer, bad, mask)
    fewer = jax.tree.map(lambda x: x[:, :-1], steps)
    with pytest.raises(ValueError, match=rf"\b{num_envs}\b"):
        replay.extend(buffer, fewer)
    assert int(replay.stats(buffer).time) == 3


@pytest.mark.parametrize("name", cases.named)
def test_over_a_mesh(name: str) -> None:
    cases.check(name, __name__)


if __name__ == "__main__":
    cases.main()
