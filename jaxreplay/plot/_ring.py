"""The ring as a map of envs and time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import lookup
from jaxreplay._core.clock import is_held, time_of_slot
from jaxreplay._core.episode_numbers import VOID
from jaxreplay._core.rings import Rings
from jaxreplay._display.pictures import evenly
from jaxreplay.buffer import Buffer
from jaxreplay.plot import _axes
from jaxreplay.stacks import refuse_stack
from jaxreplay.state import check_buffer

EMPTY = -1  # the codes of rows; from 0 on, which colour an episode has
KINDS = ("void", "removed", "lost")
FEW_ENVS = 12  # up to so many have a tick each
NUM_COLOURS = len(_axes.EPISODES)


def ring(buffer: Buffer, ax: Any = None, *, max_slots: int = 1200, max_envs: int = 256) -> Any:
    """Draw the ring as it lies in memory: slots from left to right, an env a line.

    Episodes have colours in turn. Rows that cannot be read are grey (void), yellow (removed) or brown (lost: their
    episode's record was overwritten). The line is where the next slice is written; what is right of it is the oldest.
    max_slots, max_envs: of a larger ring so many are drawn, at even distances.
    Returns the axes. Raises TypeError for what is no buffer, ValueError for a batch of buffers.
    """
    check_buffer("ring", buffer)
    refuse_stack("ring", buffer, "read it by replay.take, with the rows that replay.rows lists")
    rings = buffer.rings
    slots, envs = evenly(rings.num_slots, max_slots), evenly(rings.num_envs, max_envs)
    codes = row_codes(rings, slots, envs)
    ax = _axes.make_axes(ax, 9, min(6.0, 1.7 + 0.25 * len(envs)))
    from matplotlib.colors import ListedColormap

    colours = [*_axes.EPISODES, _axes.VOID, _axes.REMOVED, _axes.LOST]
    ax.imshow(
        np.ma.masked_equal(codes.T, EMPTY),
        cmap=ListedColormap(colours),
        vmin=0,
        vmax=len(colours) - 1,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, rings.num_slots - 0.5, rings.num_envs - 0.5, -0.5),
    )
    time, head = int(rings.clock.time), int(rings.clock.head)
    ax.axvline(head - 0.5, color=_axes.text_colour(), linewidth=2)
    right = head > 0.8 * rings.num_slots
    ax.annotate(
        f"write head: time {time:,} is next",
        (head - 0.5, 1.0),
        (-4 if right else 4, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize="small",
    )
    drawn = f"; 1 of {rings.num_slots / len(slots):.3g} slots" if len(slots) < rings.num_slots else ""
    drawn += f"; 1 of {rings.num_envs / len(envs):.3g} envs" if len(envs) < rings.num_envs else ""
    ax.set(xlabel=f"slot of the ring (time modulo {rings.num_slots:,} slices{drawn})", ylabel="env")
    if rings.num_envs <= FEW_ENVS:
        ax.set_yticks(range(rings.num_envs))
    what = "episodes, in turn" if rings.num_records else "items"
    found = [(what, colours[0])] + [
        (k, c) for i, (k, c) in enumerate(zip(KINDS, colours[-3:])) if (codes == NUM_COLOURS + i).any()
    ]
    _axes.legend(ax, found)
    return ax


def row_codes(rings: Rings, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
    """Say what lies in slots of envs, int `[slots, envs]`: a colour of episodes, a kind after these, or EMPTY."""
    slot, env = np.broadcast_arrays(slots[:, None], envs[None])
    number, held, recorded = map(np.asarray, _read(rings, jnp.asarray(slot, jnp.int32), jnp.asarray(env, jnp.int32)))
    codes = number % NUM_COLOURS if rings.num_records else np.zeros_like(number)
    codes = np.where(recorded, codes, NUM_COLOURS + KINDS.index("lost"))
    codes = np.where(number < VOID, NUM_COLOURS + KINDS.index("removed"), codes)
    codes = np.where(number == VOID, NUM_COLOURS + KINDS.index("void"), codes)
    return np.where(held, codes, EMPTY)


@functools.partial(jax.jit)
def _read(rings: Rings, slot: jax.Array, env: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Read the episode words of slots, whether they are held, and whether their episode's record is kept."""
    number = lookup.own_word(rings, slot, env, 0)
    held = is_held(rings.clock, time_of_slot(rings.clock, slot, rings.num_slots))
    if not rings.num_records:
        return number, held, number >= 0
    return number, held, lookup.has_record(rings.envs.number[env], number, rings.num_records)
