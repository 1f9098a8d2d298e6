"""Small charts for displays, each as SVG and as a line of block letters: how full, a histogram, a curve."""

import dataclasses
import html
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 420, 56  # pixels of the plotted area
BINS = 28
BARS, COLUMNS = 8, 70  # up to so many are bars with names; more are columns, and more than these are averaged
BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclasses.dataclass(frozen=True)
class Chart:
    heading: str
    svg: str
    text: str


def fill(heading: str, names: str, parts: Sequence[tuple[str, np.ndarray]], total: float) -> Chart:
    """Draw how much of `total` each of several things holds, stacked: `parts` are up to three `(name, [N] numbers)`.

    names: what the N things are, as "env".
    """
    labels, values = [name for name, _ in parts], np.stack([np.asarray(x, np.float64) for _, x in parts])
    total, count = max(total, 1e-9), values.shape[1]
    groups = [group.mean(axis=1) for group in np.array_split(values, min(count, COLUMNS), axis=1)]
    shares = np.stack(groups, axis=1) / total if groups else np.zeros((len(parts), 0))
    if count <= BARS:
        body, high = _bars(shares, names, labels), 18 * count
    else:
        body, high = _columns(shares), HEIGHT
        body += _text(0, high + 12, f"{names} 0") + _text(WIDTH, high + 12, f"{names} {count - 1}", "end")
        body += _text(WIDTH + 6, 9, "100%") + _text(WIDTH + 6, high, "0%")
        high += 14
    body += _legend([*labels, "empty"], high + 12)
    wide = max(map(len, labels))
    lines = [f"{label:<{wide}}  {_shares_text(x, names)}" for label, x in zip(labels, shares)]
    each = f", each column the mean of about {count / len(groups):.3g}" if count > COLUMNS else ""
    return Chart(f"{heading}{each}", _svg(body, WIDTH + 60, high + 18), "\n".join(lines))


def histogram(heading: str, values: np.ndarray, unit: str) -> Chart:
    """Draw how numbers `[N]` are distributed; what is not finite is counted in the heading alone."""
    values = np.asarray(values, np.float64).ravel()
    finite = values[np.isfinite(values)]
    left_out = f", {values.size - finite.size} not finite" if finite.size < values.size else ""
    if not finite.size:
        return Chart(f"{heading}: none{left_out}", "", "")
    low, high = float(finite.min()), float(finite.max())
    whole = bool((finite == np.round(finite)).all()) and high - low < BINS
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, _above(low, high), BINS + 1)
    counts, _ = np.histogram(finite, edges)
    most, wide = max(int(counts.max()), 1), WIDTH / len(counts)
    body = "".join(
        f"<rect class='a' x='{i * wide:.1f}' y='{HEIGHT * (1 - c / most):.1f}' width='{wide - 1:.1f}' "
        f"height='{HEIGHT * c / most:.1f}'/>"
        for i, c in enumerate(counts.tolist())
        if c
    )
    body += f"<path class='o' d='M0 {HEIGHT}H{WIDTH}'/>" + _text(WIDTH + 6, 9, f"{most:,}")
    ends = (f"{low:.4g}", f"{high:.4g} {unit}") if low < high else (f"{low:.4g} {unit}", "")
    body += _text(0, HEIGHT + 12, ends[0]) + _text(WIDTH, HEIGHT + 12, ends[1], "end")
    middle, mean = float(np.median(finite)), float(finite.mean())
    body += _text(WIDTH / 2, HEIGHT + 12, f"mean {mean:.4g}, median {middle:.4g}", "middle")
    said = f"{low:.4g} [{blocks(counts / most)}] {f'{high:.4g} {unit}'.strip()}, mean {mean:.4g}, median {middle:.4g}"
    return Chart(f"{heading}{left_out}", _svg(body, WIDTH + 60, HEIGHT + 18), said)


