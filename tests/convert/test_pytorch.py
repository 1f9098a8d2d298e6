"""To PyTorch: items against `take`, loaders with workers, and tensors bit for bit.

A spawned worker imports this module, so nothing here may make an array of JAX when it is imported.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import convert, views
from jaxreplay.convert.sources import plain
from jaxreplay.datasets import Dataset, Trajectory
from tests.backend import backend_started
from tests.convert.streams import (
    assert_same,
    assert_same_episodes,
    buffer_with_holes,
    random_dataset,
    rows_of,
    rows_to_read,
)
from tests.extras import library
from tests.model import bits

torch = library("torch")


DTYPES = ["bool", "uint8", "uint16", "uint32", "int8", "int32", "float16", "float32", "bfloat16", "complex64"]
DTYPES += ["float8_e4m3fn", "float8_e5m2"]


def from_tensor(tensor: Any) -> np.ndarray:
    """The bits of a tensor, as NumPy names its dtype."""
    name = str(tensor.dtype).removeprefix("torch.")
    if hasattr(ml_dtypes, name):
        dtype = np.dtype(getattr(ml_dtypes, name))
        return tensor.view(torch.int16 if dtype.itemsize == 2 else torch.uint8).numpy().view(dtype)
    return tensor.numpy()


def from_tensors(batch: Any) -> Any:
    return jax.tree.map(from_tensor, batch, is_leaf=lambda x: isinstance(x, torch.Tensor))


def collate_in_worker(items: Any) -> Any:
    """`collate`, where JAX was never asked for a device."""
    assert torch.utils.data.get_worker_info() is not None
    assert not backend_started()
    return convert.collate(items)


@pytest.fixture(scope="module")
def holes() -> replay.Buffer:
    return buffer_with_holes()


@pytest.mark.parametrize("view", [views.transition(), views.window(2, 1)], ids=["transition", "window"])
def test_items_are_the_rows_that_can_be_read_in_order(view: Any, holes: replay.Buffer) -> None:
    dataset = convert.to_torch_dataset(holes, view)
    rows, expected = rows_to_read(holes, view)
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == len(rows) == int(replay.size(holes))
    assert list(zip(dataset.table.time.tolist(), dataset.table.env.tolist())) == rows
    for i in (0, 1, len(rows) - 1):
        assert_same(dataset[i], plain(jax.tree.map(lambda x, i=i: x[i], expected)))
    batch = convert.collate(dataset.__getitems__(range(len(rows))))
    assert_same(from_tensors(batch), plain(expected))


def test_a_loader_with_spawned_workers_gives_take_row_by_row(holes: replay.Buffer) -> None:
    parts = {"step": views.transition(), "window": views.window(2, 1)}
    datasets = {name: convert.to_torch_dataset(holes, view) for name, view in parts.items()}
    loader = torch.utils.data.DataLoader(
        torch.utils.data.StackDataset(**datasets),
        batch_size=7,
        num_workers=2,
        multiprocessing_context="spawn",
        collate_fn=collate_in_worker,
    )
    batches = [from_tensors(batch) for batch in loader]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *batches)
    for name, view in parts.items():
        expected = replay.take(holes, rows_of(datasets[name].table), view).data
        assert_same(joined[name], plain(jax.tree.map(np.asarray, expected)))


def test_a_loader_in_this_process_shuffles_and_reads_every_row_once(holes: replay.Buffer) -> None:
    dataset = convert.to_torch_dataset(holes, views.select("observation"))
    loader = torch.utils.data.DataLoader(dataset, batch_size=5, shuffle=True, collate_fn=convert.collate)
    seen = torch.cat([batch["observation"]["count"] for batch in loader]).tolist()
    _, expected = rows_to_read(holes, views.transition())
    assert sorted(seen) == sorted(expected.observation["count"].tolist())
    assert seen != sorted(seen)


def test_torchs_own_collate_function_takes_the_items_too() -> None:
    dataset = convert.to_torch_dataset(random_dataset(0, ("float32", "uint8", "bool", "int64")))
    default = torch.utils.data.default_collate(dataset.__getitems__([3, 0, 2]))
    ours = convert.collate([dataset[i] for i in (3, 0, 2)])
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(default), strict=True):  # theirs makes lists of tuples
        assert_same(from_tensor(x), from_tensor(y))


@pytest.mark.parametrize("seed", range(6))
def test_the_steps_of_a_data_set_come_as_they_are_whatever_their_dtypes(seed: int) -> None:
    dataset = random_dataset(seed, infos=lambda length: [{"step": i, "text": "é"} for i in range(length)])
    items = convert.to_torch_dataset(dataset)
    assert len(items) == len(dataset) == 10
    batch = convert.collate([items[i] for i in range(10)])
    infos = batch.pop("infos")
    assert infos == [info for episode in dataset for info in episode.infos or ()]
    assert_same(from_tensors(batch), vars(dataset[:]))


def test_infos_of_a_data_set_follow_the_rows_of_a_view() -> None:
    def episode(first: int, length: int) -> Trajectory:  # none ends, so void rows stand between them in a buffer
        infos = [{"step": first + i} for i in range(length)]
        return Trajectory(np.arange(first, first + length + 1), np.zeros(length, np.int32), infos=infos)

    dataset = Dataset([episode(0, 3), episode(10, 1), episode(20, 4)]).compact()
    dataset = Dataset([each.map_arrays(lambda x: x.astype(np.int32)) for each in dataset])
    items = convert.to_torch_dataset(dataset, views.sequence(2))
    batch = convert.collate(items.__getitems__(range(len(items))))
    first = batch["data"]["observation"][:, 0].tolist()
    assert first == [0, 1, 20, 21, 22]
    assert [info["step"] for info in batch["infos"]] == first


def test_windows_of_a_data_set_end_with_their_episodes() -> None:
    dataset = random_dataset(1, ("float32", "uint8"), (3, 1, 2))
    items = convert.to_torch_dataset(dataset, views.window(1, 2))
    mask = convert.collate(items.__getitems__(range(6)))["mask"]
    assert mask.int().tolist() == [
        [0, 1, 1, 1],
        [1, 1, 1, 0],
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [1, 1, 0, 0],
    ]


def test_a_data_set_can_be_pickled(holes: replay.Buffer) -> None:
    dataset = convert.to_torch_dataset(holes, views.window(1, 0))
    again = pickle.loads(pickle.dumps(dataset))
    assert_same(again[5], dataset[5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_keep_the_bits_of_numpys_and_jaxs_arrays(dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (5, 16), dtype=np.uint8)
    array = (raw > 127) if dtype == "bool" else raw.view(jnp.dtype(dtype))
    for x in (array, jnp.asarray(array), array[::2], array.T):
        came = from_tensor(convert.to_tensors(x))
        assert (came.dtype, came.shape) == (x.dtype, x.shape)
        np.testing.assert_array_equal(bits(came), bits(x))
    stacked = convert.collate([{"x": jnp.asarray(row)} for row in array])["x"]
    np.testing.assert_array_equal(bits(from_tensor(stacked)), bits(array))


def test_tensors_share_memory_where_they_can() -> None:
    array = np.zeros((3, 4), np.float32)
    assert convert.to_tensors(array).data_ptr() == array.ctypes.data
    half = np.zeros((3, 4), ml_dtypes.bfloat16)
    assert convert.to_tensors({"x": half})["x"].data_ptr() == half.ctypes.data
    on_device = jnp.zeros((3, 4))
    assert convert.to_tensors(on_device).data_ptr() == on_device.unsafe_buffer_pointer()
    array.setflags(write=False)
    copied = convert.to_tensors(array)
    copied += 1
    assert array.sum() == 0


def test_keys_come_as_their_words() -> None:
    key = jax.random.key(7)
    np.testing.assert_array_equal(convert.to_tensors({"key": key})["key"].numpy(), jax.random.key_data(key))
    buffer = replay.extend(replay.create({"key": key}, 4), {"key": jax.random.split(key, 4)})
    batch = convert.collate(convert.to_torch_dataset(buffer).__getitems__([2]))
    np.testing.assert_array_equal(batch["key"][0].numpy(), jax.random.key_data(jax.random.split(key, 4)[2]))


class Pair(NamedTuple):
    a: Any
    b: Any


def test_containers_stay_and_infos_and_texts_become_lists() -> None:
    def item(i: int) -> Any:
        step = replay.Transition(np.float32(i), i, float(i), bool(i), False, torch.tensor(i))
        return {"step": step, "pair": Pair(a=[np.ones(2) * i], b=(None, "text")), "infos": {"any": object}}

    batch = convert.collate([item(0), item(1)])
    assert isinstance(batch["step"], replay.Transition)
    assert batch["step"].observation.tolist() == batch["step"].next_observation.tolist() == [0, 1]
    assert batch["step"].terminated.dtype == torch.bool
    assert isinstance(batch["pair"], Pair)
    assert batch["pair"].a[0].shape == (2, 2)
    assert batch["pair"].b == (None, ["text", "text"])
    assert batch["infos"] == [{"any": object}] * 2


def test_what_cannot_be_stacked_is_named() -> None:
    for items, error, message in (
        ([], ValueError, "at least one item"),
        (
            [{"x": {"y": np.ones(2)}}, {"x": {"y": np.ones(3)}}],
            ValueError,
            r"x\.y: expected one shape, got \(2,\), \(3,\)",
        ),
        ([{"x": np.ones(2)}, {"x": np.ones(2, int)}], TypeError, "x: expected one dtype, got float64, int64"),
        ([{"x": 1}, {"z": 1}], ValueError, "the items: expected the parts of the first in all: x"),
        ([{"x": None}, {"x": 1}], TypeError, "x: expected one type, got NoneType, int"),
        ([{"x": object()}], TypeError, "x: expected an array, a tensor or a number, got object"),
        ([{"x": np.zeros(2, ml_dtypes.int4)}], TypeError, "x: PyTorch has no tensors of int4"),
        ([{"x": jnp.zeros(2, jnp.int4)}], TypeError, "x: PyTorch has no tensors of int4"),
    ):
        with pytest.raises(error, match=message):
            convert.collate(items)


def test_other_sources_and_empty_ones_are_refused(holes: replay.Buffer) -> None:
    with pytest.raises(TypeError, match="expected a buffer, a subset of one, or a Dataset, got dict"):
        convert.to_torch_dataset({})
    with pytest.raises(TypeError, match="got Concat; convert its sources one by one"):
        convert.to_torch_dataset(replay.concat([holes]))
    with pytest.raises(ValueError, match="the data set is empty"):
        convert.to_torch_dataset(Dataset())
    with pytest.raises(ValueError, match="the source is empty"):
        convert.to_torch_dataset(replay.clear(holes))
    with pytest.raises(TypeError, match="float64 does not fit JAX's 32-bit types"):
        convert.to_torch_dataset(random_dataset(0, ("float64",)), views.window(1, 0))


def test_wide_steps_pass_through_any_view_when_they_may_be_narrowed() -> None:
    episode = Trajectory(np.arange(6.0), np.arange(5), np.ones(5), terminated=True, extras={"id": np.arange(5)})
    batch = convert.collate([convert.to_torch_dataset(Dataset([episode]), views.window(1, 0), narrow=True)[3]])
    assert batch["data"]["action"].dtype == torch.int32
    assert batch["data"]["observation"].tolist() == [[2, 3]]
    assert batch["data"]["reward"].dtype == torch.float32
    as_is, narrowed = (convert.to_torch_dataset(Dataset([episode]), narrow=narrow) for narrow in (False, True))
    assert (as_is[0]["action"].dtype, as_is[0]["next_observation"].dtype) == (np.int64, np.float64)
    assert (narrowed[0]["action"].dtype, narrowed[4]["next_observation"].dtype) == (np.int32, np.float32)
    assert narrowed[4]["next_observation"] == 5
    large = Dataset([Trajectory(np.zeros(2), np.array([2**40]))])
    for view in (views.transition(), views.window(1, 0)):
        with pytest.raises(ValueError, match=r"action.*: 1099511627776 does not fit int32"):
            convert.to_torch_dataset(large, view, narrow=True)


def test_infos_in_a_batch_of_its_own_are_not_overwritten() -> None:
    dataset = random_dataset(0, ("float32",), infos=lambda length: [{}] * length)
    view = views.map(lambda step: {"infos": step.reward})
    with pytest.raises(ValueError, match="have infos of their own"):
        convert.to_torch_dataset(dataset, view)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_given_to_torch_comes_back_bit_for_bit(seed: int) -> None:
    dataset = random_dataset(seed, extras=seed % 2 == 0, infos=lambda length: [{"step": i} for i in range(length)])
    came = convert.from_torch(convert.to_torch_dataset(dataset))
    expected = Dataset.from_transitions(dataset[:], infos=dataset.infos())
    assert_same_episodes(came, expected, ("infos",))
    assert came.report == expected.report
    assert came.infos() == dataset.infos()


class Steps(torch.utils.data.Dataset):
    """A map-style dataset as others write them."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_steps_of_any_map_style_dataset_are_read_by_name_or_number() -> None:
    tensors = torch.utils.data.TensorDataset(
        torch.arange(5.0).to(torch.bfloat16), torch.arange(5), torch.tensor([0, 0, 0, 1, 1]), torch.ones(5)
    )
    came = convert.from_torch(tensors, columns={"observations": {"x": 0}, "actions": 1, "episode": 2})
    assert [t.observations["x"].tolist() for t in came] == [[0, 1, 2], [3, 4]]
    assert came.episode(0).observations["x"].dtype == ml_dtypes.bfloat16
    assert came.episode(0).actions.dtype == np.int64
    assert came.report is not None
    assert (came.report.dropped_rows, came.report.ignored) == (2, ("3",))
    items = [{"obs": {"a": torch.full((2,), i), "b": float(i)}, "act": np.float32(i), "end": i == 2} for i in range(4)]
    columns = {"observations": "obs", "actions": "act", "terminals": "end"}
    came = convert.from_torch(Steps(items), columns=columns, missing_final="repeat")
    assert [t.observations["b"].tolist() for t in came] == [[0, 1, 2, 2], [3, 3]]
    assert [t.terminated for t in came] == [True, False]
    steps = [replay.Transition(i, i, 1.0, i == 3, False, i + 1) for i in range(4)]
    assert convert.from_torch(Steps(steps)).episode(0).observations.tolist() == [0, 1, 2, 3, 4]


