"""Priorities of the rows of a buffer against their age."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreplay import _priorities, inspection
from jaxreplay._display.pictures import evenly
from jaxreplay.buffer import Buffer
from jaxreplay.plot import _axes
from jaxreplay.state import check_buffer

BANDS = 40


def priorities(buffer: Buffer, ax: Any = None, *, max_rows: int = 8000) -> Any:
    """Draw the priorities of rows against their age: how many slices were appended since, 1 for the newest.

    Each point is a row; the line is the median of rows of about one age. Rows of priority zero, which are never drawn,
    are counted in the title. max_rows: of more rows so many are drawn, at even distances.
    Returns the axes. Raises ValueError for a buffer whose sampler has no priorities.
    """
    check_buffer("priorities", buffer)
    if not hasattr(buffer.sampler, "priorities"):
        _priorities._need_priorities("priorities", buffer)
    size = int(inspection.size(buffer))
    index = np.zeros(max_rows, np.int32)  # of one shape, so that one program serves every fill
    chosen = evenly(size, max_rows)
    index[: len(chosen)] = chosen
    rows = inspection.nth(buffer, jnp.asarray(index))
    values = np.asarray(_priorities.priorities(buffer, rows))[: len(chosen)]  # type: ignore[arg-type]
    age = (int(buffer.rings.clock.time) - np.asarray(rows.time))[: len(chosen)]
    ax = _axes.make_axes(ax, 7, 3.6)
    above = values > 0
    ax.scatter(
        age[above], values[above], s=8, color=_axes.BLUE, alpha=0.55, linewidth=0, label="a row", rasterized=True
    )
    if above.sum() > BANDS:
        order = np.argsort(age[above], kind="stable")
        groups = np.array_split(order, BANDS)
        middle = [float(np.median(values[above][group])) for group in groups]
        ax.plot([age[above][group].mean() for group in groups], middle, color=_axes.ORANGE, linewidth=2, label="median")
    if above.any() and values[above].max() > 100 * values[above].min():
        ax.set_yscale("log")
    zeros = f", {int((~above).sum()):,} with priority zero" if not above.all() else ""
    drawn = f"{len(chosen):,} of {size:,} rows" if len(chosen) < size else f"{size:,} rows"
    ax.set(xlabel="age [slices since the row was appended]", ylabel="priority", title=f"{drawn}{zeros}")
    if above.any():
        ax.legend(fontsize="small", frameon=False)
    return ax