def curve(heading: str, values: np.ndarray, unit: str) -> Chart:
    """Draw numbers `[T]` over their steps."""
    values = np.asarray(values, np.float64).ravel()
    shown = values[np.linspace(0, values.size - 1, min(values.size, 2 * COLUMNS)).astype(int)]
    finite = shown[np.isfinite(shown)]
    if not finite.size:
        return Chart(f"{heading}: none finite", "", "")
    low, high = float(finite.min()), float(finite.max())
    scaled = np.where(np.isfinite(shown), (shown - low) / (_above(low, high) - low), 0.0)
    at = [f"{i * WIDTH / max(len(shown) - 1, 1):.1f} {(HEIGHT - 2) * (1 - y) + 1:.1f}" for i, y in enumerate(scaled)]
    body = f"<path class='o' d='M0 {HEIGHT}H{WIDTH}'/><path class='l' d='M{'L'.join(at)}{'h1' * (len(at) == 1)}'/>"
    body += _text(WIDTH + 6, 9, f"{high:.4g}") + _text(WIDTH + 6, HEIGHT, f"{low:.4g}")
    body += _text(0, HEIGHT + 12, "0") + _text(WIDTH, HEIGHT + 12, f"{values.size - 1} {unit}", "end")
    middle = scaled[np.linspace(0, len(scaled) - 1, min(len(scaled), BINS)).astype(int)]
    return Chart(
        heading, _svg(body, WIDTH + 60, HEIGHT + 18), f"[{blocks((1 + 7 * middle) / 8)}] {low:.4g} to {high:.4g}"
    )


def blocks(shares: np.ndarray) -> str:
    """Write shares from 0 to 1 as one letter each; what is above zero is never blank."""
    return "".join(BLOCKS[min(8, max(int(x > 0), round(8 * float(x))))] for x in shares)


def _above(low: float, high: float) -> float:
    return high if high > low else low + max(abs(low), 1.0) * 1e-3


def _bars(shares: np.ndarray, names: str, labels: Sequence[str]) -> str:
    body = ""
    for i, column in enumerate(shares.T):
        at, y = 60.0, 18 * i + 2
        for kind, share in zip("abc", column):
            body += f"<rect class='{kind}' x='{at:.1f}' y='{y}' width='{(WIDTH - 60) * share:.1f}' height='12'/>"
            at += (WIDTH - 60) * share
        body += f"<rect class='o' x='60' y='{y}' width='{WIDTH - 60}' height='12'/>" + _text(0, y + 10, f"{names} {i}")
        body += _text(WIDTH + 6, y + 10, f"{column.sum():.0%}")
    return body


def _columns(shares: np.ndarray) -> str:
    wide, body = WIDTH / shares.shape[1], ""
    for i, column in enumerate(shares.T):
        at = float(HEIGHT)
        for kind, share in zip("abc", column):
            at -= HEIGHT * share
            place = f"x='{i * wide:.1f}' y='{at:.1f}' width='{wide - 0.7:.1f}' height='{HEIGHT * share:.1f}'"
            body += f"<rect class='{kind}' {place}/>" if share else ""
    return f"{body}<rect class='o' x='0' y='0.5' width='{WIDTH}' height='{HEIGHT - 1}'/>"


def _legend(labels: Sequence[str], y: float) -> str:
    body, x = "", 0.0
    for kind, label in zip("abco"[: len(labels) - 1] + "o", labels):
        body += f"<rect class='{kind}' x='{x + 0.5}' y='{y - 8}' width='9' height='9'/>" + _text(x + 13, y, label)
        x += 26 + 5.6 * len(label)
    return body


def _shares_text(shares: np.ndarray, names: str) -> str:
    if len(shares) <= BARS:
        return ", ".join(f"{names} {i} {share:.0%}" for i, share in enumerate(shares))
    return f"[{blocks(shares)}] {shares.min():.0%} to {shares.max():.0%}"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}'>{html.escape(text)}</text>"


def _svg(body: str, width: float, height: float) -> str:
    return f"<svg width='{width:g}' height='{height:g}' viewBox='0 0 {width:g} {height:g}' role='img'>{body}</svg>"
