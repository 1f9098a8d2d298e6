"""`python -m benchmarks programs [platform ...]`: compile the library's programs, and flashbax's, and read them.

No device of the platform is needed, only its compiler: `pip install 'jaxreplay[tpu-compiler]'` for a TPU v5e, and
`'jaxreplay[gpu-compiler]'` for an H100 (Linux on x86-64). Each program is compiled at three capacities, the largest
beyond the TPU's on-chip memory, and a table is written to `benchmarks/results/programs/PLATFORM.md`:

ring: MB of the arguments. temp: MB of temporary memory; as large as the ring, it is a copy of the ring. moved: MB read
and written, by the TPU's compiler's own estimate, which counts the body of a loop once. launches: operations of the
outermost computation that run by themselves, on a GPU a kernel each. waits: loops and branches whose turns only the
data decide; at each the host of a GPU waits. loops: turns of the others. collectives: what devices say to one another.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

import jaxreplay as replay

RESULTS = pathlib.Path(__file__).parent / "results" / "programs"
BATCH = 256
FREE = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast", "copy-start", "copy-done", "after-all"}
INSTALL = {"tpu": "pip install 'jaxreplay[tpu-compiler]'", "gpu": "pip install 'jaxreplay[gpu-compiler]'"}
H100 = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "memory_bandwidth": 3352320000000,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 84929347584,
    "shared_memory_per_block_optin": 232448,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a compiled program would do; see the module's docstring."""

    ring: float
    temp: float
    moved: float
    launches: int
    waits: int
    loops: list[int]
    collectives: dict[str, int]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile, its abstract arguments, and whether the first of them is donated."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: bool


