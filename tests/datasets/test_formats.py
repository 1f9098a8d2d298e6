"""What others write: D4RL's HDF5, Minari's data sets and `imitation`'s folders, told by their content."""

from __future__ import annotations

import json
import pathlib
from typing import Any
from unittest import mock

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Report, Trajectory
from tests.datasets.episodes import all_same, same
from tests.extras import library


def write(path: pathlib.Path, columns: dict[str, Any], **options: Any) -> pathlib.Path:
    h5py = library("h5py")
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, **(options if np.ndim(column) else {}))
    return path


def columns(count: int, terminals: list[int], timeouts: list[int]) -> dict[str, Any]:
    """Rows whose observations count; ends at these rows."""
    flags = lambda rows: np.isin(np.arange(count), rows)  # noqa: E731
    return {
        "observations": np.arange(count, dtype=np.float32)[:, None] * [1, 10],
        "actions": np.arange(count, dtype=np.float32)[:, None],
        "rewards": np.arange(count, dtype=np.float32),
        "terminals": flags(terminals),
        "timeouts": flags(timeouts),
    }


def firsts(dataset: Dataset) -> list[list[float]]:
    return [t.observations[:, 0].tolist() for t in dataset]


def ends(dataset: Dataset) -> list[tuple[bool, bool]]:
    return [(t.terminated, t.truncated) for t in dataset]


def report_of(dataset: Dataset) -> Report:
    assert dataset.report is not None
    return dataset.report


def test_without_next_observations_the_last_row_of_each_episode_is_only_an_observation(tmp_path: pathlib.Path) -> None:
    """Rows 0 to 2 terminate, 3 to 5 time out, 6 is an episode by itself, 7 and 8 are cut by the end of the file."""
    path = write(tmp_path / "x", columns(9, [2, 6], [5]))
    dataset = Dataset.load(path)
    assert firsts(dataset) == [[0, 1, 2], [3, 4, 5], [7, 8]]
    assert [t.actions[:, 0].tolist() for t in dataset] == [[0, 1], [3, 4], [7]]
    assert [t.rewards.tolist() for t in dataset] == [[0, 1], [3, 4], [7]]
    assert ends(dataset) == [(False, False)] * 3
    assert (report_of(dataset).dropped_rows, report_of(dataset).dropped_episodes) == (4, 1)
    repeated = Dataset.load(path, missing_final="repeat")
    assert firsts(repeated) == [[0, 1, 2, 2], [3, 4, 5, 5], [6, 6], [7, 8, 8]]
    assert ends(repeated) == [(True, False), (False, True), (True, False), (False, False)]
    assert report_of(repeated).dropped_rows == 0


def test_with_next_observations_nothing_is_dropped_and_jumps_are_found(tmp_path: pathlib.Path) -> None:
    """Ends at rows 2 and 5; between 6 and 7 the recording jumps, though no flag says so."""
    data = columns(9, [2], [5])
    data["next_observations"] = data["observations"] + np.float32([1, 10])
    data["observations"][7:] += 100
    data["next_observations"][7:] += 100
    data["observations"][4] = data["next_observations"][3] = np.nan
    dataset = Dataset.load(write(tmp_path / "x", data, compression="gzip"))
    assert str(firsts(dataset)) == "[[0.0, 1.0, 2.0, 3.0], [3.0, nan, 5.0, 6.0], [6.0, 7.0], [107.0, 108.0, 109.0]]"
    assert ends(dataset) == [(True, False), (False, True), (False, False), (False, False)]
    assert (report_of(dataset).discontinuities, report_of(dataset).dropped_rows) == (1, 0)
    assert [t.rewards.tolist() for t in dataset] == [[0, 1, 2], [3, 4, 5], [6], [7, 8]]


def test_more_columns_become_extras_and_the_rest_is_reported(tmp_path: pathlib.Path) -> None:
    data = columns(4, [], [3]) | {"infos/qpos": np.arange(4.0), "infos/deep/x": np.arange(4), "metadata/algorithm": 3}
    dataset = Dataset.load(write(tmp_path / "x", data))
    assert dataset.episode(0).extras["infos"]["deep"]["x"].tolist() == [0, 1, 2]
    assert dataset.episode(0).extras["infos"]["qpos"].tolist() == [0, 1, 2]
    assert report_of(dataset).ignored == ("metadata/algorithm",)
    assert "not read: metadata/algorithm" in str(dataset.report)


def test_big_endian_columns_and_flags_of_numbers_are_read(tmp_path: pathlib.Path) -> None:
    data = columns(4, [], [])
    data |= {"observations": data["observations"].astype(">f8"), "terminals": np.float32([0, 1, 0, 0])[:, None]}
    dataset = Dataset.load(write(tmp_path / "x", data))
    assert dataset.episode(0).observations.dtype == np.float64
    assert firsts(dataset) == [[0, 1], [2, 3]]


