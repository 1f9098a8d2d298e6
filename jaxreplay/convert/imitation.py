"""The five types of the `imitation` package: trajectories with and without rewards, and three kinds of transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import need, read_dataset, refuse_unheld, reported
from jaxreplay.datasets import Trajectory
from jaxreplay.datasets.files.imitation import TIME_LIMIT, is_truncated, trajectory_of
from jaxreplay.datasets.joining import check_rows, join
from jaxreplay.datasets.store import Chunk, make_store

KINDS = ("Trajectory", "TrajectoryWithRew", "TransitionsMinimal", "Transitions", "TransitionsWithRew")


def to_imitation(source: Any, kind: str = "TrajectoryWithRew", drop: Sequence[str] = ()) -> Any:
    """Give the episodes of a source as one of the types of `imitation.data.types`.

    source: a buffer, or a `Dataset`. kind: "Trajectory" or "TrajectoryWithRew", of which a list comes back, one an
    episode; or "TransitionsMinimal", "Transitions" or "TransitionsWithRew", all steps in one object.

    Arrays are given as they are, and share memory where the type has them in the same form. A dict observation becomes
    a `DictObs`. `terminal` and `dones` tell that an episode ended; that it was truncated is told as Gym does it, by
    `"TimeLimit.truncated": True` in the infos of its last step (an episode that is both counts as terminated).

    What the types cannot hold raises ValueError naming its path: nested dicts and tuples, extras, data of episodes,
    and rewards in the kinds without them are left out only if named in `drop`, as ("rewards", "extras"). Raises
    ImportError without `imitation`.
    """
    types = need("imitation.data.types", "imitation", "imitation", "to_imitation")
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    episodes = list(read_dataset("to_imitation", source))
    rewarded = kind.endswith("WithRew")
    unheld = ("extras", "episode_data") if rewarded else ("rewards", "extras", "episode_data")
    refuse_unheld("to_imitation", f"imitation's {kind}", episodes, unheld, drop)
    if rewarded and episodes[0].rewards is None:
        raise ValueError(
            f"to_imitation: rewards: {kind} holds rewards, and the episodes have none; choose another kind"
        )
    made = [_trajectory(types, episode, rewarded) for episode in episodes]
    return made if kind.startswith("Trajectory") else _join(types, kind, made)


def _trajectory(types: Any, episode: Trajectory, rewarded: bool) -> Any:
    infos = None if episode.infos is None else [dict(info) for info in episode.infos]
    if episode.truncated and not episode.terminated:
        infos = infos or [{} for _ in range(len(episode))]
        infos[-1][TIME_LIMIT] = True
    if infos is not None:
        infos = np.array([*infos, None], dtype=object)[:-1]  # the None keeps NumPy from looking into the dicts
    observations = episode.observations
    if isinstance(observations, Mapping):
        for name, inner in observations.items():
            _need_array(f"observations.{name}", inner)
        observations = types.DictObs(dict(observations))
    else:
        _need_array("observations", observations)
    _need_array("actions", episode.actions)
    fields = {"obs": observations, "acts": episode.actions, "infos": infos, "terminal": episode.ended}
    return types.TrajectoryWithRew(**fields, rews=episode.rewards) if rewarded else types.Trajectory(**fields)


def _need_array(path: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"to_imitation: {path}: imitation holds arrays, and one dict of arrays as an observation; got "
            f"{type(value).__name__}, whose parts are: {', '.join(name for name, _ in trees.paths(value)) or 'none'}"
        )


def _join(types: Any, kind: str, trajectories: list[Any]) -> Any:
    """All steps of trajectories as one object."""
    steps = [(t, len(t.acts)) for t in trajectories]
    dones = [np.arange(length) == length - 1 if t.terminal else np.zeros(length, bool) for t, length in steps]
    fields = {
        "obs": types.concatenate_maybe_dictobs([t.obs[:-1] for t in trajectories]),
        "acts": np.concatenate([t.acts for t in trajectories]),
        "infos": np.concatenate([_no_infos(length) if t.infos is None else t.infos for t, length in steps]),
    }
    if kind != "TransitionsMinimal":
        fields["next_obs"] = types.concatenate_maybe_dictobs([t.obs[1:] for t in trajectories])
        fields["dones"] = np.concatenate(dones)
    if kind == "TransitionsWithRew":
        fields["rews"] = np.concatenate([t.rews for t in trajectories])
    return getattr(types, kind)(**fields)


def _no_infos(length: int) -> np.ndarray:
    return np.array([{} for _ in range(length)] + [None], dtype=object)[:-1]


def from_imitation(data: Any, unknown_end: str = "terminated") -> Any:
    """Make a `Dataset` of trajectories or transitions of the `imitation` package, or of objects with the same fields.

    data: one `Trajectory` or a list of them, with rewards or without; or `Transitions`, with rewards or without. A
    `DictObs` becomes a dict. Transitions are joined to episodes where one goes on with the other: until one is done, or
    its next observation is not the following one's observation, bit for bit: a discontinuity, which the `report` of the
    result counts.

    `imitation` says of an episode only that it ended. It counts as truncated where the infos of the last step have
    `"TimeLimit.truncated": True`, else as `unknown_end` says: "terminated" or "truncated".

    `TransitionsMinimal` have no next observations, which nothing can replace: they come back as a dict of arrays
    `{"observation", "action"}`, `[N, ...]`, with "infos" a list; for a buffer of independent items. Raises TypeError
    for other objects, ValueError for an `unknown_end` that is none, and what `Trajectory` and `Dataset` raise.
    """
    if unknown_end not in ("terminated", "truncated"):
        raise ValueError(f"unknown_end: expected 'terminated' or 'truncated', got {unknown_end!r}")
    every = list(data) if isinstance(data, Sequence) and not hasattr(data, "obs") else [data]
    if not every:
        raise ValueError("from_imitation: expected at least one trajectory, got none")
    for i, each in enumerate(every):
        if not all(hasattr(each, name) for name in ("obs", "acts", "infos")):
            raise TypeError(f"from_imitation: {i}: expected a trajectory or transitions, got {type(each).__name__}")
    if not hasattr(every[0], "terminal"):
        if len(every) > 1:
            raise TypeError("from_imitation: expected one object of transitions, or a list of trajectories")
        return _from_transitions(every[0], unknown_end)
    return reported(make_store(_from_trajectory(i, each, unknown_end) for i, each in enumerate(every)))


def _from_trajectory(i: int, each: Any, unknown_end: str) -> Trajectory:
    if not hasattr(each, "terminal"):
        raise TypeError(f"from_imitation: {i}: expected a trajectory as the first is one, got {type(each).__name__}")
    fields = {"obs": _unwrap(each.obs), "acts": np.asarray(each.acts), "infos": each.infos, "terminal": each.terminal}
    rewards = getattr(each, "rews", None)
    return trajectory_of(fields if rewards is None else fields | {"rews": np.asarray(rewards)}, unknown_end)


def _from_transitions(data: Any, unknown_end: str) -> Any:
    observation, action, infos = _unwrap(data.obs), np.asarray(data.acts), list(data.infos)
    if not hasattr(data, "next_obs"):
        return {"observation": observation, "action": action, "infos": infos}
    if not len(action):
        raise ValueError("from_imitation: expected at least one transition, got none")
    dones, rewards = np.asarray(data.dones, bool), getattr(data, "rews", None)
    rewards = None if rewards is None else np.asarray(rewards)
    check_rows({"obs": observation, "acts": action, "dones": dones, "rews": rewards}, len(infos))
    truncated = dones & [is_truncated(info, unknown_end) for info in infos]
    steps, following = Chunk(observation, action, rewards), _unwrap(data.next_obs)
    return reported(*join(steps, following, dones & ~truncated, truncated, infos=infos, bits=True))


def _unwrap(observation: Any) -> Any:
    """An array, or a dict of arrays for a `DictObs`."""
    if hasattr(observation, "unwrap"):
        observation = observation.unwrap()
    if isinstance(observation, Mapping):
        return {name: np.asarray(inner) for name, inner in observation.items()}
    return np.asarray(observation)
