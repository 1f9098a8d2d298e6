"""Returns, lengths and priorities are drawn as they are."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory
from tests.plot.test_ring import wrapped
from tests.test_errors import expect
from tests.test_next_observation import buffer_of, step

RNG = np.random.default_rng(0)


def data_set(lengths: Any, rewards: bool = True) -> Dataset:
    make = lambda i, n: Trajectory(  # noqa: E731
        np.zeros(n + 1), np.zeros(n), RNG.normal(size=n) if rewards else None, terminated=i % 2 == 0
    )
    return Dataset(make(i, n) for i, n in enumerate(lengths))


def points(ax: plt.Axes) -> list[tuple[float, float]]:
    return sorted(tuple(map(float, xy)) for dots in ax.collections for xy in dots.get_offsets())  # type: ignore[misc]


def test_each_episode_of_a_data_set_is_a_point_at_its_return_and_its_length() -> None:
    held = data_set([2, 5, 3])
    above, below = replay.plot.episodes(held)
    returns = [float(t.rewards.sum()) for t in held]
    np.testing.assert_allclose(points(above), list(enumerate(returns)))
    assert points(below) == [(0, 2), (1, 5), (2, 3)]
    assert (above.get_ylabel(), below.get_ylabel()) == ("return", "length [steps]")
    assert {text.get_text() for text in above.get_legend().get_texts()} == {"terminated", "unfinished"}
    plt.close("all")


def test_of_a_buffer_the_complete_episodes_are_drawn_with_the_sum_of_their_rewards() -> None:
    steps = [step(t, terminated=t in (4, 12), truncated=t == 8) for t in range(15)]
    buffer = buffer_of(*(s.replace(reward=jnp.float32(t)) for t, s in enumerate(steps)), capacity=12)
    above, below = replay.plot.episodes(buffer)
    assert points(above) == [(5, 5 + 6 + 7 + 8), (9, 9 + 10 + 11 + 12)]
    assert points(below) == [(5, 4), (9, 4)]
    assert above.get_title() == "2 of 4 episodes, complete ones"
    assert {text.get_text() for text in above.get_legend().get_texts()} == {"terminated", "truncated"}
    plt.close("all")


def test_without_rewards_lengths_alone_are_drawn() -> None:
    assert points(replay.plot.episodes(data_set([2, 5], rewards=False))) == [(0, 2), (1, 5)]
    plt.close("all")


def test_many_episodes_are_drawn_as_a_band() -> None:
    above, _ = replay.plot.episodes(data_set(np.ones(5000, int)))
    assert above.lines
    assert len(above.lines[0].get_xdata()) == 200
    assert {text.get_text() for text in above.get_legend().get_texts()} == {"10th to 90th percentile", "median"}
    plt.close("all")


def test_the_wrong_number_of_axes_and_independent_items_are_refused() -> None:
    with expect(ValueError, "ax: expected 2 axes, for return and length [steps]; got 1"):
        replay.plot.episodes(data_set([2]), plt.subplots()[1])
    with expect(ValueError, "independent items"):
        replay.plot.episodes(replay.create({"x": jnp.int32(0)}, 4))
    with expect(TypeError, "episodes: expected a Buffer, got int"):
        replay.plot.episodes(3)  # type: ignore[arg-type]
    plt.close("all")


def weighed() -> replay.Buffer:
    buffer = replay.create(step(0), 8, sampler=replay.samplers.prioritized(1.0))
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (10,)), step(0))
    rows = replay.Rows(time=jnp.arange(10), env=jnp.zeros(10, jnp.int32))
    return replay.set_priorities(replay.extend(buffer, steps), rows, jnp.arange(10.0).at[5].set(0))


def test_each_row_is_a_point_at_its_age_and_its_priority_and_those_of_zero_are_counted() -> None:
    ax = replay.plot.priorities(weighed())
    np.testing.assert_allclose(points(ax), sorted((10 - t, t) for t in range(2, 10) if t != 5), rtol=1e-6)
    assert ax.get_title() == "8 rows, 1 with priority zero"
    assert ax.get_xlabel() == "age [slices since the row was appended]"
    plt.close("all")


def test_of_many_rows_a_bounded_number_is_drawn_and_it_says_so() -> None:
    ax = replay.plot.priorities(weighed(), max_rows=4)
    assert len(points(ax)) <= 4
    assert ax.get_title().startswith("4 of 8 rows")
    plt.close("all")


def test_a_buffer_without_priorities_is_refused() -> None:
    with expect(ValueError, "priorities: this buffer draws with Uniform", "samplers.prioritized()"):
        replay.plot.priorities(wrapped())


@pytest.mark.parametrize("name", ["ring", "episodes", "priorities", "frames"])
def test_without_matplotlib_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    given = np.zeros((3, 9, 9)) if name == "frames" else weighed()
    with expect(ImportError, "replay.plot needs matplotlib: pip install 'jaxreplay[plot]'"):
        getattr(replay.plot, name)(given)
