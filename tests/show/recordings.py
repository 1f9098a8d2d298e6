"""Recordings with all that a page must stand: pictures, hostile names and texts, and numbers that are not finite."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxreplay.datasets import Dataset, Trajectory

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">'&"


def trajectory(i: int, length: int) -> Trajectory:
    """Frames whose grey is their step, a reward of 1 a step, and an action that is the step's number."""
    frames = np.broadcast_to(np.arange(length + 1, dtype=np.uint8)[:, None, None], (length + 1, 9, 12))
    return Trajectory(
        {"pixels": frames, HOSTILE: np.linspace(0, 1, 2 * length + 2).reshape(length + 1, 2)},
        {"turn": np.arange(length), "wide": np.zeros((length, 9))},
        np.where(np.arange(length) == 1, np.nan if i == 3 else 1.0, 1.0),
        terminated=i % 3 == 0,
        truncated=i % 3 == 1,
        infos=[{HOSTILE: HOSTILE, "t": t} for t in range(length)],
        episode_data={"seed": 100 + i, "text": HOSTILE},
    )


def data_set(count: int = 6) -> Dataset:
    """Episodes of 4, 7, 10, ... steps."""
    return Dataset(trajectory(i, 4 + 3 * i) for i in range(count))


def saved(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "a <b>'&\".npz"
    data_set().save(path)
    return path
