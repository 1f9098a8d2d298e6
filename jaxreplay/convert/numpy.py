"""Plain dicts of NumPy arrays in the layout of D4RL, both ways: a row is a step."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import joined, read_dataset, refuse_unheld
from jaxreplay.datasets import Dataset
from jaxreplay.datasets.files.d4rl import join_columns


def to_numpy(source: Any, drop: Sequence[str] = ()) -> dict[str, Any]:
    """Give the N steps of a source as a dict of NumPy arrays `[N, ...]` in the layout of D4RL, episode after episode.

    source: a buffer, or a `Dataset`. The dict has `observations`, `actions`, `next_observations`, `terminals`,
    `timeouts` and, where there are some, `rewards` and `extras`; what is nested stays nested. `episode` `[N]` int32
    numbers the episodes, which tells them apart also where a recording stopped without an end. The arrays are copies.
    Infos and data of episodes have no place there: ValueError, unless named in `drop`.

    >>> import numpy as np
    >>> from jaxreplay.datasets import Dataset, Trajectory
    >>> arrays = to_numpy(Dataset([Trajectory(np.arange(4.0), actions=np.arange(3), terminated=True)]))
    >>> arrays["next_observations"].tolist(), arrays["terminals"].tolist()
    ([1.0, 2.0, 3.0], [False, False, True])
    """
    dataset = read_dataset("to_numpy", source)
    refuse_unheld("to_numpy", "a dict of arrays", dataset._store, ("infos", "episode_data"), drop)
    steps = dataset[:]
    arrays = {
        "observations": steps.observation,
        "actions": steps.action,
        "rewards": steps.reward,
        "next_observations": steps.next_observation,
        "terminals": steps.terminated,
        "timeouts": steps.truncated,
        "episode": np.repeat(np.arange(dataset.num_episodes, dtype=np.int32), dataset._store.table.length),
        "extras": steps.extras if jax.tree.leaves(steps.extras) else None,
    }
    return {name: value for name, value in arrays.items() if value is not None}


def from_numpy(arrays: Mapping[str, Any], missing_final: str = "drop") -> Dataset:
    """Make a `Dataset` of a dict of arrays `[N, ...]` in the layout of D4RL.

    arrays: `observations` and `actions`, nested or not; `rewards`, `terminals`, `timeouts`, `next_observations`,
    `episode` and `extras` if there are any. Other arrays of N rows become extras, `infos/qpos` in a dict `infos`; what
    has no N rows is left out, and counted in the `report` of the result.

    An episode ends where `terminals` or `timeouts` say so, where `episode` changes, and where `next_observations` are
    not the next row's observation (-0.0 equals 0.0, and NaN equals NaN). Without `next_observations` what followed an
    episode's last row is not known, and is not invented: missing_final="drop" leaves that row out, and its observation
    is the final one of the rows before; "repeat" keeps it, with its own observation as the final one. The report counts
    what was left out. An HDF5 file with the same columns gives the same, by `Dataset.load`.

    Raises ValueError naming the array that is missing or does not fit.
    """
    trees.check_choice("missing_final", missing_final, ("drop", "repeat"))
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise TypeError(f"from_numpy: expected a dict of arrays by their names, got {str(arrays)[:60]}")
    arrays = {name: jax.tree.map(np.asarray, value) for name, value in arrays.items() if value is not None}
    return joined("from_numpy", lambda: join_columns(arrays, missing_final))
