"""Which step ends its episode: flags named by path, of one agent or several, or a function."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from tests.test_errors import expect

EXAMPLE = {"x": jnp.int32(0), "done": jnp.bool_(False), "info": {"cut": jnp.bool_(False)}}
FLAGS = {"done": [0, 1, 0, 0, 0, 0], "cut": [0, 0, 0, 0, 1, 0]}


def lengths(buffer: replay.Buffer) -> list[int]:
    found = replay.episodes(buffer)
    return found.length[np.asarray(found.mask)].tolist()


def filled(**options: Any) -> replay.Buffer:
    done, cut = (np.array(FLAGS[name], bool) for name in ("done", "cut"))
    steps = {"x": jnp.arange(6, dtype=jnp.int32), "done": done, "info": {"cut": cut}}
    return replay.extend(replay.create(EXAMPLE, 8, max_episodes=8, **options), steps)


@pytest.mark.parametrize(
    ("paths", "function", "expected"),
    [
        ("done", lambda s: s["done"], [2, 4]),
        (("done",), lambda s: s["done"], [2, 4]),
        (["done", "info.cut"], lambda s: s["done"] | s["info"]["cut"], [2, 3, 1]),
    ],
    ids=["one path", "a tuple", "several"],
)
def test_flags_named_by_path_end_episodes_as_the_function_of_them_does(
    paths: Any, function: Any, expected: list[int]
) -> None:
    assert lengths(filled(episode_end=paths)) == lengths(filled(episode_end=function)) == expected


def make() -> replay.Buffer:
    return replay.create(EXAMPLE, 8, episode_end=["done", "info.cut"])


def test_buffers_created_alike_by_path_have_one_structure() -> None:
    """So `lax.cond` and `jit` take one for the other, and a pickled or copied one too."""
    a, b = make(), make()
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert int(replay.size(jax.lax.cond(True, lambda: a, lambda: b))) == 0
    count = jax.jit(replay.size)
    for buffer in (a, b, pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):
        assert int(count(buffer)) == 0
    assert count._cache_size() == 1  # type: ignore[attr-defined]


def test_a_transition_ends_by_its_own_flags_and_is_pickled() -> None:
    flag = jnp.bool_(False)
    buffer = replay.create(replay.Transition(jnp.zeros(2), jnp.int32(0), jnp.float32(0), flag, flag, jnp.zeros(2)), 8)
    assert buffer.episode_end == ("terminated", "truncated")
    assert jax.tree.structure(pickle.loads(pickle.dumps(buffer))) == jax.tree.structure(buffer)


def agents(terminated: Any, truncated: Any) -> replay.Transition:
    lead = np.shape(terminated)[:1]
    return replay.Transition(
        observation=jnp.zeros((*lead, 2)),
        action=jnp.zeros(lead, jnp.int32),
        reward=jnp.zeros((*lead, 2)),
        terminated=jnp.array(terminated, bool),
        truncated=jnp.array(truncated, bool),
        next_observation=jnp.zeros((*lead, 2)),
    )


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [([[0, 0], [0, 0], [1, 0], [0, 0]], [3, 1]), ([0, 1, 0, 0], [2, 2])],
    ids=["each agent", "all at once"],
)
def test_an_episode_of_several_agents_ends_when_each_has_ended_either_way(truncated: Any, expected: list[int]) -> None:
    steps = agents([[0, 0], [1, 0], [0, 1], [0, 1]], truncated)
    example = jax.tree.map(lambda x: x[0], steps)
    assert lengths(replay.extend(replay.create(example, 8, max_episodes=8), steps)) == expected
    several = replay.create(example, 16, 2, max_episodes=16)
    several = replay.extend(several, jax.tree.map(lambda x: jnp.stack([x, x], axis=1), steps))
    assert lengths(several) == [n for n in expected for _ in range(2)]


def test_a_path_that_names_no_flag() -> None:
    with expect(ValueError, "episode_end: the example has no leaf 'dnoe'; its leaves: done, info.cut, x"):
        replay.create(EXAMPLE, 8, episode_end="dnoe")
    with expect(ValueError, "episode_end: info is a structure, with the leaves info.cut", "lambda step"):
        replay.create(EXAMPLE, 8, episode_end="info")
    with expect(TypeError, "episode_end: expected a path, several, or a function", "()"):
        replay.create(EXAMPLE, 8, episode_end=())
    with expect(TypeError, "episode_end: expected a path", "3"):
        replay.create(EXAMPLE, 8, episode_end=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [jnp.float32, jnp.int32])
def test_a_flag_that_is_a_number_says_how_to_compare_it(kind: Any) -> None:
    nested = {"x": jnp.int32(0), "info": {"done": kind(0)}}
    with expect(
        ValueError, "info.done: expected a bool scalar", kind.__name__, 'lambda step: step["info"]["done"] > 0'
    ):
        replay.create(nested, 8, episode_end="info.done")
    with expect(ValueError, "episode_end: expected a bool scalar", kind.__name__, 'step["done"] > 0'):
        replay.create(nested, 8, episode_end=lambda step: step["info"]["done"])
    buffer = replay.create(nested, 8, episode_end=lambda step: step["info"]["done"] > 0)
    for value in (0, 1, 1):
        buffer = replay.append(buffer, {"x": jnp.int32(0), "info": {"done": kind(value)}})
    assert lengths(buffer) == [2, 1]


def test_flags_of_a_transition_that_are_dicts_name_the_way_out() -> None:
    flags = {"a": jnp.bool_(False), "b": jnp.bool_(False)}
    example = replay.Transition(jnp.zeros(2), jnp.int32(0), jnp.float32(0), flags, jnp.bool_(False), jnp.zeros(2))
    with expect(ValueError, "terminated is a structure", "terminated.a, terminated.b", "episode_end=(...)"):
        replay.create(example, 8)
    by_path = ("terminated.a", "terminated.b", "truncated")
    buffer = replay.append(replay.create(example, 8, episode_end=by_path), example)
    assert lengths(buffer) == [1]


def test_flags_of_different_axes_are_refused() -> None:
    example = {"a": jnp.zeros(2, bool), "b": jnp.zeros(3, bool)}
    with expect(ValueError, "flags with axes must have one shape", "a bool[2]", "b bool[3]"):
        replay.create(example, 8, episode_end=("a", "b"))


@pytest.mark.parametrize("function", [lambda s: s["dnoe"], lambda s: s.done], ids=["key", "attribute"])
def test_a_function_that_asks_for_a_part_that_is_not_there_names_those_there_are(function: Any) -> None:
    with expect(ValueError, "episode_end: the function raised", "the step's leaves: done, info.cut, x"):
        replay.create(EXAMPLE, 8, episode_end=function)


def test_a_function_that_cannot_be_static() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, step: Any) -> Any:
            return step["done"]

    with expect(TypeError, "episode_end: expected a hashable function"):
        replay.create(EXAMPLE, 8, episode_end=Unhashable())
