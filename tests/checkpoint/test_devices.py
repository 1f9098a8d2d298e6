"""Buffers split over devices: what four saved loads on any number, the same rows bit for bit. All in one process."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxreplay as replay
import tests.conftest  # noqa: F401  (JAX's settings of all tests, also by itself)
from jaxreplay.checkpoint import pieces
from tests.extras import library
from tests.test_laws import assert_same
from tests.test_restoring import PRIORITIZED
from tests.test_shard_map import one_step, steps

library("xxhash")
DEVICES, MEMBERS = 8, 8
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
cases: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    cases[function.__name__.replace("_", " ")] = function
    return function


@functools.cache
def sharding(devices: int, spec: tuple[Any, ...] = ("data",), kind: AxisType = AUTO) -> NamedSharding:
    mesh = jax.make_mesh((devices,), ("data",), (kind,), devices=jax.devices()[:devices])
    return NamedSharding(mesh, PartitionSpec(*spec))


def make(capacity: int = 16) -> replay.Buffer:
    return jax.vmap(lambda _: replay.create(one_step(), capacity, 2, sampler=PRIORITIZED))(jnp.arange(MEMBERS))


@functools.cache
def stack() -> replay.Buffer:
    return jax.vmap(replay.extend)(make(), steps(11, (MEMBERS,)))


def shapes(buffer: Any, where: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), buffer)


def on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def names(folder: str) -> set[str]:
    return set(os.listdir(pathlib.Path(folder, "pieces")))


@case
def what_four_devices_saved_loads_on_any_number_of_them() -> None:
    with tempfile.TemporaryDirectory() as folder:
        replay.checkpoint.save(folder, jax.device_put(stack(), sharding(4)))
        assert {name.split(".")[1].split("-")[0] for name in names(folder)} == {
            "0",
            "2",
            "4",
            "6",
        }  # of two members each
        for devices in (1, 2, 4, 8):
            loaded = replay.checkpoint.load(folder, shapes(stack(), sharding(devices)))
            assert_same(on_host(loaded), on_host(stack()))
            for x in jax.tree.leaves(loaded):
                assert x.sharding == sharding(devices)
        replicated = replay.checkpoint.load(folder, jax.device_put(stack(), sharding(4, ())))
        assert_same(on_host(replicated), on_host(stack()))
        assert_same(replay.checkpoint.load(folder, jax.eval_shape(lambda: stack())), stack())


@case
def what_one_device_saved_loads_on_four_and_goes_on_there() -> None:
    with tempfile.TemporaryDirectory() as folder:
        replay.checkpoint.save(folder, stack())
        loaded = replay.checkpoint.load(folder, jax.device_put(make(), sharding(4)))
        more = steps(2, (MEMBERS,))
        assert_same(on_host(jax.vmap(replay.extend)(loaded, more)), on_host(jax.vmap(replay.extend)(stack(), more)))


@case
def pieces_that_are_split_along_other_axes_are_put_together() -> None:
    pieces.PIECE = 96
    array = jnp.arange(16 * 24 * 3, dtype=jnp.int16).reshape(16, 24, 3)
    for save_spec, load_spec in (((None, "data"), ("data",)), (("data",), (None, "data")), ((), (None, "data"))):
        with tempfile.TemporaryDirectory() as folder:
            replay.checkpoint.save(folder, {"x": jax.device_put(array, sharding(4, save_spec))})
            like = {"x": jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding(8, load_spec))}
            assert_same(on_host(replay.checkpoint.load(folder, like)), {"x": np.asarray(array)})


@case
def a_second_save_writes_the_members_that_changed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        split = jax.device_put(stack(), sharding(8))
        replay.checkpoint.save(folder, split)
        before = names(folder)
        changed = jax.tree.map(lambda x: x.at[3].set(x[2]), stack())
        replay.checkpoint.save(folder, jax.device_put(changed, sharding(8)))
        assert {name.split(".")[1].split("-")[0] for name in names(folder) - before} == {"3"}
        assert_same(on_host(replay.checkpoint.load(folder, split)), on_host(changed))


@case
def a_buffer_split_over_four_devices_loads_on_any_number_of_them() -> None:
    example = jax.tree.map(lambda x: x[0, 0], steps(1))

    def make(devices: int, sampler: Any) -> replay.Buffer:
        lie = {} if devices == 1 else {"sharding": sharding(devices)}
        return replay.create(example, 16 * 8, 8, sampler=sampler, max_episodes=8 * 4, **lie)

    view = replay.views.n_step(2, 0.9, complete=True)
    for sampler in (replay.samplers.uniform(), replay.samplers.prioritized(view=view)):
        block = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *[steps(21)] * 4)
        saved, more = replay.extend(make(4, sampler), block), jax.tree.map(lambda x: x[:3], block)
        rows, _ = replay.rows(saved)
        if "Prioritized" in type(sampler).__name__:
            saved = replay.set_priorities(saved, rows, jnp.arange(1.0, 1 + rows.time.shape[0], dtype=jnp.float32))
        with tempfile.TemporaryDirectory() as folder:
            replay.checkpoint.save(folder, saved)
            for devices in (1, 2, 4, 8):
                like = make(devices, sampler)
                loaded = replay.checkpoint.load(folder, jax.eval_shape(lambda: like) if devices == 1 else like)  # noqa: B023
                for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(like), strict=True):
                    assert x.shape == y.shape
                    assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
                for left, right in ((saved, loaded), (replay.extend(saved, more), replay.extend(loaded, more))):
                    every, held = on_host(replay.rows(left))
                    got = replay.take(right, every)
                    assert_same(held, on_host(got.mask))
                    assert_same(on_host(replay.take(left, every).data), on_host(got.data))
                    assert int(replay.size(left)) == int(replay.size(right))
                    assert_same(on_host(replay.episodes(left)), on_host(replay.episodes(right)))
                    if (
                        "Prioritized" in type(sampler).__name__ and left is saved
                    ):  # later each device has its own largest
                        assert_same(on_host(replay.priorities(left, every)), on_host(replay.priorities(right, every)))
                batch = replay.sample(loaded, jax.random.key(0), 64, view)
                assert bool(jnp.all(batch.mask))


@case
def a_mesh_of_explicit_axes_and_a_mesh_of_one_device_are_as_any() -> None:
    """Loaded from and to each: as many devices or others, and another capacity."""
    example, block = (jax.tree.map(lambda x: x[0, 0], steps(1)), jax.tree.map(lambda x: x[:, [0, 1] * 4], steps(21)))
    one, two, four = (sharding(n, ("data",), kind) for n, kind in ((1, AUTO), (2, EXPLICIT), (4, EXPLICIT)))
    sampler = replay.samplers.prioritized()

    def make(where: NamedSharding | None, slots: int = 16) -> replay.Buffer:
        return replay.create(example, slots * 8, 8, sampler=sampler, max_episodes=32, sharding=where)

    plain = replay.extend(make(None), block)
    rows, _ = replay.rows(plain)
    held = replay.take(plain, rows)
    for where in (one, four):
        saved = replay.extend(make(where), block)
        with tempfile.TemporaryDirectory() as folder:
            replay.checkpoint.save(folder, saved)
            for like in (make(None), make(one), make(two), make(four), make(four, 20)):
                loaded = replay.checkpoint.load(folder, like)
                assert_same(on_host(replay.take(loaded, rows).data), on_host(held.data))
                assert [x.sharding for x in jax.tree.leaves(loaded)] == [x.sharding for x in jax.tree.leaves(like)]
                replay.append(loaded, jax.tree.map(lambda x: x[0], block))


@case
def another_capacity_loads_onto_the_devices_of_like() -> None:
    with tempfile.TemporaryDirectory() as folder:
        replay.checkpoint.save(folder, jax.device_put(stack(), sharding(4)))
        loaded = replay.checkpoint.load(folder, shapes(jax.eval_shape(lambda: make(24)), sharding(2)))
        for x in jax.tree.leaves(loaded):
            assert x.sharding == sharding(2)
        resize = jax.vmap(lambda b: replay.resize(b, 24, loaded.rings.num_records * 2))
        assert_same(on_host(loaded), on_host(resize(stack())))


@case
def keys_that_are_split_come_back() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = jax.device_put(jax.random.split(jax.random.key(0), 8), sharding(4))
        replay.checkpoint.save(folder, {"keys": keys})
        loaded = replay.checkpoint.load(folder, {"keys": jax.device_put(keys, sharding(2))})["keys"]
        assert loaded.sharding == sharding(2)
        assert_same(jax.random.key_data(loaded), jax.random.key_data(keys))


@case
def orbax_restores_what_four_devices_saved_on_two() -> None:
    ocp = library("orbax.checkpoint")
    saved = {"buffer": jax.device_put(stack(), sharding(4)), "key": jax.random.key(3)}
    like = {"buffer": shapes(stack(), sharding(2)), "key": jax.random.key(0)}
    for kind in ("Standard", "PyTree"):
        with tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(folder) as manager:
            manager.save(0, args=getattr(ocp.args, f"{kind}Save")(saved))
            manager.wait_until_finished()
            arguments = {"restore_args": ocp.checkpoint_utils.construct_restore_args(like)} if kind == "PyTree" else {}
            restored = manager.restore(0, args=getattr(ocp.args, f"{kind}Restore")(like, **arguments))
            assert jax.tree.structure(restored) == jax.tree.structure(saved)
            assert_same(on_host(restored["buffer"]), on_host(stack()))
            assert_same(restored["key"], saved["key"])
            assert all(x.sharding == sharding(2) for x in jax.tree.leaves(restored["buffer"]))


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """The error of each case, "" for none."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", __name__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", cases)
def test_it_holds_on_several_devices(name: str, errors: dict[str, str]) -> None:
    assert not errors[name], errors[name]


def _run() -> dict[str, str]:
    assert jax.device_count() == DEVICES
    found = {}
    for name, function in cases.items():
        try:
            function()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    return found


if __name__ == "__main__":
    print(json.dumps(_run()))
