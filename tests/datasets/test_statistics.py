"""Figures of returns and lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay.datasets import Dataset, Trajectory, discounted_returns, statistics
from tests.datasets.episodes import simple


def test_statistics_by_hand() -> None:
    found = statistics([simple(1, terminated=True), simple(3, truncated=True), simple(2), simple(2, terminated=True)])
    assert (found.episodes, found.steps) == (4, 8)
    assert (found.terminated, found.truncated, found.unfinished) == (2, 1, 1)
    assert (found.lengths.mean, found.lengths.min, found.lengths.max) == (2, 1, 3)
    assert found.lengths.std == pytest.approx(0.5**0.5)
    assert found.returns is not None  # 1, 6, 3, 3
    assert (found.returns.mean, found.returns.min, found.returns.max) == (3.25, 1, 6)
    assert dict(found.returns.quantiles)[0.5] == 3
    assert "4 episodes, 8 steps" in str(found)
    without = statistics(Trajectory(np.zeros(3), np.zeros(2)))
    assert without.returns is None
    assert "no rewards" in str(without)


def test_statistics_of_clipped_and_filtered_episodes_count_what_is_left() -> None:
    dataset = Dataset([simple(3, terminated=True), simple(5)]).clip(1)
    assert statistics(dataset).returns.max == 15
    assert statistics(dataset).returns.min == 3


@given(rewards=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20), discount=st.floats(0, 1))
@settings(settings.get_profile("short"))
def test_discounted_returns_are_the_sums_they_are_said_to_be(rewards: list[float], discount: float) -> None:
    expected = [sum(r * discount**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    got = discounted_returns(np.array(rewards, np.float32), discount)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_discounted_returns_of_what_has_none() -> None:
    assert discounted_returns(simple(3), 1.0).tolist() == [6, 5, 3]
    with pytest.raises(ValueError, match="this trajectory has none"):
        discounted_returns(Trajectory(np.zeros(3), np.zeros(2)), 0.9)
    with pytest.raises(ValueError, match=r"discount: expected a number from 0 to 1, got 1.5"):
        discounted_returns(np.zeros(3), 1.5)
    with pytest.raises(ValueError, match=r"rewards: expected \[T\]"):
        discounted_returns(np.zeros((3, 1)), 0.5)
