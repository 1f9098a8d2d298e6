"""Every public name has a place in the API reference, and one alone."""

from __future__ import annotations

import collections
import re
import types

import jaxreplay
from jaxreplay import checkpoint, convert, datasets, plot, record, samplers, storage, views
from tests.docs.pages import ROOT

MODULES = [jaxreplay, views, samplers, record, datasets, storage, convert, plot, checkpoint]


def public() -> set[str]:
    every = ((module.__name__, name, getattr(module, name)) for module in MODULES for name in module.__all__)
    return {f"{module}.{name}" for module, name, what in every if not isinstance(what, types.ModuleType)}


def documented() -> list[str]:
    pages = (ROOT / "docs/reference").glob("*.md")
    return [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)]


def test_every_public_name_has_a_place_in_the_reference() -> None:
    assert not public() - set(documented())


def test_the_reference_names_nothing_else_and_nothing_twice() -> None:
    assert not set(documented()) - public()
    assert not [name for name, times in collections.Counter(documented()).items() if times > 1]
