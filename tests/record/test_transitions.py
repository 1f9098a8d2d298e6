"""What was recorded is what happened: with one env and many, in each autoreset mode, through wrappers and processes."""

from __future__ import annotations

import copy
import functools
import re
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from tests.extras import library
from tests.record import checking
from tests.record.checking import DISABLED, EXTRAS, NEXT, SAME, assert_extras, assert_recorded, buffer_for, drive
from tests.record.counting import Counting, makers

AsyncVectorEnv, SyncVectorEnv = gymnasium.vector.AsyncVectorEnv, gymnasium.vector.SyncVectorEnv
wrappers = gymnasium.wrappers
KEY = jax.random.key(0)


def recorded(env: Any, extras: Any = None, slots: int = 40, **options: Any) -> Any:
    return record.RecordTransitions(env, buffer_for(env, slots, extras), **options)


def step_on(env: Any, count: int) -> None:
    """Step a single env, and reset it where it must be."""
    for _ in range(count):
        if np.logical_or(*env.step(0)[2:4]):
            env.reset()


def step_all(env: Any, count: int) -> None:
    for _ in range(count):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [1, 4, 6])
def test_a_single_env(nested: bool, block: int) -> None:
    env = recorded(Counting(nested=nested), block=block)
    done = drive(env, DISABLED, 230, seed=block)
    assert_recorded(env.buffer, [env.unwrapped.log], done)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("block", "shared"), [(6, True), (4, False)])
@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_many_envs(mode: Any, block: int, shared: bool, nested: bool) -> None:
    vector = SyncVectorEnv(makers(3, nested, copies=mode == SAME), copy=shared, autoreset_mode=mode)
    env = recorded(vector, block=block)
    done = drive(env, mode, 130, seed=block)
    assert_recorded(env.buffer, env.unwrapped.get_attr("log"), done)


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_many_envs_in_processes_of_their_own(mode: Any) -> None:
    env = recorded(
        AsyncVectorEnv(makers(3, nested=True, copies=mode == SAME), context="spawn", autoreset_mode=mode), block=4
    )
    done = drive(env, mode, 60)
    logs = env.unwrapped.get_attr("log")
    env.close()
    assert_recorded(env.buffer, logs, done)


@pytest.mark.parametrize("mode", [None, NEXT, SAME, DISABLED])
def test_fields_of_info_are_those_of_the_step(mode: Any) -> None:
    if mode is None:
        env = recorded(Counting(), EXTRAS, slots=90, block=4)
    else:
        env = recorded(SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode), EXTRAS, slots=90, block=4)
    drive(env, mode or DISABLED, 80)
    assert_extras(env.buffer)


def test_fields_of_ordered_extras_keep_their_names() -> None:
    """JAX lists an OrderedDict as it was made, and other dicts by name."""

    class Told(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            return *self.env.step(action)[:4], {"b": {"d": 1, "c": 2}, "a": 3}

    extras = OrderedDict(b=OrderedDict(d=jnp.int32(0), c=jnp.int32(0)), a=jnp.int32(0))
    env = recorded(Told(Counting(28)), extras, block=4)
    env.reset()
    env.step(0)
    stored = replay.take(env.buffer, replay.Rows(jnp.array([0]), jnp.array([0]))).data.extras
    assert (int(stored["b"]["d"][0]), int(stored["b"]["c"][0]), int(stored["a"][0])) == (1, 2, 3)


def test_a_masked_reset_changes_nothing_of_the_other_envs() -> None:
    """Whatever a wrapper makes of the observations of envs that were not reset: the step before led elsewhere."""

    class Scrambling(gymnasium.vector.VectorWrapper):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            mask = (options or {}).get("reset_mask", np.ones(3, bool))
            observation, info = self.env.reset(seed=seed, options=options)
            observation[~mask] = -1
            return observation, info

    env = recorded(Scrambling(SyncVectorEnv(makers(3), autoreset_mode=DISABLED)), block=4)
    done = drive(env, DISABLED, 60)
    assert_recorded(env.buffer, env.unwrapped.get_attr("log"), done)


def test_the_wrapper_that_resets_a_single_env_writes_void_rows() -> None:
    env = recorded(wrappers.Autoreset(Counting()), block=4)
    done = drive(env, NEXT, 60, resets=0)
    assert_recorded(env.buffer, [env.unwrapped.log], done)
    assert int(replay.stats(env.buffer).void) > 0


def test_through_a_stack_of_wrappers() -> None:
    below = wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(Counting(), 4))
    env = wrappers.TransformReward(wrappers.TransformAction(recorded(below, block=6), lambda a: a, None), lambda r: -r)
    done = drive(env, DISABLED, 60, resets=0)
    buffer = env.get_wrapper_attr("buffer")
    logs = [cut_at(env.unwrapped.log, 4)]
    assert_recorded(buffer, logs, done)
    assert float(replay.take(buffer, replay.rows(buffer)[0]).data.reward.max()) > 0  # recorded below the sign change


