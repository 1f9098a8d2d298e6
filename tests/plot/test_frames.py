"""Frames are drawn as they were recorded, whichever way their channels lie."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

import jaxreplay as replay
from jaxreplay._display.pictures import is_picture, to_rgb
from jaxreplay.datasets import Trajectory
from tests.test_errors import expect

RGB = np.random.default_rng(0).integers(0, 256, (5, 9, 10, 3), dtype=np.uint8)


def test_a_strip_holds_the_frames_at_even_distances() -> None:
    ax = replay.plot.frames(RGB, most=3)
    sheet = np.asarray(ax.images[0].get_array())
    for i, t in enumerate((0, 2, 4)):
        assert (sheet[:, 11 * i : 11 * i + 10, :3] == RGB[t]).all()
    assert ax.get_title() == "steps 0, 2, 4 of 0 to 4"
    plt.close("all")


def test_of_a_trajectory_the_first_pictures_are_drawn_or_those_that_are_named() -> None:
    observations = {"arm": np.zeros((5, 3)), "left": RGB, "right": RGB[::-1]}
    episode = Trajectory(observations, np.zeros(4))
    assert replay.plot.frames(episode).get_title().startswith("observations.left, steps 0")
    sheet = np.asarray(replay.plot.frames(episode, part="right").images[0].get_array())
    assert (sheet[:, :10, :3] == RGB[4]).all()
    with expect(ValueError, "frames: arm holds pictures", "observations.arm float64[5,3]"):
        replay.plot.frames(episode, part="arm")
    with expect(ValueError, "no part holds pictures"):
        replay.plot.frames(Trajectory(np.zeros(5), np.zeros(4)))
    with expect(ValueError, "expected pictures [T, H, W]", "float64[3,4,4]"):
        replay.plot.frames(np.zeros((3, 4, 4)))
    plt.close("all")


def test_an_animation_shows_the_frames_in_order_and_can_be_saved(tmp_path: pathlib.Path) -> None:
    animation = replay.plot.animate(RGB, fps=10)
    animation.save(tmp_path / "episode.gif", writer="pillow", dpi=30)
    with Image.open(tmp_path / "episode.gif") as saved:
        assert saved.n_frames == 5  # type: ignore[attr-defined]
    ax = animation._fig.axes[0]  # type: ignore[attr-defined]
    animation._func(3)  # type: ignore[attr-defined]
    assert ax.get_title() == "step 3 of 4"
    assert (ax.images[0].get_array() == RGB[3]).all()
    plt.close("all")


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        ((9, 10), True),
        ((9, 10, 3), True),
        ((3, 9, 10), True),
        ((4, 84, 84), True),
        ((10, 10, 6), True),
        ((7, 9), False),
        ((3,), False),
        ((2, 9, 9, 3), False),
        ((9, 0), False),
    ],
)
def test_what_is_a_picture_is_told_by_its_shape(shape: tuple[int, ...], is_one: bool) -> None:
    assert is_picture(shape, np.uint8) == is_one


def test_channels_first_grey_floats_and_flags_become_rgb() -> None:
    assert (to_rgb(np.moveaxis(RGB, -1, 1)) == RGB).all()
    grey = to_rgb(RGB[..., 0])
    assert (grey == RGB[..., :1]).all()
    assert (to_rgb(RGB[..., 0].astype(np.float32) / 255) == grey).all()
    assert (to_rgb(RGB[..., 0] > 100) == 255 * (RGB[..., :1] > 100)).all()


def test_of_a_stack_of_frames_the_newest_is_drawn() -> None:
    stack = np.stack([RGB[..., 0], RGB[..., 1], RGB[..., 2], RGB[..., 0] // 2], axis=1)
    assert (to_rgb(stack)[..., 0] == stack[:, -1]).all()
    assert (to_rgb(np.moveaxis(stack, 1, -1))[..., 0] == stack[:, -1]).all()


@pytest.mark.parametrize("scale", [1, 1000, -3])
def test_frames_made_one_by_one_are_of_one_range(scale: int) -> None:
    values = RGB[..., 0].astype(np.float32) * scale
    alone = np.concatenate([to_rgb(values[i : i + 1], values) for i in range(5)])
    assert (alone == to_rgb(values)).all()
    assert len(np.unique(alone)) > 100


def test_planes_of_flags_have_a_colour_each() -> None:
    planes = np.zeros((1, 9, 9, 6), bool)
    planes[0, 0, 0, 1] = planes[0, 1, 1, 4] = True
    colours = {tuple(x) for x in to_rgb(planes)[0].reshape(-1, 3).tolist()}
    assert len(colours) == 3
    assert tuple(to_rgb(planes)[0, 5, 5]) == (0, 0, 0)
