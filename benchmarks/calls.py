"""Count how far a reader walks: the calls inside the package, and the switches of file, while a function is traced.

`python -m benchmarks.calls` prints a row for each of `append` and two samples. A call is a named Python function of the
package that begins; a switch is a call in another file than the call before. Plans are made anew.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.views.base import plan

STACKS = "compose(frame_stack(4), n_step(3, 0.99))"
PACKAGE = str(pathlib.Path(replay.__file__).parent)


class Walk(NamedTuple):
    """What was counted: calls, the different functions and files among them, and how often the file changed."""

    calls: int
    functions: int
    files: int
    switches: int


def count(function: Callable[..., Any], *args: Any) -> Walk:
    """Trace `function(*args)` and count the package's calls."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            calls.append((code.co_filename, code.co_qualname))

    jax.clear_caches()
    plan.cache_clear()
    sys.setprofile(note)
    try:
        jax.eval_shape(function, *args)
    finally:
        sys.setprofile(None)
    files = [file for file, _ in calls]
    switches = sum(a != b for a, b in itertools.pairwise(files))
    return Walk(len(calls), len(set(calls)), len(set(files)), switches)


def walks() -> dict[str, Walk]:
    """Count the ways that users take most."""
    flag, observation = jnp.bool_(False), jnp.zeros(4)
    step = replay.Transition(observation, jnp.int32(0), jnp.float32(0), flag, flag, observation)
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), step)
    buffer, key = replay.create(step, 1024, 4), jax.random.key(0)
    stacks = views.compose(views.frame_stack(4), views.n_step(3, 0.99))
    return {
        "append, 4 envs": count(replay.append, buffer, steps),
        "sample, transition()": count(lambda b, k: replay.sample(b, k, 32), buffer, key),
        f"sample, {STACKS}": count(lambda b, k: replay.sample(b, k, 32, stacks), buffer, key),
    }


def main() -> None:
    print("| way | calls | functions | files | switches of file |\n| --- | --- | --- | --- | --- |")
    for name, walk in walks().items():
        print(f"| {name} | " + " | ".join(map(str, walk)) + " |")


if __name__ == "__main__":
    main()
