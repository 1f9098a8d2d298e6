"""What a view reads around a row: its reading plan, drawn leaf by leaf."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay import sampling
from jaxreplay._core import gather
from jaxreplay._core.clock import time_of_slot
from jaxreplay._core.rings import Rings
from jaxreplay.buffer import Buffer
from jaxreplay.plot import _axes
from jaxreplay.plot._ring import EMPTY, KINDS, NUM_COLOURS, row_codes
from jaxreplay.sources.base import draw_bits
from jaxreplay.stacks import refuse_stack
from jaxreplay.state import check_buffer
from jaxreplay.types import Rows
from jaxreplay.views import View
from jaxreplay.views.base import check_view, plan

AROUND = 2  # steps drawn before the first that is read, and after the last


@dataclasses.dataclass(frozen=True)
class Reads:
    """What is read of one leaf: for each of its columns, the step relative to the row, `final`, or `zeros`."""

    path: str
    steps: np.ndarray
    final: np.ndarray
    zeros: np.ndarray


def view(buffer: Buffer, row: Rows | tuple[int, int], view: View, ax: Any = None, *, key: Any = None) -> Any:
    """Draw which steps around a row a view reads of each leaf, from the plan that the view itself reads by.

    row: the row, as `Rows` without axes or of one row, or `(time, env)`. key: for a view that draws, as `hindsight`.
    The first line is what the env stored around the row, episodes in the colours of `ring`. A square is a step that is
    read, and the numbers in it are columns of the batch: `0-2` in one square is a step that stands for three. A diamond
    is the observation after the episode's newest step. Columns in parentheses are those that the batch's `mask` leaves
    out; a mark of these alone is hollow. Marks left of the dotted line are zeros. Returns the axes.
    Raises ValueError where the view cannot start from the row.
    """
    check_buffer("view", buffer)
    refuse_stack("view", buffer, "read it by replay.take, with the rows that replay.rows lists")
    check_view(view)
    rings = buffer.rings
    time, env = (row.time, row.env) if isinstance(row, Rows) else row
    rows = Rows(*(jnp.asarray(x, jnp.int32).reshape(1) for x in (time, env)))
    sample = sampling.take(buffer, rows, view, key)
    if not bool(sample.mask[0]):
        needs = f": it needs {view.needs}" if view.needs else ""
        raise ValueError(
            f"view: {view} cannot start from row (time {int(rows.time[0])}, env {int(rows.env[0])}){needs}"
        )
    newest, reads = find_reads(rings, rows, view, key)
    masked = np.asarray(sample.data.mask[0]) if hasattr(sample.data, "mask") else np.ones(0, bool)
    return _draw(rings, rows, view, newest, reads, masked, ax)


def find_reads(rings: Rings, rows: Rows, view: View, key: Any = None) -> tuple[int, list[Reads]]:
    """Follow the view's plan to the steps that it reads for one row, `[1]`; also say how far the newest step is."""
    newest, slots, steps = jax.tree.map(np.asarray, _follow(rings, rows, view, key))
    found, leaves = [], rings.layout.leaves
    for one, slot, step in zip(plan(view, rings.layout, rings.num_slots).gathers, slots, steps):
        for take in one.takes:
            chosen = list(take.places)
            zeros, final = slot[chosen] == rings.num_slots, slot[chosen] > rings.num_slots
            found.append((take.leaf, Reads(leaves[take.leaf].path, step[chosen], final, zeros)))
    return int(newest), [reads for _, reads in sorted(found, key=lambda pair: pair[0])]