def compile_for(program: Program, sharding: Any) -> Facts:
    """Compile a program for a device, which need not be there, and read it."""

    def placed(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    arguments = jax.tree.map(placed, program.arguments)
    return read(jax.jit(program.function, donate_argnums=(0,) if program.donate else ()).lower(*arguments))


def read(lowered: Any) -> Facts:
    """Compile a program that was lowered, and read it."""
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    text, memory = compiled.as_text() or "", compiled.memory_analysis()
    assert memory is not None
    outermost = re.findall(r"^\s+(?:ROOT )?%\S+ = .*? ([a-z][a-z\-]*)\(", text.split("ENTRY", 1)[1], re.MULTILINE)
    turns = [line for line in text.splitlines() if re.search(r"[ )](while|conditional)\(", line)]
    counted = [_counts_turns(line, text) for line in turns]
    return Facts(
        ring=memory.argument_size_in_bytes / 1e6,
        temp=memory.temp_size_in_bytes / 1e6,
        moved=(compiled.cost_analysis() or {}).get("bytes accessed", 0.0) / 1e6,
        launches=sum(operation not in FREE for operation in outermost),
        waits=counted.count(None),
        loops=[n for n in counted if n is not None],
        collectives=dict(collections.Counter(re.findall(r"[ )]((?:all|collective|reduce-scatter)-?[\w\-]*)\(", text))),
        seconds=seconds,
    )


def _counts_turns(loop: str, text: str) -> int | None:
    """Return how many turns a loop takes, where the program says so; None where the data decide."""
    if known := re.search(r"known_trip_count\D+(\d+)", loop):
        return int(known[1])
    condition = re.search(r"condition=(%[\w.\-]+)", loop)
    if condition is None:
        return None
    body = text.split(f"\n{condition[1]} (", 1)[-1].split("\n}", 1)[0]
    limits = re.findall(r"s32\[\]\S* constant\((\d+)\)", body)
    only_counts = not re.search(r" (and|or|fusion|reduce|call|not)\(", body)
    return int(limits[0]) if only_counts and len(limits) == 1 else None


def device(platform: str) -> Any:
    """Return where programs are compiled for; raise ImportError naming the extra where the compiler is missing."""
    if platform == "cpu":
        return SingleDeviceSharding(jax.devices("cpu")[0])
    from jax.experimental import topologies

    if platform == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
        try:
            import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(f"the TPU's compiler is not installed: {INSTALL['tpu']}") from error
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2x1")
    else:
        try:
            import jax_plugins.xla_cuda12 as plugin  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(f"the GPU's compiler is not installed: {INSTALL['gpu']}") from error
        _name_cuda_without_a_device()
        plugin.initialize()
        topology = topologies.get_topology_desc(platform="cuda", target_config=_h100(), topology="1x1x1")
    return SingleDeviceSharding(topology.devices[0])


def _name_cuda_without_a_device() -> None:
    """Let JAX compile for CUDA where it finds no device of it, which it asks for by the platform's name."""
    from jax._src import xla_bridge

    known = xla_bridge.canonicalize_platform
    jax.config.update("jax_platforms", "cpu")  # what runs, runs here
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # of a driver, which is not there
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"

    def named(platform: str) -> str:
        try:
            return known(platform)
        except RuntimeError:
            return "cuda"

    xla_bridge.canonicalize_platform = named


def _h100() -> str:
    limits = "\n".join(f"{name}: {value}" for name, value in H100.items())
    return (
        f"gpu_device_info {{\n{limits}\ncuda_compute_capability {{ major: 9 }}\n}}\n"
        'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 7 }\nruntime_version { major: 12 minor: 8 }\n'
        'device_description_str: "NVIDIA H100 80GB HBM3"\n'
    )


SMALL = (jnp.zeros(4), 128, (2**16, 2**20, 2**24))
FRAMES = (jnp.zeros((84, 84), jnp.uint8), 16, (2**12, 2**16, 2**18))


def transition(observation: Any) -> replay.Transition:
    """One step with such an observation."""
    flag = jnp.zeros((), jnp.bool_)
    return replay.Transition(observation, jnp.int32(0), jnp.float32(0), flag, flag, observation)


def buffer_programs(platform: str, capacities: slice = slice(None)) -> Iterator[Program]:
    """The library's programs, at some of the three capacities."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    views = replay.views
    read = {
        "small": {"transition": views.transition(), "n-step of 5": views.n_step(5, 0.99)},
        "frames": {"stacks of 4": views.frame_stack(4)},
    }
    for size, (observation, num_envs, sizes) in (("small", SMALL), ("frames", FRAMES)):
        example = transition(observation)
        step = jax.eval_shape(lambda e=example, n=num_envs: jax.tree.map(lambda x: jnp.stack([x] * n), e))
        block = jax.tree.map(lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), step)
        for capacity in sizes[capacities]:
            for kind, sampler in (("", replay.samplers.uniform()), ("prioritized ", replay.samplers.prioritized())):
                buffer = jax.eval_shape(
                    lambda c=capacity, e=example, n=num_envs, s=sampler: replay.create(
                        e, c, n, sampler=s, platform=platform
                    )
                )
                where = f"{size} {capacity}"
                yield Program(f"{where}: {kind}append", replay.append, (buffer, step), donate=True)
                if not kind:
                    yield Program(f"{where}: extend by 8", replay.extend, (buffer, block), donate=True)
                for name, view in read[size].items():
                    yield Program(f"{where}: {kind}sample, {name}", _sample(view, BATCH), (buffer, key), donate=False)
                if not kind and size == "small":
                    sequence = _sample(views.sequence(80), 64)
                    yield Program(f"{where}: sample, sequences of 80, 64", sequence, (buffer, key), donate=False)
                name, view = [*read[size].items()][-1]
                cycle = _cycle(view, bool(kind))
                yield Program(f"{where}: {kind}cycle, {name}", cycle, (buffer, step, key), donate=True)


def _sample(view: replay.views.View, batch_size: int) -> Callable[..., Any]:
    return lambda buffer, key: replay.sample(buffer, key, batch_size, view).data


def _cycle(view: replay.views.View, is_prioritized: bool) -> Callable[..., Any]:
    def cycle(buffer: replay.Buffer, step: Any, key: jax.Array) -> Any:
        """Append a step, sample a batch, and update its priorities."""
        buffer = replay.append(buffer, step)
        batch = replay.sample(buffer, key, BATCH, view)
        if is_prioritized:
            buffer = replay.set_priorities(buffer, batch.rows, jnp.ones(BATCH))
        return buffer, batch.data

    return cycle


def flashbax_programs() -> Iterator[Program]:
    """flashbax's at its largest: the same small steps, and stored stacks of 4 frames in a ring of as many bytes."""
    try:
        import flashbax
    except ImportError:
        return
    key, flag = jax.eval_shape(lambda: jax.random.key(0)), jnp.zeros((), jnp.bool_)
    for size, shape, dtype, num_envs, capacity in (
        ("small", (4,), jnp.float32, 128, 2**24),
        ("frames", (84, 84, 4), jnp.uint8, 16, 2**16),
    ):
        example = {"obs": jnp.zeros(shape, dtype), "action": jnp.int32(0), "reward": jnp.float32(0), "done": flag}
        step = jax.tree.map(lambda x, n=num_envs: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), example)
        makes = {"": flashbax.make_flat_buffer, "prioritized ": flashbax.make_prioritised_flat_buffer}
        for kind, make in makes.items():
            buffer = make(capacity, BATCH, BATCH, add_batch_size=num_envs)
            state = jax.eval_shape(buffer.init, example)

            def cycle(state: Any, step: Any, key: Any, buffer: Any = buffer, kind: str = kind) -> Any:
                state = buffer.add(state, step)
                batch = buffer.sample(state, key)
                if kind:
                    state = buffer.set_priorities(state, batch.indices, jnp.ones(BATCH))
                return state, batch.experience

            where = f"flashbax, {size} {capacity}"
            yield Program(f"{where}: {kind}append", buffer.add, (state, step), donate=True)
            yield Program(f"{where}: {kind}sample", buffer.sample, (state, key), donate=False)
            yield Program(f"{where}: {kind}cycle", cycle, (state, step, key), donate=True)


