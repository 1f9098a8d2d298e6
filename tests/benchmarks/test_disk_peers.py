"""What other libraries are timed with is what the store reads."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from benchmarks import disk_peers
from tests.extras import library

LENGTH = 5  # steps of an episode


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 255, (3 * (LENGTH + 1), 4, 6), np.uint8),
        "actions": np.arange(3 * LENGTH) % 5,
        "rewards": rng.random(3 * LENGTH),
    }


@pytest.mark.parametrize("name", ["h5py", "minari"])
def test_a_peer_reads_the_steps_it_is_asked_for(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(name)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # so that it is as before afterwards
    given, steps = columns(), np.array([14, 0, 4, 5, 4])
    at = steps + steps // LENGTH
    if name == "minari":
        with disk_peers.minari(tmp_path, given, LENGTH) as read:
            found = read(steps)
    else:
        with disk_peers.h5py(tmp_path, given) as read:
            found = read(at, steps)
    expected = given["frames"][at], given["frames"][at + 1], given["actions"][steps], given["rewards"][steps]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    assert not list(tmp_path.iterdir())
