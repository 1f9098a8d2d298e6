"""Execute the notebooks from clean kernels: `python notebooks/run.py` stores the outputs, `--check` only runs them.

Two run at a time, each on one core, because small programs on a CPU lose time between threads. All errors are fatal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import re
import sys
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
AT_ONCE = 2
SECONDS = 900  # of one notebook, all its cells; they take about a minute of one core
BYTES = 400_000
INSTALL = 'importlib.util.find_spec("jaxreplay")'
CHANGING = re.compile(r"\b0x[0-9a-f]{6,}|\b\d\d:\d\d:\d\d\b|/tmp/")  # addresses, times, and folders


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of notebooks, without .ipynb (default: all)")
    parser.add_argument("--check", action="store_true", help="run, and leave the files as they are")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="that a notebook may take (default %(default)s)")
    args = parser.parse_args()
    paths = sorted(FOLDER.glob("*.ipynb"))
    first_cells_are_the_same(paths)
    unknown = set(args.names) - {path.stem for path in paths}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))} among {[path.stem for path in paths]}")
    chosen = [path for path in paths if not args.names or path.stem in args.names]
    failed = asyncio.run(run_all(chosen, not args.check, args.seconds))
    return 1 if failed else 0


def first_cells_are_the_same(paths: list[pathlib.Path]) -> None:
    """What installs the library is one text, wherever it stands: its name, or its address, changes in all at once."""
    texts: dict[str, list[str]] = {}
    for path in paths:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        texts.setdefault(code[0], []).append(path.name)
    if len(texts) != 1 or INSTALL not in next(iter(texts)):
        raise SystemExit(f"the first code cells differ, or do not install: {list(texts.values())}")


async def run_all(paths: list[pathlib.Path], store: bool, seconds: int) -> list[str]:
    """Run notebooks, a few at a time; give the names of those that failed."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(path: pathlib.Path) -> str | None:
        async with turns:
            notebook: Any = nbformat.read(path, as_version=4)
            try:
                await execute(notebook, seconds)
                check_outputs(notebook)
            except Exception as error:  # a cell's error, a dead kernel, a time limit: each fails the notebook
                print(f"{path.name}: failed\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return path.name
        if store:
            nbformat.write(notebook, path)
        print(f"{path.name}: ran {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells", flush=True)
        return None

    return [name for name in await asyncio.gather(*map(one, paths)) if name]


async def execute(notebook: Any, seconds: int) -> None:
    """Run all cells in a kernel of its own, and drop from them what changes with every run."""
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True)
    client.extra_arguments = ["--log-level=ERROR"]
    environment = {"NPROC": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    ends = asyncio.get_running_loop().time() + seconds
    try:
        await asyncio.wait_for(client.async_execute(env=os.environ | environment), seconds)
    except Exception as error:
        if asyncio.get_running_loop().time() < ends:
            raise
        raise TimeoutError(f"it took more than {seconds} s") from error  # the kernel is dead by then
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the run
    notebook.metadata.language_info = {"name": "python"}  # the version of the machine's Python


def check_outputs(notebook: Any) -> None:
    """Refuse what a reader's run would not show: addresses, times, folders, warnings; and a file too large to show."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text", "") + str(data.get("text/plain", "")) + str(data.get("text/html", ""))
            if found := CHANGING.search(text):
                raise ValueError(f"cell {number} prints {found.group()!r}, which changes with every run")
            if output.get("name") == "stderr":
                raise ValueError(f"cell {number} writes to stderr: {output['text'][:300]}")
    if (size := len(nbformat.writes(notebook))) > BYTES:
        raise ValueError(f"{size} bytes with its outputs; at most {BYTES} are stored")


if __name__ == "__main__":
    sys.exit(main())