def test_items_that_do_not_fit_are_named() -> None:
    wrong: Any
    for wrong, arguments, error, message in (
        (iter([]), {}, TypeError, "expected a map-style dataset, with a length, got list_iterator"),
        ([], {}, ValueError, "the dataset is empty"),
        ([(1, 2)], {}, ValueError, "expected items by the names observation, .*, got 0, 1; pass columns"),
        ([{"observation": 1}], {}, ValueError, "expected items by the names observation, .*, got observation; pass"),
        ([(1, 2)], {"columns": {"observations": 0, "actions": 5}}, ValueError, "there is no column 5; there are: 0, 1"),
        ([(1, 2)], {"missing_final": "keep"}, ValueError, "missing_final: expected 'drop' or 'repeat', got 'keep'"),
        ([{"a": 1}, {"b": 1}], {}, ValueError, "from_torch: item 1: expected the containers of the first"),
        ([{"a": 1}, {"a": 1.0}], {}, ValueError, r"from_torch: item 1: a: expected int64\[\],* got float64\[\]"),
        ([{"a": "up"}], {}, TypeError, "a: expected an array, a tensor or a number, got str"),
    ):
        with pytest.raises(error, match=message):
            convert.from_torch(wrong, **arguments)


def test_columns_that_are_not_named_are_not_read_and_may_be_texts() -> None:
    items = [{"o": torch.full((2,), i), "a": i, "text": "go", "infos": {"a": None}} for i in range(3)]
    dataset = convert.from_torch(items, columns={"observations": "o", "actions": "a"})
    assert dataset.episode(0).observations.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert dataset.report is not None
    assert dataset.report.ignored == ("text", "infos")
