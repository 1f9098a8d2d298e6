"""The types of `imitation`, both ways: its own classes where it is installed, else classes with the same fields."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import convert
from jaxreplay.datasets import Dataset, Trajectory
from tests import extras
from tests.convert.streams import assert_same, assert_same_episodes, buffer_with_holes

KINDS = ("Trajectory", "TrajectoryWithRew", "TransitionsMinimal", "Transitions", "TransitionsWithRew")


class DictObs:
    """A stand-in with what the converters use of the class of that name."""

    def __init__(self, d: dict[str, np.ndarray]):
        self._d = d

    def unwrap(self) -> dict[str, np.ndarray]:
        return dict(self._d)

    def __len__(self) -> int:
        return len(next(iter(self._d.values())))

    def __getitem__(self, key: Any) -> DictObs:
        return DictObs({name: x[key] for name, x in self._d.items()})


def join(parts: list[Any]) -> Any:
    if isinstance(parts[0], DictObs):
        return DictObs({name: np.concatenate([part._d[name] for part in parts]) for name in parts[0]._d})
    return np.concatenate(parts)


def stand_in() -> Any:
    """A module with dataclasses of the same names and fields."""
    fields: dict[str, tuple[str, ...]] = {
        "Trajectory": ("obs", "acts", "infos", "terminal"),
        "TrajectoryWithRew": ("obs", "acts", "infos", "terminal", "rews"),
        "TransitionsMinimal": ("obs", "acts", "infos"),
        "Transitions": ("obs", "acts", "infos", "next_obs", "dones"),
        "TransitionsWithRew": ("obs", "acts", "infos", "next_obs", "dones", "rews"),
    }
    module = types.ModuleType("imitation.data.types")
    for name, names in fields.items():
        setattr(module, name, dataclasses.make_dataclass(name, names, frozen=True))
    module.DictObs, module.concatenate_maybe_dictobs = DictObs, join  # type: ignore[attr-defined]
    return module


@pytest.fixture(params=["imitation", "stand-in"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "imitation":
        return extras.library("imitation.data.types")
    for name in ("imitation", "imitation.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = stand_in()
    monkeypatch.setitem(sys.modules, "imitation.data.types", module)
    return module


def episodes(as_dict: bool = False, rewards: bool = True, infos: bool = True) -> Dataset:
    rng = np.random.default_rng(0)

    def one(length: int, terminated: bool, truncated: bool) -> Trajectory:
        observations: Any = rng.random((length + 1, 3))
        if as_dict:
            observations = {"a": observations, "b": rng.integers(0, 256, (length + 1, 2, 2), dtype=np.uint8)}
        return Trajectory(
            observations,
            rng.integers(0, 5, length),
            rng.random(length).astype(np.float32) if rewards else None,
            terminated,
            truncated,
            infos=[{"step": i, "any": (1, "x")} for i in range(length)] if infos else None,
        )

    return Dataset([one(3, True, False), one(1, False, False), one(5, False, True), one(1, True, False)])


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("kind", ["Trajectory", "TrajectoryWithRew", "Transitions", "TransitionsWithRew"])
def test_a_round_trip_gives_the_same_episodes(library: Any, kind: str, as_dict: bool) -> None:
    dataset = episodes(as_dict, rewards=kind.endswith("Rew"))
    made = convert.to_imitation(dataset, kind)
    for each in made if isinstance(made, list) else [made]:
        assert type(each) is getattr(library, kind)
    came = convert.from_imitation(made)
    assert_same_episodes(came, dataset)
    for mine, theirs in zip(came, dataset):
        expected = [dict(info) for info in theirs.infos or ()]
        if theirs.truncated:
            expected[-1]["TimeLimit.truncated"] = True
        assert mine.infos == expected


def test_minimal_transitions_come_back_as_arrays(library: Any) -> None:
    dataset = episodes(as_dict=True, rewards=False)
    came = convert.from_imitation(convert.to_imitation(dataset, "TransitionsMinimal"))
    steps = dataset[:]
    assert_same(came["observation"], steps.observation)
    assert_same(came["action"], steps.action)
    assert [info["step"] for info in came["infos"]] == [0, 1, 2, 0, 0, 1, 2, 3, 4, 0]


def test_flat_transitions_are_those_of_imitations_own_function() -> None:
    rollout = extras.library("imitation.data.rollout")
    dataset = episodes(as_dict=False)
    theirs = rollout.flatten_trajectories_with_rew(convert.to_imitation(dataset))
    ours = convert.to_imitation(dataset, "TransitionsWithRew")
    for name in ("obs", "acts", "next_obs", "dones", "rews"):
        assert_same(getattr(ours, name), getattr(theirs, name))
    assert ours.infos.tolist() == theirs.infos.tolist()


def test_a_batch_is_that_of_imitations_own_collate_function() -> None:
    library = extras.library("imitation.data.types")
    transitions = convert.to_imitation(episodes(), "Transitions", drop=("rewards",))
    items = [transitions[i] for i in (4, 0)]
    theirs, ours = library.transitions_collate_fn(items), convert.collate(items)
    assert ours["infos"] == theirs["infos"]
    for name in ("obs", "acts", "next_obs", "dones"):
        assert_same(np.asarray(ours[name]), np.asarray(theirs[name]))


def test_a_buffers_episodes_are_given(library: Any) -> None:
    buffer = buffer_with_holes()
    dataset = Dataset.from_buffer(buffer)
    made = convert.to_imitation(buffer, drop=("extras",))
    assert len(made) == dataset.num_episodes
    for each, episode in zip(made, dataset):
        assert_same(each.obs.unwrap(), episode.observations)
        assert bool(each.terminal) is (episode.terminated or episode.truncated)


def make(library: Any, obs: Any, dones: Any, next_obs: Any = None, infos: Any = None) -> Any:
    """Transitions whose observations are these numbers."""
    obs = np.array(obs, np.float32)
    following = obs + 1 if next_obs is None else np.array(next_obs, np.float32)
    infos = np.array([{} for _ in obs] if infos is None else infos, dtype=object)
    return library.Transitions(
        obs=obs[:, None], acts=np.arange(len(obs)), infos=infos, next_obs=following[:, None], dones=np.array(dones)
    )


def test_transitions_are_joined_where_they_go_on(library: Any) -> None:
    came = convert.from_imitation(make(library, [0, 1, 2, 3, 7, 8, 0], [False, False, True, False, False, False, True]))
    assert [episode.observations[:, 0].tolist() for episode in came] == [[0, 1, 2, 3], [3, 4], [7, 8, 9], [0, 1]]
    assert [episode.terminated for episode in came] == [True, False, False, True]
    assert [episode.actions.tolist() for episode in came] == [[0, 1, 2], [3], [4, 5], [6]]


def test_the_report_counts_where_transitions_do_not_go_on(library: Any) -> None:
    dones = [False, False, True, False, False, False, True]
    came = convert.from_imitation(make(library, [0, 1, 2, 3, 7, 8, 0], dones))
    assert [len(episode) for episode in came] == [3, 1, 2, 1]
    assert came.report is not None
    assert (came.report.episodes, came.report.steps, came.report.discontinuities) == (4, 7, 2)
    assert (came.report.terminated, came.report.unfinished) == (2, 2)
    joined = convert.from_imitation(convert.to_imitation(episodes())).report
    assert (joined.episodes, joined.terminated, joined.truncated, joined.unfinished) == (4, 2, 1, 1)


def test_dones_may_be_whole_numbers_in_objects_with_the_same_fields() -> None:
    came = convert.from_imitation(make(stand_in(), [0, 1, 2, 3, 7, 8, 0], [0, 0, 1, 0, 0, 0, 1]))
    assert [len(episode) for episode in came] == [3, 1, 2, 1]
    assert [episode.terminated for episode in came] == [True, False, False, True]


def test_how_an_episode_ended_comes_from_its_infos_or_is_asked(library: Any) -> None:
    infos = [{}, {"TimeLimit.truncated": True}, {"TimeLimit.truncated": False}, {}]
    data = make(library, [0, 1, 2, 3], [True, True, True, False], infos=infos)
    flags = [(each.terminated, each.truncated) for each in convert.from_imitation(data)]
    assert flags == [(True, False), (False, True), (True, False), (False, False)]
    flags = [(each.terminated, each.truncated) for each in convert.from_imitation(data, unknown_end="truncated")]
    assert flags == [(False, True), (False, True), (False, True), (False, False)]


def test_episodes_without_infos_have_none(library: Any) -> None:
    came = convert.from_imitation(convert.to_imitation(episodes(infos=False)))
    assert [episode.infos is None for episode in came] == [True, True, False, True]  # the third was truncated
    assert came.episode(2).infos == [{}, {}, {}, {}, {"TimeLimit.truncated": True}]


def test_infos_that_are_all_empty_are_none(library: Any) -> None:
    """So they are read from a folder that `imitation` saved, too."""
    (trajectory,) = convert.to_imitation(episodes(infos=False).episodes[:1])
    filled = dataclasses.replace(trajectory, infos=np.array([{}, {}, {}]))
    assert convert.from_imitation(filled).episode(0).infos is None
    joined = convert.from_imitation(make(library, [0, 1, 2], [False, True, True], infos=[{}, {}, {"a": 1}]))
    assert [episode.infos for episode in joined] == [None, [{"a": 1}]]


def test_what_the_types_cannot_hold_is_named(library: Any) -> None:
    zeros, ones = np.zeros((3, 2)), np.ones(2, np.float32)
    nested = Trajectory({"a": {"b": zeros}}, ones, ones)
    cases: list[tuple[Trajectory, dict[str, Any], str]] = [
        (nested, {}, r"observations\.a: .* got dict, whose parts are: b"),
        (Trajectory((zeros,), ones, ones), {}, "observations: .* got tuple"),
        (Trajectory(zeros, {"x": ones}, ones), {}, "actions: .* got dict"),
        (Trajectory(zeros, ones), {}, "rewards: TrajectoryWithRew holds rewards"),
        (
            Trajectory(zeros, ones, ones, extras={"p": {"q": ones}}),
            {},
            r"no place for extras\.p\.q; .*drop=\('extras',",
        ),
        (Trajectory(zeros, ones, ones, episode_data={"seed": 1}), {}, r"no place for episode_data\.seed"),
        (Trajectory(zeros, ones, ones), {"kind": "Transitions"}, "no place for rewards"),
        (Trajectory(zeros, ones, ones), {"kind": "Steps"}, "kind: expected one of Trajectory, .* got 'Steps'"),
        (Trajectory(zeros, ones, ones), {"drop": ("seed",)}, "drop: expected some of"),
    ]
    for trajectory, options, message in cases:
        with pytest.raises(ValueError, match=message):
            convert.to_imitation(Dataset([trajectory]), **options)
    with pytest.raises(ValueError, match="the source is empty"):
        convert.to_imitation(Dataset())
    dropped = convert.to_imitation(Dataset([Trajectory(zeros, ones, ones, extras=ones)]), drop=("extras",))
    assert len(dropped) == 1


def test_what_is_none_of_the_types_is_refused(library: Any) -> None:
    trajectory = convert.to_imitation(episodes())[0]
    transitions = make(library, [0], [True])
    for data, error, message in (
        ([], ValueError, "at least one trajectory"),
        ({"obs": 1}, TypeError, "0: expected a trajectory or transitions, got dict"),
        ([transitions, transitions], TypeError, "one object of transitions, or a list"),
        ([trajectory, transitions], TypeError, "1: expected a trajectory as the first is one"),
    ):
        with pytest.raises(error, match=message):
            convert.from_imitation(data)
    with pytest.raises(ValueError, match="unknown_end: expected 'terminated' or 'truncated', got 'done'"):
        convert.from_imitation(trajectory, unknown_end="done")
    uneven = make(library, [0, 1], [False, True])
    object.__setattr__(uneven, "next_obs", uneven.next_obs[:1])
    with pytest.raises(ValueError, match=r"next observations: the item: expected float32\[2,1\], got float32\[1,1\]"):
        convert.from_imitation(uneven)


def test_empty_transitions_are_refused(library: Any) -> None:
    with pytest.raises(ValueError, match="from_imitation: expected at least one transition, got none"):
        convert.from_imitation(make(library, [], np.zeros(0, bool)))


def test_a_buffer_of_another_structure_is_refused_by_the_function_that_was_called(library: Any) -> None:
    buffer = replay.append(replay.create({"x": jnp.zeros(3)}, 4), {"x": jnp.zeros(3)})
    for name in ("to_imitation", "to_numpy"):
        with pytest.raises(TypeError, match=f"^{name}: expected a buffer of Transitions.* got one of dict steps"):
            getattr(convert, name)(buffer)
