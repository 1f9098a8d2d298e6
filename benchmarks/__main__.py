"""`python -m benchmarks [part ...]`: time this library against its peers in one process, and keep the figures."""

from __future__ import annotations

import argparse
import pathlib
import sys

from benchmarks import machine, results
from benchmarks.workloads import PARTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time jaxreplay against its peers.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one or more of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="few rounds, for a first look")
    folder = pathlib.Path(__file__).parent / "results"
    parser.add_argument("--out", type=pathlib.Path, default=folder / "latest.json", help="where the figures go")
    args = parser.parse_args()
    unknown = set(args.parts) - PARTS.keys()
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    try:
        from tqdm import tqdm as progress
    except ImportError:
        progress = iter
    found: list[results.Result] = []
    for part in progress([part for part in PARTS if part in args.parts or not args.parts]):
        found += PARTS[part](3 if args.quick else 21)
    results.save(args.out, machine.describe(), found)
    print(args.out.with_suffix(".md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
