"""The part about checkpoints measures what it says, here on a small ring."""

from __future__ import annotations

import pathlib

from benchmarks import checkpoints
from tests.extras import library

library("xxhash")


def test_a_small_ring_is_saved_again_and_loaded(tmp_path: pathlib.Path) -> None:
    found = checkpoints.save(tmp_path, 100, 1)
    ring = found["first bytes"][0]
    assert ring > 100 * checkpoints.ENVS * 84 * 84
    assert 0 < found["second bytes"][0] < ring
    loaded = checkpoints.load(tmp_path / "round-0", 100)
    assert loaded["ring"] == ring
    text = checkpoints.table(found | loaded, 1)
    assert text.count("(0.05)") == text.count("(0.1)") == text.count("(1.1)") == 1
