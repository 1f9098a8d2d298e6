"""No format reaches outside its own file or folder: what HDF5 and links could lead to elsewhere is refused by name."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxreplay.datasets.files.opening import need


def check_entry(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Raise ValueError where an entry of a folder is, or lies behind, a link that leads out of it."""
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path}: a link leads out of {folder}, to {real}; a folder is read with what is in it alone: put a copy "
            "there (cp -L), or name the file itself"
        )


def check_folder(folder: pathlib.Path) -> None:
    """Raise ValueError naming the first entry of a folder, at any depth, that is a link out of it."""
    for root, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            if os.path.islink(path := os.path.join(root, name)):
                check_entry(pathlib.Path(path), folder)


@contextlib.contextmanager
def open_hdf5(path: pathlib.Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open an HDF5 file to read: `(file, its data sets by name)`, all of which keep their values in the file.

    Raises ValueError naming the first member that is or leads to something outside.
    """
    h5py = need("h5py", "h5py", "datasets", f"{path}: reading it")
    h5l = h5py.h5l
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        inner = (h5l.TYPE_HARD, h5l.TYPE_SOFT)  # a soft link is a path, and all other links are refused
        outer = file.id.links.visit(lambda name, info: None if info.type in inner else name, info=True)
        if outer is not None:
            raise ValueError(f"{outer.decode(errors='replace')}: it is a link to another file; copy what it links to")
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        found = {name: item for name, item in found.items() if item.shape is not None}  # what is empty holds nothing
        for name, item in found.items():  # nothing was read of them by now
            if item.external:
                raise ValueError(
                    f"{name}: its values are in another file, {item.external[0][0]!r} (external storage); copy them "
                    "here"
                )
            if item.is_virtual:
                raise ValueError(
                    f"{name}: it is virtual: its values are those of other data sets, which may be in other files; "
                    "copy them into this one"
                )
        yield file, found
