"""What the figures were taken on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import time
from typing import Any

import jax
import numpy as np

PACKAGES = (
    "jaxreplay",
    "jax",
    "jaxlib",
    "numpy",
    "flashbax",
    "cpprb",
    "torchrl",
    "torch",
    "stable_baselines3",
    "brax",
)


def describe() -> dict[str, Any]:
    """The processor, its memory, the device, and the versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": _num_cores(),
        "memory": _line("/proc/meminfo", "MemTotal") or "unknown",
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "peak_memory_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "copy_gigabytes_per_second": round(copy_bandwidth() / 1e9, 1),
        "versions": versions,
    }


def use_cores(count: int) -> None:
    """Keep this process to some of its cores, before JAX starts its threads."""
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("--cores: this system does not let a process choose its cores; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if not 0 < count <= len(cores):
        raise SystemExit(f"--cores: expected from 1 to {len(cores)}, got {count}")
    os.sched_setaffinity(0, cores[:count])


def _num_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def copy_bandwidth(num_bytes: int = 2**28) -> float:
    """Bytes a second that one NumPy copy of a large array moves, reads and writes counted."""
    source, target = np.ones(num_bytes, np.uint8), np.ones(num_bytes, np.uint8)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return 2 * num_bytes / best


def _line(path: str, name: str) -> str | None:
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
