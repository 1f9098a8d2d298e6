"""Minari's data sets, both ways."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxreplay.convert.minari_values import attributes, check_arrays, join_infos
from jaxreplay.convert.sources import read_dataset, refuse_unheld, reported
from jaxreplay.datasets import Dataset, Trajectory
from jaxreplay.datasets.files.inside import check_entry
from jaxreplay.datasets.files.minari import check_inside, read_episodes
from jaxreplay.datasets.files.opening import need
from jaxreplay.datasets.store import make_store

PATH_VARIABLE = "MINARI_DATASETS_PATH"
OWN = ("id", "total_steps", "rewards", "terminations", "truncations")  # attributes that Minari sets itself


def to_minari(
    source: Any,
    dataset_id: str,
    *,
    path: Any = None,
    env: Any = None,
    observation_space: Any = None,
    action_space: Any = None,
    drop: Sequence[str] = (),
    **metadata: Any,
) -> Any:
    """Write the episodes of a source as a Minari data set, and return it as a `minari.MinariDataset`.

    source: a buffer, or a `Dataset`. dataset_id: its name, as "cartpole/expert-v0". path: the folder to keep it in,
    instead of Minari's own. env, observation_space, action_space: what it was recorded in; spaces that are not given
    are boxes of the shape and dtype of the arrays. metadata: what else `minari.create_dataset_from_buffers` takes:
    `author`, `algorithm_name`, `description`, ...

    Arrays keep their bits; images are not compressed, but for `jpeg_encoding=True`. Extras become Minari's infos, infos
    are kept beside them where all their dicts have the same keys with numbers, texts, or arrays of one shape; numbers
    come back as NumPy's. Of `episode_data`, a dict, `seed` and `options` go where Minari has them (an empty dict of
    options counts as none), numbers, arrays and texts become attributes of the episode; its `id` is Minari's to give.

    What Minari cannot hold raises ValueError that names its path, before anything is written: lists, dtypes that HDF5
    lacks (bfloat16), names with a slash, infos that do not line up, episodes without rewards. `drop` names
    parts to leave out: "extras", "infos", "episode_data". Raises ImportError without Minari.
    """
    minari = need("minari", "Minari", "minari", "to_minari")
    need("h5py", "h5py", "minari", "to_minari")
    from jaxreplay.record.playback.env import infer_space  # it imports Gymnasium, which Minari needs

    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        message = f"dataset_id: expected a name with a version, as 'cartpole/expert-v0', got {dataset_id!r}"
        raise ValueError(message) from error
    episodes = list(read_dataset("to_minari", source))
    refuse_unheld("to_minari", "Minari", None, ("extras", "infos", "episode_data"), drop)
    parts, attributes = [], []
    for i, episode in enumerate(episodes):
        fields, more = _fields(i, episode, drop)
        parts.append(minari.data_collector.EpisodeBuffer(**fields))
        attributes.append(more)
    if env is None:
        first = parts[0]
        observation_space = observation_space or infer_space("observations", first.observations)
        action_space = action_space or infer_space("actions", first.actions)
    options = {"jpeg_encoding": False} | metadata
    with _kept_in(path), _whole_or_not(minari, dataset_id):
        made = minari.create_dataset_from_buffers(
            dataset_id, parts, env=env, observation_space=observation_space, action_space=action_space, **options
        )
        if any(attributes):
            made.storage.update_episode_metadata(attributes)
    return made


def from_minari(dataset: Any, *, path: Any = None, download: bool = False, reward_dtype: Any = None) -> Dataset:
    """Read a Minari data set into a `Dataset`.

    dataset: a `minari.MinariDataset`, filtered or not, or the name of one. path: the folder where it is kept, instead
    of Minari's own. download: fetch it where it is not there. reward_dtype: what to cast rewards to, for those that are
    whole numbers, which a `Trajectory` refuses.

    Minari's infos of the T steps become extras; where there is one more, that of the reset, it is in
    `episode_data["reset_infos"]`. `episode_data` holds the `id`, and `seed`, `options` and all other attributes where
    the episode has them. What `to_minari` wrote comes back as it was, but for that id. The `report` of the result says
    how the episodes end. Raises ValueError naming the episode for what a `Trajectory` cannot hold, as texts for
    observations, and naming the member of an HDF5 file, or the link, that leads out of the data set's folder.
    """
    minari = need("minari", "Minari", "minari", "from_minari")
    if isinstance(dataset, str):
        with _kept_in(path):
            dataset = minari.load_dataset(dataset, download=download)
        check_entry(pathlib.Path(dataset.storage.data_path), pathlib.Path(dataset.storage.data_path).parent)
    check_inside(pathlib.Path(dataset.storage.data_path))
    return reported(make_store(read_episodes(dataset, reward_dtype)))


def _fields(i: int, episode: Trajectory, drop: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the fields of an `EpisodeBuffer`, and what else is known of the episode, flat."""
    what = f"to_minari: episode {i}: "
    if episode.rewards is None:
        raise ValueError(f"{what}rewards: Minari holds rewards, and this episode has none")
    extras = None if "extras" in drop else episode.extras
    infos = None if "infos" in drop else episode.infos
    data = {} if "episode_data" in drop or episode.episode_data is None else episode.episode_data
    if not isinstance(data, dict):
        raise ValueError(f"{what}episode_data: Minari holds a dict of them, got {type(data).__name__}")
    data = dict(data)
    seed, options = data.pop("seed", None), data.pop("options", None)
    if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__")):
        raise ValueError(f"{what}episode_data.seed: Minari holds a whole number, got {seed!r}")
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"{what}episode_data.options: expected a dict, got {type(options).__name__}")
    reset_infos = data.pop("reset_infos", None)
    data.pop("id", None)
    for name in data.keys() & set(OWN):
        raise ValueError(f"{what}episode_data.{name}: Minari uses that name itself; rename it")
    ends = np.arange(len(episode)) == len(episode) - 1
    fields = {
        "seed": None if seed is None else int(seed.__index__()),
        "options": options and attributes(f"{what}episode_data.options", options, nested=True),
        "terminations": ends & episode.terminated,
        "truncations": ends & episode.truncated,
        "infos": join_infos(what, extras, infos, reset_infos),
    }
    for part in ("observations", "actions", "rewards"):
        fields[part] = check_arrays(f"{what}{part}", getattr(episode, part))
    return fields, attributes(f"{what}episode_data", data)


@contextlib.contextmanager
def _kept_in(path: Any) -> Iterator[None]:
    """Have Minari keep its data sets in a folder; it knows of no other way than the environment."""
    if path is None:
        yield
        return
    before = os.environ.get(PATH_VARIABLE)
    os.environ[PATH_VARIABLE] = str(pathlib.Path(path).absolute())
    try:
        yield
    finally:
        del os.environ[PATH_VARIABLE]
        os.environ |= {} if before is None else {PATH_VARIABLE: before}


@contextlib.contextmanager
def _whole_or_not(minari: Any, dataset_id: str) -> Iterator[None]:
    folder = pathlib.Path(minari.storage.datasets_root_dir.get_dataset_path(dataset_id))
    existed = folder.exists()
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
