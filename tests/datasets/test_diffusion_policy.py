"""Diffusion policy's replay buffers, zarr v2: in a folder and in a zip, and nothing that runs what it reads."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from tests.datasets.test_formats import ends, report_of
from tests.extras import library

ENDS = [3, 5, 9]


def replay_buffer(path: pathlib.Path, zipped: bool = False, **changes: Any) -> pathlib.Path:
    """A buffer as diffusion policy's `ReplayBuffer` keeps it: Blosc, chunks in time, exclusive ends."""
    zarr, numcodecs = library("zarr"), library("numcodecs")
    data = {
        "img": np.arange(9 * 12, dtype=np.uint8).reshape(9, 2, 2, 3),
        "state": np.arange(18, dtype=np.float32).reshape(9, 2),
        "action": np.arange(9, dtype=np.float32)[:, None],
    } | changes
    ends = data.pop("episode_ends", np.array(ENDS, np.int64))
    store = zarr.storage.ZipStore(path, mode="w") if zipped else path
    group = zarr.open_group(store, mode="w", zarr_format=2)
    codec = numcodecs.Blosc(cname="zstd", clevel=5)
    arrays = {f"data/{name}": x for name, x in data.items()} | {"meta/episode_ends": ends}
    for name, array in arrays.items():
        chunks = (4, *array.shape[1:]) if array.ndim else ()
        made = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=codec)
        made[...] = array
    if zipped:
        store.close()
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_a_replay_buffer_is_read_and_nothing_is_known_after_an_episode(tmp_path: pathlib.Path, zipped: bool) -> None:
    path = replay_buffer(tmp_path / ("pusht.zarr.zip" if zipped else "pusht.zarr"), zipped)
    dataset = Dataset.load(path)
    assert [t.observations["state"][:, 0].tolist() for t in dataset] == [[0, 2, 4], [6, 8], [10, 12, 14, 16]]
    assert [t.actions[:, 0].tolist() for t in dataset] == [[0, 1], [3], [5, 6, 7]]
    assert dataset.episode(2).observations["img"].dtype == np.uint8
    assert dataset.episode(2).observations["img"][-1].tolist() == np.arange(96, 108).reshape(2, 2, 3).tolist()
    assert dataset.episode(0).rewards is None
    assert ends(dataset) == [(False, False)] * 3
    assert (report_of(dataset).dropped_rows, report_of(dataset).ignored) == (3, ())
    repeated = Dataset.load(tmp_path, missing_final="repeat")  # the folder that it is in
    assert [len(t) for t in repeated] == [3, 2, 4]
    columns = {"observations": "state", "actions": "action", "extras": {"frame": "img"}}
    named = Dataset.load(path, columns=columns)
    assert named.episode(0).observations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert named.episode(0).extras["frame"].shape == (2, 2, 2, 3)
    assert Dataset.load(path, columns=columns | {"extras": "action"}).report != dataset.report
    with pytest.raises(ValueError, match="columns: rewards: there is no column 'r'; there are: action, img, state"):
        Dataset.load(path, columns=columns | {"rewards": "r"})


def test_rows_after_the_last_end_are_dropped(tmp_path: pathlib.Path) -> None:
    dataset = Dataset.load(replay_buffer(tmp_path / "x.zarr", episode_ends=np.array([3, 7])))
    assert [t.actions[:, 0].tolist() for t in dataset] == [[0, 1], [3, 4, 5]]
    assert report_of(dataset).dropped_rows == 2 + 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_ends": np.array([3, 3, 9])}, r"meta/episode_ends: expected where episodes end, ascending"),
        ({"episode_ends": np.array([3.0, 9.0])}, "meta/episode_ends: expected"),
        ({"episode_ends": np.array([3, 10])}, "meta/episode_ends: the last is 10, and no array has more than 9 rows"),
        ({"episode_ends": np.array([3, 2**40])}, "meta/episode_ends: the last is 1099511627776, and no array"),
        ({"episode_ends": np.array([3, 2**63 + 9], np.uint64)}, "meta/episode_ends: expected where episodes end"),
        ({"state": np.array(1.0)}, "state: IndexError: too many indices"),
        ({"state": np.zeros((8, 2))}, "observations.state: expected N = 9 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset.load(replay_buffer(tmp_path / "x.zarr", **changes))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("filters", [{"id": "pickle", "protocol": 5}], "its codec 'pickle' is none of blosc, "),
        ("compressor", {"id": "imagecodecs_jpegxl"}, "its codec 'imagecodecs_jpegxl' is none of blosc, "),
        ("dtype", "|O", "expected numbers, got dtype object"),
        ("shape", [10**9, 2, 2, 3], "uint8.1000000000,2,2,3. is more than the data set can hold"),
        ("chunks", [10**9, 2, 2, 3], "uint8.9,2,2,3. is more than the data set can hold"),
        (
            "filters",
            [{"id": "zstd"}, {"id": "zstd"}],
            "its codec 'zstd' is none of blosc, .*, after the filters crc32, ",
        ),
        ("dtype", [["x", "<f4"]], "TypeError: Field elements must be"),
    ],
)
def test_codecs_that_run_code_or_are_unknown_and_arrays_that_cannot_be_are_refused_by_name(
    tmp_path: pathlib.Path, part: str, value: Any, message: str, zipped: bool
) -> None:
    path = replay_buffer(tmp_path / "x.zarr")
    metadata = path / "data/img/.zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {part: value}))
    if zipped:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
            for each in sorted(path.rglob("*")):
                file.write(each, str(each.relative_to(path)))
        path = tmp_path / "x.zip"
    with pytest.raises(ValueError, match=f"data/img: {message}"):
        Dataset.load(path)


def test_what_has_no_action_or_leads_outside_is_refused(tmp_path: pathlib.Path) -> None:
    zarr = library("zarr")
    path = replay_buffer(tmp_path / "x.zarr")
    outside = tmp_path / "outside"
    (path / "data/img").rename(outside)
    (path / "data/img").symlink_to(outside)
    with pytest.raises(ValueError, match="a link leads out of"):
        Dataset.load(path)
    (path / "data/img").unlink()
    assert Dataset.load(path).num_episodes == 3
    del zarr.open_group(path, zarr_format=2)["data/action"]
    with pytest.raises(ValueError, match="there is no data/action; pass columns to say what is which of: state"):
        Dataset.load(path)
