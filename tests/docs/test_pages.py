"""Every Python block of the README and the documentation runs as it stands there, and prints what it says."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.docs.pages import PAGES, ROOT, RUN, Page
from tests.extras import library

FENCES = re.compile(r"^ *(`{3,}|~{3,})(.+)$", re.MULTILINE)


@pytest.mark.optimized  # some pages say what compiled programs do
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_runs(page: Page, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page.needs_its_own_process:
        page.run_in_its_own_process()
    else:
        page.run(library)


def test_no_python_is_left_out() -> None:
    """Each fence that is marked as Python is one of the blocks that run: none is indented, or marked in another way."""
    for page in PAGES:
        marked = [info for _, info in FENCES.findall(page.path.read_text()) if "py" in info]
        assert len(marked) == len(page.shown), page.name


def test_a_block_that_prints_something_else_fails(tmp_path: pathlib.Path) -> None:
    page = Page(tmp_path / "page.md")
    page.path.write_text("```python\nprint(1 + 1)  # 3\n```\n")
    with pytest.raises(AssertionError, match="`3` is not what it printed"):
        page.run()


def test_the_readme_is_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
