"""What is drawn of a view is what the view reads: the plan's steps hold the values of its batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import jaxreplay as replay
from jaxreplay import views
from jaxreplay.plot._view import Reads, find_reads
from tests.test_errors import expect
from tests.test_next_observation import buffer_of, step

BUFFER = buffer_of(step(0), step(1), step(2, terminated=True), *map(step, range(3, 11)), capacity=9)
FINAL = {"observation": 11.0}  # of the episode of times 3 to 10, which is open
VIEWS = {
    "frame stack": views.frame_stack(4),
    "frame stack with zeros": views.frame_stack(4, fill="zero"),
    "window": views.window(3, 2),
    "window with zeros": views.window(3, 2, fill="zero"),
    "n-step": views.n_step(3, 1.0),
    "sequence": views.sequence(4, complete=False),
    "n-step over frames": views.compose(views.frame_stack(3), views.n_step(2, 1.0)),
}


def read(view: Any, time: int) -> dict[str, Reads]:
    rows = replay.Rows(time=jnp.array([time]), env=jnp.array([0]))
    return {x.path: x for x in find_reads(BUFFER.rings, rows, view)[1]}


def expected(reads: Reads, time: int) -> list[float]:
    """The numbers that stand at the steps: observations and actions are their own time."""
    return [0 if z else 11.0 if f else time + s for s, f, z in zip(reads.steps, reads.final, reads.zeros)]


@pytest.mark.parametrize("time", [3, 4, 7, 9, 10])
@pytest.mark.parametrize("name", VIEWS)
def test_the_steps_drawn_are_those_whose_values_are_in_the_batch(name: str, time: int) -> None:
    rows = replay.Rows(time=jnp.array([time]), env=jnp.array([0]))
    data = replay.take(BUFFER, rows, VIEWS[name]).data
    data = data.data if hasattr(data, "data") else data
    found = read(VIEWS[name], time)
    assert found
    for path in ("observation", "action", "next_observation"):
        values = np.ravel(getattr(data, path)[0])
        assert values.tolist() == expected(found[path], time), path


def test_a_view_that_draws_is_followed_with_its_key() -> None:
    goals = lambda t: {"observation": {"desired_goal": jnp.float32(0), "achieved_goal": jnp.float32(t)}}  # noqa: E731
    make = lambda t: step(t).replace(  # noqa: E731
        observation=goals(t)["observation"], next_observation=goals(t + 1)["observation"]
    )
    buffer = replay.create(make(0), 8)
    for t in range(6):
        buffer = replay.append(buffer, make(t))
    view = views.hindsight("future", 1.0, compute_reward=lambda achieved, desired: -jnp.abs(achieved - desired))
    rows, key = replay.Rows(time=jnp.array([1]), env=jnp.array([0])), jax.random.key(3)
    goal = float(replay.take(buffer, rows, view, key).data.observation["desired_goal"][0])
    found = {x.path: x for x in find_reads(buffer.rings, rows, view, key)[1]}["next_observation.achieved_goal"]
    assert goal == (6 if found.final[1] else 1 + found.steps[1])
    assert replay.plot.view(buffer, (1, 0), view, key=key).get_xlabel() == "steps from the row"
    plt.close("all")


def marks(ax: plt.Axes) -> dict[tuple[float, float], str]:
    """The texts of the marks by their place: steps from the row, and line."""
    return {text.get_position(): text.get_text() for text in ax.texts}


def test_columns_that_the_mask_leaves_out_are_in_parentheses() -> None:
    ax = replay.plot.view(BUFFER, (4, 0), views.window(3, 2))
    assert [text.get_text() for text in ax.get_yticklabels()][:3] == ["stored", "observation", "action"]
    found = marks(ax)
    assert found[-1, 1] == "(0-1)\n2"
    assert found[0, 1] == "3"
    assert found[2, 1] == "5"
    plt.close("all")


def test_zeros_are_left_of_all_and_the_final_observation_is_after_the_newest_step() -> None:
    ax = replay.plot.view(BUFFER, (9, 0), views.window(0, 3, fill="zero"))
    found = marks(ax)
    left = min(x for x, _ in found)
    assert found[left, 1] == "(2-3)"
    assert ax.get_xticklabels()[0].get_text() == "zeros"
    assert found[2, 6] == "1"
    plt.close("all")


def test_what_is_not_read_is_named() -> None:
    ax = replay.plot.view(BUFFER, replay.Rows(time=jnp.int32(5), env=jnp.int32(0)), views.n_step(2, 0.9))
    assert "not read: truncated" in ax.get_title()
    plt.close("all")


def test_a_row_that_the_view_cannot_start_from_is_refused_in_words() -> None:
    with expect(ValueError, "cannot start from row (time 9, env 0)", "4 consecutive steps"):
        replay.plot.view(BUFFER, (9, 0), views.sequence(4))
    with expect(ValueError, "cannot start from row (time 0, env 0)"):
        replay.plot.view(BUFFER, (0, 0), views.transition())
