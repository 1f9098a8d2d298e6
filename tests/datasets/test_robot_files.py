"""What robot learning shares: robomimic's HDF5 and OGBench's npz; and files with columns of any names."""

from __future__ import annotations

import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest

from jaxreplay.datasets import Dataset, Trajectory
from tests.datasets.episodes import all_same, simple
from tests.datasets.test_formats import ends, report_of, write
from tests.extras import library

LENGTHS = {"demo_0": 3, "demo_2": 2, "demo_10": 4}


def demo(length: int, start: float, **changes: Any) -> dict[str, Any]:
    """The columns of a demonstration as robomimic writes them."""
    camera = np.arange((length + 1) * 12, dtype=np.uint8).reshape(length + 1, 2, 2, 3)
    arm = start + np.arange(2.0 * (length + 1)).reshape(length + 1, 2)
    dones = np.arange(length) == length - 1
    columns = {
        "actions": start + np.arange(float(length))[:, None],
        "states": np.arange(length * 5.0).reshape(length, 5),
        "rewards": dones.astype(float),
        "dones": dones.astype(int),
        "obs/camera": camera[:-1],
        "obs/arm": arm[:-1].copy(),
        "next_obs/camera": camera[1:],
        "next_obs/arm": arm[1:],
        "action_dict/gripper": np.zeros((length, 1)),
    } | changes
    return {name: column for name, column in columns.items() if column is not None}


