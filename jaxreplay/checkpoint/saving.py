"""`save`: pieces that changed to new files, then the manifest, then away with what no longer belongs to it."""

import contextlib
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.core
import numpy as np

from jaxreplay._core import trees
from jaxreplay.checkpoint import facts, manifest, pieces, processes
from jaxreplay.checkpoint.manifest import LOCK, MANIFEST, PIECES, Leaf, Manifest, Part
from jaxreplay.datasets.files import atomic
from jaxreplay.types import PyTree


def save(path: str | os.PathLike[str], buffer: PyTree) -> None:
    """Save a buffer to a folder, bit for bit. What was saved there before is replaced, at once and as a whole.

    buffer: a buffer, a batch of them, sharded or not; or any pytree of arrays and numbers with buffers in it, as a
        training state, which is then committed together.

    Saving again to the same folder writes the pieces of at most 4 MiB in which anything changed, whatever changed it:
    each is compared by a digest of its content. A save that is killed leaves the checkpoint before, and the next one
    removes what it left. The disk must have room for the old pieces and for those that changed. On return all of it is
    on the disk.

    With several processes (`jax.distributed`), all call it with a folder that all can reach, and each writes its part.

    Raises TypeError for what is no array, and inside jit. Raises FileExistsError where there is a folder of something
    else, ValueError where a newer version of this library saved, and BlockingIOError while someone else saves there.

    >>> import tempfile, jax, jax.numpy as jnp, jaxreplay as replay
    >>> buffer = replay.extend(replay.create({"x": jnp.int32(0)}, 8), {"x": jnp.arange(5)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replay.checkpoint.save(folder, buffer)
    ...     same = replay.checkpoint.load(folder, like=buffer)
    >>> replay.take(same, replay.rows(same)[0]).data["x"].tolist()
    [0, 0, 0, 0, 1, 2, 3, 4]
    """
    named = _check(buffer)
    folder = pathlib.Path(path)
    with _locked(folder):
        old = _names_before(folder)
        writer = _Writer(folder / PIECES, old)
        try:
            leaves = writer.write_all(named)
            described = {path: facts.describe_buffer(x) for path, x in facts.buffers_of(buffer).items()}
            processes.commit(folder, Manifest(described, leaves))
        except BaseException:
            writer.undo()
            raise


def _check(tree: PyTree) -> list[tuple[str, Any]]:
    """Return the leaves by path, or raise TypeError for what cannot be saved."""
    named = trees.paths(tree)
    for path, leaf in named:
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"save: {path} is traced; call save outside jit, scan and vmap")
        trees.shape_dtype(path, np.asarray(leaf) if isinstance(leaf, int) else leaf)  # a longer one is an object
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"save: {path}: expected an array, got only its shape")
    return named


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold the folder, which the first process makes, so that no two saves at once remove each other's pieces."""
    if not processes.is_first():
        processes.wait("began")
        yield
        return
    if folder.exists() and not (folder / MANIFEST).exists() and _is_of_others(folder):
        raise FileExistsError(f"{folder}: there is something already, and no checkpoint; name a new folder")
    if not (folder / PIECES).is_dir():
        (folder / PIECES).mkdir(parents=True, exist_ok=True)
        atomic.sync_folder(folder.parent)
    with open(folder / LOCK, "ab") as lock:
        if atomic.fcntl is not None:
            try:
                atomic.fcntl.flock(lock, atomic.fcntl.LOCK_EX | atomic.fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"{folder}: something else is saving to it; name another folder") from error
            except OSError:  # some network drives have no locks
                pass
        atomic.remove_leftovers(folder)
        processes.wait("began")
        yield


def _is_of_others(folder: pathlib.Path) -> bool:
    """Tell whether a folder without a manifest holds anything that a save which was killed does not leave."""
    names = set(os.listdir(folder)) - {PIECES, LOCK}
    return not all(atomic.PART.fullmatch(name) or processes.TABLE.fullmatch(name) for name in names)


def _names_before(folder: pathlib.Path) -> set[str]:
    """Name the pieces of the checkpoint before, which need not be written again."""
    try:
        return manifest.read(folder).names()
    except FileNotFoundError:
        return set()
    except manifest.Damaged as error:
        warnings.warn(f"{error}. All of it is saved anew", stacklevel=4)
        return set()


class _Writer:
    """Writes the pieces that are not there yet, and knows which to take back."""

    def __init__(self, folder: pathlib.Path, old: set[str]) -> None:
        self.folder, self.new = folder, set[str]()
        with os.scandir(folder) as entries:  # at once: in threads, each look would wait for the others
            self.old = {entry.name: entry.stat().st_size for entry in entries if entry.name in old}
        self.lock = threading.Lock()

    def write_all(self, named: list[tuple[str, Any]]) -> list[Leaf]:
        """Write all pieces of this process, and return the leaves with their parts."""
        leaves = [Leaf(path, facts.describe_leaf(leaf), []) for path, leaf in named]
        with ThreadPoolExecutor(pieces.WORKERS) as pool:
            try:
                work = [self._parts(number, leaf, pool) for number, (_, leaf) in enumerate(named)]
                for leaf, parts in zip(leaves, work, strict=True):
                    for box, block, digests in parts:
                        leaf.parts.append(Part(box, block, list(digests)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if self.new:
            atomic.sync_folder(self.folder)
        return leaves

    def _parts(self, number: int, leaf: Any, pool: ThreadPoolExecutor) -> list[tuple[Any, tuple[int, ...], Any]]:
        """Begin to write the parts of a leaf."""
        found = []
        for part, data in pieces.parts_of(pieces.raw(leaf)):
            block = pieces.block_shape(part.shape, data.dtype.itemsize)
            write = lambda box, data=data, part=part: self._write(number, box, data, part.start)  # noqa: E731
            found.append((part, block, pool.map(write, pieces.cut(part, block))))
        return found

    def _write(self, number: int, box: pieces.Box, data: Any, start: tuple[int, ...]) -> str:
        block = pieces.read_block(data, box, start)
        found = pieces.digest(block)
        name = pieces.file_name(number, box, found)
        path = self.folder / name
        if self.old.get(name) == block.nbytes:
            return found
        with self.lock:
            self.new.add(name)
        _write_file(path, pieces.as_bytes(block))
        return found

    def undo(self) -> None:
        """Take back what was written, to free the disk, but for what belongs to the checkpoint that is there now."""
        try:
            committed = manifest.read(self.folder.parent).names()
        except FileNotFoundError:
            committed = set()
        except (OSError, ValueError):
            return
        for name in self.new - committed:
            with contextlib.suppress(OSError):
                os.unlink(self.folder / name)


def _write_file(path: pathlib.Path, data: np.ndarray) -> None:
    """Write a file of a new name to the disk; one of zeros, as of slots never written, takes no room on it."""
    with open(path, "wb", buffering=0) as file:
        if data.any():
            view = data.data
            while len(view):
                view = view[file.write(view) :]
        else:
            file.truncate(data.nbytes)
        os.fsync(file.fileno())
