"""The lower bounds of dependencies are versions that CI tests."""

from __future__ import annotations

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def test_the_core_is_tested_at_the_lower_bounds_of_its_dependencies() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", one).groups() for one in dependencies)  # pyright: ignore
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE))
    tested = {name: pins[name].split(".") for name in bounds}
    assert {name: ".".join(version[: bounds[name].count(".") + 1]) for name, version in tested.items()} == bounds
