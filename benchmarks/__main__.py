"""`python -m benchmarks [part ...]`: time this library against its peers in one process, and keep the figures.

`python -m benchmarks compare OLD.json NEW.json` shows what changed between two runs, and
`python -m benchmarks plot FILE.json` draws the picture of one anew. `python -m benchmarks programs` compiles the
programs for CPUs, TPUs and GPUs, without a device, and says what they would do; `python -m benchmarks scaling` does so
for more and more devices with a fixed share each, and runs on the devices of a CPU. `python -m benchmarks checkpoints`
saves and loads a large ring.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from benchmarks import checkpoints, machine, picture, programs, results, scaling
from benchmarks import stores as on_disk
from benchmarks.workloads import PARTS

RESULTS = pathlib.Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for, print their table, and save it with the figures and a plot."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["compare"]:
        return compare(arguments[1:])
    if arguments[:1] == ["plot"]:
        return plot(arguments[1:])
    if arguments[:1] == ["programs"]:
        return programs.main(arguments[1:])
    if arguments[:1] == ["scaling"]:
        return scaling.main(arguments[1:])
    if arguments[:1] == ["checkpoints"]:
        return checkpoints.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time jaxreplay against its peers.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one or more of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="few rounds, for a first look")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "latest.json", help="where the figures go")
    parser.add_argument("--cores", type=int, help="run on so many; on one, no thread waits for another (Linux)")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the store on disk that `stores` makes")
    args = parser.parse_args(arguments)
    on_disk.SIZE["gigabytes"] = args.gigabytes
    unknown = set(args.parts) - PARTS.keys()
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if args.cores is not None:
        machine.use_cores(args.cores)
    try:
        from tqdm import tqdm as progress
    except ImportError:
        progress = iter
    found: list[results.Result] = []
    command = {"command": " ".join(["python -m benchmarks", *arguments])}
    for part in progress([part for part in PARTS if part in args.parts or not args.parts]):
        found += PARTS[part](3 if args.quick else 21)
        about = machine.describe() | command
        results.save(args.out, about, found)  # after each part: a run that is cut short keeps what it has
    picture.save(args.out.with_suffix(".png"), results.load_machine(args.out), found)
    print(args.out.with_suffix(".md").read_text())
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Print what changed between two files of results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    args = parser.parse_args(arguments)
    try:
        print(results.compare(results.load(args.old), results.load(args.new)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot read results: {error}")
    return 0


def plot(arguments: Sequence[str]) -> int:
    """Draw the picture of a file of results beside it, as PNG."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot")
    parser.add_argument("file", type=pathlib.Path, help="what a run has written, as JSON")
    args = parser.parse_args(arguments)
    try:
        about, found = results.load_machine(args.file), results.load(args.file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot read results: {error}")
    if not picture.save(args.file.with_suffix(".png"), about, found):
        parser.error(f"{args.file} has none of the workloads that the picture shows")
    print(args.file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
