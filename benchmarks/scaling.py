"""`JAX_PLATFORMS=cpu python -m benchmarks scaling`: weak scaling, a fixed share for each device.

A step of this library, and of flashbax, appends one step of every env and samples a batch. It is compiled for more and
more devices, for a TPU v5e where its compiler is installed, and the table says what a device has and does: it stays the
same where no device waits for another. It is run on 1, 2 and 4 devices of a CPU, which share its cores: past these,
more devices take more time.
flashbax knows no mesh; its buffers are run within `jax.shard_map`, one on each device. The table is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxreplay as replay
from benchmarks import program_list, programs

ENVS, SLOTS, BATCH = 32, 2**12, 256  # of each device
TOPOLOGIES = {4: "v5e:2x2x1", 16: "v5e:4x4x1", 64: "v5e:8x8x1"}
RUN_ON = (1, 2, 4)
STEPS = 200
SPLIT = PartitionSpec("data")


def mesh_of(devices: Any) -> Mesh:
    return Mesh(np.array(devices).reshape(-1), ("data",), axis_types=(AxisType.Auto,))


def of_jaxreplay(mesh: Mesh) -> tuple[Callable[[], Any], Callable[..., Any], Any]:
    """Make what creates the state, the step, and one step of every env."""
    envs = ENVS * mesh.size
    example = program_list.transition(jnp.zeros(4))
    sharding = NamedSharding(mesh, SPLIT)

    def step(buffer: replay.Buffer, steps: Any, key: jax.Array) -> Any:
        buffer = replay.append(buffer, steps)
        return buffer, replay.sample(buffer, key, BATCH * mesh.size).data

    return lambda: replay.create(example, SLOTS * envs, envs, sharding=sharding), step, example


def of_flashbax(mesh: Mesh) -> tuple[Callable[[], Any], Callable[..., Any], Any]:
    import flashbax

    example = {"obs": jnp.zeros(4), "action": jnp.int32(0), "reward": jnp.float32(0), "done": jnp.zeros((), jnp.bool_)}
    own = flashbax.make_flat_buffer(SLOTS * ENVS, BATCH, BATCH, add_batch_size=ENVS)

    def init() -> Any:
        return jax.tree.map(lambda x: x[None], own.init(example))

    def step(state: Any, steps: Any, key: jax.Array) -> Any:
        def on_device(state: Any, steps: Any, key: jax.Array) -> Any:
            state = own.add(jax.tree.map(lambda x: x[0], state), steps)
            batch = own.sample(state, jax.random.fold_in(key, jax.lax.axis_index("data")))
            return jax.tree.map(lambda x: x[None], state), batch.experience

        specs = (SPLIT, SPLIT, PartitionSpec())
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)(state, steps, key)

    begin = jax.shard_map(init, mesh=mesh, in_specs=(), out_specs=SPLIT, check_vma=False)
    return jax.jit(begin), step, example


CONTESTANTS = {"jaxreplay": of_jaxreplay, "flashbax": of_flashbax}


def lowered(make: Any, mesh: Mesh) -> Any:
    """Lower a donated step for devices that need not be there."""
    begin, step, example = make(mesh)
    split, everywhere = NamedSharding(mesh, SPLIT), NamedSharding(mesh, PartitionSpec())
    place = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)  # noqa: E731
    state = jax.tree.map(lambda x: place(x, split), jax.eval_shape(begin))
    steps = jax.tree.map(lambda x: jax.ShapeDtypeStruct((ENVS * mesh.size, *x.shape), x.dtype, sharding=split), example)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(step, donate_argnums=0).lower(state, steps, place(key, everywhere))


def seconds_of(make: Any, mesh: Mesh) -> float:
    """Time a step: the median of many."""
    begin, step, example = make(mesh)
    split = NamedSharding(mesh, SPLIT)
    steps = jax.device_put(jax.tree.map(lambda x: jnp.stack([x] * ENVS * mesh.size), example), split)
    run, state, key, taken = jax.jit(step, donate_argnums=0), begin(), jax.random.key(0), []
    for _ in range(STEPS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(run(state, steps, key))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def rows(only_cpu: bool) -> Iterator[tuple[Any, ...]]:
    """Give the lines of the table."""
    meshes = {("cpu", n): (mesh_of(jax.devices("cpu")[:n])) for n in RUN_ON}
    if not only_cpu:
        from jax.experimental import topologies

        programs.device("tpu")
        for n, name in TOPOLOGIES.items():
            os.environ["TPU_ACCELERATOR_TYPE"] = f"v5litepod-{n}"
            meshes["TPU v5e", n] = mesh_of(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    for (platform, n), mesh in meshes.items():
        for name, make in CONTESTANTS.items():
            facts = programs.read(lowered(make, mesh))
            took = f"{1e6 * seconds_of(make, mesh):.0f}" if platform == "cpu" else ""
            said = sum(facts.collectives.values())
            moved = "" if platform == "cpu" else f"{facts.moved:.1f}"  # a CPU's compiler counts whole arrays
            yield platform, n, name, f"{facts.ring:.1f}", f"{facts.temp:.3f}", moved, said, took


def main(arguments: list[str]) -> int:
    """Compile, run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description="Weak scaling over devices.")
    parser.add_argument("--cpu", action="store_true", help="leave the TPU's compiler out")
    args = parser.parse_args(arguments)
    if jax.device_count("cpu") < max(RUN_ON):  # which is decided before JAX begins
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(RUN_ON)}"
        command = [sys.executable, "-m", "benchmarks", "scaling", *arguments]
        return subprocess.run(
            command, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, check=False
        ).returncode
    names = ("platform", "devices", "library", "MB a device", "temp MB", "moved MB", "collectives", "us a step")
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    try:
        for row in rows(args.cpu):
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
    except ImportError as error:
        print(error)
    return 0
