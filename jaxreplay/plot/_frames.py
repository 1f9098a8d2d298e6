"""Frames of an episode as a strip, and as an animation."""

from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay._display.pictures import evenly, grid, is_picture, to_rgb
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.plot import _axes

LOOKED_AT = 16  # frames that decide on the range of values


def frames(source: Trajectory | Any, ax: Any = None, *, part: str | None = None, most: int = 8) -> Any:
    """Draw frames side by side, at even distances, the first and the last included, with their steps.

    source: a trajectory, or an array of frames `[T, H, W]`, `[T, H, W, C]` or `[T, C, H, W]`; of a stack the newest
    frame is drawn. part: the path of the leaf with the pictures, as "camera.left"; by default the first that has some.
    Returns the axes. Raises ValueError where there are no pictures.

    >>> import numpy as np, jaxreplay as replay
    >>> axes = replay.plot.frames(np.zeros((20, 16, 16), np.uint8), most=4)
    >>> axes.get_title()
    'steps 0, 6, 13, 19 of 0 to 19'
    """
    name, pictures = find_pictures(source, part)
    chosen = evenly(len(pictures), most)
    shown = to_rgb(np.asarray(pictures[chosen]))
    rows, columns = grid(len(chosen))
    high, wide = shown.shape[1:3]
    gap = max(1, wide // 20)
    sheet = np.zeros((rows * (high + gap) - gap, columns * (wide + gap) - gap, 4), np.uint8)  # gaps are transparent
    for i, picture in enumerate(shown):
        y, x = i // columns * (high + gap), i % columns * (wide + gap)
        sheet[y : y + high, x : x + wide] = np.dstack([picture, np.full((high, wide), 255, np.uint8)])
    ax = _axes.make_axes(ax, 1.3 * columns, 0.5 + 1.3 * rows * (high + gap) / (wide + gap))
    ax.imshow(sheet, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    steps = ", ".join(map(str, chosen.tolist())) if len(chosen) <= 8 else f"{chosen[0]} to {chosen[-1]}"
    ax.set_title(f"{name + ', ' if name else ''}steps {steps} of 0 to {len(pictures) - 1}", fontsize="medium")
    return ax


def animate(
    source: Trajectory | Any, ax: Any = None, *, part: str | None = None, fps: float = 20, most: int = 500
) -> Any:
    """Make an animation of frames: `HTML(animation.to_jshtml())` in a notebook, or `animation.save("episode.gif")`.

    source, part: see `frames`. fps: frames a second. most: of more frames so many are shown, at even distances.
    Returns a `matplotlib.animation.FuncAnimation`; keep it until it is saved or shown.
    """
    name, pictures = find_pictures(source, part)
    chosen = evenly(len(pictures), most)
    ax = _axes.make_axes(ax, 3.4, 3.6)
    from matplotlib.animation import FuncAnimation

    like = np.asarray(pictures[evenly(len(pictures), LOOKED_AT)])
    shown = ax.imshow(to_rgb(like[:1], like)[0], interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

    def draw(i: int) -> Any:
        shown.set_data(to_rgb(np.asarray(pictures[chosen[i : i + 1]]), like)[0])
        ax.set_title(f"{name + ', ' if name else ''}step {chosen[i]} of {len(pictures) - 1}", fontsize="medium")
        return (shown,)

    return FuncAnimation(ax.figure, draw, frames=len(chosen), interval=1000 / fps, blit=False)


def find_pictures(source: Trajectory | Any, part: str | None) -> tuple[str, Any]:
    """Give the path and the array of the pictures of a trajectory, or the array itself, with no name."""
    if not isinstance(source, Trajectory):
        array = source if isinstance(source, jax.Array) else np.asarray(source)
        if array.ndim < 3 or not len(array) or not is_picture(array.shape[1:], array.dtype):
            raise ValueError(
                f"frames: expected pictures [T, H, W], [T, H, W, C] or [T, C, H, W] of at least 8 by 8 pixels, got "
                f"{trees.describe(array.shape, array.dtype)}"
            )
        return "", array
    named = [pair for name in ("observations", "extras") for pair in trees.paths({name: getattr(source, name)})]
    found = {path: x for path, x in named if x is not None and is_picture(x.shape[1:], x.dtype)}
    wanted = next(iter(found), None) if part is None else part
    for path in (wanted, f"observations.{wanted}"):
        if path in found:
            return path, found[path]
    there = ", ".join(f"{path} {trees.describe(x.shape, x.dtype)}" for path, x in named if x is not None)
    raise ValueError(f"frames: {part or 'no part'} holds pictures of at least 8 by 8 pixels; there are: {there}")
