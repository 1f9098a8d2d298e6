"""Recording into a buffer that is split over a mesh, or a stack on one device: it records as into one buffer."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreplay as replay
from jaxreplay import record
from tests.devices import Cases
from tests.record.checking import DISABLED, NEXT, SAME, assert_recorded, buffer_for, drive
from tests.record.counting import makers

ENVS, DEVICES = 4, 2
cases = Cases(DEVICES)
case = cases.case


def sharded(kind: Any = AxisType.Auto) -> dict[str, Any]:
    return {"sharding": NamedSharding(jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,)), P("data"))}


KINDS = {
    "over a mesh": sharded,
    "over a mesh, explicit axes": lambda: sharded(AxisType.Explicit),
    "a stack on one device": lambda: {"num_buffers": DEVICES},
}


def envs(mode: Any = DISABLED) -> Any:
    return gymnasium.vector.SyncVectorEnv(makers(ENVS, copies=True), autoreset_mode=mode)


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def rows_of(buffer: replay.Buffer) -> Any:
    """The rows that can be read, by time and env, and what is read of them."""
    rows, mask = jax.device_get(replay.rows(buffer))
    order = np.lexsort((rows.env, rows.time))
    order = order[mask[order]]
    rows = replay.Rows(rows.time[order], rows.env[order])
    return rows, replay.take(buffer, rows).data


@case(*KINDS)
def every_step_is_recorded_as_it_was(kind: str) -> None:
    for mode in (NEXT, DISABLED) if kind == "over a mesh" else (SAME,):
        env = envs(mode)
        recorded = record.RecordTransitions(env, buffer_for(env, **KINDS[kind]()))
        done = drive(recorded, mode, 60)
        logs = env.get_attr("log")
        assert_recorded(recorded.buffer, logs, done)


@case("over a mesh", "a stack on one device")
def data_of_episodes_are_those_of_one_buffer(kind: str) -> None:
    data = {"return": np.float32(0), "length": np.int32(0), "seed": np.int32(0)}
    found = []
    for options in ({}, KINDS[kind]()):
        env = envs()
        recorded = record.RecordTransitions(env, buffer_for(env, episode_data=data, **options), block=8)
        done = drive(recorded, DISABLED, 30, reads=0)
        buffer = recorded.buffer
        kept = replay.episodes(buffer)
        found.append(jax.device_get((kept.number, replay.episode_data(buffer), kept.mask)))
        assert len(done.stepped) == 30
    same(*found)


@case("over a mesh", "a stack on one device")
def collecting_gives_what_it_gives_of_one_buffer(kind: str) -> None:
    to_zero = lambda observation, key: np.zeros(ENVS, int)  # noqa: E731
    buffers, reports = [], []
    for options in ({}, KINDS[kind]()):
        env = envs()
        buffer = record.collect(env, to_zero, buffer_for(env, **options), num_steps=20, progress=False)
        buffer, report = record.collect_episodes(env, to_zero, buffer, num_episodes=9, progress=False)
        buffers.append(rows_of(buffer))
        reports.append(report)
    same(*buffers)
    assert reports[0] == reports[1]
    assert reports[0].whole == 9


@case("over a mesh", "a stack on one device")
def a_changed_buffer_goes_on_and_a_full_one_says_so(kind: str) -> None:
    env = envs()
    recorded = record.RecordTransitions(env, buffer_for(env, slots=12, **KINDS[kind]()), block=4, on_full="raise")
    recorded.reset(seed=0)
    recorded.step(np.zeros(ENVS, int))
    before = replay.episodes(recorded.buffer)
    recorded.buffer = jax.jit(replay.put, donate_argnums=0)(
        recorded.buffer, replay.Rows(np.zeros(1, int), np.zeros(1, int)), {"reward": np.array([7.0], np.float32)}
    )
    for _ in range(11):
        ended = np.zeros(ENVS, bool)
        _, _, terminated, truncated, _ = recorded.step(np.zeros(ENVS, int))
        if (ended := terminated | truncated).any():
            recorded.reset(options={"reset_mask": ended})
    with pytest.raises(record.BufferFull):
        recorded.step(np.zeros(ENVS, int))
    buffer = recorded.buffer
    assert int(replay.size(buffer)) == 12 * ENVS
    assert float(rows_of(buffer)[1].reward[0]) == 7.0
    kept = replay.episodes(buffer)
    assert int(kept.mask.sum()) > int(before.mask.sum())
    other = buffer_for(env, slots=12)
    with pytest.raises(ValueError, match="same num_buffers and sharding"):
        recorded.buffer = other


@case(*KINDS)
def a_rollout_is_that_into_one_buffer(kind: str) -> None:
    from tests.record.test_rollout import Counter

    example = replay.example_transition(Counter())
    policy = lambda observation, key: jnp.zeros(observation.shape[:1], example.action.dtype)  # noqa: E731
    found = []
    for options in ({}, KINDS[kind]()):
        buffer = replay.create(example, 64, ENVS, **options)
        state = None
        for i in range(2):
            run = jax.jit(lambda buffer, key, state: record.rollout(Counter(), policy, buffer, key, 24, state))
            buffer, state = run(buffer, jax.random.key(i), state)
        found.append((rows_of(buffer), state))
    same(*found)
    if kind == "over a mesh":
        assert state is not None
        assert state.observation.sharding.spec == P("data")
        text = run.lower(buffer, jax.random.key(0), state).compile().as_text()
        assert "all-" not in text
        assert "collective" not in text


@pytest.mark.parametrize("name", cases.named)
def test_recording_over_a_mesh(name: str) -> None:
    cases.check(name, __name__)


if __name__ == "__main__":
    cases.main()
