"""What an unkind user does: odd numbers and containers, rare mistakes, and very many tiny episodes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from jaxreplay import convert
from jaxreplay.datasets import Dataset, Trajectory, TrajectoryBuilder, flatten, validate
from tests.datasets.episodes import simple


def with_data(value: Any) -> Trajectory:
    return Trajectory(np.zeros(2), np.zeros(1), episode_data={"x": value})


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "equal"),
    [
        (1.0, 1.1, {"atol": 0.2}, True),
        (1.0, 1.5, {"atol": 0.2}, False),
        (1.0, np.inf, {"rtol": 0.5}, False),
        (np.inf, np.inf, {"rtol": 0.5}, True),
        (np.array([2**62 + 1]), np.array([2**62]), {"atol": 0.5}, False),
        (np.array([2**63 + 2], np.uint64), np.array([2**63], np.uint64), {"atol": 2}, True),
        (np.array([-(2**63)]), np.array([2**63 - 1]), {"rtol": 1.0}, False),
        (10**30, 10**30 + 1, {"atol": 2}, True),
        (10**30, 10**30 + 3, {"atol": 2}, False),
        (np.array([None, 1]), np.array([None, 1, 2]), {}, False),
        (np.array([(1,)], [("x", int)]), np.array([(2,)], [("x", int)]), {"atol": 5}, False),
        (np.array([-0.0, np.nan]), np.array([0.0, np.nan]), {}, True),
    ],
)
def test_values_are_near_as_the_numbers_are(one: Any, other: Any, tolerance: dict[str, float], equal: bool) -> None:
    assert bool(with_data(one).equals(with_data(other), **tolerance)) == equal
    assert bool(Dataset([with_data(one)] * 3).equals(Dataset([with_data(other)] * 3), **tolerance)) == equal


@pytest.mark.parametrize("tolerance", [{"atol": -1.0}, {"rtol": np.nan}])
def test_a_tolerance_that_is_none_is_refused(tolerance: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rtol, atol: expected numbers of at least 0"):
        simple(2).equals(simple(2), **tolerance)


def test_columns_of_one_path_are_told_apart() -> None:
    a, b = np.zeros(2, np.float32), np.zeros(2, np.float64)
    steps = flatten([Trajectory({"a.b": a, "a": {"b": b}}, np.zeros(1))])
    with pytest.raises(ValueError, match=r"next observations: a\.b \(2\): expected float32\[1\], got float64\[1\]"):
        validate(steps.replace(next_observation={"a.b": b[1:], "a": {"b": b[1:]}}))


def test_the_first_step_is_checked_before_an_episode_depends_on_it() -> None:
    builder = TrajectoryBuilder()
    builder.start(np.zeros(2))
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"reward": np.zeros(1)}, ValueError, r"rewards: expected \[T\] = \[1\], got float64\[1,1\]"),
        ({"reward": np.int64(1)}, TypeError, "rewards: expected a floating dtype, got int64"),
        ({"action": None}, ValueError, "actions: expected at least one array"),
        ({"info": 5}, TypeError, "infos.0: expected a dict, got int"),
        ({"terminated": "False"}, TypeError, "terminated: expected one bool, about the last step, got str"),
        ({"truncated": np.nan}, TypeError, "truncated: expected one bool, about the last step, got float"),
        ({"action": 2**40}, ValueError, "step: .*int32; give it as an array of a wider dtype"),
    ]
    good: dict[str, Any] = {"action": 1, "next_observation": np.zeros(2), "reward": 1.0}
    for changes, error, message in wrong:
        with pytest.raises(error, match=message):
            builder.add_step(**(good | changes))
    for changes in ({}, {"info": 5}, {"terminated": "no"}):
        try:
            builder.add_step(**(good | changes))
        except TypeError:
            continue
    made = builder.finish()
    assert made is not None
    assert len(made) == 1


def test_an_environment_may_reuse_its_info() -> None:
    builder, info = TrajectoryBuilder(), {"at": 0, "place": np.zeros(1)}
    builder.start(np.zeros(2))
    for i in range(3):
        info["at"] = i
        info["place"] += 1
        made = builder.add_step(0, np.zeros(2), info=info, truncated=i == 2)
    assert made is not None
    assert made.infos is not None
    assert [(each["at"], each["place"].tolist()) for each in made.infos] == [(0, [1]), (1, [2]), (2, [3])]


def test_the_infos_of_one_step_are_a_list_of_one() -> None:
    dataset = Dataset([Trajectory(np.zeros(3), np.zeros(2), infos=[{"a": 1}, {"a": 2}])])
    assert dataset.infos(-1) == dataset.infos(np.int64(1)) == [{"a": 2}]


ARRAYS: dict[str, Any] = {"observations": np.arange(4.0), "actions": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (ARRAYS | {"rewards": {"a": np.zeros(4)}}, ValueError, "rewards: expected one column, got dict"),
        (ARRAYS | {"terminals": {"a": np.zeros(4)}}, ValueError, "terminals: expected one column, got dict"),
        (ARRAYS | {"episode": []}, ValueError, "episode: expected one column, got list"),
        (ARRAYS | {"episode": np.array([0, 0, np.nan, np.nan])}, ValueError, "episode: expected .*, got NaN"),
        (ARRAYS | {3: np.zeros(4)}, TypeError, "from_numpy: expected a dict of arrays by their names"),
        ([np.zeros(4)], TypeError, "from_numpy: expected a dict of arrays by their names"),
    ],
)
def test_arrays_that_are_no_columns_are_named(arrays: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert.from_numpy(arrays)


def test_a_hundred_thousand_episodes_of_one_step_take_seconds() -> None:
    count = 100_000
    numbers = np.arange(count, dtype=np.float32)
    steps = flatten(convert.from_numpy({"observations": numbers, "actions": numbers}, "repeat"))
    begin = time.perf_counter()
    one, other = (
        Dataset.from_transitions(steps, episode=np.arange(count), infos=[{"i": i} for i in range(count)])
        for _ in range(2)
    )
    assert one.num_episodes == count
    assert one.equals(other)
    assert convert.to_numpy(one, drop=("infos",))["episode"][-1] == count - 1
    assert one.infos([5, -1]) == [{"i": 5}, {"i": count - 1}]
    changed = other.episode(count - 1).map_arrays(lambda x: x + 1)
    assert str(one.equals(other.episodes[:-1].append(changed))).startswith(f"episode {count - 1}: observations[0]: ")
    assert time.perf_counter() - begin < 30  # ten times what it takes
