"""Several processes save one checkpoint: each its own part, committed by the first."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxreplay as replay
from tests.extras import library

library("xxhash")
PROCESSES = 2
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import jaxreplay as replay
from tests.checkpoint.test_processes import PROCESSES, state_of

port, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", PROCESSES, process)
assert jax.device_count() == 2 * PROCESSES
mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
where = NamedSharding(mesh, PartitionSpec("data"))

def split(tree):
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, where, lambda index: x[index]), tree)

for number in (1, 2):
    state = {"split": split(state_of(number)), "number": number}
    replay.checkpoint.save(folder, state)
    found = replay.checkpoint.load(folder, state)
    assert found["number"] == number
    for got, want in zip(jax.tree.leaves(found["split"]), jax.tree.leaves(state["split"]), strict=True):
        for mine, expected in zip(got.addressable_shards, want.addressable_shards, strict=True):
            np.testing.assert_array_equal(np.asarray(mine.data), np.asarray(expected.data))
print("done")
"""


def state_of(number: int) -> dict[str, np.ndarray]:
    """Arrays of eight members, of which the later half changes with the number."""
    first = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)
    return {"a": first + np.float32(number) * (np.arange(8) >= 4)[:, None], "b": np.arange(8, dtype=np.int16)}


@pytest.mark.slow
def test_what_several_processes_saved_one_loads_whole(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", PROGRAM, str(port)]
    each = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    for process in each:
        out, errors = process.communicate(timeout=300)
        assert (process.returncode, out.splitlines()[-1:]) == (0, ["done"]), errors
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.json", "lock", "pieces"]
    found = replay.checkpoint.load(tmp_path, {"split": state_of(0), "number": 0})
    assert found["number"] == 2
    jax.tree.map(np.testing.assert_array_equal, found["split"], state_of(2))
    members = {name.split(".")[1].split("-")[0] for name in os.listdir(tmp_path / "pieces") if name.startswith("1.")}
    assert members == {"0", "2", "4", "6"}