def cut_at(log: list[list[Any]], limit: int) -> list[list[Any]]:
    """What `TimeLimit` makes of a record: step number `limit` is truncated."""
    return [[checking.Step((*s[:4], s[4] or (i + 1 == limit), s[5])) for i, s in enumerate(episode)] for episode in log]


def test_through_wrappers_of_vector_envs() -> None:
    vector = SyncVectorEnv(makers(3))
    below = wrappers.vector.RecordEpisodeStatistics(vector)
    env = wrappers.vector.ClipReward(recorded(below, block=6), 0, 1)
    done = checking.Drive()
    env.action_space.seed(0)
    env.reset()
    ended = np.zeros(3, bool)
    for _ in range(60):
        done.stepped.append((~ended).tolist())
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert reward.max() <= 1
        ended = terminated | truncated
    assert_recorded(env.env.buffer, vector.get_attr("log"), done)


def test_frame_stacks_below_are_recorded_as_stacks() -> None:
    env = recorded(wrappers.FrameStackObservation(Counting(), 3), block=4)
    done = drive(env, DISABLED, 60)
    assert_recorded(env.buffer, [env.unwrapped.log], done)
    rows, _ = replay.rows(env.buffer)
    assert replay.take(env.buffer, rows).data.observation.shape == (40, 3, 3)


def test_extending_by_blocks_is_appending_step_by_step() -> None:
    """Whatever the block's length, and wherever it is read in between, every array of the buffer is the same."""
    made = []
    for block, reads in ((1, 0), (6, 0), (16, 0.3)):
        env = recorded(Counting(), block=block)
        drive(env, DISABLED, 93, resets=0, reads=reads)
        made.append(env.buffer)
    assert int(replay.size(made[0])) == 40
    for other in made[1:]:
        jax.tree.map(np.testing.assert_array_equal, made[0], other)


def test_the_buffer_is_complete_in_mid_block_and_after_close() -> None:
    env = recorded(Counting(), block=4)
    env.reset()
    for i in range(1, 5):
        env.step(0)
        assert int(replay.size(env.buffer)) == i
    env.close()
    assert int(replay.size(env.buffer)) == 4


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_a_reset_in_mid_episode_truncates_and_adds_no_row(read: bool, sampler: str) -> None:
    view = replay.views.n_step(3, 1.0, complete=True)
    chosen = replay.samplers.prioritized(view=view) if sampler == "prioritized" else replay.samplers.uniform()
    env = SyncVectorEnv([functools.partial(Counting, 28), functools.partial(Counting, 139)], autoreset_mode=DISABLED)
    env = record.RecordTransitions(env, buffer_for(env, 8, sampler=chosen), block=4)
    env.reset()
    for _ in range(2):
        env.step([0, 0])
    if read:  # the newest step is in the buffer when the reset comes
        held = env.buffer
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step([0, 0])
    rows = checking.recorded_rows(env.buffer)
    assert [rows[t, 0][4] for t in range(3)] == [False, True, False]
    assert [rows[t, 1][4] for t in range(3)] == [False, False, False]
    assert [rows[t, 0][5] for t in range(3)] == [(28, 0, 1), (28, 0, 2), (28, 1, 1)]
    found = replay.episodes(env.buffer)
    assert found.length[-2:].tolist() == [[2, 0], [1, 3]]
    assert found.ended[-2:].tolist() == [[True, False], [False, False]]
    if read:
        assert replay.take(held, replay.Rows(jnp.array([1]), jnp.array([0]))).data.truncated.tolist() == [False]
    drawn = replay.sample(env.buffer, KEY, 64, view)
    seen = {(int(t), int(e)) for t, e in zip(drawn.rows.time, drawn.rows.env)}
    assert seen == {(0, 0), (1, 0), (0, 1)}  # with the end known, both rows of the cut episode serve the view


