"""Running a policy while recording: counts, keys, resets in each mode, the bar, and what is left after an error."""

from __future__ import annotations

import functools
import sys
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from jaxreplay.record.collecting import make_keys
from tests.extras import library
from tests.record.checking import DISABLED, NEXT, SAME, buffer_for, recorded_rows
from tests.record.counting import Counting, makers

SyncVectorEnv = gymnasium.vector.SyncVectorEnv


@jax.jit
def at_random(observation: Any, key: jax.Array) -> jax.Array:
    return jax.random.randint(key, observation.shape[:-1], 0, 1000)


def run(env: Any, slots: int = 120, **options: Any) -> replay.Buffer:
    return record.collect(env, at_random, buffer_for(env, slots), progress=False, **options)


def flat(logs: Any) -> list[Any]:
    return [tuple(step) for log in logs for episode in log for step in episode]


def steps_in(buffer: replay.Buffer) -> list[Any]:
    return [tuple(step) for _, step in sorted(recorded_rows(buffer).items(), key=lambda item: item[0][::-1])]


def test_a_number_of_steps_of_one_env() -> None:
    env = Counting()
    buffer = run(env, num_steps=30)
    assert steps_in(buffer) == flat([env.log])
    assert len(flat([env.log])) == 30


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_number_of_steps_of_many_envs(mode: Any) -> None:
    env = SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode)
    buffer = run(env, num_steps=45)
    logs = env.get_attr("log")
    assert steps_in(buffer) == flat(logs)
    assert 45 <= len(flat(logs)) < 48


@pytest.mark.parametrize("mode", [None, NEXT, SAME, DISABLED])
def test_a_number_of_episodes(mode: Any) -> None:
    env = Counting() if mode is None else SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode)
    buffer = run(env, num_episodes=5)
    found = replay.episodes(buffer)
    ended = int((found.ended & found.mask).sum())
    assert ended == 5 if mode is None else 5 <= ended < 8
    assert steps_in(buffer) == flat([env.log] if mode is None else env.get_attr("log"))


