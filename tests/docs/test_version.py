"""What the documents say of versions is so."""

from __future__ import annotations

import re

import jaxreplay
from tests.docs.pages import ROOT


def test_the_citation_names_the_version_of_the_package() -> None:
    assert f"version: {jaxreplay.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{jaxreplay.__version__}}}" in (ROOT / "docs/versions.md").read_text()


def test_the_oldest_versions_are_those_that_are_tested() -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE))
    table = (ROOT / "docs/versions.md").read_text()
    for name, row in {"jax": "JAX, jaxlib", "numpy": "NumPy", "flax": "Flax", "chex": "chex"}.items():
        assert f"| {row} | {pins[name]}" in table
    assert f"| Gymnasium (extra `gym`) | {pins['gymnasium']} |" in table
    assert f"| {pins['h5py']}, {pins['pyarrow']} |" in table
