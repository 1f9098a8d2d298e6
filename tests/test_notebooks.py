"""The notebooks as they are stored: `notebooks/run.py` executes them; here is what a reader gets without a kernel."""

from __future__ import annotations

import pathlib
import runpy
from typing import Any

import pytest

from tests.extras import library

nbformat: Any = library("nbformat")
library("nbclient")

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
RUN = runpy.run_path(str(FOLDER / "run.py"), run_name="run")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_notebooks_install_by_one_text() -> None:
    RUN["first_cells_are_the_same"](PATHS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_the_outputs_of_one_run_from_its_top(path: pathlib.Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, 1 + len(code_cells(notebook))))
    assert not any(output.output_type == "error" for cell in code_cells(notebook) for output in cell.outputs)
    RUN["check_outputs"](notebook)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_shows_a_picture_and_checks_its_result(path: pathlib.Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert any(line.startswith("assert ") for cell in cells for line in cell.source.splitlines())


@pytest.mark.parametrize(
    "text", ["<object at 0x7f3a21b0c4d0>", "12:30:05", "/tmp/tmpx1"], ids=["address", "time", "folder"]
)
def test_an_output_that_changes_with_every_run_is_refused(text: str) -> None:
    output = nbformat.v4.new_output("stream", text=text)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print()", outputs=[output])])
    with pytest.raises(ValueError, match="changes with every run"):
        RUN["check_outputs"](notebook)
