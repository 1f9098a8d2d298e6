"""A run that was killed goes on from its checkpoint, with the same result as one that was not."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from unittest import mock

import pytest

from jaxreplay.demo import dqn, main, resuming
from tests.extras import library

library("xxhash")
KILLED = """
import os, signal, sys
import tests.conftest
from jaxreplay.checkpoint import saving
from jaxreplay.demo import main

write, saves, count = saving._write_file, [], []
names_before = saving._names_before

def begin(folder):
    saves.append(folder)
    return names_before(folder)

def stop(path, data):
    count.append(path)
    if len(saves) == 8 and len(count) % 7 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)

saving._names_before, saving._write_file = begin, stop
main.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "flags", [["--num-seeds", "2", "--prioritized"], pytest.param([], marks=pytest.mark.slow, id="one seed")]
)
def test_a_run_that_was_killed_goes_on_to_the_same_parameters(flags: list[str], tmp_path: pathlib.Path) -> None:
    flags = ["--steps", "400", "--num-envs", "2", *flags]
    kept = ["--checkpoint", str(tmp_path / "checkpoint")]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *flags, *kept, "--out", str(tmp_path / "killed")],
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},  # compiled as here: the last bits depend on it
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "killed" / "metrics.csv").exists()
    with mock.patch.object(resuming, "save", wraps=resuming.save) as saved:
        assert main.main([*flags, *kept, "--out", str(tmp_path / "resumed")]) == 0
    assert saved.call_count == main.CHUNKS - 7
    assert main.main([*flags, "--out", str(tmp_path / "whole")]) == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "resumed" / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list((tmp_path / "whole").glob("*.msgpack"))) == (2 if "--num-seeds" in flags else 1)


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--num-envs", "2", "--checkpoint", str(tmp_path / "c"), "--out", str(tmp_path / "out")]
    settings = dqn.Settings(steps=400, num_envs=2)
    resuming.save(tmp_path / "c", settings, [0], main.begin(settings, [0], None))
    said = [(["--steps", "800"], "steps: 400 was saved, 800 is asked for"), (["--seed", "2"], "seeds: [0] was saved")]
    for flags, words in said:
        assert main.main(["--steps", "400", *kept, *flags]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "c" / "checkpoint.json").write_bytes(b"x")
    assert main.main(["--steps", "400", *kept]) == 1
    assert "it is cut or changed" in capsys.readouterr().err
