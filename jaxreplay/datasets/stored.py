"""Stores on disk, as data sets know them: by name, when they are asked for, because storage is above data sets."""

import importlib
from typing import Any

from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Store


def open_store(path: Any, verify: bool) -> tuple[Store, Report]:
    """Open a store; see `Dataset.open`."""
    storage = importlib.import_module("jaxreplay.storage.checking")
    opened = storage.open_store(path)
    if verify:
        storage.check(opened)
    held = opened.whole()
    return held, summarise(held)


def refresh(store: Store) -> tuple[Store, Report]:
    """Open its newest commit; see `Dataset.refresh`."""
    if store.origin is None:
        raise ValueError("refresh: this is no store, or a part of one; refresh what Dataset.open gave")
    held = store.origin.refresh().whole()
    return held, summarise(held)
