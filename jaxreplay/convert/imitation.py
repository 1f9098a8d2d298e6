"""The five types of the `imitation` package: trajectories with and without rewards, and three kinds of transitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreplay._core import trees
from jaxreplay.convert.sources import read_dataset, refuse_unheld, reported
from jaxreplay.datasets import Trajectory
from jaxreplay.datasets.files.imitation import TIME_LIMIT, is_truncated, trajectory_of
from jaxreplay.datasets.files.opening import need
from jaxreplay.datasets.joining import check_rows, join
from jaxreplay.datasets.store import Chunk, make_store, objects

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
    dataset = read_dataset("to_imitation", source)
    episodes, rewarded = list(dataset), kind.endswith("WithRew")
    unheld = ("extras", "episode_data") if rewarded else ("rewards", "extras", "episode_data")
    refuse_unheld("to_imitation", f"imitation's {kind}", dataset._store, unheld, drop)
    if rewarded and episodes[0].rewards is None:
        raise ValueError(
            f"to_imitation: rewards: {kind} holds rewards, and the episodes have none; choose another kind"
        )
    made, flat = [], []
    for episode in episodes:
        infos = None if episode.infos is None else [dict(info) for info in episode.infos]
        if episode.truncated and not episode.terminated:
            infos = infos or [{} for _ in range(len(episode))]
            infos[-1][TIME_LIMIT] = True
        flat += infos or [{} for _ in range(len(episode))]
        made.append(
            {
                "obs": _wrap(types, episode.observations),
                "acts": _need_array("actions", episode.actions),
                "infos": None if infos is None else objects(infos),
                "terminal": episode.ended,
            }
            | ({"rews": episode.rewards} if rewarded else {})
        )
    if kind.startswith("Trajectory"):
        return [getattr(types, kind)(**fields) for fields in made]
    steps = dataset[:]
    fields = {"obs": _wrap(types, steps.observation), "acts": steps.action, "infos": objects(flat)}
    if kind != "TransitionsMinimal":
        fields |= {"next_obs": _wrap(types, steps.next_observation), "dones": steps.terminated | steps.truncated}
    return getattr(types, kind)(**fields, **({"rews": steps.reward} if rewarded else {}))


def _wrap(types: Any, observations: Any) -> Any:
    """Give an array as it is, and a dict of arrays as a `DictObs`."""
    if not isinstance(observations, Mapping):
        return _need_array("observations", observations)
    return types.DictObs({name: _need_array(f"observations.{name}", x) for name, x in observations.items()})


def _need_array(path: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    raise ValueError(
        f"to_imitation: {path}: imitation holds arrays, and one dict of arrays as an observation; got "
        f"{type(value).__name__}, whose parts are: {', '.join(name for name, _ in trees.paths(value)) or 'none'}"
    )


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
    trees.check_choice("unknown_end", unknown_end, ("terminated", "truncated"))
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
    """Return an array, or a dict of arrays for a `DictObs`."""
    if hasattr(observation, "unwrap"):
        observation = observation.unwrap()
    if isinstance(observation, Mapping):
        return {name: np.asarray(inner) for name, inner in observation.items()}
    return np.asarray(observation)