def test_a_policy_is_given_another_key_each_time_and_the_same_ones_again() -> None:
    env = Counting()
    actions = [np.asarray([step[1] for step in steps_in(run(env, num_steps=60, key=key))]) for key in (0, 0, 1)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()
    assert len(np.unique(actions[0])) > 50
    keys = [next(k) for k in [make_keys(jax.random.key(3))] for _ in range(200)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 200
    assert next(make_keys(jax.random.PRNGKey(3))).dtype == jnp.uint32


def test_the_seed_is_the_environments() -> None:
    env = gymnasium.make("CartPole-v1")
    rows = jnp.array([0]), jnp.array([0])
    policy = lambda observation, key: 0  # noqa: E731
    first = [
        replay.take(
            record.collect(env, policy, buffer_for(env), num_steps=1, seed=s, progress=False), replay.Rows(*rows)
        )
        for s in (3, 3, 4)
    ]
    np.testing.assert_array_equal(first[0].data.observation, first[1].data.observation)
    np.testing.assert_array_equal(first[0].data.observation[0], env.reset(seed=3)[0])
    assert (first[0].data.observation != first[2].data.observation).any()


def test_a_network_with_its_parameters_on_nested_actions() -> None:
    env = SyncVectorEnv(makers(2, nested=True))

    @jax.jit
    def act(params: Any, observation: Any, key: jax.Array) -> Any:
        whole = jax.random.randint(key, (2,), 0, 4) + 0 * observation["where"][1]
        return {"force": jnp.tanh(jnp.ones((2, 2)) * params["w"]), "go": (whole, jnp.stack([whole, whole], axis=1))}

    policy = functools.partial(act, {"w": jnp.float32(0.5)})
    buffer = record.collect(env, policy, buffer_for(env), num_steps=20, progress=False)
    assert steps_in(buffer) == flat(env.get_attr("log"))
    assert replay.take(buffer, replay.rows(buffer)[0]).data.action["force"].max() == pytest.approx(np.tanh(0.5))


def test_collecting_again_goes_on_in_the_same_buffer_and_joins_no_episodes() -> None:
    env = Counting(28)
    buffer = buffer_for(env)
    for _ in range(3):
        before = buffer
        buffer = record.collect(env, at_random, buffer, num_steps=4, progress=False)
        assert int(replay.size(before)) == int(replay.size(buffer)) - 4  # what was passed stays as it was
    assert replay.episodes(buffer).length[-3:].tolist() == [4, 4, 4]
    truncated = replay.take(buffer, replay.rows(buffer)[0]).data.truncated[-12:]
    assert truncated.tolist() == [False] * 3 + [True] + [False] * 3 + [True] + [False] * 4


def test_through_a_recorder_under_other_wrappers() -> None:
    inner = record.RecordTransitions(Counting(), buffer_for(Counting()))
    env = gymnasium.wrappers.FrameStackObservation(inner, 2)
    shapes = set()

    def policy(observation: Any, key: jax.Array) -> int:
        shapes.add(observation.shape)
        return 0

    buffer = record.collect(env, policy, num_steps=20, progress=False)
    assert shapes == {(2, 3)}
    assert steps_in(buffer) == flat([inner.unwrapped.log]) == steps_in(inner.buffer)


@pytest.mark.parametrize("mode", [None, NEXT, SAME, DISABLED])
def test_the_policy_sees_the_stacks_that_the_view_reads(mode: Any) -> None:
    """Seen stacks are compared with the view's rows wherever a step was taken; part of a nested observation."""
    view = replay.views.frame_stack(3, parts=("observation.image", "observation.where"))
    env = (
        Counting(nested=True)
        if mode is None
        else SyncVectorEnv(makers(3, nested=True, copies=True), autoreset_mode=mode)
    )
    env.action_space.seed(0)
    seen = []

    def policy(observation: Any, key: Any) -> Any:
        seen.append(observation)
        return env.action_space.sample()

    buffer = record.collect(env, policy, buffer_for(env, 60), num_steps=300, progress=False, frames=view)
    rows, mask = replay.rows(buffer)
    read = replay.take(buffer, rows, view).data.observation
    envs = 1 if mode is None else 3
    for path, leaf in jax.tree_util.tree_leaves_with_path(read):
        came = np.stack([dict(jax.tree_util.tree_leaves_with_path(x))[path] for x in seen])[-60:]
        kept = np.asarray(mask).reshape(-1, envs)[-len(came) :]
        wanted = np.asarray(leaf).reshape(-1, envs, *leaf.shape[1:])[-len(came) :]
        assert kept.sum() >= 60
        np.testing.assert_array_equal(came.reshape(wanted.shape)[kept][6:], wanted[kept][6:], err_msg=str(path))
    assert isinstance(seen[0]["image"], np.ndarray)
    assert seen[0]["image"].shape[-3:] == (3, 20, 20)
    assert seen[0]["bits"].shape[-1:] == (2,)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_recorded_before_an_error_is_in_the_exception(error: type[BaseException]) -> None:
    env, calls = Counting(28), iter(range(100))

    def policy(observation: Any, key: jax.Array) -> int:
        if next(calls) == 5:
            raise error("enough")
        return 0

    buffer = buffer_for(env)
    with pytest.raises(error, match="enough") as caught:
        record.collect(env, policy, buffer, num_steps=20, progress=False)
    assert steps_in(caught.value.buffer) == flat([env.log])
    assert int(replay.size(caught.value.buffer)) == 5
    assert int(replay.size(buffer)) == 0
    assert "in the attribute `buffer`" in caught.value.__notes__[0]


def test_the_bar_counts_and_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    library("tqdm")
    env = SyncVectorEnv(makers(3))
    record.collect(env, at_random, buffer_for(env), num_episodes=4)
    assert "4/4" in capsys.readouterr().err


def test_without_tqdm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    env = Counting()
    with pytest.raises(ImportError, match=r"pip install tqdm, or pass progress=False"):
        record.collect(env, at_random, buffer_for(env), num_steps=1)


def test_wrong_calls() -> None:
    env = Counting()
    buffer = buffer_for(env)
    for options, error, message in (
        ({}, ValueError, "give one of num_steps and num_episodes, got None and None"),
        ({"num_steps": 1, "num_episodes": 1}, ValueError, "give one of num_steps and num_episodes"),
        ({"num_steps": 0}, ValueError, "num_steps: expected at least 1"),
        ({"num_episodes": 2.5}, TypeError, "num_episodes: expected a Python int"),
        ({"num_steps": 1, "key": jnp.zeros(3)}, TypeError, "key: expected a PRNG key"),
    ):
        with pytest.raises(error, match=message):
            record.collect(env, at_random, buffer, progress=False, **options)
    with pytest.raises(ValueError, match="buffer: expected one to record into"):
        record.collect(env, at_random, num_steps=1, progress=False)
