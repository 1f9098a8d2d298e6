"""LeRobot's data sets, v2 and v3: a folder of Parquet files with a row a step, of videos, and of what they mean.

Rows are in `data`, in order of the files' names. Videos are in `videos`, one of each episode and camera in v2; in v3
several episodes follow each other in a file. Paths are those of the layout, not what `info.json` says of them.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay.datasets.files.arrays import open_parquet
from jaxreplay.datasets.files.d4rl import read_by_name
from jaxreplay.datasets.files.inside import check_entry, check_folder
from jaxreplay.datasets.files.opening import holds_keys, naming, need
from jaxreplay.datasets.joining import with_data
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.store import Store

INFO = "meta/info.json"
NUMBERS = {"episode_index", "frame_index", "index"}  # which row it is, which the order of the rows says


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is such a data set, by what its `info.json` says."""
    return holds_keys(path / INFO, {"codebase_version", "features", "fps"})


def read(path: pathlib.Path, columns: Mapping[str, Any] | None, missing_final: str) -> tuple[Store, Report]:
    """Read a data set: the features `observation...`, `action...`, `next.reward`, and all other numbers as extras.

    columns: the features to read instead, by the names of parts. What followed an episode's last row is not there. An
    episode is truncated if `next.truncated` is true in its last row, or else terminated if `next.done` is. Its data are
    its `episode_index` and `tasks`. Raises ValueError where rows and `meta` do not agree, for a frame that a video does
    not have, and for links out of the folder.
    """
    check_folder(path)
    info = json.loads((path / INFO).read_bytes())
    version = str(info["codebase_version"])
    if not version.startswith(("v2.", "v3.")):
        raise ValueError(f"{INFO}: expected codebase_version v2 or v3, got {version!r}")
    with naming(INFO):
        kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
        rate, chunk = float(info["fps"]), int(info.get("chunks_size", 1000))
        if not 0 < rate < math.inf or chunk < 1:
            raise ValueError(f"expected fps and chunks_size above 0, got {rate} and {chunk}")
    with naming("meta"):
        episodes = _episodes(path, version)
        numbers, lengths = ([int(each[name]) for each in episodes] for name in ("episode_index", "length"))
    with naming("data"):
        _, column = open_parquet(sorted((path / "data").glob("chunk-*/*.parquet")))
        rows = column("episode_index")
        fits = min(lengths) > 0 and sum(lengths) == len(rows) and (rows == np.repeat(numbers, lengths)).all()
        if not fits:
            raise ValueError("the rows are not those of the episodes that meta lists, in their order and lengths")

    def read_feature(name: str) -> np.ndarray:
        if kinds[name] != "video":
            return column(name)
        return _video(path, name, episodes, column("timestamp"), rate, chunk)

    names = [name for name, kind in kinds.items() if kind != "string"]
    last = np.cumsum(lengths) - 1
    known: dict[str, Any] = {"episode": np.repeat(np.arange(len(lengths)), lengths)}
    if columns is None:
        for part, flag in (("timeouts", "next.truncated"), ("terminals", "next.done")):
            known[part] = np.zeros(last[-1] + 1, bool)
            known[part][last] = column(flag).reshape(-1)[last] if flag in names else False
        known["terminals"] &= ~known["timeouts"]
        columns = _parts(names)
    store, report = read_by_name(names, read_feature, columns, missing_final, known)
    data = [{"episode_index": number, "tasks": episode.get("tasks")} for number, episode in zip(numbers, episodes)]
    texts = tuple(name for name in kinds if name not in names)
    ignored = tuple(name for name in report.ignored if name not in NUMBERS) + texts
    return with_data(store, lengths, data), dataclasses.replace(report, ignored=ignored)


