"""To Grain: items against `take`, pipelines, and iterators that go on where their state was taken."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import convert, views
from jaxreplay.datasets import Dataset, Trajectory
from tests.convert.streams import assert_same, buffer_with_holes, random_dataset, rows_to_read
from tests.extras import library

grain = library("grain")


@pytest.fixture(scope="module")
def holes() -> replay.Buffer:
    return buffer_with_holes()


@pytest.fixture(scope="module")
def windows(holes: replay.Buffer) -> Any:
    return convert.to_grain_source(holes, views.window(2, 1))


def pipeline(source: Any) -> Any:
    dataset = grain.MapDataset.source(source).shuffle(seed=3).repeat(2).batch(5)
    return dataset.map(lambda batch: jax.tree.map(np.array, batch)).to_iter_dataset()


def test_items_are_the_rows_that_can_be_read_in_the_views_own_structure(holes: replay.Buffer, windows: Any) -> None:
    rows, expected = rows_to_read(holes, views.window(2, 1))
    assert list(zip(windows.table.time.tolist(), windows.table.env.tolist())) == rows
    assert isinstance(windows[0], views.Window)
    assert isinstance(windows[0].data, replay.Transition)
    for i in range(len(rows)):
        assert_same(windows[i], jax.tree.map(lambda x, i=i: x[i], expected))
    assert_same(windows._getitems([4, 2])[1], windows[2])


def test_shuffled_batches_hold_every_row_once_an_epoch(holes: replay.Buffer, windows: Any) -> None:
    batches = list(pipeline(windows))
    seen = np.concatenate([batch.data.observation["count"][:, 2] for batch in batches])
    _, expected = rows_to_read(holes, views.transition())
    assert sorted(seen.tolist()) == sorted(expected.observation["count"].tolist() * 2)
    loss = jax.jit(lambda window: jnp.where(window.mask, window.data.reward, 0).sum())(batches[0])
    window = batches[0]
    assert float(loss) == pytest.approx(window.data.reward[window.mask].sum(), rel=1e-5)


def test_an_iterator_goes_on_exactly_from_its_state(windows: Any) -> None:
    first = iter(pipeline(windows))
    for _ in range(4):
        next(first)
    state = first.get_state()
    rest = list(first)
    again = iter(pipeline(pickle.loads(pickle.dumps(windows))))
    again.set_state(state)
    later = list(again)
    assert len(rest) == len(later) > 3
    for x, y in zip(rest, later):
        assert_same(x, y)


def loader(source: Any, workers: int = 0) -> Any:
    sampler = grain.samplers.IndexSampler(
        num_records=len(source), shard_options=grain.sharding.NoSharding(), shuffle=True, num_epochs=1, seed=3
    )
    return grain.DataLoader(
        data_source=source, sampler=sampler, operations=[grain.transforms.Batch(4)], worker_count=workers
    )


def check_loader(source: Any, workers: int) -> list[Any]:
    first = iter(loader(source, workers))
    head = [next(first) for _ in range(3)]
    state = first.get_state()
    rest = list(first)
    again = iter(loader(source, workers))
    again.set_state(state)
    for x, y in zip(rest, again, strict=True):
        assert_same(x, y)
    return head + rest


def test_a_loader_goes_on_exactly_from_its_state(windows: Any) -> None:
    seen = np.concatenate([batch.data.observation["count"][:, 2] for batch in check_loader(windows, 0)])
    assert len(set(seen.tolist())) == len(seen) == len(windows)


@pytest.mark.slow
def test_a_loader_with_workers_goes_on_exactly_from_its_state(windows: Any) -> None:
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # which Grain's workers need
    seen = np.concatenate([batch.data.observation["count"][:, 2] for batch in check_loader(windows, 2)])
    assert len(set(seen.tolist())) == len(seen) == len(windows)


def test_a_state_of_other_data_is_refused(holes: replay.Buffer, windows: Any) -> None:
    state = iter(loader(windows)).get_state()
    rows: Any = replay.rows(holes)[0]
    changed = replay.put(holes, rows, {"reward": jnp.zeros(rows.time.shape)})
    other = convert.to_grain_source(changed, views.window(2, 1))
    assert len(other) == len(windows)
    with pytest.raises(ValueError, match="GrainSource"):
        iter(loader(other)).set_state(state)
    assert repr(other) == repr(convert.to_grain_source(changed, views.window(2, 1)))


def test_the_steps_of_a_data_set() -> None:
    dataset = random_dataset(2)
    source = convert.to_grain_source(dataset)
    batch = grain.MapDataset.source(source).batch(len(dataset))[0]
    assert_same(batch, dataset[:])


def test_wide_steps_pass_through_any_view_when_they_may_be_narrowed() -> None:
    dataset = Dataset([Trajectory(np.arange(6.0), np.arange(5), np.ones(5), terminated=True)])
    with pytest.raises(TypeError, match=r"observation: float64 does not fit .* pass narrow=True"):
        convert.to_grain_source(dataset, views.window(1, 0))
    window = convert.to_grain_source(dataset, views.window(1, 0), narrow=True)[3]
    assert (window.data.action.dtype, window.data.observation.tolist()) == (np.int32, [2, 3])


def test_what_is_no_source() -> None:
    with pytest.raises(TypeError, match="to_grain_source: expected a buffer"):
        convert.to_grain_source([1, 2])
