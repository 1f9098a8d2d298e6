"""Batches for loops on the host: every step once an epoch, on the device, and nothing left running."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory, batches
from tests.datasets.episodes import simple

KEY = jax.random.key(0)


def dataset() -> Dataset:
    return Dataset([simple(4, 0.0, terminated=True), simple(7, 100.0)])


STEPS = [0, 1, 2, 3, *range(100, 107)]


@pytest.mark.parametrize("view", [None, replay.views.transition()])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_each_step_comes_once_an_epoch_in_an_order_of_its_key(view: replay.views.View | None, prefetch: int) -> None:
    batches = list(dataset().batches(KEY, 4, view, epochs=2, prefetch=prefetch))
    assert [b.data.observation.shape for b in batches] == [(4,)] * 6
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(batches[0]))
    epochs = []
    for first in (0, 3):
        each = [np.asarray(b.data.observation)[np.asarray(b.mask)] for b in batches[first : first + 3]]
        epochs.append(np.concatenate(each).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == STEPS
    assert epochs[0] != epochs[1]
    again = list(dataset().batches(KEY, 4, view, epochs=2, prefetch=prefetch))
    jax.tree.map(np.testing.assert_array_equal, batches, again)


@pytest.mark.parametrize("view", [None, replay.views.transition()])
def test_the_last_batch_is_filled_up_or_left_out(view: replay.views.View | None) -> None:
    last = list(dataset().batches(KEY, 4, view))[-1]
    assert last.mask.tolist() == [True, True, True, False]
    assert last.data.next_observation.tolist()[-1] == 0
    whole = list(dataset().batches(KEY, 4, view, drop_remainder=True))
    assert len(whole) == 2
    assert all(bool(b.mask.all()) for b in whole)


@pytest.mark.parametrize("view", [None, replay.views.transition(), replay.views.sequence(2)])
def test_a_batch_says_which_steps_it_is_of_and_their_infos_are_read_by_them(view: replay.views.View | None) -> None:
    infos = [{"at": i} for i in range(7)]
    whole = Dataset([simple(4, 0.0), simple(7, 100.0, infos=infos), simple(3, 200.0)])  # there are void rows between
    for batch in whole.batches(KEY, 4, view):
        data = batch.data if view is None or view == replay.views.transition() else batch.data.data
        steps, mask = np.asarray(batch.steps), np.asarray(batch.mask)
        assert steps.dtype == np.int32
        assert ((steps >= 0) == mask).all()
        first = np.asarray(data.observation).reshape(4, -1)[:, 0][mask].tolist()
        assert whole[steps[mask]].observation.tolist() == first
        assert whole.infos(steps[mask]) == [{"at": int(x) - 100} if 100 <= x < 200 else {} for x in first]


def test_a_view_decides_on_the_rows() -> None:
    batches = list(dataset().batches(KEY, 2, replay.views.sequence(3)))
    firsts = [int(x) for b in batches for x, m in zip(b.data.data.observation[:, 0], b.mask) if m]
    assert sorted(firsts) == [0, 1, 100, 101, 102, 103, 104]


def test_a_loop_that_is_left_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in dataset().batches(KEY, 1, epochs=100):
        break
    loop = dataset().batches(KEY, 1, epochs=100)
    next(loop)
    loop.close()
    assert threading.active_count() == before


def test_no_more_is_made_ahead_than_was_asked_for_and_what_fails_is_raised_in_its_place() -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        if i == 4:
            raise ValueError("the fourth")
        return i

    loop = batches.ahead(map(make, range(100)), 2)
    assert next(loop) == 0
    while len(made) < 3:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2]
    got: list[int] = []
    with pytest.raises(ValueError, match="the fourth"):
        got.extend(loop)
    assert got == [1, 2, 3]


def test_what_fails_ahead_is_raised_in_the_loop() -> None:
    wide = Dataset([Trajectory(np.zeros(3), np.zeros(2, np.int32))])
    with pytest.raises(TypeError, match="observation: float64 does not fit"):
        list(wide.batches(KEY, 2))
    assert next(iter(wide.batches(KEY, 2, narrow=True))).data.observation.dtype == np.float32


def test_arguments_that_do_not_do() -> None:
    for arguments, error in (
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 2, "epochs": 0}, ValueError),
        ({"batch_size": 2, "prefetch": -1}, ValueError),
        ({"batch_size": 2.0}, TypeError),
    ):
        with pytest.raises(error, match="expected"):
            dataset().batches(KEY, **arguments)
    with pytest.raises(TypeError, match="key: expected a PRNG key"):
        dataset().batches(0, 2)
