"""A real browser without a screen: it runs a page, and a test's own script at its end, and says what came of it."""

from __future__ import annotations

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.extras import REQUIRE

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-sync", "--disable-dev-shm-usage", "--virtual-time-budget=8000"),
)


def chromium() -> str:
    """Find Chromium. Without it, skip the tests that need it, or fail where the environment has `REQUIRE`."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing = "Chromium is not installed: apt-get install chromium"
        if os.environ.get(REQUIRE):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def run(page: str, script: str, folder: pathlib.Path) -> Any:
    """Open a page, run a script in it, and return what its last `done(value)` was given, by way of JSON."""
    done = "const done = (value) => { document.documentElement.dataset.done = JSON.stringify(value); };"
    file = folder / "tested.html"
    file.write_text(page + f"<script>{done}\n{script}</script>", encoding="utf-8")
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    found = re.search(r'<html[^>]* data-done="([^"]*)"', dumped)
    assert found, f"the script did not come to its end: {dumped[:400]}"
    return json.loads(html.unescape(found[1]))
