"""Draw the pictures of the documentation: `python docs/drawings/draw.py` writes the SVG files beside it.

They are put into the pages as they are, so that their colours are the theme's, in light and dark:
`docs/stylesheets/site.css` has them.
"""

from __future__ import annotations

import dataclasses
import html
import pathlib
from collections.abc import Sequence

HERE = pathlib.Path(__file__).parent
CELL = 46
HATCH = (
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatchline" x1="0" y1="0" x2="0" y2="6"/></pattern>'
)
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path class="tip" d="M0,0 L8,4 L0,8 z"/></marker>'
)


@dataclasses.dataclass
class Drawing:
    """An SVG picture of a width and height, with what it shows in words."""

    width: int
    height: int
    title: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def cell(
        self, x: float, y: float, kind: str, text: str = "", width: float = CELL, height: float = 34
    ) -> None:
        """Draw a box; `kind` is its class: an episode's colour, or void."""
        self.add(
            f'<rect class="cell {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 4.5, text)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> None:
        self.add(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.add(f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')

    def arrow(self, points: Sequence[tuple[float, float]]) -> None:
        path = "M" + " L".join(f"{x},{y}" for x, y in points)
        self.add(f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>')

    def row(self, x: float, y: float, height: float = 34) -> None:
        """Outline the row that was drawn."""
        self.add(
            f'<rect class="row" x="{x - 2}" y="{y - 2}" width="{CELL + 4}" height="{height + 4}" rx="4"/>'
        )

    def bracket(self, x1: float, x2: float, y: float, text: str, kind: str = "small") -> None:
        self.add(f'<path class="arrow" d="M{x1},{y} v6 H{x2} v-6"/>')
        self.text((x1 + x2) / 2, y + 20, text, kind)

    def svg(self) -> str:
        inner = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{html.escape(self.title)}">\n'
            f"<defs>{HATCH}{TIP}</defs>\n{inner}\n</svg>\n"
        )


def ring() -> Drawing:
    """Three envs, twelve slots, sixteen slices appended: what lies where."""
    drawing = Drawing(
        720, 290, "A ring of twelve slots and three envs, and the records of episodes"
    )
    envs = [  # by slot: the colour of the episode in it, * at its end, . for a void row
        ["c", "c", "c", "c", "a", "a*", "b", "b", "b", "b", "b*", "c"],
        ["b", "b", "b", "b", "a", "a", "a", "a", "a", "a*", "b", "b"],
        ["d", "d", "d", "d", "a", "a", "a*", ".", "b", "b", "b*", "d"],
    ]
    left, top = 70, 46
    for env, kinds in enumerate(envs):
        y = top + 40 * env
        drawing.text(left - 12, y + 22, f"env {env}", "small", "end")
        for slot, kind in enumerate(kinds):
            x = left + CELL * slot
            time = slot + 12 if slot < 4 else slot
            drawing.cell(x, y, "void" if kind == "." else kind[0], "" if kind == "." else str(time))
            if kind.endswith("*"):
                drawing.line("end", x + CELL - 2, y + 3, x + CELL - 2, y + 31)
    head = left + 4 * CELL
    drawing.line("head", head, top - 10, head, top + 124)
    drawing.text(head, top - 16, "write head: slice 16 goes here")
    drawing.text(left, top - 16, "slot 0", "small", "start")
    drawing.text(left + 12 * CELL, top - 16, "slot T - 1", "small", "end")
    drawing.bracket(left + 2, head - 4, top + 126, "newest: times 12 to 15")
    drawing.bracket(head + 4, left + 12 * CELL - 2, top + 126, "older: times 4 to 11")
    y = 226
    drawing.text(left - 12, y + 22, "records", "small", "end")
    for i, (kind, text) in enumerate([("a", "episode 0"), ("b", "episode 1"), ("c", "episode 2")]):
        x = left + 184 * i
        drawing.cell(x, y, kind, "", 176)
        drawing.text(x + 88, y + 15, f"env 0, {text}")
        drawing.text(x + 88, y + 29, "start, newest, next observation", "small")
    return drawing


def observations() -> Drawing:
    """An episode of four steps: five observations, of which the last lies in the record."""
    drawing = Drawing(560, 170, "An episode of four steps: its last observation lies in its record")
    left, top = 40, 30
    for t in range(4):
        drawing.cell(left + 100 * t, top, "a", f"o{t}", 60)
        drawing.text(left + 100 * t + 30, top - 10, f"row {t}", "small")
        end = left + 100 * (t + 1)
        drawing.arrow([(left + 100 * t + 62, top + 17), (end - 2, top + 17)])
        drawing.text(left + 100 * t + 80, top + 11, "next", "small")
    drawing.line("end", left + 362, top + 1, left + 362, top + 33)
    drawing.cell(left + 400, top, "a", "o4", 60)
    drawing.text(left + 430, top - 10, "record", "small")
    drawing.text(left + 430, top + 52, "the true last observation", "small")
    drawing.text(left, top + 90, "Four rows, five observations, each stored once.", "", "start")
    drawing.text(
        left,
        top + 112,
        "The next row of the env begins another episode; nobody reads across.",
        "small",
        "start",
    )
    return drawing


def autoreset() -> Drawing:
    """Where the observation of a reset goes in each of Gymnasium's three modes."""
    drawing = Drawing(640, 250, "Rows of one env in the three autoreset modes")
    modes = [
        ("NEXT_STEP", ["a", "a", "a*", ".", "b", "b"], "the step that resets is a void row"),
        (
            "SAME_STEP",
            ["a", "a", "a*", "b", "b", "b"],
            'the final observation comes from info["final_obs"]',
        ),
        ("DISABLED", ["a", "a", "a*", "b", "b", "b"], "you reset the env; no row is added"),
    ]
    for i, (mode, kinds, note) in enumerate(modes):
        y = 20 + 76 * i
        drawing.text(110, y + 22, mode, "code", "end")
        for t, kind in enumerate(kinds):
            x = 126 + CELL * t
            drawing.cell(
                x, y, "void" if kind == "." else kind[0], "void" if kind == "." else str(t)
            )
            if kind.endswith("*"):
                drawing.line("end", x + CELL - 2, y + 3, x + CELL - 2, y + 31)
        drawing.text(126, y + 52, note, "small", "start")
    drawing.text(420, 42, "red bar: the episode ends,", "small", "start")
    drawing.text(420, 58, "its final observation is kept", "small", "start")
    return drawing


def view(
    name: str, row: int, read: dict[int, str], title: str, note: str, record: bool = False
) -> Drawing:
    """Ten rows of one env: an episode of six steps, then an open one; the row drawn, and what its batch reads."""
    drawing = Drawing(660, 128, title)
    left, top = 20, 34
    for t in range(10):
        x = left + CELL * t
        drawing.cell(x, top, "a" if t < 6 else "b", str(t))
        if t == 5:
            drawing.line("end", x + CELL - 2, top + 3, x + CELL - 2, top + 31)
        if t in read:
            drawing.text(x + CELL / 2, top - 8, read[t] or "•", "code")
    x = left + CELL * 10 + 30
    drawing.cell(x, top, "a", "o6", 46)
    drawing.text(x + 23, top + 50, "final", "small")
    if record:
        drawing.text(x + 23, top - 8, "next", "code")
    drawing.row(left + CELL * row, top)
    drawing.text(left, top + 58, note, "small", "start")
    drawing.text(left, top + 78, f"views.{name}", "code", "start")
    return drawing


VIEWS = {
    "transition": view(
        "transition()",
        5,
        {5: "step"},
        "A transition",
        "Row 5 ends its episode: its next is o6.",
        record=True,
    ),
    "n-step": view(
        "n_step(3, 0.99)",
        2,
        {2: "r", 3: "r", 4: "r", 5: "next"},
        "Three steps as one transition",
        "Rewards of rows 2, 3, 4; bootstrap from the observation of row 5. From row 4 on, fewer steps.",
    ),
    "frame-stack": view(
        "frame_stack(4)",
        7,
        {6: "• • •", 7: "•"},
        "A stack of four frames",
        "Before the episode's first frame stands that frame again: row 6 three times, then row 7.",
    ),
    "window": view(
        "window(past=2, future=1)",
        5,
        {3: "-2", 4: "-1", 5: "0", 6: ""},
        "A window",
        "Rows 3, 4 and 5; the offset +1 is outside the episode, so its mask is False.",
    ),
    "offsets": view(
        "offsets((-4, -2, 0))",
        4,
        {0: "-4", 2: "-2", 4: "0"},
        "Chosen offsets",
        "Rows 0, 2 and 4, and none between.",
    ),
    "sequence": view(
        "sequence(3)",
        1,
        {1: "0", 2: "1", 3: "2", 4: "next"},
        "A sequence",
        "Rows 1, 2 and 3. Complete ones alone are drawn: no sequence of three begins at row 4 or 5.",
    ),
    "hindsight": view(
        'hindsight("future")',
        2,
        {2: "step", 4: "goal"},
        "A goal that was reached later",
        "The goal of row 2 becomes one that row 4 of the same episode reached.",
    ),
}

DRAWINGS = {
    "ring": ring,
    "observations": observations,
    "autoreset": autoreset,
    **{f"view-{name}": (lambda drawing=drawing: drawing) for name, drawing in VIEWS.items()},
}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (HERE / f"{name}.svg").write_text(draw().svg())


if __name__ == "__main__":
    main()
