"""`python -m jaxreplay.storage info|verify|repair|convert PATH`."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from jaxreplay._core import trees
from jaxreplay.datasets import Dataset
from jaxreplay.storage import checking, converting, manifest


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 1 where a store is not whole, 2 for what cannot be done, which is said in one line."""
    parser = argparse.ArgumentParser(prog="python -m jaxreplay.storage", description="Look after data sets on disk.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("info", "say what is in a store"),
        ("verify", "check every digest, and list what is wrong"),
        ("repair", "keep the segments before the first damaged one, and remove what dead writers left"),
        ("convert", "turn files and folders into a store, or a store into .npz or HDF5"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("path", type=pathlib.Path, help="a store" if name != "convert" else "what to read")
        command.add_argument("--no-progress", action="store_true", help="show no bar")
        if name == "convert":
            command.add_argument("target", type=pathlib.Path, help="a folder for a store, or a file of .npz or HDF5")
            command.add_argument("--columns", type=json.loads, help="as in Dataset.load, as JSON")
            command.add_argument("--missing-final", choices=("drop", "repeat"), default="drop")
            command.add_argument("--compress", action="append", default=[], metavar="COLUMN=png")
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"{parser.prog} {arguments.command}: {error}", file=sys.stderr)
        return 2


def info(arguments: argparse.Namespace) -> int:
    """Print what a store holds."""
    _, about = manifest.read(arguments.path)
    dataset = Dataset.open(arguments.path)
    print(f"{arguments.path}: commit {about.commit}, version {manifest.VERSION}, {len(about.segments)} segments")
    print(dataset.report)
    for kind in about.kinds.values():
        total = sum(segment.files[kind.name].rows for segment in about.segments)
        size = total * (kind.row_bytes if kind.stored == "npy" else 1)
        lossy = ", with loss" if kind.stored in manifest.LOSSY else ""
        print(
            f"  {kind.name}: {trees.describe(kind.shape, kind.key or kind.dtype)}, {kind.stored}{lossy}, {size} bytes"
        )
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a store."""
    wrong = checking.verify(arguments.path, progress=_progress(arguments))
    print("\n".join(wrong) or f"{arguments.path}: every file is whole")
    return 1 if wrong else 0


def repair(arguments: argparse.Namespace) -> int:
    """Make a store whole."""
    print(checking.repair(arguments.path, progress=_progress(arguments)))
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """Turn files into a store, or a store into a file."""
    progress = _progress(arguments)
    if converting.is_store(arguments.path):
        converting.from_store(arguments.path, arguments.target, progress=progress)
        print(arguments.target)
        return 0
    compress = dict(each.rpartition("=")[::2] for each in arguments.compress)
    report = converting.to_store(
        arguments.path,
        arguments.target,
        columns=arguments.columns,
        missing_final=arguments.missing_final,
        compress=compress,
        progress=progress,
    )
    print(report)
    return 0


def _progress(arguments: argparse.Namespace) -> bool | None:
    return False if arguments.no_progress else None


COMMANDS = {"info": info, "verify": verify, "repair": repair, "convert": convert}

if __name__ == "__main__":
    sys.exit(main())
