"""Law 9 for stores: what was written is what is read, bit for bit, and a store is read as a data set in memory is."""

from __future__ import annotations

import pathlib
import pickle
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay.datasets import Dataset, Trajectory, flatten, pad, segment, statistics
from jaxreplay.storage import Writer
from jaxreplay.storage.checking import verify
from jaxreplay.storage.columns import Column
from tests.datasets.episodes import all_same, same, same_tree, trajectories
from tests.extras import library


def write(folder: Any, episodes: Any, **options: Any) -> Dataset:
    with Writer(folder, commit_every=None, **options) as writer:
        writer.extend(episodes)
    return Dataset.open(folder)


@settings(max_examples=20, deadline=None)
@given(trajectories(), st.sampled_from([1, 300, 2**20]), st.integers(0, 4))
def test_every_structure_and_dtype_comes_back_bit_for_bit(
    episodes: list[Trajectory], segment_bytes: int, commit_after: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Writer(folder, commit_every=None, segment_bytes=segment_bytes) as writer:
            for i, episode in enumerate(episodes):
                writer.append(episode)
                if i == commit_after:
                    writer.commit()
        opened = Dataset.open(folder, verify=True)
        all_same(opened, episodes)
        same_tree(opened[:], Dataset(episodes)[:], "steps")
        assert opened.equals(Dataset(episodes))
        assert verify(folder) == []


def episodes_of(rng: np.random.Generator, lengths: Any) -> list[Trajectory]:
    return [
        Trajectory(
            {"frame": rng.integers(0, 255, (n + 1, 3, 4), np.uint8), "state": rng.random((n + 1, 2), np.float32)},
            actions=rng.integers(0, 5, n).astype(np.int32),
            rewards=rng.random(n).astype(np.float32),
            terminated=n % 3 == 0,
            truncated=n % 3 == 1,
            infos=[{"x": i, "text": "é" * i} for i in range(n)] if n % 2 else None,
            episode_data={"seed": np.int32(n)},
        )
        for n in lengths
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """One data set in memory, and in a store of several segments."""
    episodes = episodes_of(np.random.default_rng(0), [5, 9, 3, 12, 7, 4, 8, 6, 2, 1])
    folder = tmp_path_factory.mktemp("store")
    return Dataset(episodes), write(folder, episodes, segment_bytes=500)


READINGS: dict[str, Callable[[Dataset], Any]] = {
    "a step": lambda d: d[7],
    "the last step": lambda d: d[-1],
    "a slice": lambda d: d[3:40:5],
    "a mask": lambda d: d[np.arange(len(d)) % 3 == 0],
    "rows in any order, again and again": lambda d: d[np.array([[50, 0, 3], [3, 56, 50]])],
    "no rows": lambda d: d[:0],
    "an episode": lambda d: d.episodes[3],
    "the last episode": lambda d: d.episode(-1),
    "some episodes": lambda d: d.episodes[[4, 1, 1]],
    "infos": lambda d: d.infos([0, 20, 21, 56]),
    "all infos": lambda d: d.infos(),
    "filter": lambda d: d.filter(lambda t: t.terminated, min_length=4),
    "filter by return": lambda d: d.filter(min_return=2.0),
    "none kept": lambda d: d.filter(min_length=99),
    "random_split": lambda d: d.random_split(jax.random.key(1), [0.5, 0.3, 0.2]),
    "clip": lambda d: d.clip(2),
    "compact": lambda d: d.compact(),
    "append": lambda d: d.append(d.episode(2)),
    "extend": lambda d: d.extend(d.episodes[2:4]),
    "extend what is in memory": lambda d: Dataset([d.episode(0)]).extend(d),
    "flatten": lambda d: flatten(d, episode_numbers=True),
    "pad": lambda d: pad(d),
    "segment": lambda d: segment(d, 4),
    "statistics": lambda d: str(statistics(d)),
    "nbytes": lambda d: d.nbytes,
    "repr": repr,
    "to_buffer": lambda d: d.to_buffer(num_envs=2),
    "batches": lambda d: list(d.batches(jax.random.key(0), 16, epochs=2)),
    "to_numpy": lambda d: replay.convert.to_numpy(d, drop=("infos", "episode_data")),
}


@pytest.mark.parametrize("what", READINGS)
def test_a_store_is_read_as_a_data_set_in_memory(both: tuple[Dataset, Dataset], what: str) -> None:
    alike(READINGS[what](both[0]), READINGS[what](both[1]))


def alike(a: Any, b: Any) -> None:
    if isinstance(a, Dataset):
        all_same(a, b)
        assert str(a.report or b.report) == str(b.report)
    elif isinstance(a, Trajectory):
        same(a, b)
    elif isinstance(a, list | tuple) and a and isinstance(a[0], Dataset | Trajectory):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            alike(x, y)
    else:
        same_tree(a, b, "what was read")


def test_a_store_shows_itself_as_a_data_set_in_memory_and_reads_one_step_of_what_is_observed(
    both: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, getitem = list[int](), Column.__getitem__

    def counted(column: Column, chosen: Any) -> np.ndarray:
        found = getitem(column, chosen)
        read.append(len(found) * column.kind.of_observations)
        return found

    monkeypatch.setattr(Column, "__getitem__", counted)
    shown = both[1]._repr_html_()
    assert sum(read) == 2
    plain = Dataset(list(both[1]))._repr_html_()
    assert re.sub(r"<tr><th[^>]*>report.*?</tr>", "", shown) == re.sub(r"<tr><th[^>]*>report.*?</tr>", "", plain)


def test_load_says_how_a_store_is_read(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "store", [Trajectory(np.arange(3.0), actions=np.arange(2))])
    for path in (tmp_path, tmp_path / "store"):
        with pytest.raises(ValueError, match=r"store: this is a store of storage.Writer; read it with Dataset.open"):
            Dataset.load(path)


def test_what_is_read_of_a_store_cannot_be_written_to(both: tuple[Dataset, Dataset]) -> None:
    episode = both[1].episode(0)
    with pytest.raises(ValueError, match="read-only"):
        episode.observations["frame"][0] = 1


def test_a_pickled_store_is_its_name_and_commit_without_its_data(both: tuple[Dataset, Dataset]) -> None:
    stored = pickle.dumps(both[1])
    assert len(stored) < 20_000
    assert pickle.loads(stored).equals(both[0])
    some = both[1].filter(min_length=5)
    assert pickle.loads(pickle.dumps(some)).equals(both[0].filter(min_length=5))


def test_rows_that_change_between_two_reads_are_found_anew(both: tuple[Dataset, Dataset]) -> None:
    expected = both[0].compact()._store.chunks[0].observations["state"]
    column = both[1]._store.chunks[0].observations["state"]
    rows = np.arange(10)
    for read in (column.take, lambda rows: column.take_pairs(rows)[0]):
        for change in (0, 40, -40):
            rows += change
            assert np.array_equal(read(rows), expected[rows])
    with pytest.raises(IndexError, match="a row is out of range"):
        column.take(rows - 100)


def test_each_column_is_a_file_that_numpy_opens(both: tuple[Dataset, Dataset], tmp_path: pathlib.Path) -> None:
    write(tmp_path, both[0])
    frames = np.load(tmp_path / "000000.observations.frame.npy", mmap_mode="r")
    assert frames.tobytes() == both[0].compact().episode(0).observations["frame"].base.tobytes()


def test_prng_keys_are_stored_as_their_words(tmp_path: pathlib.Path) -> None:
    keys = jax.random.split(jax.random.key(3), 5)
    write(tmp_path, [Trajectory(keys, actions=keys[:4])])
    words = np.asarray(jax.random.key_data(keys))
    assert np.array_equal(Dataset.open(tmp_path).episode(0).observations, words)
    with Writer(tmp_path, commit_every=None) as writer:
        with pytest.raises(TypeError, match=r"observations: expected key<fry>.* got uint32"):
            writer.append(Trajectory(words, actions=keys[:4]))
        writer.append(Trajectory(keys, actions=keys[:4]))
    assert Dataset.open(tmp_path).num_episodes == 2


@pytest.mark.parametrize(
    ("dtype", "shape", "stored"),
    [("uint8", (6, 5), "png"), ("uint8", (6, 5, 1), "png"), ("uint8", (6, 5, 3), "png"), ("uint16", (6, 5), "png")],
)
def test_png_is_without_loss(tmp_path: pathlib.Path, dtype: str, shape: tuple[int, ...], stored: str) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Trajectory(
            {"x": rng.integers(0, np.iinfo(dtype).max, (n + 1, *shape)).astype(dtype), "y": np.ones(n + 1)},
            actions=np.zeros(n),
        )
        for n in (3, 9, 1)
    ]
    opened = write(tmp_path, episodes, segment_bytes=400, compress={"observation.x": stored})
    all_same(opened, episodes)
    same_tree(opened[[12, 0, 5]], Dataset(episodes)[[12, 0, 5]], "rows")
    assert verify(tmp_path) == []
    assert Dataset.open(tmp_path, verify=True).equals(Dataset(episodes))


@pytest.mark.parametrize("dtype", ["uint8", "bool", "bfloat16", "int16", "float32", "complex128"])
@pytest.mark.parametrize("shape", [(6, 5, 3), ()], ids=["arrays", "scalars"])
def test_zarr3_is_without_loss_for_any_numbers(tmp_path: pathlib.Path, dtype: str, shape: tuple[int, ...]) -> None:
    library("tensorstore")
    rng = np.random.default_rng(0)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    episodes = [
        Trajectory({"x": (3 * rng.random((n + 1, *shape))).astype(kind), "y": np.ones(n + 1)}, actions=np.zeros(n))
        for n in (3, 9, 1)
    ]
    opened = write(tmp_path, episodes, segment_bytes=400, compress={"observation.x": "zarr3"})
    all_same(opened, episodes)
    same_tree(opened[[12, 0, 5]], Dataset(episodes)[[12, 0, 5]], "rows")
    same_tree(opened[:0], Dataset(episodes)[:0], "no rows")
    assert verify(tmp_path) == []
    assert pickle.loads(pickle.dumps(Dataset.open(tmp_path, verify=True))).equals(Dataset(episodes))


def test_rows_without_bytes_are_refused_for_zarr3(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"observations: zarr3 holds rows of 1 byte"):
        write(tmp_path, [Trajectory(np.zeros((3, 0)), actions=np.zeros(2))], compress={"observation": "zarr3"})


@pytest.mark.parametrize(("stored", "module"), [("png", "PIL.Image"), ("zarr3", "tensorstore"), ("video", "av")])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stored: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"png": "lerobot", "zarr3": "tensorstore", "video": "lerobot"}[stored]
    with pytest.raises(
        ModuleNotFoundError, match=rf"observations as {stored}: writing it needs .*jaxreplay\[{extra}\]"
    ):
        write(
            tmp_path, [Trajectory(np.zeros((3, 4, 4), np.uint8), actions=np.zeros(2))], compress={"observation": stored}
        )


def test_loss_is_asked_for_and_said(tmp_path: pathlib.Path) -> None:
    x = np.tile(np.arange(32, dtype=np.uint8) * 7, (3, 32, 1))
    opened = write(tmp_path, [Trajectory(x, actions=np.zeros(2))], compress={"observation": "jpeg"})
    assert '"lossy": true' in (tmp_path / "manifest.json").read_text()
    assert np.abs(opened.episode(0).observations.astype(int) - x).max() < 16


def block(rng: np.random.Generator, length: int, envs: int) -> replay.Transition:
    lead = (length, envs)
    half = ml_dtypes.bfloat16
    return replay.Transition(
        observation={"x": rng.random((*lead, 3)).astype(half), "y": rng.integers(0, 9, lead).astype(np.uint8)},
        action=rng.integers(0, 9, lead).astype(np.int32),
        reward=rng.random(lead).astype(np.float32),
        terminated=rng.random(lead) < 0.1,
        truncated=rng.random(lead) < 0.1,
        next_observation={"x": rng.random((*lead, 3)).astype(half), "y": rng.integers(0, 9, lead).astype(np.uint8)},
        extras={"flag": rng.random(lead) < 0.5},
    )


@pytest.mark.parametrize("commits", ["none", "some", "each"])
def test_blocks_of_many_envs_are_the_episodes_that_a_buffer_has(tmp_path: pathlib.Path, commits: str) -> None:
    """Whatever is committed in between, and so in parts."""
    rng = np.random.default_rng(5)
    buffer = replay.create(jax.tree.map(lambda x: jnp.asarray(x[0, 0]), block(rng, 1, 3)), 600, 3, max_episodes=600)
    with Writer(tmp_path, num_envs=3, commit_every=None, segment_bytes=2000) as writer:
        for i in range(20):
            steps, mask = block(rng, 7, 3), rng.random((7, 3)) < 0.9
            buffer = replay.extend(buffer, steps, mask)
            writer.extend(jax.tree.map(jnp.asarray, steps) if i % 2 else steps, mask)
            if commits == "each" or (commits == "some" and i % 5 == 0):
                writer.commit()
            if i == 11:
                ended = np.array([True, False, True])
                buffer = replay.end_episodes(buffer, ended)
                writer.end_episodes(ended)
    expected = sorted(Dataset.from_buffer(buffer), key=lambda t: t.rewards.tobytes())
    all_same(sorted(Dataset.open(tmp_path, verify=True), key=lambda t: t.rewards.tobytes()), expected)


def test_episodes_of_blocks_come_in_order_of_their_first_steps(tmp_path: pathlib.Path) -> None:
    actions = np.arange(8.0).reshape(4, 2)
    ended = np.zeros((4, 2), bool)
    ended[1, 0] = True
    with Writer(tmp_path, num_envs=2) as writer:
        writer.extend(replay.Transition(actions, actions, None, ended, np.zeros((4, 2), bool), actions + 2))
    assert [t.actions.tolist() for t in Dataset.open(tmp_path)] == [[0, 2], [1, 3, 5, 7], [4, 6]]


VIEWS = {
    "n_step": lambda: replay.views.n_step(3, 0.9),
    "frame_stack": lambda: replay.views.frame_stack(4),
    "frame_stack of zeros": lambda: replay.views.frame_stack(3, axis=-1, fill="zero"),
    "n_step over frame_stack": lambda: replay.views.compose(replay.views.frame_stack(2), replay.views.n_step(2, 0.9)),
    "window": lambda: replay.views.window(2, 3),
    "offsets": lambda: replay.views.offsets((-4, -1, 0, 2), fill="zero"),
    "sequence": lambda: replay.views.sequence(3),
    "sequence padded": lambda: replay.views.sequence(4, complete=False),
    "sequence across ends": lambda: replay.views.sequence(4, across=True),
    "with_episode": lambda: replay.views.with_episode(),
    "select": lambda: replay.views.select("observation.state", "reward"),
    "map": lambda: replay.views.map(lambda batch: batch.reward + 1.0),
}


@pytest.mark.parametrize("what", VIEWS)
def test_batches_of_a_view_are_those_of_a_data_set_in_memory(both: tuple[Dataset, Dataset], what: str) -> None:
    view = VIEWS[what]()
    batches = [list(d.batches(jax.random.key(3), 16, view, epochs=2)) for d in both]
    assert len(batches[0]) > 4
    same_tree(batches[1], batches[0], what)
