"""A test whose library is missing is skipped at home and fails in CI."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.extras import REQUIRE, library


def test_a_test_is_skipped_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no_such_library"):
        library("no_such_library")


def test_a_test_fails_without_its_library_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        library("no_such_library")


def test_whether_a_backend_has_started_is_told() -> None:
    code = "import jax; from tests.backend import backend_started as b; assert not b() and not b()"
    subprocess.run([sys.executable, "-c", f"{code}; jax.numpy.zeros(1); assert b() and b()"], check=True)
