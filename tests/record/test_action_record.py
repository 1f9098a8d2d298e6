"""What can be made of a record: a shorter one, and a policy."""

from __future__ import annotations

import gymnasium
import pytest

from tests.datasets.test_values import assert_same
from tests.record.records import nested, record_of

wrappers = gymnasium.wrappers


def test_clip_gives_the_first_steps_marked_as_cut() -> None:
    record = record_of(list(range(5)))
    clipped = record.clip(3)
    assert (clipped.actions, clipped.end, clipped.replayable) == ((0, 1, 2), "cut", True)
    assert clipped.episode_return == sum(record.rewards[:3].tolist())
    assert record.clip(5) is record
    assert record.clip(9) is record
    assert nested().clip(2).base_steps.tolist() == [6, 0, 0]  # pyright: ignore
    for count, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="max_steps: expected"):
            record.clip(count)  # pyright: ignore


def test_a_record_is_a_policy_that_repeats_its_actions() -> None:
    record = nested()
    policy = record.as_policy()
    given = [policy(observation=None, key=i) for i in range(5)]
    assert_same(tuple(given), record.actions)
    given[0]["arm"][:] = 9
    assert_same(record.as_policy()(None), record.actions[0])
    with pytest.raises(ValueError, match=r"the record has 5 actions, and all were given \(terminated\)"):
        policy(None)
