"""The floors of the house: every import goes down, also those inside functions, and none goes round in a circle."""

from __future__ import annotations

import ast
import graphlib
import importlib
import pathlib
import sys

import jaxreplay

ROOT = pathlib.Path(jaxreplay.__file__).parent
FLOORS = [  # from the ground; a module is on the floor of the longest name that it is, or is in
    ["_core.trees"],
    ["_display"],
    ["types"],
    ["_core.clock", "_core.episode_numbers", "_core.loops", "_core.random"],
    ["_core.next_of"],
    ["_core.layout"],
    ["_core.words"],
    ["_core.plain"],
    ["_core.tiled"],
    ["_core.memory"],
    ["_core.rings"],
    ["_core.lookup"],
    ["_core"],
    ["views"],
    ["samplers"],
    ["_display.buffers"],
    ["ends", "state"],
    ["joining"],
    ["stacks"],
    ["buffer", "restoring"],
    ["sources"],
    ["inspection", "sampling", "_priorities", "resizing", "in_place", "spaces", "processes"],
    ["_episodes"],
    ["closing", "restacking"],
    [""],
    ["datasets"],
    ["plot"],
    ["checkpoint"],
    ["storage"],
    ["record"],
    ["convert"],
    ["show"],
    ["demo", "__main__"],
]


def modules() -> dict[str, pathlib.Path]:
    """Every module of the package by its name below it; "" is the package itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: pathlib.Path) -> set[str]:
    """The modules of the package that a module imports, at its top and inside its functions, but for its types."""
    every: dict[str, pathlib.Path] = modules()
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for full in names:
            head, _, rest = full.partition(".")
            if head == "jaxreplay":
                found.add(rest if rest in every else rest.rpartition(".")[0])
    return found - {name}


def floor(name: str) -> int:
    every = [(room, i) for i, rooms in enumerate(FLOORS) for room in rooms if room]
    below = [(len(room), i) for room, i in every if f"{name}.".startswith(f"{room}.")]
    return max(below)[1] if below else FLOORS.index([""])


def test_every_module_has_a_floor() -> None:
    unknown = [name for name in modules() if name and floor(name) == FLOORS.index([""])]
    assert not unknown


def test_imports_only_go_down() -> None:
    climbs = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(name, path)
        if floor(other) > floor(name)
    ]
    assert not climbs


def test_imports_go_round_in_no_circle() -> None:
    graph = {name: imports(name, path) for name, path in modules().items()}
    graph = {name: {other for other in others if other} for name, others in graph.items() if name}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_core_imports_light_libraries_alone() -> None:
    light = {"jaxreplay", "jax", "numpy", "flax", "chex"}
    upper = FLOORS.index([""])
    for name, path in modules().items():
        if floor(name) > upper or name in ("", "spaces"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            heads = {full.partition(".")[0] for full in names}
            assert heads <= light | set(sys.stdlib_module_names), (name, heads - light)


def test_no_function_hides_a_module() -> None:
    """`import jaxreplay.views.window` gives a module, or there is none of that name in public."""
    for name in modules():
        if name and not any(part.startswith("_") for part in name.split(".")):
            package, _, last = f"jaxreplay.{name}".rpartition(".")
            found = vars(importlib.import_module(package)).get(last)
            assert found is None or type(found).__name__ == "module", f"{package}.{last}"
