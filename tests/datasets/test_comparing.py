"""When two trajectories or data sets are equal, and which difference is named first."""

from __future__ import annotations

import re
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from jaxreplay.datasets import Dataset, Trajectory
from tests.datasets.episodes import simple, trajectories

FIELDS: dict[str, Any] = {
    "observations": {"a": np.arange(8.0).reshape(4, 2), "b": (np.zeros(4, np.uint8),)},
    "actions": np.arange(3),
    "rewards": np.ones(3, np.float32),
    "extras": np.array([1, 2, 3], ml_dtypes.bfloat16),
    "infos": [{"x": 1.0, "text": "a"}, {}, {"y": np.arange(2)}],
    "episode_data": {"seed": 3, "goal": [np.zeros(2), None]},
}


@given(made=trajectories())
@settings(settings.get_profile("short"), max_examples=30)
def test_copies_are_equal_and_a_changed_value_is_not(made: list[Trajectory]) -> None:
    copies = [t.map_arrays(np.copy) for t in made]
    assert Dataset(made).equals(Dataset(copies))
    for one, copy in zip(made, copies):
        for leaf in jax.tree.leaves([copy.observations, copy.actions, copy.rewards, copy.extras]):
            if leaf.size:
                before = leaf.reshape(-1)[0].copy()
                leaf.reshape(-1)[0] = 0 if before != 0 else 1
                assert not one.equals(copy)
                leaf.reshape(-1)[0] = before
        assert one.equals(copy)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"rewards": np.array([1, 2, 1], np.float32)}, r"rewards\[1\]: 1.0 and 2.0 \(1 of 3 differ\)"),
        ({"rewards": None}, "rewards: it is in the first alone"),
        ({"rewards": np.ones(3)}, r"rewards: float32\[3\] and float64\[3\]"),
        ({"observations": {"a": np.zeros((4, 2))}}, "observations.b.0: it is in the first alone"),
        ({"observations": FIELDS["observations"] | {"c": np.zeros(4)}}, "observations.c: it is in the second alone"),
        (
            {"observations": {"a": np.zeros((4, 2)), "b": [np.zeros(4, np.uint8)]}},
            "observations: the containers differ",
        ),
        ({"terminated": True}, "terminated: False and True"),
        ({"truncated": True}, "truncated: False and True"),
        ({"extras": np.array([1, 2, 4], ml_dtypes.bfloat16)}, r"extras\[2\]: 3.0 and 4.0"),
        ({"infos": [{"x": 1.0, "text": "b"}, {}, {"y": np.arange(2)}]}, "infos.0.text: 'a' and 'b'"),
        ({"infos": [{"x": 1.0, "text": "a"}, {}, {"y": np.array([0, 2])}]}, r"infos.2.y\[1\]: 1 and 2"),
        ({"infos": None}, "infos.0.text: it is in the first alone"),
        ({"episode_data": {"seed": 4, "goal": [np.zeros(2), None]}}, "episode_data.seed: 3 and 4"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, Any], difference: str) -> None:
    one, other = Trajectory(**FIELDS), Trajectory(**(FIELDS | changes))
    found = one.equals(other)
    assert not found
    assert re.match(difference, str(found))
    assert found.difference == str(found)
    assert one.equals(Trajectory(**FIELDS))
    assert str(one.equals(one)) == "they are equal"


def test_numbers_may_differ_within_a_tolerance() -> None:
    one = simple(3)
    near = one.map_arrays(lambda x: x + x.dtype.type(1e-3) if x.dtype.kind == "f" else x)
    assert not one.equals(near)
    assert one.equals(near, atol=2e-3)
    assert one.equals(near, rtol=1e-2, atol=2e-3)
    assert not one.equals(near, atol=1e-4)
    nan = simple(1, float("nan"))
    assert nan.equals(simple(1, float("nan")))
    assert not nan.equals(simple(1), atol=10)
    large = [Trajectory(np.zeros(2), np.array([2**62 + i])) for i in (0, 1)]
    assert not large[0].equals(large[1])


def test_data_sets_of_other_lengths_and_other_things_differ() -> None:
    some = Dataset([simple(2), simple(1)])
    assert str(some.equals(some.episodes[::-1])).startswith("episode 0: observations: float32[3] and float32[2]")
    assert str(some.equals(some.episodes[:1])) == "there are 2 episodes and 1"
    assert Dataset().equals(Dataset())
    for a, b, message in ((some, [simple(2)], "a Dataset, got list"), (simple(1), some, "a Trajectory, got Dataset")):
        other: Any = b
        with pytest.raises(TypeError, match=f"equals: expected {message}"):
            a.equals(other)
