"""Pages of the documentation as programs: the Python blocks of one page run in order, in one namespace.

A block that stands in a comment, `<!--python ... -->`, runs as the others do and is not shown: it makes what a reader
has already, or checks what the page says. A comment `<!--needs gymnasium-->` names libraries that the next blocks need.
Where a call of `print` ends with a comment, that is what it must print; `...` stands for anything. A page with the
comment `<!--its own process-->` runs in one, as it sets up JAX.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(
    r"^```python\n(?P<shown>.*?)^```|^<!--python\n(?P<hidden>.*?)^-->|^<!--needs (?P<needs>[\w. ]+)-->$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: pathlib.Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT).with_suffix("")).removeprefix("docs/")

    @property
    def shown(self) -> list[str]:
        """The blocks that a reader sees."""
        return [match["shown"] for match in BLOCK.finditer(self.path.read_text()) if match["shown"]]

    def run_in_its_own_process(self) -> None:
        """Run every block where JAX was not used before; raises AssertionError with what it wrote where one fails."""
        command = "import pathlib, sys; from tests.docs.pages import Page; Page(pathlib.Path(sys.argv[1])).run()"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", command, str(self.path)],
            env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    @property
    def needs_its_own_process(self) -> bool:
        return "<!--its own process-->" in self.path.read_text()

    def run(self, library: Callable[[str], object] = importlib.import_module) -> None:
        """Run every block; raises AssertionError for another output. `library` is called with what the next need."""
        scope: dict[str, object] = {"__name__": "__main__"}
        text = self.path.read_text()
        for match in BLOCK.finditer(text):
            for name in (match["needs"] or "").split():
                library(name)
            block = match["shown"] or match["hidden"] or ""
            line = text.count("\n", 0, match.start()) + 2
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (line - 1) + block, str(self.path), "exec"), scope)  # so that errors name the line
            self._compare(line, outputs(block), printed.getvalue())

    def _compare(self, line: int, expected: list[str], printed: str) -> None:
        lines = iter(printed.splitlines())
        for one in expected:
            pattern = re.escape(one).replace(r"\.\.\.", ".*")
            found = any(re.fullmatch(pattern, given) for given in lines)
            assert found, f"{self.path.name}, block at line {line}: `{one}` is not what it printed:\n{printed}"


def outputs(block: str) -> list[str]:
    """List the comments behind calls of `print`, in order."""
    lines, calls = block.encode().splitlines(), []
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            behind = lines[(node.end_lineno or 0) - 1][node.end_col_offset :].decode()
            calls.append((node.lineno, behind.partition("#")[2].strip()))
    return [comment for _, comment in sorted(calls) if comment]


PAGES = [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]
RUN = [page for page in PAGES if page.shown]
