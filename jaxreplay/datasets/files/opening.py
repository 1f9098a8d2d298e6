"""Opening files: libraries that are imported when they are needed, and errors that name what could not be read."""

import contextlib
import importlib
import json
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any


def need(module: str, package: str, extra: str, what: Any) -> Any:
    """Import a module of another library, or raise ModuleNotFoundError naming the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{what} needs {package}: pip install 'jaxreplay[{extra}]' ({error})"
        raise ModuleNotFoundError(message) from error


@contextlib.contextmanager
def naming(what: Any) -> Iterator[None]:
    """Raise whatever is wrong with the content of a file, or a part of one, as ValueError that begins with its name."""
    try:
        yield
    except (FileNotFoundError, PermissionError, ModuleNotFoundError):
        raise
    except MemoryError as error:
        raise ValueError(f"{what}: it does not fit in memory") from error
    except Exception as error:
        kind = "" if isinstance(error, ValueError | pickle.UnpicklingError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{error}") from error


def holds_keys(path: pathlib.Path, keys: set[str]) -> bool:
    """Tell whether a file is a JSON dict that has all these keys."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= keys
