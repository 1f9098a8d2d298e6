"""Progress bars, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int, unit: str, wanted: bool | None) -> Iterator[T]:
    """Go through items and show how far it is. None: if tqdm is installed and there is more than one.

    Raises ModuleNotFoundError where a bar is wanted, and tqdm is not installed.
    """
    if wanted is False or (wanted is None and total < 2):
        return iter(items)
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if wanted:
            raise ModuleNotFoundError("a progress bar needs tqdm: pip install 'jaxreplay[datasets]'") from error
        return iter(items)
    return iter(tqdm(items, total=total, unit=unit))
