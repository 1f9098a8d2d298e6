"""How several processes commit one checkpoint: each tells which pieces it wrote, and the first writes the manifest."""

import contextlib
import os
import pathlib
import re

import jax

from jaxreplay.checkpoint import manifest
from jaxreplay.checkpoint.manifest import PIECES, Leaf, Manifest

TABLE = re.compile(r"process-[0-9]+\.json")


def is_first() -> bool:
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"jaxreplay checkpoint {what}")


def commit(folder: pathlib.Path, mine: Manifest) -> None:
    """Commit what all processes wrote, and then remove the pieces that no longer belong to the checkpoint."""
    if jax.process_count() > 1:
        table = [leaf.parts for leaf in mine.leaves]
        manifest.write_text(folder / f"process-{jax.process_index()}.json", table)
        wait("wrote")
    if is_first():
        whole = _merge(folder, mine)
        manifest.write(folder, whole)
        _remove_others(folder, whole.names())
    wait("committed")


def _merge(folder: pathlib.Path, mine: Manifest) -> Manifest:
    """Put the parts of all processes together; what each of them holds whole, as a number, is that of the first."""
    leaves = [Leaf(leaf.path, leaf.kind, list(leaf.parts)) for leaf in mine.leaves]
    for process in range(1, jax.process_count()):
        for leaf, parts in zip(leaves, manifest.read_text(folder / f"process-{process}.json"), strict=True):
            known = {part.box for part in leaf.parts}
            leaf.parts.extend(part for part in manifest.parse_parts(parts) if part.box not in known)
    return Manifest(mine.buffers, leaves)


def _remove_others(folder: pathlib.Path, names: set[str]) -> None:
    for name in set(os.listdir(folder / PIECES)) - names:
        with contextlib.suppress(OSError):  # on Windows someone may be reading it; the next save removes it
            os.unlink(folder / PIECES / name)
    for name in filter(TABLE.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
