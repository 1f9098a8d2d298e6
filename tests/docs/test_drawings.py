"""The drawings in the folder are what their script draws, and every one is in a page."""

from __future__ import annotations

import runpy

from tests.docs.pages import PAGES, ROOT

FOLDER = ROOT / "docs/drawings"


def test_each_drawing_is_what_the_script_draws() -> None:
    draw = runpy.run_path(str(FOLDER / "draw.py"))
    drawn = {f"{name}.svg": make().svg() for name, make in draw["DRAWINGS"].items()}
    assert drawn == {path.name: path.read_text() for path in FOLDER.glob("*.svg")}


def test_each_drawing_is_in_a_page() -> None:
    text = "".join(page.path.read_text() for page in PAGES)
    assert not [path.name for path in FOLDER.glob("*.svg") if f'--8<-- "drawings/{path.name}"' not in text]
