"""Pictures with matplotlib: the ring, episodes, priorities, what a view reads, and frames.

Each function takes `ax=None`, draws there or in a new figure, and returns the axes. Large buffers and data sets are
drawn by a bounded number of rows, and the picture says so. Text and lines follow matplotlib's style, so they are read
on light and dark; colours are ones that the colour-blind tell apart. It needs the extra `plot`.
"""

from jaxreplay.plot._episodes import episodes
from jaxreplay.plot._frames import animate, frames
from jaxreplay.plot._priorities import priorities
from jaxreplay.plot._ring import ring
from jaxreplay.plot._view import view

__all__ = ["animate", "episodes", "frames", "priorities", "ring", "view"]
