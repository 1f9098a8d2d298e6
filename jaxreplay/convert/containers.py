"""Any pytree as nested dicts, lists and tuples, which other libraries know; and packages that may be missing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxreplay.types import PyTree


def plain(tree: PyTree) -> Any:
    """Give the containers of a pytree as ones that every library knows, at any depth; the leaves stay.

    Dataclasses, as `Transition`, become dicts of their fields, mappings become dicts; lists, tuples (named ones too)
    and None stay. Any other node becomes a dict of its children by their key.

    >>> import jaxreplay as replay
    >>> plain(replay.Rows(time=1, env=(2, None)))
    {'time': 1, 'env': (2, None)}
    """
    if tree is None:
        return None
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(plain(inner) for inner in tree))
    if type(tree) in (list, tuple):
        return type(tree)(plain(inner) for inner in tree)
    if isinstance(tree, Mapping):
        return {name: plain(inner) for name, inner in tree.items()}
    children, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    if len(children) == 1 and children[0][1] is tree:
        return tree
    return {jax.tree_util.keystr(path, simple=True): plain(child) for path, child in children}


def need(module: str, package: str, extra: str, what: str) -> Any:
    """Import a module of another library, or raise ImportError naming the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install 'jaxreplay[{extra}]' ({error})") from error
