"""A display as HTML and as text that says the same: a title, facts, charts and tables.

The HTML works in every notebook host: no script and no identifiers, all text escaped, and colours that follow the
host's theme. Where a host strips the style, the text is shown and the rest stays hidden.
"""

import dataclasses
import functools
import html
import pathlib
from collections.abc import Sequence

from jaxreplay._display.charts import Chart

MOST_ROWS = 60  # of a table; a step of more leaves than that is cut, and the table says so


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of words; the columns after the first `words` hold numbers and are aligned to the right."""

    heading: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 2


@dataclasses.dataclass(frozen=True)
class Panel:
    """What is shown of one object: its type's name, `(name, value)` facts, and charts and tables below them."""

    title: str
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Chart | Table] = ()

    def text(self) -> str:
        """Write it as plain text, charts as small pictures of block letters."""
        width = max((len(name) for name, _ in self.facts), default=0)
        lines = [self.title, *(f"  {name:<{width}}  {value}" for name, value in self.facts)]
        for part in self.parts:
            lines += [f"  {part.heading}", *(f"    {line}" for line in _text_of(part))]
        return "\n".join(lines)

    def html(self) -> str:
        """Write it as HTML that contains its own style."""
        facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts)
        parts = "".join(map(_html_of, self.parts))
        return (
            f"<div><style>{style()}</style><pre class='jaxreplay-text'>{escape(self.text())}</pre>"
            f"<div class='jaxreplay' hidden style='display:none'><b>{escape(self.title)}</b>"
            f"<table class='jaxreplay-facts'>{facts}</table>{parts}</div></div>"
        )


def escape(text: object) -> str:
    return html.escape(str(text))


@functools.cache
def style() -> str:
    """Read the style of displays, without comments and line breaks."""
    lines = (pathlib.Path(__file__).parent / "display.css").read_text().splitlines()
    return "".join(line.strip() for line in lines if not line.startswith("/*"))


def _cut(table: Table) -> tuple[Sequence[tuple[str, ...]], str]:
    """Give the rows that are shown, and what to say of the rest."""
    left = len(table.rows) - MOST_ROWS
    return table.rows[:MOST_ROWS], f"and {left} more" if left > 0 else ""


def _text_of(part: Chart | Table) -> list[str]:
    if isinstance(part, Chart):
        return part.text.splitlines()
    rows, rest = _cut(part)
    widths = [max(map(len, column)) for column in zip(part.header, *rows)]
    lines = []
    for row in (part.header, *rows):
        cells = (f"{x:<{w}}" if i < part.words else f"{x:>{w}}" for i, (x, w) in enumerate(zip(row, widths)))
        lines.append("  ".join(cells).rstrip())
    return lines + [rest] * bool(rest)


def _html_of(part: Chart | Table) -> str:
    summary = f"<details open><summary>{escape(part.heading)}</summary>"
    if isinstance(part, Chart):
        return f"{summary}{part.svg}</details>"
    rows, rest = _cut(part)

    def line(cells: tuple[str, ...], tag: str) -> str:
        numbers = (" class='jaxreplay-number'" if i >= part.words else "" for i in range(len(cells)))
        return "".join(f"<{tag}{kind}>{escape(x)}</{tag}>" for x, kind in zip(cells, numbers))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    more = f"<tr><td>{rest}</td></tr>" if rest else ""
    return f"{summary}<table><thead><tr>{line(part.header, 'th')}</tr></thead>{body}{more}</table></details>"


def bytes_text(count: int) -> str:
    """Write a number of bytes with three digits.

    >>> bytes_text(512), bytes_text(1_500_000)
    ('512 B', '1.43 MiB')
    """
    size, units = float(count), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.3g} TiB"