def test_a_buffer_with_an_open_episode_is_not_joined_with_what_comes() -> None:
    first = recorded(Counting(28), block=4)
    first.reset()
    first.step(0)
    second = record.RecordTransitions(Counting(139), first.buffer, block=4)
    second.reset()
    second.step(0)
    assert replay.episodes(second.buffer).length.tolist()[-2:] == [1, 1]
    rows = checking.recorded_rows(second.buffer)
    assert [(rows[t, 0][4], rows[t, 0][5]) for t in range(2)] == [(True, (28, 0, 1)), (False, (139, 0, 1))]


def test_what_is_held_is_never_deleted_and_otherwise_nothing_is_copied() -> None:
    env = recorded(Counting(), block=4)
    env.reset()

    def pointers() -> list[int]:
        return [x.unsafe_buffer_pointer() for x in env.buffer.rings.arrays]

    before = pointers()
    step_on(env, 9)
    assert pointers() == before
    for _ in range(3):
        step_on(env, 9)
        replay.sample(env.buffer, KEY, 4)  # read, and not kept
    assert pointers() == before
    held = env.buffer
    size, again = int(replay.size(held)), replay.remove(held, replay.rows(held)[0])
    step_on(env, 9)
    assert pointers() != before
    assert (int(replay.size(held)), int(replay.size(again))) == (size, 0)
    now = pointers()
    step_on(env, 9)
    assert pointers() == now  # held as it is, it was copied once
    one = env.buffer.rings.arrays[0]  # an array alone, out of a buffer that is gone
    step_on(env, 9)
    assert not one.is_deleted()
    del one
    view = np.asarray(env.buffer.rings.arrays[0])
    values = view.copy()
    step_on(env, 9)
    np.testing.assert_array_equal(view, values)


def test_a_changed_buffer_is_set_and_recording_goes_on_in_the_same_episode() -> None:
    env = Counting(28)
    env = record.RecordTransitions(env, buffer_for(env, 40, sampler=replay.samplers.prioritized(1.0)), block=4)
    env.reset()
    update = jax.jit(lambda b, r: replay.set_priorities(b, r, jnp.array([5.0])), donate_argnums=0)
    for i in range(6):
        env.step(0)
        env.buffer = update(env.buffer, replay.Rows(jnp.array([i]), jnp.array([0])))
    assert replay.episodes(env.buffer).length.tolist()[-1] == 6
    assert float(replay.sample(env.buffer, KEY, 2).probability[0]) == pytest.approx(1 / 6)


def test_another_buffer_is_set_and_its_open_episode_is_not_continued() -> None:
    env, other = recorded(Counting(28), block=4), recorded(Counting(139), block=4)
    for e in (env, other):
        e.reset()
        e.step(0)
        e.step(0)
    other.step(0)
    foreign, _ = other.buffer, env.buffer
    env.buffer = foreign
    env.step(0)
    assert replay.episodes(env.buffer).length.tolist()[-2:] == [3, 1]
    assert int(replay.size(foreign)) == 3


def test_setting_a_buffer_that_lacks_recorded_steps_is_refused() -> None:
    env = recorded(Counting(), block=4)
    env.reset()
    old = env.buffer
    for _ in range(5):  # the first four are written, and not read
        env.step(0)
    with pytest.raises(ValueError, match=r"4 slices were written since .* and would be lost"):
        env.buffer = old
    assert int(replay.size(env.buffer)) == 5
    for wrong, error, message in (
        (3, TypeError, "expected a Buffer, got int"),
        (replay.create({"x": jnp.int32(0)}, 8), ValueError, "the same example and num_envs"),
        (buffer_for(Counting(), episode_data={"seed": jnp.int32(0)}), ValueError, "the same episode_data"),
    ):
        with pytest.raises(error, match=message):
            env.buffer = wrong


