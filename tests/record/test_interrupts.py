"""Ctrl-C at any instruction of recording leaves a record of whole steps, and of episodes as they were."""

from __future__ import annotations

import pathlib
import signal
import sys
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from tests.record.checking import DISABLED, NEXT, SAME, Drive, assert_recorded, buffer_for
from tests.record.counting import Counting, makers

SLOTS = 3000
LEAST = 300 if sys.version_info < (3, 12) else 50  # instructions; later Pythons tell of fewer
ROOM = str(pathlib.Path(record.__file__).parent / "transitions")


class Interrupting:
    """Sends Ctrl-C before one instruction of recording: of any function of its modules."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> Interrupting:
        self.previous = sys.gettrace()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(self.previous)

    def enter(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        frame.f_trace_opcodes = True
        return self.count

    def count(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left == -1:
                signal.raise_signal(signal.SIGINT)
        return self.count


@pytest.mark.parametrize("call", ["step", "reset"])
@pytest.mark.parametrize("mode", [None, NEXT, SAME, DISABLED])
def test_an_interrupt_leaves_all_of_a_step_or_reset_or_nothing(mode: Any, call: str) -> None:
    data = {"length": jnp.int32(0), "return": jnp.float32(0)}
    many = None if mode is None else gymnasium.vector.SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode)
    env = Counting(28) if many is None else many
    bases = [env] if many is None else [base.unwrapped for base in many.envs]
    env = record.RecordTransitions(env, buffer_for(env, SLOTS, episode_data=data), block=4)
    done, action, rng = Drive(), 0 if mode is None else [0, 0, 0], np.random.default_rng(0)
    needed, steps_kept = {True: 0, False: 0}, {True: 0, False: 0}

    def over() -> list[bool]:
        return [bool(base.log[-1]) and (base.log[-1][-1][3] or base.log[-1][-1][4]) for base in bases]

    def step() -> None:
        stepped = [not (mode == NEXT and ended) for ended in over()]
        env.step(action)
        done.stepped.append(stepped)

    def slices() -> int:
        return int(env.buffer.rings.clock.time)

    at, came = 0, True
    while came:
        env.reset()
        for _ in range(rng.integers(1, 4)):
            step()
            if mode in (None, DISABLED) and any(over()):
                env.reset()
        before, count = [[list(episode) for episode in base.log] for base in bases], slices()
        stepped, came = [not (mode == NEXT and ended) for ended in over()], False
        with Interrupting(at):
            try:
                env.step(action) if call == "step" else env.reset()
            except KeyboardInterrupt:
                came = True
        steps_kept[slices() > count] += 1
        if slices() > count:
            done.stepped.append(stepped)
        else:  # if the environments took a step, it is not in the record
            for base, log in zip(bases, before):
                base.log[:] = log + [[] for _ in base.log[len(log) :]]
        try:
            step()
        except gymnasium.error.ResetNeeded:
            needed[True] += came
        else:
            needed[False] += came
        at += rng.integers(1, 12)
    assert at > LEAST
    assert min(needed.values()) > 0
    assert call == "reset" or min(steps_kept.values()) > 0
    assert len(done.stepped) < SLOTS
    logs = [base.log for base in bases]
    assert_recorded(env.buffer, logs, done)
    found, kept = replay.episodes(env.buffer), replay.episode_data(env.buffer)
    np.testing.assert_array_equal(kept["length"][found.mask], found.length[found.mask])
    for e, log in enumerate(logs):
        mask = np.asarray(found.mask).reshape(-1, len(logs))[:, e]
        returns = np.asarray(kept["return"]).reshape(-1, len(logs))[mask, e]
        assert returns.tolist() == [sum(step[2] for step in episode) for episode in log if episode]
