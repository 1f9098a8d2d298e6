"""`python -m benchmarks programs [platform ...]`: compile the library's programs, and flashbax's, and read them.

No device of the platform is needed, only its compiler: `pip install 'jaxreplay[tpu-compiler]'` for a TPU v5e, and
`'jaxreplay[gpu-compiler]'` for an H100 (Linux on x86-64). Programs are compiled at three capacities, the largest
beyond the TPU's on-chip memory, some also in a scan, under vmap, and of other structures: see `program_list`. A table
is written to `benchmarks/results/programs/PLATFORM.md`:

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
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from benchmarks.program_list import Program, buffer_programs, flashbax_programs, other_programs

RESULTS = pathlib.Path(__file__).parent / "results" / "programs"
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
        every = (*buffer_programs(platform), *other_programs(platform), *flashbax_programs())
        programs = [p for p in every if args.only in p.name]
        found = {p.name: compile_for(p, sharding) for p in tqdm(programs, desc=platform)}
        print(table(found))
        if not args.only:
            about = f"Compiled for {platform} by jax {jax.__version__}; no device was there.\n\n"
            RESULTS.joinpath(f"{platform}.md").write_text(about + table(found) + "\n")
            facts = {name: dataclasses.asdict(one) for name, one in found.items()}
            RESULTS.joinpath(f"{platform}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0