def test_wrong_hdf5_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    h5py = library("h5py")
    good = columns(4, [], [])
    for changes, message in (
        ({"actions": None}, "there is no actions: not D4RL's layout"),
        ({"actions": np.zeros(3)}, "actions: expected N = 4 rows"),
        ({"rewards": np.zeros(4, np.int32)}, "rewards: expected a floating dtype, got int32"),
        ({"terminals": np.full(4, 2)}, "terminals: expected one flag a row"),
        (
            {"next_observations": np.zeros((4, 3))},
            "next observations: the item: expected float64.4,2., got float64.4,3.",
        ),
        ({"observations": np.zeros((0, 2)), "actions": np.zeros((0, 1))}, "observations: expected at least one row"),
    ):
        data = {name: column for name, column in (good | changes).items() if column is not None}
        with pytest.raises(ValueError, match=f"bad: .*{message}"):
            Dataset.load(write(tmp_path / "bad", data))
    with h5py.File(tmp_path / "bad", "w") as file:
        for name in ("observations", "actions"):
            file.create_dataset(name, shape=(10**12, 10), dtype="f8", chunks=(1000, 10))
    with pytest.raises(ValueError, match=r"bad: .*: .* is more than the file can hold"):
        Dataset.load(tmp_path / "bad")
    path = write(tmp_path / "bad", good)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match="bad: "):
        Dataset.load(path)
    with mock.patch.dict("sys.modules", h5py=None), pytest.raises(ModuleNotFoundError, match=r"jaxreplay\[datasets\]"):
        Dataset.load(write_good(tmp_path))


def write_good(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "header").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return tmp_path / "header"


def imitation_folder(path: pathlib.Path, made: list[dict[str, Any]]) -> pathlib.Path:
    """Write what `imitation` writes, with the library it uses."""
    datasets = library("datasets")
    columns = {name: [t[name] for t in made] for name in made[0]}
    columns["infos"] = [[json.dumps(info) for info in infos] for infos in columns["infos"]]
    datasets.Dataset.from_dict(columns).save_to_disk(str(path))
    return path


def test_a_folder_of_imitation_is_read_and_nothing_in_it_is_run(tmp_path: pathlib.Path) -> None:
    rng, made = np.random.default_rng(0), []
    for n, terminal in ((3, True), (1, False), (2, True)):
        infos = [{"t": i, "py/object": "os.system", "py/reduce": [{"py/function": "os.system"}]} for i in range(n)]
        made.append(
            {
                "obs": rng.normal(size=(n + 1, 2, 3)).astype(np.float32),
                "acts": rng.integers(0, 9, n),
                "rews": rng.normal(size=n),
                "terminal": terminal,
                "infos": infos,
            }
        )
    made[2]["infos"][-1]["TimeLimit.truncated"] = True
    dataset = Dataset.load(imitation_folder(tmp_path / "x", made))
    expected = [
        Trajectory(t["obs"], t["acts"], t["rews"], terminated=a, truncated=b, infos=t["infos"])
        for t, a, b in zip(made, (True, False, False), (False, False, True))
    ]
    all_same(dataset, expected)
    all_same(Dataset.load(tmp_path), expected)


def test_what_imitation_itself_saves_is_read(tmp_path: pathlib.Path) -> None:
    types = library("imitation.data.types")
    serialize = library("imitation.data.serialize")
    observations, actions = np.random.default_rng(0).normal(size=(4, 2)), np.arange(3)
    serialize.save(tmp_path / "x", [types.TrajectoryWithRew(observations, actions, None, True, np.ones(3))])
    (got,) = Dataset.load(tmp_path / "x")
    same(got, Trajectory(observations, actions, np.ones(3), terminated=True))


def test_wrong_folders_of_imitation_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    good = {"obs": np.zeros((2, 1)), "acts": np.zeros(1), "terminal": True, "infos": [{}]}
    for i, (changes, message) in enumerate(
        (
            ({"obs": [[0.0], [1.0, 2.0]]}, "obs: its lists have different lengths"),
            ({"obs": np.zeros((3, 1))}, r"observations: expected T \+ 1 = 2"),
            ({"infos": [3]}, "infos.0: expected a dict, got '3'"),
            ({"obs": [[None], [1.0]]}, "obs: a number is missing"),
        )
    ):
        path = imitation_folder(tmp_path / f"bad{i}", [good | changes])
        with pytest.raises(ValueError, match=f"bad{i}: {message}"):
            Dataset.load(path)
    path = imitation_folder(tmp_path / "bad", [good])
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../bad0/data.arrow"}]}))
    with pytest.raises(ValueError, match="is not in this folder"):
        Dataset.load(path)


def test_a_folder_of_minari_is_read(tmp_path: pathlib.Path) -> None:
    library("minari")
    convert = library("jaxreplay.convert")
    made = [
        Trajectory(
            {"a": np.arange(4.0), "b": (np.arange(4, dtype=np.uint8),)},
            np.arange(3),
            np.arange(3.0),
            terminated=True,
            extras={"p": np.arange(3, dtype=np.float32)},
        ),
        Trajectory(
            {"a": np.arange(2.0), "b": (np.zeros(2, np.uint8),)},
            np.arange(1),
            np.ones(1),
            truncated=True,
            extras={"p": np.ones(1, np.float32)},
        ),
    ]
    convert.to_minari(Dataset(made), "test/one-v0", path=tmp_path)
    for path in (tmp_path / "test" / "one-v0", tmp_path / "test" / "one-v0" / "data", tmp_path / "test"):
        got = Dataset.load(path)
        for a, b in zip(got, made, strict=True):
            same(Trajectory(a.observations, a.actions, a.rewards, a.terminated, a.truncated, a.extras), b)
        assert (report_of(got).terminated, report_of(got).truncated) == (1, 1)