def test_steps_after_the_reading_go_into_the_buffer_that_is_set() -> None:
    """Where what was read is donated and given back late, none is missing, doubled or in another episode."""
    data = {"length": jnp.int32(0)}
    env, beside = (
        record.RecordTransitions(Counting(28), buffer_for(Counting(28), episode_data=data), block=16) for _ in range(2)
    )
    change = jax.jit(lambda b: b.replace(sampler_state=b.sampler_state), donate_argnums=0)
    env.reset()
    beside.reset()
    for count in (1, 2, 3, 4, 1):
        given = change(env.buffer)
        step_on(env, count)
        env.buffer = given
        step_on(beside, count)
    jax.tree.map(np.testing.assert_array_equal, env.buffer, beside.buffer)
    assert int(replay.size(env.buffer)) == 11


def test_a_buffer_that_was_donated_and_not_given_back_is_named() -> None:
    env = recorded(Counting(28), block=4)
    env.reset()
    env.step(0)
    moved = jax.jit(replay.clear, donate_argnums=0)(env.buffer)
    env.step(0)
    with pytest.raises(RuntimeError, match="donated to a jitted function"):
        _ = env.buffer
    env.buffer = moved
    assert [step[5] for step in checking.recorded_rows(env.buffer).values()] == [(28, 0, 2)]


@pytest.mark.parametrize("many", [False, True])
def test_an_error_in_the_environment_leaves_every_step_before(many: bool) -> None:
    env = recorded(SyncVectorEnv(makers(3, fail_at=11)) if many else Counting(fail_at=11), block=4)
    env.reset()
    done = checking.Drive()
    ended = np.zeros(env.num_envs if many else 1, bool)
    env.action_space.seed(0)

    def until_it_raises(ended: np.ndarray) -> None:
        while True:
            stepped = (~ended).tolist()
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done.stepped.append(stepped)
            ended = np.logical_or(terminated, truncated).reshape(ended.shape)
            if not many and ended:
                env.reset()
                ended[:] = False

    with pytest.raises(OSError, match="the simulator is gone"):
        until_it_raises(ended)
    with pytest.raises(gymnasium.error.ResetNeeded, match="the last step or reset failed"):
        env.step(env.action_space.sample())
    logs = env.unwrapped.get_attr("log") if many else [env.unwrapped.log]
    if many:  # env 0 was stepped in the slice that failed, and that slice was not recorded
        logs[0][-1].pop() if logs[0][-1] else None
    assert_recorded(env.buffer, logs, done)
    env.unwrapped.fail_at = None
    for inner in getattr(env.unwrapped, "envs", []):
        inner.fail_at = None
    size = int(replay.size(env.buffer))
    env.reset()
    env.step(env.action_space.sample())
    assert int(replay.size(env.buffer)) == size + (3 if many else 1)


