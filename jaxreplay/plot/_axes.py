"""What all plots share: matplotlib, imported when it is first used, axes to draw in, and colours."""

from typing import Any

from jaxreplay.datasets.files.opening import need

EPISODES = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#E69F00")  # in turn, by an episode's number
VOID, REMOVED, LOST = "#9a9a9a", "#F0E442", "#7a4a2a"
BELOW = 36  # points from the axes to their legend, past the ticks and the label
BLUE, ORANGE, PURPLE = "#3a92d4", EPISODES[5], EPISODES[3]  # of marks and lines: mid tones, read on white and black


def pyplot() -> Any:
    """Import matplotlib, or raise an ImportError that names the extra."""
    return need("matplotlib.pyplot", "matplotlib", "plot", "replay.plot")


def make_axes(ax: Any, width: float, height: float) -> Any:
    """Give the axes to draw in: those given, or those of a new figure of this size in inches."""
    plt = pyplot()
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def text_colour() -> Any:
    """Give the colour of text and lines of the reader's own style."""
    return pyplot().rcParams["text.color"]


def legend(ax: Any, entries: list[tuple[str, str]]) -> None:
    """Explain colours below the axes."""
    from matplotlib.patches import Patch
    from matplotlib.transforms import ScaledTranslation

    patches = [Patch(facecolor=colour, label=label) for label, colour in entries]
    below = ax.transAxes + ScaledTranslation(0, -BELOW / 72, ax.figure.dpi_scale_trans)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}
    ax.legend(handles=patches, **place, ncols=4, frameon=False, fontsize="small")
