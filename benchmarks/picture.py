"""The picture of a run: by what factor this library is ahead of each peer, or behind it, for what a user does."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import textwrap
from typing import TYPE_CHECKING, Any

from benchmarks.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "flashbax": "#0072B2",
    "Brax": "#CC79A7",
    "TorchRL": "#D55E00",
    "cpprb": "#009E73",
    "Stable-Baselines3": "#E69F00",
    "NumPy ring": "#777777",
    "Python lists": "#56B4E9",
}
"""A peer's colour; a contestant whose name starts otherwise (a floor, a goal, a variant of ours) is no peer."""

WIDTH = 130  # characters of a line below the picture
SCAN, CONSUMED = "in lax.scan", "in lax.scan, consumer included"
VMAP, CALLS, BARE, PEAK = "vmap in lax.scan", "single calls", "added to a bare loop", "peak beside the buffer"

GROUPS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Append and extend, inside jit (lax.scan)": (
        ("append one step of 1 env, small", SCAN, "append 1 step of 1 env"),
        ("append one step of 128 envs, small", SCAN, "append 1 step of 128 envs"),
        ("append one step of 128 envs, nested", SCAN, "append 1 step of 128 envs, 16 leaves"),
        ("append one step of 32 envs, 84x84x4 uint8", SCAN, "append 1 step of 32 envs, images"),
        ("extend by 32 steps of 128 envs, small", SCAN, "extend by 32 steps of 128 envs"),
        ("extend by 16 steps of 10 envs, 84x84x4 uint8", SCAN, "extend by 16 steps of 10 envs, images"),
    ),
    "Sample, inside jit (lax.scan)": (
        ("sample 256 small", SCAN, "sample 256"),
        ("sample 256 of 84x84x4 uint8", SCAN, "sample 256 images"),
        ("append 128 envs, then sample 256, small", CONSUMED, "append 128 envs, then sample 256"),
        ("8 seeds: append 16 envs, then sample 256, small", VMAP, "append 16 envs, sample 256, vmap of 8 seeds"),
    ),
    "Views, inside jit (lax.scan)": (
        ("n-step transitions, n = 5, 256", SCAN, "256 transitions of 5 steps"),
        ("windows of 16 steps, 256", SCAN, "256 windows of 16 steps"),
        ("complete sequences of 80 steps, 64", SCAN, "64 sequences of 80 steps"),
        ("sample 256 stacks of 4 frames of 84x84 uint8", SCAN, "256 stacks of 4 frames, frames stored once"),
    ),
    "Prioritized replay, inside jit (lax.scan)": (
        ("prioritized: append one step of 128 envs", CONSUMED, "append 1 step of 128 envs"),
        ("prioritized: sample 256 of 2^20", CONSUMED, "sample 256 of a million"),
        ("prioritized: update 256 of 2^20", CONSUMED, "update 256 priorities"),
        ("prioritized: append 128 envs, sample 256, update 256", CONSUMED, "all three"),
        ("8 seeds: prioritized: append 128 envs, sample 256, update 256", VMAP, "all three, vmap of 8 seeds"),
    ),
    "The whole training step": (("a training step of the main job, 16 envs", SCAN, "DQN on CartPole, 16 envs"),),
    "From Python, a call at a time": (
        ("append one step of one env, small", CALLS, "append 1 step of 1 env"),
        ("sample 256 small of 2^20", CALLS, "sample 256"),
        ("sample 256 84x84x4 uint8 of 20,000", CALLS, "sample 256 images"),
        ("prioritized: append 128 envs, sample 256, update 256", CALLS, "prioritized: append, sample, update"),
        ("record a step of CartPole", BARE, "record CartPole"),
        ("record a step and env of 64 CartPoles", BARE, "record 64 CartPoles"),
    ),
    "Memory": (
        ("memory of a stored step over one observation", "84x84x4 uint8", "to store a step, images"),
        ("memory of 20,000 steps", "4 stacked frames", "to store 20,000 stacks of 4 frames"),
        ("sample 256 84x84x4 uint8", PEAK, "beside the buffer, to sample 256 images"),
    ),
}
"""The rows: the workload and mode of a result, and what the picture calls it. A run that lacks one is drawn without."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """How many times our time, or memory, a peer needs for one row of the picture."""

    group: str
    label: str
    peer: str
    ratio: float


def bars(results: list[Result]) -> list[Bar]:
    """What the picture shows of a run, in order."""
    found = {(result.workload, result.mode): result for result in results}
    out = []
    for group, rows in GROUPS.items():
        for workload, mode, label in rows:
            result = found.get((workload, mode))
            if result is None:
                continue
            ratios = {name.split(",")[0]: result.speedup(name) for name in result.micros}
            for peer in COLORS:
                if (ratio := ratios.get(peer)) is not None and 0 < ratio < float("inf"):
                    out.append(Bar(group, label, peer, ratio))
    return out


def number(ratio: float) -> str:
    """Write a ratio as the picture does: 0.028x, 0.50x, 1.1x, 31x."""
    return f"{ratio:.{3 if ratio < 0.1 else 2 if ratio < 1 else 1 if ratio < 10 else 0}f}x"


def draw(machine: dict[str, Any], results: list[Result]) -> Figure | None:
    """Draw bars that leave a line at 1, to the right where we are faster; return None if there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    shown = bars(results)
    if not shown:
        return None
    places = _places(shown)
    footer = _footer(machine)
    below = 0.65 + 0.15 * len(footer.splitlines())  # inches
    height = 0.19 * (places[-1] + 2.8) + 1.45 + below
    figure, axes = pyplot.subplots(figsize=(11, height))
    figure.subplots_adjust(left=0.335, right=0.96, top=1 - 1.45 / height, bottom=below / height)
    rows = [(bar.group, bar.label) for bar in shown]
    for place, bar in zip(places, shown, strict=True):
        right = bar.ratio >= 1
        color = COLORS[bar.peer]
        axes.barh(place, bar.ratio - 1, left=1, height=0.82, color=color, edgecolor=color, linewidth=0.8)
        named = f" {bar.peer}" if rows.count((bar.group, bar.label)) > 1 else ""
        axes.annotate(
            number(bar.ratio) + named,
            (bar.ratio, place),
            (4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=8.5,
        )
    _name_rows(axes, shown, places)
    _scale(axes, shown)
    axes.set_ylim(places[-1] + 1, -1.8)
    peers = [peer for peer in COLORS if any(bar.peer == peer for bar in shown)]
    handles = [Patch(color=COLORS[peer], label=peer) for peer in peers]
    middle = 0.5
    figure.text(middle, 1 - 0.3 / height, "jaxreplay against its peers", ha="center", va="center", fontsize=15)
    figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(middle, 1 - 0.68 / height),
        ncols=len(peers),
        frameon=False,
        fontsize=9.5,
        columnspacing=1.2,
        handlelength=1.2,
    )
    figure.text(middle, 0.12 / height, footer, ha="center", va="bottom", fontsize=8, color="#444444")
    return figure


