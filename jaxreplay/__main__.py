"""`python -m jaxreplay`: train an agent end to end, the library's main job; `show PATH` writes a page of a data set."""

import sys


def run() -> int:
    """Run the demo, or say which extra to install; with `show` as the first word, that."""
    if sys.argv[1:2] == ["show"]:
        from jaxreplay.show.main import main as show

        return show(sys.argv[2:])
    try:
        from jaxreplay.demo.main import main
    except ImportError as error:
        print(
            f"{error}\nThe demo needs optax, Gymnasium, matplotlib and tqdm: pip install 'jaxreplay[demo]'",
            file=sys.stderr,
        )
        return 1
    return main()


if __name__ == "__main__":
    sys.exit(run())
