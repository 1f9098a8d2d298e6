"""A cloned environment goes on as its original would, or says that it cannot."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from jaxreplay.record.actions.wrapper import RecordActions
from tests.record.echo import Echo, load_all, make, play
from tests.record.records import assert_same_record


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MiniGrid-Empty-5x5-v0"])
@pytest.mark.parametrize("base_actions", [False, True])
def test_a_clone_and_its_original_go_on_independently_and_give_the_same(
    env_id: str, base_actions: bool, tmp_path: pathlib.Path
) -> None:
    env, clone = (RecordActions(make(env_id), tmp_path / name, base_actions=base_actions) for name in "ab")
    rng = np.random.default_rng(0)
    play(env, rng, 6, seed=3)
    play(clone, rng, 2, seed=9)
    clone.clone_from(env)
    actions = rng.integers(2, size=8).tolist()
    seen = [[each.step(a)[1:4] for a in actions] for each in (env, clone)]  # first one, then the other
    assert seen[0] == seen[1]
    assert env.unwrapped is not clone.unwrapped
    env.close()
    clone.close()
    (mine,), (cut, copied) = load_all(tmp_path / "a"), load_all(tmp_path / "b")
    assert len(mine) == 14
    assert_same_record(mine, copied)
    assert (cut.seed, cut.end, len(cut)) == (9, "cut", 2)
    if base_actions:
        assert mine.base_actions == mine.actions


def test_an_environment_that_cannot_be_copied_says_so_by_its_name(tmp_path: pathlib.Path) -> None:
    class Held(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.file = open(os.devnull)  # noqa: SIM115

    by_arguments = "it copies itself by its constructor's arguments alone"
    for make_env, name, why in (
        (Held, "Held", "cannot pickle"),
        (lambda: make("LunarLander-v3"), "LunarLander", by_arguments),
    ):
        env, clone = RecordActions(make_env(), tmp_path / "a"), RecordActions(make_env(), tmp_path / "b")
        env.reset(seed=0)
        clone.reset(seed=1)
        with pytest.raises(TypeError, match=f"{name} cannot be copied with its state: {why}"):
            clone.clone_from(env)
        clone.step(0)  # it is as it was
        assert clone.record is not None
        assert clone.record.seed == 1


def test_clones_of_what_does_not_fit_are_refused(tmp_path: pathlib.Path) -> None:
    env = RecordActions(Echo(), tmp_path)
    with pytest.raises(TypeError, match="expected a RecordActions environment, got Echo"):
        env.clone_from(Echo())
    with pytest.raises(ValueError, match=r"wrong environment: the record is of .*Echo, got CartPole-v1"):
        env.clone_from(RecordActions(make("CartPole-v1"), tmp_path))
    with pytest.raises(ValueError, match="the same base_actions"):
        env.clone_from(RecordActions(Echo(), tmp_path, base_actions=True))
    env.reset(seed=0)
    env.clone_from(env)
    assert env.record is not None