def _parts(names: Sequence[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for part, name in (("observations", "observation"), ("actions", "action")):
        inner = {each.removeprefix(f"{name}."): each for each in names if each.startswith(f"{name}.")}
        parts[part] = inner if name not in names else name if not inner else {name: name, **inner}
    parts |= {"rewards": "next.reward"} if "next.reward" in names else {}
    used = NUMBERS.union(jax.tree.leaves(parts))
    return parts | {"extras": {name: name for name in names if name not in used}}


def _episodes(path: pathlib.Path, version: str) -> list[dict[str, Any]]:
    if version.startswith("v2."):
        lines = (path / "meta/episodes.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    else:
        parquet, rows = need("pyarrow.parquet", "pyarrow", "datasets", f"{path}: reading it"), []
        for file in sorted((path / "meta/episodes").glob("chunk-*/*.parquet")):
            with naming(file), parquet.ParquetFile(file) as table:
                names = [name for name in table.schema_arrow.names if not name.startswith("stats/")]
                rows += table.read(columns=names).to_pylist()
    if not rows:
        raise ValueError("it lists no episode")
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def _video(
    path: pathlib.Path, name: str, episodes: Sequence[dict[str, Any]], seconds: np.ndarray, rate: float, chunk: int
) -> np.ndarray:
    """Decode a camera's frames of all steps, uint8 `[N, height, width, 3]`; each file is gone through once."""
    rows: dict[pathlib.Path, list[np.ndarray]] = {}
    seconds, at = seconds.astype(np.float64), 0
    for episode in episodes:
        mine, number = np.arange(at, at + int(episode["length"])), int(episode["episode_index"])
        if f"videos/{name}/file_index" in episode:
            number_of = [int(episode[f"videos/{name}/{each}_index"]) for each in ("chunk", "file")]
            file = path / f"videos/{name}/chunk-{number_of[0]:03d}/file-{number_of[1]:03d}.mp4"
            seconds[mine] += episode[f"videos/{name}/from_timestamp"]
        else:
            file = path / f"videos/chunk-{number // chunk:03d}/{name}/episode_{number:06d}.mp4"
        rows.setdefault(file, []).append(mine)
        at += len(mine)
    frames: np.ndarray | None = None
    for file, each in rows.items():
        check_entry(file, path)
        mine = np.concatenate(each)
        decoded = _decode_video(file, seconds[mine], rate)
        if frames is None:
            frames = np.empty((at, *decoded.shape[1:]), np.uint8)
        if decoded.shape[1:] != frames.shape[1:]:
            raise ValueError(f"{file}: expected frames of shape {frames.shape[1:]}, got {decoded.shape[1:]}")
        frames[mine] = decoded
    assert frames is not None
    return frames


def _decode_video(path: pathlib.Path, seconds: Sequence[float] | np.ndarray, rate: float) -> np.ndarray:
    """Decode the frames of a video at some times, in any order, uint8 `[N, height, width, 3]`; `rate` a second.

    Times are rounded to whole frames. Raises ValueError if the video has no frame at one of them, and for what is no
    MP4: playlists, which the library would follow to other files, are among the other formats.
    """
    av = need("av", "PyAV", "lerobot", f"{path}: reading videos")
    wanted = np.rint(np.asarray(seconds, np.float64) * rate).astype(np.int64)
    order = np.argsort(wanted, kind="stable")
    frames: np.ndarray | None = None
    at = 0
    with naming(path), av.open(str(path), format="mp4") as container:
        if not container.streams.video:
            raise ValueError("there is no video in it")
        for frame in container.decode(video=0):
            number = round(float(frame.time or 0.0) * rate)
            first = at
            while at < len(order) and wanted[order[at]] == number:
                at += 1
            if at == first:
                if at == len(order):
                    break
                continue
            pixels = frame.to_ndarray(format="rgb24")
            if frames is None:
                frames = np.empty((len(order), *pixels.shape), np.uint8)
            frames[order[first:at]] = pixels
    if frames is None or at < len(order):
        missing = wanted[order[at]] if len(order) else 0
        raise ValueError(f"{path}: there is no frame {missing}, at {missing / rate:g} seconds")
    return frames
