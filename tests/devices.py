"""Tests that need several devices: cases that run together in one process, which is given devices of the host."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax

import tests.conftest  # noqa: F401  (the settings of all tests, also where no pytest has read them)


class Cases:
    """The cases of a test module, by name. `python -m module` runs them, and prints the error of each as JSON."""

    def __init__(self, devices: int):
        self.devices = devices
        self.named: dict[str, Callable[[], None]] = {}

    def case(self, *values: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Make a case of a function, or one for each value it is called with."""

        def register(function: Callable[..., None]) -> Callable[..., None]:
            name = function.__name__.replace("_", " ")
            each = {f"{name}: {value}": functools.partial(function, value) for value in values}
            self.named.update(each or {name: function})
            return function

        return register

    def check(self, name: str, module: str) -> None:
        """Fail with the error of a case, if it has one; the first call runs all of its module."""
        error = self.errors(module)[name]
        assert not error, error

    @functools.cache  # noqa: B019  (the cases of a module live as long as it does)
    def errors(self, module: str) -> dict[str, str]:
        """Run the cases of a module in a process of their own; give the error of each, "" for none."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={self.devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def main(self) -> None:
        assert jax.device_count() == self.devices
        found = {}
        for name, function in self.named.items():
            try:
                function()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
        print(json.dumps(found))
