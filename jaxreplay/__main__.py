"""`python -m jaxreplay`: train an agent end to end, the library's main job."""

import sys


def run() -> int:
    """Run the demo, or say which extra to install."""
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
