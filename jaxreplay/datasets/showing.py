"""How a data set shows itself. Its steps are not read, but for the rewards of a bounded number of episodes."""

import numpy as np

from jaxreplay._core import trees
from jaxreplay._display import charts
from jaxreplay._display.panel import Panel, Table, bytes_text
from jaxreplay.datasets import select as choosing
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

SAMPLED = 1000  # episodes whose returns are summed up; of a longer data set, so many at even distances


def dataset_panel(store: Store, report: Report | None, nbytes: int) -> Panel:
    """Show how many episodes there are, how they ended, how long they are and what they return; and their arrays."""
    counted, lengths = choosing.summarise(store), store.table.length
    ends = [f"{getattr(counted, kind):,} {kind}" for kind in ("terminated", "truncated", "unfinished")]
    facts = [
        ("episodes", f"{counted.episodes:,}"),
        ("steps", f"{counted.steps:,}"),
        ("ended", ", ".join(ends)),
        ("bytes", bytes_text(nbytes)),
    ]
    facts += [("report", line.strip()) for line in _left_out(report)]
    parts = []
    if len(lengths):
        parts.append(charts.histogram(f"lengths of {len(lengths):,} episodes", lengths, "steps"))
        if store.chunks[0].rewards is not None:
            chosen = np.linspace(0, len(lengths) - 1, min(len(lengths), SAMPLED)).astype(np.int64)
            returns = choosing.returns(store.take(chosen), "display")
            of = f"{len(chosen):,}" if len(chosen) == len(lengths) else f"{len(chosen):,} of {len(lengths):,}"
            parts.append(charts.histogram(f"returns of {of} episodes", returns, ""))
    columns = store.chunks[0].columns() if store.chunks else []
    rows = [(path, trees.describe(x.shape[1:], x.dtype), f"{x[:1].nbytes:,}") for path, x in columns]
    return Panel("Dataset", facts, [*parts, Table("structure of a step", ("leaf", "array", "bytes a step"), rows)])


def _left_out(report: Report | None) -> list[str]:
    """Say what was left out when it was loaded or made, a line each."""
    return [] if report is None else str(report.left_out()).splitlines()[2:]