def robomimic_file(path: pathlib.Path, demos: dict[str, dict[str, Any]], **data: Any) -> pathlib.Path:
    h5py = library("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        for name, columns in demos.items():
            inner = group.create_group(name)
            for column, values in columns.items():
                inner.create_dataset(column, data=values, compression="gzip" if column.endswith("camera") else None)
            inner.attrs["model_file"] = f"<{name}/>"
            inner.attrs["num_samples"] = len(columns["actions"])
        group.attrs["total"] = sum(len(columns["actions"]) for columns in demos.values())
        group.attrs["env_args"] = '{"type": 1}'
        for mask, names in data.items():
            file[f"mask/{mask}"] = np.array(names, dtype="S")
    return path


def demos(**changes: Any) -> dict[str, dict[str, Any]]:
    return {name: demo(n, 100.0 * i, **changes) for i, (name, n) in enumerate(LENGTHS.items())}


def test_demonstrations_of_robomimic_are_read_in_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    path = robomimic_file(tmp_path / "low_dim.hdf5", demos(), train=["demo_0", "demo_10"], valid=["demo_2"])
    dataset = Dataset.load(path)
    wanted = []
    for (name, n), columns in zip(LENGTHS.items(), demos().values()):
        wanted.append(
            Trajectory(
                {k: np.append(columns[f"obs/{k}"], columns[f"next_obs/{k}"][-1:], axis=0) for k in ("camera", "arm")},
                columns["actions"],
                columns["rewards"],
                terminated=True,
                extras={
                    "states": columns["states"],
                    "dones": columns["dones"],
                    "action_dict": {"gripper": np.zeros((n, 1))},
                },
                episode_data={
                    "name": name,
                    "masks": ["valid"] if name == "demo_2" else ["train"],
                    "env_args": '{"type": 1}',
                    "model_file": f"<{name}/>",
                },
            )
        )
    all_same(dataset, wanted)
    assert (report_of(dataset).dropped_rows, report_of(dataset).discontinuities) == (0, 0)
    dataset.save(tmp_path / "own.npz")
    all_same(Dataset.load(tmp_path / "own.npz"), wanted)


def test_a_success_ends_nothing_and_without_next_obs_the_last_row_is_dropped(tmp_path: pathlib.Path) -> None:
    plain = {name: demo(n, 0.0, dones=np.arange(n) == 1) for name, n in LENGTHS.items()}
    dataset = Dataset.load(robomimic_file(tmp_path / "a", plain))
    assert [len(t) for t in dataset] == list(LENGTHS.values())
    assert [t.terminated for t in dataset] == [False, True, False]
    without = {name: {k: x for k, x in columns.items() if "next_obs" not in k} for name, columns in demos().items()}
    dataset = Dataset.load(robomimic_file(tmp_path / "b", without))
    assert [len(t) for t in dataset] == [2, 1, 3]
    assert [t.episode_data["name"] for t in dataset] == list(LENGTHS)
    assert ends(dataset) == [(False, False)] * 3
    assert report_of(dataset).dropped_rows == 3
    repeated = Dataset.load(tmp_path / "b", missing_final="repeat")
    assert [t.observations["arm"][-2:, 0].tolist() for t in repeated] == [[4, 4], [102, 102], [206, 206]]
    assert ends(repeated) == [(True, False)] * 3


def test_the_last_next_observation_that_a_conversion_of_d4rl_made_up_is_not_believed(tmp_path: pathlib.Path) -> None:
    made = {}
    for name, n in LENGTHS.items():
        flat = np.arange(2.0 * n).reshape(n, 2)
        following = np.append(flat[1:], flat[-1:], axis=0)
        made[name] = {"obs/flat": flat, "next_obs/flat": following, "actions": flat, "rewards": flat[:, 0]}
        made[name]["dones"] = (np.arange(n) == n - 1).astype(int)
    dataset = Dataset.load(robomimic_file(tmp_path / "x", made))
    assert [t.observations["flat"].tolist() for t in dataset] == [each["obs/flat"].tolist() for each in made.values()]
    assert ends(dataset) == [(False, False)] * 3
    assert report_of(dataset).dropped_rows == 3
    assert report_of(dataset).ignored == ("data/demo_*/next_obs",)
    made["demo_0"]["next_obs/flat"][-1] += 1
    assert [len(t) for t in Dataset.load(robomimic_file(tmp_path / "y", made))] == list(LENGTHS.values())


def test_a_jump_inside_a_demonstration_is_a_discontinuity_of_the_same_name(tmp_path: pathlib.Path) -> None:
    broken = demos()
    broken["demo_10"]["next_obs/arm"][1] += 5
    dataset = Dataset.load(robomimic_file(tmp_path / "x", broken))
    assert [(len(t), t.episode_data["name"]) for t in dataset] == [
        (3, "demo_0"),
        (2, "demo_2"),
        (2, "demo_10"),
        (2, "demo_10"),
    ]
    assert report_of(dataset).discontinuities == 1


def test_wrong_demonstrations_are_named(tmp_path: pathlib.Path) -> None:
    h5py = library("h5py")
    for i, (name, changes, message) in enumerate(
        (
            ("demo_2", {"actions": None}, r"data/demo_2: expected rows of actions"),
            ("demo_10", {"states": None}, r"data/demo_10: .* the columns of demo_0; there are: .*actions"),
            ("demo_2", {"rewards": np.zeros(9)}, r"data/demo_2: expected .* the columns of demo_0"),
        )
    ):
        wrong = demos() | {name: demo(LENGTHS[name], 0.0, **changes)}
        columns = {f"data/{each}/{column}": x for each, inner in wrong.items() for column, x in inner.items()}
        path = write(tmp_path / f"{i}", columns)
        with pytest.raises(ValueError, match=message):
            Dataset.load(path)
    path = robomimic_file(tmp_path / "x", {"demo_0": {"actions": np.zeros(2), "states": np.zeros(2)}})
    with pytest.raises(ValueError, match=r"there is no data/demo_.*obs.*dataset_states_to_obs"):
        Dataset.load(path)
    path = robomimic_file(tmp_path / "y", demos())
    with h5py.File(path, "a") as file:
        file["data/demo_2"].attrs["num_samples"] = 7
    with pytest.raises(ValueError, match="data/demo_2: num_samples is 7, and there are 2 rows"):
        Dataset.load(path)


def ogbench(lengths: list[int], ended: bool = True) -> dict[str, Any]:
    """Rows as OGBench's scripts write them: one more than steps, the last with `terminals` 1 and a void action."""
    rows = sum(lengths) + len(lengths)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(np.add(lengths, 1)) - 1] = True
    terminals[-1] = ended
    count = np.arange(rows, dtype=np.float32)
    return {"observations": count[:, None], "actions": count, "terminals": terminals, "qpos": count[:, None] * 2}


def test_the_last_row_of_an_episode_of_ogbench_is_its_final_observation(tmp_path: pathlib.Path) -> None:
    np.savez_compressed(tmp_path / "pointmaze-v0.npz", **ogbench([3, 2]))
    np.savez_compressed(tmp_path / "pointmaze-v0-val.npz", **ogbench([2, 0, 1], ended=False))
    train, val = (Dataset.load(tmp_path / f"pointmaze-v0{name}.npz") for name in ("", "-val"))
    assert [t.observations[:, 0].tolist() for t in train] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [t.actions.tolist() for t in train] == [[0, 1, 2], [4, 5]]
    assert [t.extras["qpos"][:, 0].tolist() for t in train] == [[0, 2, 4], [8, 10]]
    assert ends(train) == [(False, True)] * 2
    assert (report_of(train).dropped_rows, report_of(train).truncated) == (0, 2)
    assert [t.observations[:, 0].tolist() for t in val] == [[0, 1, 2], [4, 5]]
    assert ends(val) == [(False, True), (False, False)]
    assert (report_of(val).dropped_rows, report_of(val).dropped_episodes) == (2, 1)
    assert Dataset.load(tmp_path).num_episodes == 4


