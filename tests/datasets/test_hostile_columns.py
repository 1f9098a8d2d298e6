"""Files of others that were damaged, or made to harm: an error that names the file and the column, and nothing else."""

from __future__ import annotations

import io
import json
import os
import pathlib
import resource
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from tests.datasets.test_diffusion_policy import replay_buffer
from tests.datasets.test_hostile import corrupt, load_or_refuse
from tests.datasets.test_lerobot import encode, folder, picture, video
from tests.datasets.test_robot_files import NAMES, demo, demos, ogbench, robomimic_file, write_rows
from tests.extras import library

NAMED = {"observations": "o", "actions": "a"}
LEROBOT_FILE = "data/chunk-000/episode_000001.parquet"
LEROBOT_VIDEO = "videos/chunk-000/observation.images.top/episode_000001.mp4"


def npz(path: pathlib.Path, **arrays: Any) -> pathlib.Path:
    np.savez_compressed(path, **arrays)
    return path


def parquet(path: pathlib.Path, **columns: Any) -> pathlib.Path:
    library("pyarrow.parquet").write_table(library("pyarrow").table(columns), path)
    return path


MAKERS: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
    "robomimic": lambda path: robomimic_file(path / "x.hdf5", demos(), train=["demo_0"]),
    "hdf5": lambda path: write_rows(path / "x.hdf5", "hdf5"),
    "parquet": lambda path: write_rows(path / "x.parquet", "parquet"),
    "npz": lambda path: write_rows(path / "x", "npz"),
    "ogbench": lambda path: npz(path / "x.npz", **ogbench([3, 2])),
    "zarr": lambda path: replay_buffer(path / "x.zarr"),
    "zarr.zip": lambda path: replay_buffer(path / "x.zip", zipped=True),
    "lerobot v2": lambda path: folder(path / "x", "v2.1", videos=True),
    "lerobot v3": lambda path: folder(path / "x", "v3.0", videos=True),
}


def fuzz(tmp_path: pathlib.Path, kind: str, count: int, seed: int) -> None:
    """Corrupt one file of a valid data set `count` times: what is loaded is no larger, or the error names it."""
    if kind.startswith("lerobot"):
        library("av")
    path, rng = MAKERS[kind](tmp_path), np.random.default_rng(seed)
    options: dict[str, Any] = {"columns": NAMES} if kind in ("hdf5", "parquet", "npz") else {}
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    valid = {file: data for file in files if (data := file.read_bytes())}
    whole, refused = len(Dataset.load(path, **options)), 0
    for _ in range(count):
        file = list(valid)[rng.integers(len(valid))]
        file.write_bytes(corrupt(rng, valid[file]))
        try:
            got = load_or_refuse(path, **options)
        except FileNotFoundError as error:  # a name in it was changed
            assert path.name in str(error)  # noqa: PT017
            got = None
        refused += got is None
        assert got is None or len(got) <= 2 * whole
        file.write_bytes(valid[file])
    assert refused > 0.3 * count