def test_an_interrupt_in_the_environment_leaves_every_step_before() -> None:
    class Interrupted(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            answer = self.env.step(action)
            if self.unwrapped.total == 3:
                raise KeyboardInterrupt
            return answer

    env = recorded(Interrupted(Counting(28)), block=4)
    env.reset()
    env.step(0)
    env.step(0)
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    rows = checking.recorded_rows(env.buffer)
    assert [step[5] for step in rows.values()] == [(28, 0, 1), (28, 0, 2)]
    env.reset()
    assert checking.recorded_rows(env.buffer)[1, 0][4]  # the episode was cut there


def test_an_interrupt_while_writing_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from jaxreplay.record.transitions import ownership

    real = ownership.EXTEND

    def interrupted(*arguments: Any) -> Any:
        written = real(*arguments)
        signal.raise_signal(signal.SIGINT)  # the old buffer is donated, and the new one not yet kept
        return written

    env = recorded(Counting(28), block=2)
    env.reset()
    env.step(0)
    env.step(0)
    monkeypatch.setattr(ownership, "EXTEND", interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    monkeypatch.undo()
    assert env.unwrapped.total == 2  # the step was not taken, and can be
    env.step(0)
    assert [step[5] for step in checking.recorded_rows(env.buffer).values()] == [(28, 0, i) for i in (1, 2, 3)]


def test_a_full_buffer_raises_before_the_step_when_asked_to() -> None:
    env = recorded(Counting(), slots=10, block=4, on_full="raise")
    env.reset()
    with pytest.raises(record.BufferFull, match="all of the 10 steps that it has room for"):
        step_on(env, 11)
    assert env.unwrapped.total == 10
    assert_recorded(env.buffer, [env.unwrapped.log], checking.Drive([[True]] * 10))
    buffer, batch = replay.pop(env.buffer, 3)
    env.buffer = buffer
    step_on(env, 3)
    assert int(replay.size(env.buffer)) == 10
    assert batch.data.observation[:, 2].shape == (3,)
    full, (room, _) = env.buffer, replay.pop(env.buffer, 3)
    env.buffer = room
    step_on(env, 2)
    with pytest.raises(ValueError, match=r"2 slices were recorded since .* and it has room for 0; make room in it"):
        env.buffer = full
    env.buffer = room
    step_on(env, 1)
    assert int(replay.size(env.buffer)) == 10
    with pytest.raises(record.BufferFull):
        step_on(env, 1)


def test_episode_data() -> None:
    example = {
        "seed": jnp.int32(0),
        "return": jnp.float32(0),
        "length": jnp.int32(0),
        "options": {"wind": jnp.float32(0)},
        "note": jnp.int32(0),
    }
    env = SyncVectorEnv(makers(3, copies=True), autoreset_mode=SAME)
    env = record.RecordTransitions(env, buffer_for(env, episode_data=example), block=6)
    env.reset(seed=5, options={"wind": 2.0, "unknown": 1})
    for i in range(30):
        env.step([0, 1, 2])
        if i == 20:
            _ = env.buffer
    env.reset(seed=[7, None, 9])
    env.step([0, 1, 2])
    data, found = replay.episode_data(env.buffer), replay.episodes(env.buffer)
    for e, log in enumerate(env.unwrapped.get_attr("log")):
        mask = np.asarray(found.mask[:, e])
        real = [episode for episode in log if episode]
        assert np.asarray(data["length"][:, e])[mask].tolist() == [len(episode) for episode in real]
        assert np.asarray(data["return"][:, e])[mask].tolist() == [sum(s[2] for s in episode) for episode in real]
        seeds = np.asarray(data["seed"][:, e])[mask].tolist()
        assert seeds == [5 + e] + [-1] * (len(real) - 2) + [[7, -1, 9][e]]
        assert np.asarray(data["options"]["wind"][:, e])[mask].tolist() == [2.0] + [0.0] * (len(real) - 1)
        assert not data["note"].any()


def test_episode_data_of_a_single_env_that_is_cut() -> None:
    env = Counting(28)
    env = record.RecordTransitions(env, buffer_for(env, episode_data={"length": jnp.int32(0), "seed": jnp.int32(0)}))
    for seed in (3, 4):
        env.reset(seed=seed)
        env.step(0)
        env.step(0)
    data = replay.episode_data(env.buffer)
    assert (data["seed"][-2:].tolist(), data["length"][-2:].tolist()) == ([3, 4], [2, 2])
    with pytest.raises(ValueError, match=r"episode_data\.seed: 4294967296 \(int64\) does not fit in int32"):
        env.reset(seed=2**32)


def test_it_is_a_wrapper_like_any_other() -> None:
    single = recorded(gymnasium.make("CartPole-v1", render_mode="rgb_array"))
    assert isinstance(single, gymnasium.Wrapper)
    assert isinstance(single, record.RecordTransitions)
    assert single.spec.id == "CartPole-v1"
    again = gymnasium.make(single.spec)
    assert str(again) == str(single.env)
    assert gymnasium.make(wrappers.TimeAwareObservation(single).spec).observation_space.shape == (5,)
    assert single.render_mode == "rgb_array"
    first = single.reset(seed=3)[0]
    np.testing.assert_array_equal(first, again.reset(seed=3)[0])
    assert single.np_random_seed == 3
    assert single.unwrapped is single.env.unwrapped
    vector = recorded(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"))
    assert isinstance(vector, gymnasium.vector.VectorWrapper)
    assert isinstance(vector, record.RecordTransitions)
    assert (vector.num_envs, vector.spec.id) == (2, "CartPole-v1")
    vector.reset(seed=0)
    for _ in range(60):
        vector.step(vector.action_space.sample())
    stats = replay.stats(vector.buffer)
    assert int(stats.void) > 0
    assert int(stats.size) + int(stats.void) == 80
    vector.close()
    made = gymnasium.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync", wrappers=[lambda env: recorded(env, slots=8)]
    )
    made.reset()
    made.step(made.action_space.sample())
    assert [int(replay.size(b)) for b in made.get_attr("buffer")] == [1, 1]
    assert recorded(Counting(render_mode="ansi")).render() == "(0, -1, 0)"


def test_a_copy_records_by_itself() -> None:
    env = recorded(Counting(28), block=4)
    env.reset()
    env.step(0)
    other = copy.deepcopy(env)
    other.step(0)
    assert [int(replay.size(e.buffer)) for e in (env, other)] == [1, 2]


def test_whole_numbers_go_in_where_they_fit_exactly() -> None:
    class Wide(Counting):
        value: Any = 0

        def step(self, action: Any) -> Any:
            return {"n": self.value}, 1, False, False, {}

        def reset(self, **_: Any) -> Any:
            return {"n": 0}, {}

    env = Wide()
    env.observation_space = gymnasium.spaces.Dict(n=gymnasium.spaces.Discrete(2**40))
    env = recorded(env)
    env.reset()
    for value in (2**31 - 1, np.int64(-(2**31)), np.uint8(3), 7.0, True):
        env.unwrapped.value = value
        env.step(np.int64(5))
    rows = replay.rows(env.buffer)
    batch = replay.take(env.buffer, rows[0])
    assert batch.data.next_observation["n"][-5:].tolist() == [2**31 - 1, -(2**31), 3, 7, 1]
    for value, message in (
        (2**31, r"observation\.n: 2147483648 \(int64\) does not fit in int32"),
        (0.5, r"observation\.n: 0.5 \(float64\) does not fit in int32"),
        (np.zeros(2), r"observation\.n: expected int32\[\], got float64\[2\]"),
        ("text", r"observation\.n: expected an array of numbers, got dtype <U4"),
    ):
        env.unwrapped.value = value
        env.reset()
        with pytest.raises((ValueError, TypeError), match=message):
            env.step(0)
    env.unwrapped.value = 0
    env.reset()
    total = int(replay.size(env.buffer))
    with pytest.raises(ValueError, match=r"action: 1099511627776 \(int64\) does not fit in int32"):
        env.step(2**40)
    env.step(1)  # nothing had happened
    assert int(replay.size(env.buffer)) == total + 1


def test_floats_are_rounded_to_the_buffers_dtype() -> None:
    env = recorded(Counting(28))
    assert env.observation_space.dtype == np.float64
    env.reset()
    env.step(np.int64(1))
    assert env.buffer.rings.layout.leaves[0].dtype == np.float32


def test_stepping_what_must_be_reset_is_refused() -> None:
    env = recorded(SyncVectorEnv(makers(3), autoreset_mode=DISABLED))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"envs \[0, 1, 2\] must be reset before they are stepped"):
        env.step([0, 0, 0])
    env.reset()
    ended = np.zeros(3, bool)
    while not ended.any():
        ended = np.logical_or(*env.step([0, 0, 0])[2:4])
    with pytest.raises(gymnasium.error.ResetNeeded, match=rf"envs \[{np.flatnonzero(ended)[0]}"):
        env.step([0, 0, 0])
    single = recorded(Counting())
    single.reset()
    while not np.logical_or(*single.step(0)[2:4]):
        pass
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        single.step(0)


def test_buffers_that_do_not_fit_are_named_when_wrapped() -> None:
    single, vector = Counting(), SyncVectorEnv(makers(3))
    transition = replay.example_transition(single)
    other = SyncVectorEnv(makers(3))
    other.metadata = {}
    for env, buffer, error, message in (
        (single, 3, TypeError, "expected a Buffer, got int; replay.create makes one"),
        (single, replay.create(transition, 8, 2), ValueError, r"num_envs=2, and the environment needs None \(or 1\)"),
        (vector, replay.create(transition, 8), ValueError, "num_envs=1, and the environment needs 3"),
        (single, replay.create({"x": jnp.int32(0)}, 8), ValueError, "expected one of Transition steps, got dict"),
        (Counting(nested=True), replay.create(transition, 8), ValueError, "its observation does not fit the"),
        (single, replay.create(transition.replace(action=jnp.zeros(2)), 8), ValueError, "its action does not fit the"),
        (single, replay.create(transition.replace(extras=[jnp.int32(0)]), 8), ValueError, "extras: expected a dict"),
        (single, replay.create(transition.replace(extras={"k": KEY}), 8), TypeError, r"extras\.k: PRNG keys cannot"),
        (single, buffer_for(single, episode_data={"seed": jnp.uint32(0)}), ValueError, r"episode_data\.seed: expected"),
        (other, buffer_for(vector), ValueError, "autoreset_mode"),
    ):
        with pytest.raises(error, match=message):
            record.RecordTransitions(env, buffer)
    for options, message in (({"block": 0}, "block: expected at least 1"), ({"on_full": "stop"}, "on_full: expected")):
        with pytest.raises(ValueError, match=message):
            recorded(Counting(), **options)
    assert recorded(Counting()).buffer.single
    one = record.RecordTransitions(Counting(28), replay.create(transition, 8, 1))
    one.reset()
    one.step(0)
    assert int(replay.size(one.buffer)) == 1


def test_fields_that_info_lacks_are_named() -> None:
    env = recorded(Counting(), {"speed": jnp.float32(0)})
    env.reset()
    with pytest.raises(ValueError, match=r"extras\.speed: the step's info has no 'speed', but \['deep', 'total'\]"):
        env.step(0)


def test_a_same_step_env_that_hides_the_final_observation_is_named() -> None:
    class Hiding(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            *answer, info = self.env.step(actions)
            return *answer, {k: v for k, v in info.items() if "final" not in k}

    env = recorded(Hiding(SyncVectorEnv(makers(3, copies=True), autoreset_mode=SAME)))
    env.reset()
    with pytest.raises(ValueError, match=r"env \d ended and was reset in the same step, yet info has no 'final_obs'"):
        step_all(env, 20)


@pytest.mark.parametrize("nested", [False, True])
def test_a_final_observation_that_the_reset_overwrote_is_named(nested: bool) -> None:
    env = recorded(SyncVectorEnv(makers(3, nested), autoreset_mode=SAME))
    env.reset()
    with pytest.raises(ValueError, match=r"env \d hands out the same array at every step"):
        step_all(env, 20)


def test_final_observations_that_come_batched() -> None:
    class Batching(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            observation, *answer, info = self.env.step(actions)
            if "final_obs" in info:
                finals = [o if f is None else f for o, f in zip(observation, info["final_obs"])]
                info["final_obs"] = np.stack(finals)
            return observation, *answer, info

    env = recorded(Batching(SyncVectorEnv(makers(3, copies=True), autoreset_mode=SAME)), block=4)
    done = drive(env, SAME, 40)
    assert_recorded(env.buffer, env.unwrapped.get_attr("log"), done)


def test_without_gymnasium_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['gymnasium'] = None; from jaxreplay import record\n"
        "print(record.rollout.__name__)\n"
        "try: record.RecordTransitions\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    needed = "record.RecordTransitions needs Gymnasium: pip install 'jaxreplay[gym]'"
    assert done.stdout.splitlines() == ["rollout", needed]
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = record.Nothing
    assert set(record.__all__) <= set(dir(record))


def pong(preprocessing: bool) -> Any:
    """84x84 grey frames of Pong: by Gymnasium's preprocessing, which needs OpenCV, or by picking rows and columns."""
    ale_py = library("ale_py")
    gymnasium.register_envs(ale_py)
    if preprocessing:
        library("cv2")
        env = wrappers.AtariPreprocessing(gymnasium.make("ALE/Pong-v5", frameskip=1))
    else:
        env = gymnasium.make("ALE/Pong-v5", obs_type="grayscale")
        pick = np.ix_(np.linspace(0, 209, 84).astype(int), np.linspace(0, 159, 84).astype(int))
        space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
        env = wrappers.TransformObservation(env, lambda frame: frame[pick], space)
    return wrappers.TimeLimit(env, 60)


@pytest.mark.parametrize("preprocessing", [True, False])
def test_atari_frames_are_recorded_once_and_sampled_as_stacks(preprocessing: bool) -> None:
    """4-frame stacks of recorded single frames are what Gymnasium's own stacking wrapper gives, bit for bit."""
    steps = 150
    env, beside = pong(preprocessing), wrappers.FrameStackObservation(pong(preprocessing), 4)
    example = replay.example_transition(env, {"lives": jnp.int32(0)})
    env = record.RecordTransitions(env, replay.create(example, 200, max_episodes=8), block=4)
    seen: list[Any] = []
    stack = beside.reset(seed=1)[0]
    env.reset(seed=1)
    for action in np.random.default_rng(0).integers(0, 6, steps):
        _, reward, terminated, truncated, _ = env.step(int(action))
        after, same_reward, *_ = beside.step(int(action))
        assert reward == same_reward
        seen.append((np.asarray(stack), np.asarray(after)))
        stack = after
        if terminated or truncated:
            env.reset()
            stack = beside.reset()[0]
    rows = replay.Rows(jnp.arange(steps), jnp.zeros(steps, jnp.int32))
    batch = replay.take(env.buffer, rows, replay.views.frame_stack(4))
    assert bool(batch.mask.all())
    assert int(replay.num_episodes(env.buffer)) == 3
    assert len(np.unique(batch.data.observation[:, -1].reshape(steps, -1), axis=0)) > 100  # something moves
    for i, (stacked, after) in enumerate(seen):
        np.testing.assert_array_equal(batch.data.observation[i], stacked)
        np.testing.assert_array_equal(batch.data.next_observation[i], after)


def test_a_reset_in_mid_episode_is_refused_when_asked() -> None:
    env = recorded(Counting(28), block=4, on_cut="raise")  # its first episode has several steps
    env.reset()
    env.step(0)
    log = [list(episode) for episode in env.unwrapped.log]
    with pytest.raises(RuntimeError, match=r"the env is in mid-episode, and on_cut='raise'.*; step on until it ends"):
        env.reset()
    assert env.unwrapped.log == log  # nothing happened
    while not np.logical_or(*env.step(0)[2:4]):
        pass
    env.reset()
    assert int(replay.num_episodes(env.buffer)) == 1


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_reset_of_envs_in_mid_episode_names_them_and_lets_others_pass(mode: Any) -> None:
    env = recorded(SyncVectorEnv(makers(3, copies=True), autoreset_mode=mode), block=4, on_cut="raise")
    env.reset()
    ended = np.zeros(3, bool)
    while not ended.any() or ended.all():
        ended = np.logical_or(*env.step(np.zeros(3, int))[2:4])
    going = np.flatnonzero(~ended).tolist()
    with pytest.raises(
        RuntimeError, match=rf"envs {re.escape(str(going))} are in mid-episode.*reset_mask.*or record with"
    ):
        env.reset()
    env.reset(options={"reset_mask": ended.copy()})
    env.step(np.zeros(3, int))


def test_after_a_failed_step_a_reset_is_let_pass() -> None:
    env = recorded(Counting(28, fail_at=1), block=4, on_cut="raise")
    env.reset()
    env.step(0)
    with pytest.raises(OSError, match="the simulator is gone"):
        env.step(0)
    env.reset()
    with pytest.raises(ValueError, match="on_cut: expected 'truncate' or 'raise', got 'ignore'"):
        recorded(Counting(), on_cut="ignore")
