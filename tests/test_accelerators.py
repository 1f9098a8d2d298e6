"""The laws of programs for a TPU, read off what its compiler makes: no device is needed, but `libtpu`."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

GOALS = {  # MB of temporary memory, and MB moved, of 2^24 small steps, of 2^18 frames, and of other structures
    "small 16777216: append": (0.5, 10),
    "small 16777216: extend by 8": (0.5, 20),
    "small 16777216: sample, transition": (1, 450),
    "small 16777216: sample, n-step of 5": (1, 450),
    "small 16777216: sample, sequences of 80, 64": (5, 500),
    "small 16777216: prioritized cycle, n-step of 5": (2, 800),
    "frames 262144: append": (1, 15),
    "frames 262144: sample, stacks of 4": (1.6, 300),
    "frames 262144: prioritized cycle, stacks of 4": (2, 700),
    "small 16777216: prioritized cycle, 16 in a scan": (2, 800),
    "frames 262144: cycle, 4 under vmap": (2, 4 * 300),
    "nested 262144: cycle": (2, 450),
    "one env 16777216: cycle": (2, 450),
    "4096 envs 16777216: cycle": (2, 450),
}
COMPILE = """
import dataclasses, json, sys
from benchmarks import program_list, programs
sharding = programs.device("tpu")
found = {p.name: p for p in (*program_list.buffer_programs("tpu", slice(2, 3)), *program_list.other_programs("tpu"))}
print(json.dumps({n: dataclasses.asdict(programs.compile_for(found[n], sharding)) for n in sys.argv[1:]}))
"""


@functools.cache
def facts() -> dict[str, Any]:
    """What the programs would do, compiled in a process of its own: with libtpu, JAX looks for a TPU when it starts."""
    root = pathlib.Path(__file__).parent.parent
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, *GOALS]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.tpu
@pytest.mark.parametrize("name", GOALS)
def test_programs_for_a_tpu_copy_no_ring_and_wait_for_nothing(name: str) -> None:
    found, (temp, moved) = facts()[name], GOALS[name]
    assert found["ring"] > 700
    assert found["temp"] <= temp
    assert found["moved"] <= moved
    # A view that refuses rows draws again in one loop.
    assert found["waits"] <= ("sequences" in name)
    assert not found["collectives"]