@pytest.mark.parametrize("kind", MAKERS)
def test_a_changed_file_of_others_is_refused_by_name_or_harmless(tmp_path: pathlib.Path, kind: str) -> None:
    fuzz(tmp_path, kind, 30, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_a_thousand_changed_files_of_others_are_refused_by_name_or_harmless(tmp_path: pathlib.Path, kind: str) -> None:
    fuzz(tmp_path, kind, 1000, seed=1)


def test_only_what_is_named_of_an_npz_is_read(tmp_path: pathlib.Path) -> None:
    path = npz(tmp_path / "x.npz", o=np.arange(3.0), a=np.arange(3), note=np.array([None] * 3))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("README.txt", "hello")
    dataset = Dataset.load(path, columns=NAMED)
    assert dataset.report is not None
    assert dataset.report.ignored == ("note",)
    with pytest.raises(ValueError, match=r"x\.npz: note: note\.npy: Object arrays cannot be loaded"):
        Dataset.load(path, columns=NAMED | {"extras": "note"})
    for columns in ({"observations": np.zeros(2), "actions": "a"}, NAMED | {"rewards": {"r": "a"}}):
        with pytest.raises(ValueError, match=r"there is no column array|rewards: expected one column, got dict"):
            Dataset.load(path, columns=columns)


def test_an_npz_with_a_name_twice_or_of_another_layout_is_refused(tmp_path: pathlib.Path) -> None:
    path = npz(tmp_path / "x.npz", o=np.arange(3.0), a=np.arange(3))
    member = io.BytesIO()
    np.save(member, np.zeros(3))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("o.npy", member.getvalue())
    with pytest.raises(ValueError, match="two of its members have one name"):
        Dataset.load(path, columns=NAMED)
    for more in ("next_observations", "timeouts"):
        path = npz(tmp_path / f"{more}.npz", **ogbench([3, 2]), **{more: np.zeros((7, 1))})
        with pytest.raises(ValueError, match="no file of this library, nor of OGBench; name its columns"):
            Dataset.load(path)


def bounded(call: Callable[[], Any], room: int = 2 * 2**30) -> None:
    """Expect a ValueError, and no more memory than there is room for."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the limit is Linux's")
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + room, before[1]))
    try:
        with pytest.raises(ValueError, match=r"more than the (file|data set) can hold|rows are not those|no array has"):
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_small_files_that_claim_much_take_no_memory(tmp_path: pathlib.Path) -> None:
    h5py, image = library("h5py"), library("PIL.Image")
    pixels = io.BytesIO()
    image.new("1", (8000, 8000)).save(pixels, "PNG")
    pictures = parquet(tmp_path / "x.parquet", o=[{"bytes": pixels.getvalue(), "path": ""}] * 200, a=np.arange(200))
    path = robomimic_file(tmp_path / "x.hdf5", demos())
    with h5py.File(path, "a") as file:
        file.create_dataset("mask/train", (10**11,), "S8", chunks=(1000,))
    lerobot = folder(tmp_path / "x", "v2.1")
    rows = [{"episode_index": 0, "tasks": [], "length": 10**11}]
    (lerobot / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    buffer = replay_buffer(tmp_path / "x.zarr", episode_ends=np.array([3, 10**11]))
    bounded(lambda: Dataset.load(pictures, columns=NAMED))
    bounded(lambda: Dataset.load(path))
    bounded(lambda: Dataset.load(lerobot))
    bounded(lambda: Dataset.load(buffer))


def test_rows_that_parquet_tells_once_are_bounded_by_the_size_of_the_file(tmp_path: pathlib.Path) -> None:
    count = 20_000_000
    schema = library("pyarrow").schema({"o": library("pyarrow").float64(), "a": library("pyarrow").float64()})
    table = library("pyarrow").table({"o": np.zeros(count), "a": np.zeros(count)}, schema)
    with library("pyarrow.parquet").ParquetWriter(tmp_path / "x", schema, write_batch_size=count) as file:
        file.write_table(table, row_group_size=count)
    if (tmp_path / "x").stat().st_size * 2**16 < count * 8:
        with pytest.raises(ValueError, match="o: its values are more than the file can hold"):
            Dataset.load(tmp_path / "x", columns=NAMED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.float64(3)}, "data/demo_2: expected rows of actions"),
        ({"obs/arm": np.zeros((2, 3))}, r"data/demo_2: .*the columns of demo_0; .*obs/arm float64\[3\]"),
        ({"obs/arm": np.zeros((2, 2), np.float32)}, r"data/demo_2: .*the columns of demo_0; .*obs/arm float32\[2\]"),
    ],
)
def test_demonstrations_of_other_kinds_are_named(tmp_path: pathlib.Path, changes: Any, message: str) -> None:
    path = robomimic_file(tmp_path / "x", demos())
    with library("h5py").File(path, "a") as file:
        for name, value in changes.items():
            del file[f"data/demo_2/{name}"]
            file[f"data/demo_2/{name}"] = value
    with pytest.raises(ValueError, match=message):
        Dataset.load(path)


def test_what_a_demonstration_says_of_itself_is_kept_apart(tmp_path: pathlib.Path) -> None:
    h5py = library("h5py")
    path = robomimic_file(tmp_path / "x", {"demo_0": demo(3, 0.0, dones=np.zeros((3, 0)))}, train=["demo_0"])
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["masks"] = "none"
        file["data/demo_0"].attrs["name"] = "another"
        file["other"] = np.zeros(3)
        file["mask/nothing"] = h5py.Empty("S4")
    dataset = Dataset.load(path)
    data = dataset.episode(0).episode_data
    assert (data["name"], data["masks"]) == ("demo_0", ["train"])
    assert dataset.report is not None
    assert dataset.report.ignored == ("other",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LEROBOT_FILE, b"PAR1xxxxPAR1", r"episode_000001\.parquet: "),
        (LEROBOT_VIDEO, b"x", r"episode_000001\.mp4: "),
        (LEROBOT_VIDEO, encode(picture(1)), r"episode_000001\.mp4: "),
        (
            LEROBOT_VIDEO,
            b"ffconcat version 1.0\nfile ../../../../y.mp4\n",
            r"episode_000001\.mp4: InvalidDataError|Invalid",
        ),
        (LEROBOT_VIDEO, b"ffconcat version 1.0\nfile episode_000000.mp4\n", r"episode_000001\.mp4: "),
        ("meta/episodes.jsonl", b"[1]", "meta: TypeError"),
        ("meta/episodes.jsonl", b'{"episode_index": 0, "length": -1}', "data: the rows are not those"),
    ],
)
def test_a_wrong_file_in_a_folder_of_lerobot_is_named(
    tmp_path: pathlib.Path, name: str, content: bytes, message: str
) -> None:
    library("av")
    path = folder(tmp_path / "x", "v2.1", videos=True)
    video(tmp_path / "y.mp4", [7] * 5)
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Dataset.load(path)


@pytest.mark.parametrize("info", [{"fps": 0}, {"fps": float("nan")}, {"fps": None}, {"features": {"action": {}}}])
def test_numbers_that_are_none_in_the_info_of_lerobot_are_named(tmp_path: pathlib.Path, info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"x: meta/info\.json: "):
        Dataset.load(folder(tmp_path / "x", "v2.1", **info))


def test_files_of_rows_may_be_more_than_a_process_can_open(tmp_path: pathlib.Path) -> None:
    path, count = folder(tmp_path / "x", "v2.1"), 300
    (path / "meta/episodes.jsonl").write_text(
        "\n".join(json.dumps({"episode_index": i, "tasks": [], "length": 2}) for i in range(count))
    )
    features = {name: {"dtype": "float64", "shape": [1]} for name in ("observation.state", "action")}
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"features": features}))
    for i in range(count):
        columns = {"episode_index": [i] * 2, "observation.state": [1.0, 2.0], "action": [0.5, 0.5]}
        parquet(path / f"data/chunk-000/episode_{i:06d}.parquet", **columns)
    for file in (path / "data/chunk-001").glob("*"):
        file.unlink()
    before, in_use = resource.getrlimit(resource.RLIMIT_NOFILE), len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 200, before[1]))
    try:
        assert Dataset.load(path).num_episodes == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("value", [b"no image", None, [1, 2], "text"])
def test_what_is_no_image_is_named_by_its_column(tmp_path: pathlib.Path, value: Any) -> None:
    path = parquet(tmp_path / "x.parquet", o=[{"bytes": value, "path": "p"}] * 2, a=[1, 2])
    with pytest.raises(ValueError, match=r"x\.parquet: o: (image 0: |expected the bytes of an image, got path 'p')"):
        Dataset.load(path, columns=NAMED)


def test_a_robomimic_file_is_held_once(tmp_path: pathlib.Path) -> None:
    image = np.zeros((2000, 32, 32, 3), np.uint8)
    demonstrations = {f"demo_{i}": {"obs/image": image, "actions": np.zeros(2000)} for i in range(5)}
    path = robomimic_file(tmp_path / "x", demonstrations)
    tracemalloc.start()
    Dataset.load(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.5 * 5 * image.nbytes