def test_an_npz_that_is_not_what_it_seems_is_refused(tmp_path: pathlib.Path) -> None:
    good = ogbench([3])
    for i, (changes, message) in enumerate(
        (
            ({"terminals": np.full(4, 2)}, "terminals: expected one flag a row"),
            ({"actions": np.zeros(3)}, "actions: expected N = 4 rows"),
            ({"observations": np.array([{}] * 4)}, "Object arrays cannot be loaded"),
        )
    ):
        np.savez_compressed(tmp_path / f"{i}.npz", **(good | changes))
        with pytest.raises(ValueError, match=message):
            Dataset.load(tmp_path / f"{i}.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_BZIP2) as file:
        for name, array in good.items():
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.zeros((4, 10**6)) if name == "observations" else array)
    with pytest.raises(ValueError, match=r"observations.npy: float64\[4,1000000\] is more than the file can hold"):
        Dataset.load(tmp_path / "bomb.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="no file of this library"):
        Dataset.load(tmp_path / "other.npz")


ROWS = {
    "id": np.array([4, 4, 4, 9, 9]),
    "obs/arm": np.arange(10.0).reshape(5, 2),
    "obs/cam": np.arange(5, dtype=np.uint8),
    "act": np.arange(5.0),
    "r": np.arange(5.0),
    "note": np.zeros(5),
}
NAMES = {"observations": {"arm": "obs/arm", "cam": "obs/cam"}, "actions": "act", "rewards": "r", "episode": "id"}


def write_rows(path: pathlib.Path, kind: str) -> pathlib.Path:
    if kind == "hdf5":
        return write(path, ROWS)
    if kind == "npz":
        np.savez_compressed(path.with_suffix(".npz"), **ROWS)
        return path.with_suffix(".npz")
    pyarrow = library("pyarrow")
    columns = {name: pyarrow.array(list(x) if x.ndim > 1 else x) for name, x in ROWS.items()}
    library("pyarrow.parquet").write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", ["hdf5", "parquet", "npz"])
def test_any_columns_are_read_by_their_names(tmp_path: pathlib.Path, kind: str) -> None:
    path = write_rows(tmp_path / "x", kind)
    dataset = Dataset.load(path, columns=NAMES)
    assert [t.observations["arm"].tolist() for t in dataset] == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]]]
    assert dataset.episode(1).observations["cam"].tolist() == [3, 4]
    assert [t.actions.tolist() for t in dataset] == [[0, 1], [3]]
    assert report_of(dataset).ignored == ("note",)
    assert report_of(dataset).dropped_rows == 2
    more = Dataset.load(path, columns=NAMES | {"extras": ("note", "r")}, missing_final="repeat")
    assert [t.extras[1].tolist() for t in more] == [[0, 1, 2], [3, 4]]
    for columns, message in (
        ({"observations": "obs/arm"}, "columns: expected names for observations, actions"),
        (NAMES | {"reward": "r"}, "columns: expected names .* got"),
        (NAMES | {"rewards": "R"}, "columns: rewards: there is no column 'R'; there are: .*act"),
        (NAMES | {"observations": {"arm": 3}}, "columns: observations.arm: there is no column 3"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.load(path, columns=columns)


def test_formats_with_names_of_their_own_refuse_others(tmp_path: pathlib.Path) -> None:
    Dataset([simple(2)]).save(tmp_path / "own.npz")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({}))
    for name in ("own.npz", "p.pkl"):
        with pytest.raises(ValueError, match=f"{name}: columns: the parts of this format have names of their own"):
            Dataset.load(tmp_path / name, columns=NAMES, allow_pickle=True)


def test_parquet_needs_names_and_columns_of_one_shape(tmp_path: pathlib.Path) -> None:
    pyarrow = library("pyarrow")
    with pytest.raises(ValueError, match="it is Parquet; name its columns"):
        Dataset.load(write_rows(tmp_path / "x", "parquet"))
    wrong = {"act": [1.0, None], "text": ["a", "b"], "ragged": [[1.0], [1.0, 2.0]], "o": [1.0, 2.0]}
    library("pyarrow.parquet").write_table(pyarrow.table(wrong), tmp_path / "y.parquet")
    for name, message in (
        ("act", "act: a number is missing"),
        ("text", "actions: expected numbers"),
        ("ragged", "ragged: its lists have different lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.load(tmp_path / "y.parquet", columns={"observations": "o", "actions": name})
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "y.parquet").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut.parquet: Parquet magic bytes not found"):
        Dataset.load(tmp_path / "cut.parquet", columns={"observations": "o", "actions": "o"})
