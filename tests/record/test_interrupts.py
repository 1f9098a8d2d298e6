"""Ctrl-C at any instruction of recording a step leaves a record of whole steps, and of episodes as they were."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.record.transitions import recorder
from jaxreplay.record.transitions import totals as tally
from tests.record.checking import DISABLED, NEXT, SAME, Drive, assert_recorded, buffer_for
from tests.record.counting import Counting, makers

SLOTS = 3000


class Interrupting:
    """Raises KeyboardInterrupt at one instruction of the recorder and its tally, within one call of `function`."""

    def __init__(self, at: int, function: Any) -> None:
        self.left, self.code, self.came = at, function.__code__, False

    def __enter__(self) -> Interrupting:
        self.previous = sys.gettrace()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(self.previous)

    def enter(self, frame: Any, event: str, argument: Any) -> Any:
        """Follow the instructions of these functions, and of those that they call."""
        within, files = frame, (recorder.__file__, tally.__file__)
        while within is not None and within.f_code is not self.code:
            within = within.f_back
        if within is None or frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        return self.count

    def count(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                self.came = True
                raise KeyboardInterrupt
        return self.count


def envs_of(mode: Any) -> Any:
    return Counting(28) if mode is None else gymnasium.vector.SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode)


@pytest.mark.parametrize("mode", [None, NEXT, SAME, DISABLED])
def test_an_interrupt_while_a_step_is_recorded_leaves_all_of_it_or_nothing(mode: Any) -> None:
    env = envs_of(mode)
    data = {"length": jnp.int32(0), "return": jnp.float32(0)}
    env = record.RecordTransitions(env, buffer_for(env, SLOTS, episode_data=data), block=64)
    bases = [env.unwrapped] if mode is None else env.unwrapped.envs
    bases = [base.unwrapped for base in bases]
    done, halves = Drive(), set()
    action = 0 if mode is None else [0, 0, 0]
    rng = np.random.default_rng(0)
    ended = np.zeros(len(bases), bool)

    def stepped() -> list[bool]:
        return [not (mode == NEXT and over) for over in ended]

    at, came = 0, True
    while came:
        env.reset()
        ended[:] = False
        for _ in range(rng.integers(4)):
            done.stepped.append(stepped())
            ended[:] = np.logical_or(*env.step(action)[2:4])
            if mode in (None, DISABLED) and ended.any():
                env.reset()
                ended[:] = False
        before = [[list(episode) for episode in base.log] for base in bases]
        with Interrupting(at, recorder.Recorder.commit) as interrupting:
            try:
                env.step(action)
            except KeyboardInterrupt:
                assert interrupting.came
        came = interrupting.came
        recorded = int(replay.size(env.buffer)) > np.sum(done.stepped)
        halves.add(recorded)
        if recorded:
            done.stepped.append(stepped())
        else:  # the environments took a step that is not in the record
            for base, log in zip(bases, before):
                base.log[:] = log + [[] for _ in base.log[len(log) :]]
        if came:
            with pytest.raises(gymnasium.error.ResetNeeded):
                env.step(action)
        at += 1
    assert at > 100
    assert halves == {True, False}
    assert len(done.stepped) < SLOTS
    logs = [base.log for base in bases]
    assert_recorded(env.buffer, logs, done)
    found, kept = replay.episodes(env.buffer), replay.episode_data(env.buffer)
    np.testing.assert_array_equal(kept["length"][found.mask], found.length[found.mask])
    for e, log in enumerate(logs):
        mask = np.asarray(found.mask).reshape(-1, len(logs))[:, e]
        returns = np.asarray(kept["return"]).reshape(-1, len(logs))[mask, e]
        assert returns.tolist() == [sum(step[2] for step in episode) for episode in log if episode]


def interrupted(at: int, function: Any, *arguments: Any) -> bool:
    with Interrupting(at, function) as interrupting, contextlib.suppress(KeyboardInterrupt):
        function(*arguments)
    return interrupting.came


def test_a_second_interrupt_while_the_first_is_dealt_with_changes_nothing() -> None:
    env = Counting(28)
    inner = recorder.Recorder(buffer_for(env, SLOTS), None, "disabled", 64, "overwrite")
    answer = env.reset()[0], 0.5, False, False, {}

    def commit_interrupted(at: int) -> bool:
        inner.restart(answer[0], inner.every, None)
        inner.prepare(0)
        inner.commit(*answer)
        inner.prepare(0)
        return interrupted(at, inner.commit, *answer)

    half_done, at = list[int](), 0
    while commit_interrupted(at):
        counted = inner.num_steps
        inner.break_off()
        half_done += [at] if inner.num_steps < counted else []
        at += 1
    assert len(half_done) > 30
    at, came = 0, True
    while came:
        count = inner.num_steps
        assert commit_interrupted(half_done[-1])
        came = interrupted(at, inner.break_off)
        assert int(replay.size(inner.read())) == inner.num_steps == count + 1
        with pytest.raises(gymnasium.error.ResetNeeded):
            inner.prepare(0)
        at += 1
    assert at > 30
