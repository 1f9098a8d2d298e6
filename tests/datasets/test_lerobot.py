"""LeRobot's folders, v2.1 and v3.0, as its writer lays them out: rows, pictures, videos, and what `meta` says."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset
from tests.datasets.test_formats import ends, report_of
from tests.extras import library

LENGTHS = [3, 2, 4]
FPS = 10
NUMBERS = {name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")}
FEATURES = NUMBERS | {
    "timestamp": {"dtype": "float32", "shape": [1]},
    "observation.state": {"dtype": "float32", "shape": [2]},
    "observation.images.wrist": {"dtype": "image", "shape": [4, 6, 3]},
    "action": {"dtype": "float32", "shape": [2]},
    "next.reward": {"dtype": "float32", "shape": [1]},
    "next.done": {"dtype": "bool", "shape": [1]},
    "language": {"dtype": "string", "shape": [1]},
}
VIDEO = {"observation.images.top": {"dtype": "video", "shape": [16, 16, 3]}}


def picture(number: int) -> np.ndarray:
    return np.full((4, 6, 3), number, np.uint8) + np.arange(6, dtype=np.uint8)[:, None]


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    library("PIL.Image").fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(episode: int, first: int, fixed: bool) -> Any:
    """The table of one episode, its lists of fixed or of any size."""
    pyarrow = library("pyarrow")
    length = LENGTHS[episode]
    index = first + np.arange(length)
    pairs = pyarrow.list_(pyarrow.float32(), 2 if fixed else -1)
    images = [{"bytes": encode(picture(i)), "path": f"frame-{i:06d}.png"} for i in index]
    return pyarrow.table(
        {
            "observation.state": pyarrow.array([[i, -i] for i in index.tolist()], pairs),
            "observation.images.wrist": images,
            "action": pyarrow.array([[i, 0.5] for i in index.tolist()], pairs),
            "next.reward": np.float32(index),
            "next.done": np.arange(length) == length - 1,
            "language": ["go"] * length,
            "timestamp": np.float32(np.arange(length) / FPS),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": index,
            "task_index": np.full(length, episode % 2),
        }
    )


def video(path: pathlib.Path, numbers: list[int]) -> None:
    """Frames whose grey tells their number."""
    av = library("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", FPS)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 20 * number, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def folder(path: pathlib.Path, version: str, videos: bool = False, **info: Any) -> pathlib.Path:
    """A data set of three episodes; in v3.0 the first two share the files of rows and frames."""
    pyarrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    first = np.cumsum([0, *LENGTHS]).tolist()
    tables = [rows(i, first[i], fixed=i % 2 == 0 and version == "v2.1") for i in range(3)]
    meta: list[dict[str, Any]] = [
        {"episode_index": i, "tasks": [f"task {i % 2}"], "length": n} for i, n in enumerate(LENGTHS)
    ]
    (path / "meta").mkdir(parents=True)
    if version == "v2.1":
        for i, table in enumerate(tables):
            file = path / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, file)
            if videos:
                where = f"videos/chunk-{i // 2:03d}/observation.images.top/episode_{i:06d}.mp4"
                video(path / where, list(range(first[i], first[i + 1])))
        (path / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, meta)))
        (path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "task 0"}\n')
    else:
        for number, mine in enumerate(([0, 1], [2])):
            file = path / f"data/chunk-000/file-{number:03d}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            with parquet.ParquetWriter(file, tables[0].schema) as writer:
                for i in mine:
                    writer.write_table(tables[i])  # a group of rows an episode
            for i in mine:
                meta[i] |= {"data/chunk_index": 0, "data/file_index": number, "stats/action/mean": [0.0]}
                meta[i] |= {"dataset_from_index": first[i], "dataset_to_index": first[i + 1]}
                if videos:
                    start = (first[i] - first[mine[0]]) / FPS
                    meta[i] |= {f"videos/observation.images.top/{name}_index": 0 for name in ("chunk", "file")}
                    meta[i] |= {"videos/observation.images.top/file_index": number}
                    meta[i] |= {"videos/observation.images.top/from_timestamp": start}
            if videos:
                where = f"videos/observation.images.top/chunk-000/file-{number:03d}.mp4"
                video(path / where, list(range(first[mine[0]], first[mine[-1] + 1])))
        (path / "meta/episodes/chunk-000").mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(meta), path / "meta/episodes/chunk-000/file-000.parquet")
    text = {"codebase_version": version, "fps": FPS, "chunks_size": 2, "features": FEATURES | (VIDEO if videos else {})}
    (path / "meta/info.json").write_text(json.dumps(text | info))
    (path / "README.md").write_text("a card")
    return path


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_and_pictures_of_both_versions_are_the_same_episodes(tmp_path: pathlib.Path, version: str) -> None:
    dataset = Dataset.load(folder(tmp_path / "x", version))
    assert [t.observations["state"][:, 0].tolist() for t in dataset] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    assert [t.actions.tolist() for t in dataset] == [[[0, 0.5], [1, 0.5]], [[3, 0.5]], [[5, 0.5], [6, 0.5], [7, 0.5]]]
    wrist = dataset.episode(2).observations["images.wrist"]
    assert wrist.tolist() == [picture(i).tolist() for i in (5, 6, 7, 8)]
    assert dataset.episode(1).rewards.tolist() == [3]
    assert dataset.episode(0).extras["task_index"].tolist() == [0, 0]
    assert dataset.episode(0).extras["next.done"].tolist() == [False, False]
    assert [t.episode_data for t in dataset] == [{"episode_index": i, "tasks": [f"task {i % 2}"]} for i in range(3)]
    assert ends(dataset) == [(False, False)] * 3
    assert (report_of(dataset).dropped_rows, report_of(dataset).ignored) == (3, ("language",))
    repeated = Dataset.load(tmp_path, missing_final="repeat")  # the folder that it is in
    assert [len(t) for t in repeated] == LENGTHS
    assert ends(repeated) == [(True, False)] * 3
    chosen = Dataset.load(tmp_path / "x", columns={"observations": "observation.state", "actions": "action"})
    assert chosen.episode(0).observations.tolist() == [[0, 0], [1, -1], [2, -2]]
    assert "observation.images.wrist" in report_of(chosen).ignored


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_frames_of_videos_are_those_of_their_rows(tmp_path: pathlib.Path, version: str) -> None:
    library("av")
    dataset = Dataset.load(folder(tmp_path / "x", version, videos=True), missing_final="repeat")
    frames = [t.observations["images.top"] for t in dataset]
    assert [f.shape for f in frames] == [(n + 1, 16, 16, 3) for n in LENGTHS]
    numbers = [np.rint(f[:-1, 8, 8, 0] / 20).tolist() for f in frames]
    assert numbers == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


def test_a_video_that_lacks_a_frame_is_named(tmp_path: pathlib.Path) -> None:
    library("av")
    path = folder(tmp_path / "x", "v2.1", videos=True)
    short = path / "videos/chunk-001/observation.images.top/episode_000002.mp4"
    video(short, [5, 6, 7])
    with pytest.raises(ValueError, match=r"episode_000002.mp4: there is no frame 3, at 0.3 seconds"):
        Dataset.load(path)
    short.unlink()
    with pytest.raises(FileNotFoundError, match=r"episode_000002\.mp4"):
        Dataset.load(path)


def test_rows_and_meta_that_do_not_agree_are_refused(tmp_path: pathlib.Path) -> None:
    path = folder(tmp_path / "x", "v2.1")
    for text in ('{"episode_index": 0, "tasks": [], "length": 3}', '{"episode_index": 0, "tasks": [], "length": 9}'):
        (path / "meta/episodes.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"data: the rows are not those of the episodes that meta lists"):
            Dataset.load(path)
    (path / "meta/episodes.jsonl").write_text("")
    with pytest.raises(ValueError, match="meta: it lists no episode"):
        Dataset.load(path)
    with pytest.raises(ValueError, match=r"expected codebase_version v2 or v3, got .v1\.6."):
        Dataset.load(folder(tmp_path / "old", "v2.1", codebase_version="v1.6"))


def test_nothing_outside_the_folder_is_read(tmp_path: pathlib.Path) -> None:
    library("av")
    other = folder(tmp_path / "other", "v2.1", videos=True)
    name = "../../../other/videos/chunk-000/observation.images.top"
    path = folder(tmp_path / "x", "v2.1", features=FEATURES | {name: {"dtype": "video", "shape": [16, 16, 3]}})
    (path / "videos/chunk-000").mkdir(parents=True)
    with pytest.raises(ValueError, match="leads out of"):
        Dataset.load(path, columns={"observations": name, "actions": "action"})
    pyarrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    file = tmp_path / "y.parquet"
    table = {"cam": [{"bytes": None, "path": str(other / "README.md")}] * 2, "act": [1.0, 2.0]}
    parquet.write_table(pyarrow.table(table), file)
    with pytest.raises(ValueError, match=r"cam: expected the bytes of an image, got path .*, which is not followed"):
        Dataset.load(file, columns={"observations": "cam", "actions": "act"})
    (path / "data/chunk-000/episode_000001.parquet").unlink()
    (path / "data/chunk-000/episode_000001.parquet").symlink_to(other / "data/chunk-000/episode_000001.parquet")
    with pytest.raises(ValueError, match="a link leads out of"):
        Dataset.load(path)
