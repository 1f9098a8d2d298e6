"""Columns of frames as video: without loss they come back bit for bit, and any row is read from its keyframe on."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.storage import Writer, compressed
from jaxreplay.storage.checking import verify
from jaxreplay.storage.manifest import Kind
from jaxreplay.storage.video import KEYFRAME_EVERY
from tests.datasets.episodes import all_same, same_tree
from tests.extras import library

library("av")


def moving(count: int, shape: tuple[int, ...], noise: int = 3) -> np.ndarray:
    """Frames `[count, *shape]` of a ramp that moves, with noise."""
    ramp = np.indices(shape).sum(0) * 3 + 60
    rng = np.random.default_rng(count)
    return np.stack([np.roll(ramp, i, 1) + rng.integers(0, noise, shape) for i in range(count)]).astype(np.uint8)


def write(folder: pathlib.Path, episodes: list[Trajectory], stored: str, segment_bytes: int = 2**20) -> Dataset:
    with Writer(folder, segment_bytes=segment_bytes, compress={"observation": stored}) as writer:
        for episode in episodes:
            writer.append(episode)
            writer.commit()
    return Dataset.open(folder)


@pytest.mark.parametrize("shape", [(6, 5), (16, 8, 1), (7, 9, 3)])
def test_lossless_video_comes_back_bit_for_bit(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    episodes = [Trajectory(moving(n + 1, shape, 200), actions=np.zeros(n)) for n in (3, 2 * KEYFRAME_EVERY + 1, 1)]
    opened = write(tmp_path, episodes, "video-lossless", segment_bytes=1000)
    all_same(opened, episodes)
    rows = np.random.default_rng(0).integers(0, len(opened), 40)
    same_tree(opened[rows], Dataset(episodes)[rows], "rows in any order, again and again")
    assert verify(tmp_path) == []
    assert Dataset.open(tmp_path, verify=True).equals(Dataset(episodes))


@pytest.mark.parametrize("shape", [(32, 24), (31, 25, 3)])
def test_lossy_video_is_asked_for_and_said_and_is_near(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    frames = moving(20, shape)
    opened = write(tmp_path, [Trajectory(frames, actions=np.zeros(19))], "video")
    assert '"stored": "video", "lossy": true' in (tmp_path / "manifest.json").read_text()
    read = opened.episode(0).observations.astype(float)
    assert 0 < np.sqrt(np.mean((read - frames) ** 2)) < 8
    rows = np.array([18, 3, 3, 11])
    assert np.array_equal(opened[rows].observation, read[rows])


def test_lossless_video_is_not_said_to_be_lossy(tmp_path: pathlib.Path) -> None:
    write(tmp_path, [Trajectory(moving(3, (6, 5)), actions=np.zeros(2))], "video-lossless")
    assert "lossy" not in (tmp_path / "manifest.json").read_text()


def compress(frames: np.ndarray, stored: str) -> tuple[Kind, list[np.ndarray], np.ndarray]:
    kind = Kind("observations", np.dtype(np.uint8), frames.shape[1:], stored)
    rows = compressed.compress_rows(kind, frames)
    return kind, rows, np.cumsum([len(row) for row in rows])


def test_a_row_is_read_of_the_few_from_its_keyframe_to_it() -> None:
    """All others may be damaged."""
    frames = moving(3 * KEYFRAME_EVERY, (16, 16))
    kind, rows, ends = compress(frames, "video-lossless")
    for row in range(len(frames)):
        keyframe = row - int(rows[row][0])
        assert row - keyframe < KEYFRAME_EVERY
        damaged = [x if keyframe <= i <= row else x ^ 255 for i, x in enumerate(rows)]
        read = compressed.read_rows(kind, np.concatenate(damaged), ends, np.array([row]))
        assert np.array_equal(read[0], frames[row])


@pytest.mark.parametrize("stored", ["video", "video-lossless"])
def test_frames_that_do_not_change_are_read_again_however_few_bytes_they_take(stored: str) -> None:
    frames = np.zeros((6, 480, 640, 3), np.uint8)
    kind, rows, ends = compress(frames, stored)
    assert ends[-1] < frames.nbytes / 1000
    assert not compressed.read_rows(kind, np.concatenate(rows), ends, np.arange(6)).any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: [rows[1], *rows[1:]], "before the first row"),
        (lambda rows: [*rows[:2], rows[1], rows[3]], "does not go on with the video"),
        (lambda rows: [rows[0], rows[1][:1], *rows[2:]], "does not go on with the video"),
        (lambda rows: [rows[0][[0, 0]], *rows[1:]], "holds 0 frames|Invalid data"),
        (lambda rows: compress(moving(4, (16, 24)), "video")[1], "a frame is yuv420p of size"),
        (lambda rows: compress(moving(4, (16, 16, 3)), "video")[1], "a frame is yuv444p of size"),
        (lambda rows: compress(moving(4, (99, 99)), "video")[1], "Invalid data"),
    ],
    ids=["no keyframe", "another row", "no bytes", "no frame", "another size", "another kind", "too large to decode"],
)
def test_a_video_that_was_made_up_is_refused(change: object, text: str) -> None:
    kind, rows, _ = compress(moving(4, (16, 16)), "video")
    wrong = change(rows)  # type: ignore[operator]
    with pytest.raises((ValueError, OSError), match=text):
        compressed.read_rows(kind, np.concatenate(wrong), np.cumsum([len(x) for x in wrong]), np.arange(4))


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint16), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_frame_of_a_video_is_refused_by_name(tmp_path: pathlib.Path, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"observations: video holds uint8 \[H, W\]"):
        write(tmp_path, [Trajectory(np.stack([frame] * 3), actions=np.zeros(2))], "video")
