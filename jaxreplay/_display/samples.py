"""What passes through the public functions, as it shows itself: rows, samples, records of episodes, and counts."""

import dataclasses
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay._display import charts
from jaxreplay._display.arrays import (
    describe,
    fetch,
    leaves_table,
    leaves_text,
    short,
    show,
    total_bytes,
    why_unreadable,
)
from jaxreplay._display.panel import Panel


def short_repr(value: Any) -> str:
    """Write a dataclass with small arrays by their values, and others by their shapes; no large array is read."""
    return f"{type(value).__name__}({', '.join(_field(f.name, getattr(value, f.name)) for f in _fields(value))})"


def _fields(value: Any) -> list[Any]:
    """List the fields to show: not those that are at None by default, as the `axis` of rows on one device."""
    return [f for f in dataclasses.fields(value) if f.default is not None or getattr(value, f.name) is not None]


def _field(name: str, value: Any) -> str:
    if hasattr(value, "shape") or not trees.paths(value):
        return f"{name}={short(value) if hasattr(value, 'shape') else repr(value)}"
    return f"{name}={{{leaves_text(trees.paths(value))}}}"


def sample_repr(sample: Any) -> str:
    """Write a sample by the shapes of its arrays alone: it neither waits for them nor reads them."""
    return (
        f"Sample(rows={describe(getattr(sample.rows, 'time', sample.rows))}, mask={describe(sample.mask)}, "
        f"data={{{leaves_text(trees.paths(sample.data))}}})"
    )


def show_sample(sample: Any) -> str:
    return show(lambda: sample_panel(sample), "Sample")


def sample_panel(sample: Any) -> Panel:
    """Show the data by shapes; rows, probabilities and the mask, which have no more than a number a row, by values."""
    named = trees.paths(sample.data)
    own = {"mask": sample.mask, "probability": sample.probability, **vars(sample.rows)}
    facts, parts = [("batch", describe(sample.mask)), ("bytes", total_bytes(named))], []
    if (why := why_unreadable(own)) or (values := fetch(own)) is None:
        return Panel("Sample", [*facts, ("values", why)], [leaves_table("data", named)])
    mask, probability = values["mask"], values["probability"]
    facts.append(("rows found", f"{int(mask.sum()):,} of {mask.size:,}"))
    for name in ("source", "env", "time"):
        if name in values and mask.any() and values[name].shape == mask.shape:
            found = values[name][mask]
            facts.append((name, _range(found.min(), found.max(), ",")))
    if probability.size and probability.max() > 0:
        known = probability[probability > 0]
        facts.append(("probability", _range(known.min(), known.max(), ".3g")))
        if known.min() < known.max():
            parts.append(charts.histogram("probability of the rows that were drawn", known, ""))
    return Panel("Sample", facts, [*parts, leaves_table("data", named)])


def _range(low: Any, high: Any, form: str) -> str:
    return f"{low:{form}} to {high:{form}}" if low < high else f"{low:{form}}"


def show_episodes(episodes: Any) -> str:
    return show(lambda: episodes_panel(episodes), "Episodes")


def episodes_panel(episodes: Any) -> Panel:
    """Show how many episodes have a record, how many ended, and how long they are."""
    own = {name: getattr(episodes, name) for name in ("mask", "ended", "length")}
    final = trees.paths(episodes.final_observation)
    facts = [("records", describe(episodes.mask))]
    if (why := why_unreadable(own)) or (values := fetch(own)) is None:
        return Panel("Episodes", [*facts, ("values", why)], [leaves_table("final_observation", final)])
    mask, ended = values["mask"], values["ended"]
    facts += [("episodes", f"{int(mask.sum()):,}"), ("of these open", f"{int((mask & ~ended).sum()):,}")]
    lengths = charts.histogram("lengths", values["length"][mask], "steps")
    return Panel("Episodes", facts, [lengths, leaves_table("final_observation", final)])


def show_stats(stats: Any) -> str:
    return show(lambda: stats_panel(stats), "Stats")


def stats_panel(stats: Any) -> Panel:
    """Show the counts, and the shares of rows that can be read and that cannot."""
    values = {f.name: getattr(stats, f.name) for f in _fields(stats)}
    facts = [(name.replace("_", " "), short(value)) for name, value in values.items()]
    if why_unreadable(values) or any(np.ndim(value) for value in values.values()):
        return Panel("Stats", facts)
    found = fetch(values)
    count = {name: int(found[name]) for name in values}
    facts = [(name.replace("_", " "), f"{value:,}") for name, value in count.items()]
    kinds = {"readable": count["size"], "void or removed": count["void"] + count["removed"], "lost": count["lost"]}
    shares = [(kind, np.array([n])) for kind, n in kinds.items()]
    return Panel("Stats", facts, [charts.fill("rows", "ring", shares, count["capacity"])])