def save(path: pathlib.Path, machine: dict[str, Any], results: list[Result]) -> bool:
    """Write the picture as PNG; return False where the run has nothing to draw."""
    figure = draw(machine, results)
    if figure is None:
        return False
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _places(shown: list[Bar]) -> list[float]:
    """Where each bar is, from the top: a gap before each workload, and room for a heading before each group."""
    places, place = [0.0], 0.0
    for before, bar in itertools.pairwise(shown):
        same = (before.group, before.label) == (bar.group, bar.label)
        place += 1.0 if same else 1.35 if before.group == bar.group else 3.2
        places.append(place)
    return places


def _name_rows(axes: Axes, shown: list[Bar], places: list[float]) -> None:
    """Write each workload beside the middle of its bars, and each group's heading above them."""
    rows: dict[tuple[str, str], list[float]] = {}
    for bar, place in zip(shown, places, strict=True):
        rows.setdefault((bar.group, bar.label), []).append(place)
    axes.set_yticks([sum(own) / len(own) for own in rows.values()], [label for _, label in rows], fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    tops: dict[str, float] = {}
    for (group, _), own in rows.items():
        tops.setdefault(group, own[0])
    for group, top in tops.items():
        style: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": 10, "fontweight": "bold"}
        axes.annotate(group, (0, top - 1.35), (-235, 0), ("axes fraction", "data"), "offset points", **style)


def _scale(axes: Axes, shown: list[Bar]) -> None:
    """A log axis that holds every bar and its value, with a line at 1."""
    axes.set_xscale("log")
    low, high = min(0.5, *(bar.ratio for bar in shown)), max(2.0, *(bar.ratio for bar in shown))
    room = (high / low) ** 0.33  # for the values, on either side
    axes.set_xlim(low / room, high * room)
    left, right = axes.get_xlim()
    digits = (1, 3) if right < 1e5 * left else (1,)
    ticks = [tick for k in range(-9, 10) for digit in digits if left < (tick := 10.0**k * digit) < right]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", top=True, labeltop=True, labelsize=9)
    for side in ("left", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "the peer's time (memory) over jaxreplay's, log scale; values are medians over rounds", fontsize=9.5
    )
    style: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 9.5}
    axes.annotate(
        "jaxreplay is slower, larger  \u2190", (1, 1), (-8, 22), ("data", "axes fraction"), ha="right", **style
    )
    axes.annotate(
        "\u2192  jaxreplay is faster, smaller", (1, 1), (8, 22), ("data", "axes fraction"), ha="left", **style
    )


def _footer(machine: dict[str, Any]) -> str:
    """What was measured, on what, and how."""
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    versions = machine["versions"]
    names = [f"{name} {version}" for name, version in versions.items() if version != "not installed"]
    half = (len(names) + 1) // 2
    lines = (
        "Observations are 4 floats, or images of 84x84x4 bytes; frames are 84x84 bytes.",
        f"{machine['processor']}, {cores}, {machine['device']}; {machine['date']}",
        *textwrap.wrap(f"measured by {machine.get('command', 'python -m benchmarks')}", WIDTH),
        ", ".join(names[:half]),
        ", ".join(names[half:]),
    )
    return "\n".join(lines)
