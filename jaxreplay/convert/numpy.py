"""Plain dicts of NumPy arrays in the layout of D4RL, both ways: a row is a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import read_dataset, refuse_unheld, reported
from jaxreplay.datasets import Dataset, Report, Trajectory
from jaxreplay.datasets.pieces import follows, pieces, with_final
from jaxreplay.types import PyTree

FLAGS = {"terminals": "terminated", "timeouts": "truncated"}
NAMES = ("observations", "actions", "rewards", "next_observations", *FLAGS, "episode", "extras")


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
    refuse_unheld("to_numpy", "a dict of arrays", list(dataset), ("infos", "episode_data"), drop)
    steps = dataset[:]
    arrays = {
        "observations": steps.observation,
        "actions": steps.action,
        "rewards": steps.reward,
        "next_observations": steps.next_observation,
        "terminals": steps.terminated,
        "timeouts": steps.truncated,
        "episode": np.repeat(np.arange(dataset.num_episodes, dtype=np.int32), [len(each) for each in dataset]),
        "extras": steps.extras if jax.tree.leaves(steps.extras) else None,
    }
    return {name: value for name, value in arrays.items() if value is not None}


def from_numpy(arrays: Mapping[str, Any], missing_final: str = "drop") -> Dataset:
    """Make a `Dataset` of a dict of arrays `[N, ...]` in the layout of D4RL.

    arrays: `observations` and `actions`, nested or not; `rewards`, `terminals`, `timeouts`, `next_observations`,
    `episode` and `extras` if there are any. Other arrays of N rows become extras, `infos/qpos` in a dict `infos`; what
    has no N rows is left out, and counted in the `report` of the result.

    An episode ends where `terminals` or `timeouts` say so, where `episode` changes, and where `next_observations` are
    not the next row's observation, bit for bit. Without `next_observations` what followed an episode's last row is not
    known, and is not invented: missing_final="drop" leaves that row out, and its observation is the final one of the
    rows before; "repeat" keeps it, with its own observation as the final one. The report counts what was left out.

    Raises ValueError naming the array that is missing or does not fit.
    """
    if missing_final not in ("drop", "repeat"):
        raise ValueError(f"missing_final: expected 'drop' or 'repeat', got {missing_final!r}")
    arrays = {name: jax.tree.map(np.asarray, value) for name, value in arrays.items() if value is not None}
    columns, ignored = _columns(arrays)
    ended = columns["terminals"] | columns["timeouts"]
    goes_on = ~ended[:-1]
    if "episode" in columns:
        goes_on &= columns["episode"][1:] == columns["episode"][:-1]
    cut = goes_on.sum()
    following = columns.get("next_observations")
    if following is not None:
        goes_on &= follows(columns["observations"], following)
    report = Report(ignored=ignored, discontinuities=int(cut - goes_on.sum()))
    episodes = []
    for first, last in pieces(goes_on):
        if following is None and missing_final == "drop":
            single = last - first == 1
            report += Report(dropped_rows=1, dropped_episodes=int(single))
            if not single:
                inner = jax.tree.map(lambda x, a=first, b=last: x[a:b], columns["observations"])
                episodes.append(_episode(columns, inner, first, last - 1))
            continue
        after = columns["observations"] if following is None else following
        episodes.append(_episode(columns, with_final(columns["observations"], after, first, last), first, last))
    return reported(episodes, report)


def _columns(arrays: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arrays of N rows, flags always there and what is not known as extras; and the names of what is left out."""
    for name in ("observations", "actions"):
        if not jax.tree.leaves(arrays.get(name)):
            raise ValueError(f"from_numpy: {name}: expected arrays [N, ...]; there are: {', '.join(arrays) or 'none'}")
    count = _rows(jax.tree.leaves(arrays["observations"])[0])
    if not count:
        raise ValueError("from_numpy: observations: expected at least one row [N, ...]")
    columns, ignored = {}, []
    extras = dict(arrays["extras"]) if isinstance(arrays.get("extras"), Mapping) else {}
    for name, value in arrays.items():
        if name not in NAMES:
            if any(_rows(leaf) != count or leaf.dtype.kind not in "biufcV" for leaf in jax.tree.leaves(value)):
                ignored.append(name)
                continue
            *groups, last = name.split("/")
            inner = extras
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value
            continue
        for path, leaf in trees.paths({name: value}):
            if _rows(leaf) != count:
                raise ValueError(f"from_numpy: {path}: expected N = {count} rows as in observations, got {leaf.shape}")
        columns[name] = value
    for name in FLAGS:
        columns[name] = _flag(name, columns.get(name, np.zeros(count, np.bool_)))
    if extras:
        columns["extras"] = extras
    return columns, tuple(ignored)


def _rows(leaf: np.ndarray) -> int | None:
    return leaf.shape[0] if leaf.ndim else None


def _flag(name: str, values: np.ndarray) -> np.ndarray:
    if values.size != len(values) or not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"from_numpy: {name}: expected one flag a row, got {trees.describe(values.shape, values.dtype)}"
        )
    return values.reshape(-1).astype(np.bool_)


def _episode(columns: dict[str, Any], observations: PyTree, first: int, last: int) -> Trajectory:
    """The episode of the rows `[first, last)`."""
    steps = lambda part: jax.tree.map(lambda x: x[first:last], columns.get(part))  # noqa: E731
    flags: dict[str, Any] = {ours: bool(columns[theirs][last - 1]) for theirs, ours in FLAGS.items()}
    rewards = steps("rewards")
    if rewards is not None:
        rewards = rewards.reshape(len(rewards), *[n for n in rewards.shape[1:] if n != 1])  # some are `[N, 1]`
    return Trajectory(observations, steps("actions"), rewards, extras=steps("extras"), **flags)