def table(found: dict[str, Facts]) -> str:
    """A Markdown table of programs."""
    names = ("program", "ring MB", "temp MB", "moved MB", "launches", "waits", "loops", "collectives", "compiled in s")
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for name, facts in found.items():
        spoken = ", ".join(f"{n} {what}" for what, n in facts.collectives.items())
        cells = (f"{facts.ring:.1f}", f"{facts.temp:.3f}", f"{facts.moved:.1f}", facts.launches, facts.waits)
        cells += (", ".join(map(str, facts.loops)), spoken, f"{facts.seconds:.1f}")
        lines.append("| " + " | ".join(map(str, (name, *cells))) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Compile for each platform that is asked for, or whose compiler is there, and save the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks programs", description="Compile and read programs.")
    parser.add_argument("platforms", nargs="*", metavar="platform", help="cpu, tpu, gpu; default all")
    parser.add_argument("--only", default="", help="programs whose name contains this; nothing is saved")
    args = parser.parse_args(arguments)
    if unknown := set(args.platforms) - {"cpu", "tpu", "gpu"}:
        parser.error(f"unknown platform {', '.join(sorted(unknown))}; there are: cpu, tpu, gpu")
    from tqdm import tqdm

    for platform in args.platforms or ("cpu", "tpu", "gpu"):
        try:
            sharding = device(platform)
        except ImportError as error:
            print(error)
            continue
        programs = [p for p in (*buffer_programs(platform), *flashbax_programs()) if args.only in p.name]
        found = {p.name: compile_for(p, sharding) for p in tqdm(programs, desc=platform)}
        print(table(found))
        if not args.only:
            about = f"Compiled for {platform} by jax {jax.__version__}; no device was there.\n\n"
            RESULTS.joinpath(f"{platform}.md").write_text(about + table(found) + "\n")
            facts = {name: dataclasses.asdict(one) for name, one in found.items()}
            RESULTS.joinpath(f"{platform}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0
