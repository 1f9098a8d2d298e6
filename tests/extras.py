"""Libraries that some tests need: without one, its tests are skipped, but not where CI asks for them all."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

REQUIRE = "JAXREPLAY_REQUIRE_EXTRAS"


def library(name: str) -> Any:
    """Import a library. Without it, skip the tests that need it, or raise where the environment has `REQUIRE`."""
    if os.environ.get(REQUIRE):
        return importlib.import_module(name)
    return pytest.importorskip(name)
