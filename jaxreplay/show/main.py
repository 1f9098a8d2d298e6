"""The command `python -m jaxreplay show`: read a path and write its page."""

import argparse
import pathlib
import sys
import webbrowser
from collections.abc import Sequence

from jaxreplay._display.panel import bytes_text
from jaxreplay.show.page import make_page
from jaxreplay.show.recording import read


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where it is; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxreplay show", description="Write one HTML page that shows a data set or a recording."
    )
    parser.add_argument("path", type=pathlib.Path, help="what Dataset.load, Dataset.open or load_actions reads")
    parser.add_argument("--out", type=pathlib.Path, help="the page to write (default: NAME.html in this folder)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    parser.add_argument("--episodes", type=int, default=40, help="hold so many with curves and frames (%(default)s)")
    args = parser.parse_args(argv)
    if args.episodes < 0:
        parser.error(f"--episodes: expected at least 0, got {args.episodes}")
    out = args.out or pathlib.Path(f"{args.path.resolve().name.removesuffix('.npz') or 'page'}.html")
    try:
        page = make_page(str(args.path), read(args.path), args.episodes)
        out.write_bytes(page.encode("utf-8", "replace"))
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"show: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {bytes_text(out.stat().st_size)}")
    if args.open:
        webbrowser.open(out.resolve().as_uri())
    return 0
