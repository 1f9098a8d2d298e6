"""What workers read of a store: the same as in one process, each batch once, and no worker copies the store."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import convert
from jaxreplay.convert.stored import StoredTable
from jaxreplay.datasets import Dataset
from tests.datasets.episodes import same_tree
from tests.extras import library
from tests.storage.test_same import both  # noqa: F401

KEY = jax.random.key(5)


def steps_of(batches: list[Any]) -> list[int]:
    return np.concatenate([np.asarray(batch.steps) for batch in batches]).tolist()


@pytest.mark.parametrize("view", [None, replay.views.frame_stack(3)], ids=["transition", "stacks"])
def test_threads_make_the_same_batches_each_once(both: tuple[Dataset, Dataset], view: Any) -> None:  # noqa: F811
    one = list(both[1].batches(KEY, 8, view, epochs=2))
    several = list(both[1].batches(KEY, 8, view, epochs=2, workers=3))
    same_tree(several, one, "batches")
    steps = np.array(steps_of(one)).reshape(2, -1)
    for epoch in steps:
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(len(both[1])))
    assert steps[0].tolist() != steps[1].tolist()


def test_worker_processes_make_the_same_batches_each_once(both: tuple[Dataset, Dataset]) -> None:  # noqa: F811
    some = both[1].filter(min_length=3)
    same_tree(list(some.batches(KEY, 8, workers=2, processes=True)), list(some.batches(KEY, 8)), "batches")
    with pytest.raises(ValueError, match="processes: they would each need a copy of a data set in memory"):
        both[0].batches(KEY, 8, processes=True)


@pytest.mark.parametrize(
    "view",
    [replay.views.transition(), replay.views.sequence(3), replay.views.frame_stack(2), replay.views.with_episode()],
    ids=["transition", "sequence", "stacks", "with_episode"],
)
def test_converters_read_a_store_as_a_data_set_in_memory(both: tuple[Dataset, Dataset], view: Any) -> None:  # noqa: F811
    library("grain")
    source, stored = (convert.to_grain_source(d, view) for d in both)
    assert isinstance(stored.table, StoredTable) == (view != replay.views.with_episode())
    items = [0, len(source) - 1, 3, 3]
    same_tree(stored.__getitems__(items), source.__getitems__(items), "items")
    same_tree(pickle.loads(pickle.dumps(stored))[-2], source[-2], "an item")
    assert len(stored) == len(source)
    if isinstance(stored.table, StoredTable):
        assert len(pickle.dumps(stored)) < 30_000
        assert repr(stored) == repr(pickle.loads(pickle.dumps(stored)))
    other = convert.to_grain_source(both[1].filter(min_length=3), view)
    assert repr(other) != repr(stored)


def test_torch_items_of_a_store_have_infos(both: tuple[Dataset, Dataset]) -> None:  # noqa: F811
    library("torch")
    memory, stored = (convert.to_torch_dataset(d) for d in both)
    for i in (0, 12, -1):
        same_tree(stored[i], memory[i], "an item")
    same_tree(*(jax.tree.map(np.asarray, convert.collate(x.__getitems__([5, 1]))) for x in (stored, memory)), "batch")


@pytest.mark.slow
def test_torch_workers_read_a_store(both: tuple[Dataset, Dataset]) -> None:  # noqa: F811
    data = library("torch.utils.data")
    loaders = [
        data.DataLoader(
            convert.to_torch_dataset(d, replay.views.frame_stack(2)),
            8,
            collate_fn=convert.collate,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )
        for d, workers in zip(both, (0, 2))
    ]
    for one, other in zip(*loaders, strict=True):
        same_tree(*(jax.tree.map(np.asarray, x) for x in (one, other)), "batch")
