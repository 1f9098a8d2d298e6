"""Progress bars, where tqdm is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def progress_bar(total: int, unit: str, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """Show a bar, and give the function that moves it on. None: if tqdm is installed and there is more than one.

    Raises ModuleNotFoundError where a bar is wanted, and tqdm is not installed.
    """
    tqdm = None
    if wanted or (wanted is None and total > 1):
        try:
            from tqdm import tqdm
        except ModuleNotFoundError as error:
            if wanted:
                message = "a progress bar needs tqdm: pip install tqdm, or pass progress=False"
                raise ModuleNotFoundError(message) from error
    if tqdm is None:
        yield lambda count: None
        return
    with tqdm(total=total, unit=unit, unit_scale=unit == "step") as bar:

        def advance(count: int) -> None:
            bar.update(min(count, total - bar.n))

        yield advance


def with_progress(items: Iterable[T], total: int, unit: str, wanted: bool | None) -> Iterator[T]:
    """Go through items and show how far it is, as `progress_bar` does."""
    with progress_bar(total, unit, wanted) as advance:
        for item in items:
            yield item
            advance(1)