@functools.partial(jax.jit, static_argnames="view")
def _follow(
    rings: Rings, rows: Rows, view: View, key: jax.Array | None
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """Give how far the newest step is, and for each gather of the plan its slots and their steps, `[W]` each."""
    span = view.narrow(rings, draw_bits(view.find(rings, rows), view, key))
    gathers = plan(view, rings.layout, rings.num_slots).gathers
    slots = [gather.find_places(rings, span, one.places)[0][0] for one in gathers]
    steps = [time_of_slot(rings.clock, jnp.minimum(x, rings.num_slots - 1), rings.num_slots) - rows.time for x in slots]
    return span.newest[0], slots, steps


def _draw(rings: Rings, rows: Rows, view: View, newest: int, reads: list[Reads], masked: np.ndarray, ax: Any) -> Any:
    places = np.concatenate([np.where(x.final, newest + 1, x.steps)[~x.zeros] for x in reads] or [np.zeros(1)])
    low, high = int(places.min(initial=0)) - AROUND, int(places.max(initial=0)) + AROUND
    ax = _axes.make_axes(ax, max(6.0, 2.2 + 0.42 * (high - low + 2)), 1.5 + 0.42 * (len(reads) + 1))
    _draw_stored(ax, rings, rows, low, high)
    for y, one in enumerate(reads, 1):
        groups: dict[tuple[int, str], list[int]] = {}
        for column, (step, final, zero) in enumerate(zip(one.steps.tolist(), one.final.tolist(), one.zeros.tolist())):
            kind = "zeros" if zero else "final" if final else "step"
            groups.setdefault((low - 1 if zero else newest + 1 if final else step, kind), []).append(column)
        for (x, kind), columns in groups.items():
            kept = [i for i in columns if len(masked) != len(one.steps) or masked[i]]
            out = [i for i in columns if i not in kept]
            lines = [f"({_columns_text(out)})"] * bool(out) + [_columns_text(kept)] * bool(kept)
            _mark(ax, x, y, kind, not kept, "\n".join(lines))
    ax.axvline(low - 0.5, color=_axes.text_colour(), linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(reads) + 1), ["stored", *(one.path for one in reads)])
    step = max(1, (high - low) // 16)
    ticks = [x for x in range(low, high + 1) if x % step == 0]
    ax.set_xticks([low - 1, *ticks], ["zeros", *(f"{x:+d}" if x else "row" for x in ticks)], fontsize="small")
    ax.set(xlim=(low - 1.6, high + 0.6), ylim=(len(reads) + 0.6, -0.6), xlabel="steps from the row")
    name = type(view).__name__.removesuffix("View")
    left = [x.path for x in rings.layout.leaves if x.path not in {one.path for one in reads}]
    unread = f"; not read: {', '.join(left[:4])}{', ...' if len(left) > 4 else ''}" if left else ""
    ax.set_title(f"{name} of time {int(rows.time[0]):,}, env {int(rows.env[0])}{unread}", fontsize="medium")
    return ax


def _draw_stored(ax: Any, rings: Rings, rows: Rows, low: int, high: int) -> None:
    """Draw what the env holds around the row, in the colours of `ring`."""
    clock, time = rings.clock, int(rows.time[0])
    now, held = int(clock.time), int(clock.held)
    colours = [*_axes.EPISODES, _axes.VOID, _axes.REMOVED, _axes.LOST]
    steps = [x for x in range(low, high + 1) if now - held <= time + x < now]
    slots = np.array([(int(clock.head) - (now - time - x)) % rings.num_slots for x in steps])
    codes = row_codes(rings, slots, np.asarray(rows.env))[:, 0] if steps else []
    for x, code in zip(steps, codes):
        if code != EMPTY:
            ax.add_patch(_rectangle(x, 0, facecolor=colours[code], edgecolor="none"))
        if code >= NUM_COLOURS:
            ax.text(x, 0, KINDS[code - NUM_COLOURS][0], ha="center", va="center", fontsize="small", color="black")


def _rectangle(x: float, y: float, **how: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.44, y - 0.36), 0.88, 0.72, **how)


def _mark(ax: Any, x: float, y: float, kind: str, out: bool, text: str) -> None:
    colour = {"step": _axes.EPISODES[0], "final": _axes.ORANGE, "zeros": _axes.VOID}[kind]
    how = {"facecolor": "none" if out else colour, "edgecolor": colour, "linewidth": 1.4}
    how["linestyle"] = "--" if out else "-"
    if kind == "final":
        from matplotlib.patches import Polygon

        ax.add_patch(Polygon([(x, y - 0.46), (x + 0.5, y), (x, y + 0.46), (x - 0.5, y)], **how))
    else:
        ax.add_patch(_rectangle(x, y, **how))
    ink = _axes.text_colour() if out else "white" if kind == "step" else "black"
    ax.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)


def _columns_text(columns: list[int]) -> str:
    """Write columns by their runs: `0-2`, two runs at most, one below the other."""
    runs: list[list[int]] = []
    for i in columns:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return "\n".join(texts[:2]) + ("..." if len(texts) > 2 else "")
