"""Steps added one by one: the trajectories are those that were stepped, of one environment or several."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay.datasets import Dataset, Trajectory, TrajectoryBuilder
from tests.datasets.episodes import all_same, same


def feed(builder: TrajectoryBuilder, env: Any, t: Trajectory, i: int) -> Trajectory | None:
    """Do step `i` of a trajectory; -1 starts it."""
    if i < 0:
        return builder.start(t.observations[0], env=env, episode_data=t.episode_data)
    last = i == len(t) - 1
    return builder.add_step(
        t.actions[i],
        t.observations[i + 1],
        t.rewards[i],
        terminated=t.terminated and last,
        truncated=t.truncated and last,
        extras={"k": t.extras["k"][i]},
        info=t.infos[i] if t.infos else None,
        env=env,
    )


@given(data=st.data())
@settings(settings.get_profile("short"), max_examples=25)
def test_episodes_of_several_environments_come_out_as_they_were_stepped(data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    streams: dict[Any, list[Trajectory]] = {}
    for env in (0, "b", (1, 2)):
        streams[env] = [
            Trajectory(
                rng.normal(size=(n + 1, 2)),
                rng.integers(0, 9, n),
                rng.normal(size=n),
                terminated=i % 2 == 0,
                truncated=i % 2 == 1,
                extras={"k": rng.normal(size=n)},
                infos=[{"i": j} for j in range(n)] if i else None,
                episode_data=i,
            )
            for i, n in enumerate(data.draw(st.lists(st.integers(1, 4), max_size=3)))
        ]
    work = {env: [(t, i) for t in every for i in range(-1, len(t))] for env, every in streams.items()}
    builder, made = TrajectoryBuilder(), {env: [] for env in streams}
    while any(work.values()):
        env = data.draw(st.sampled_from([env for env, left in work.items() if left]))
        done = feed(builder, env, *work[env].pop(0))
        made[env] += [] if done is None else [done]
    assert not builder.open
    for env, wanted in streams.items():
        all_same(made[env], wanted)
    every = [t for each in made.values() for t in each]
    assert Dataset(every).num_episodes == len(every)  # of one structure


def test_an_environment_may_reuse_its_arrays_and_give_plain_numbers() -> None:
    builder, observation = TrajectoryBuilder(), np.zeros(2, np.float32)
    builder.start({"a": observation, "b": jnp.zeros(())})
    for i in range(3):
        observation += 1
        builder.add_step(i, {"a": observation, "b": jnp.ones(())}, 1)
    assert builder.open == (0,)
    whole = builder.finish()
    assert whole is not None
    assert whole.observations["a"][:, 0].tolist() == [0, 1, 2, 3]
    assert (whole.actions.dtype, whole.rewards.dtype) == (np.int32, np.float32)
    assert (whole.terminated, whole.truncated, whole.infos, builder.open) == (False, False, None, ())


def test_an_episode_without_a_step_is_none_and_infos_may_be_rare() -> None:
    builder = TrajectoryBuilder()
    builder.start(np.zeros(1))
    assert builder.finish() is None
    builder.start(np.zeros(1))
    builder.add_step(np.zeros(1), np.zeros(1))
    made = builder.add_step(np.zeros(1), np.zeros(1), truncated=np.True_, info={"why": "time"})
    assert made is not None
    same(made, Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), truncated=True, infos=[{}, {"why": "time"}]))


def test_what_does_not_belong_is_named_and_nothing_is_taken() -> None:
    builder = TrajectoryBuilder()
    for call in (lambda: builder.add_step(0, np.zeros(1), env="x"), lambda: builder.finish("x")):
        with pytest.raises(ValueError, match="no episode of env 'x' goes on"):
            call()
    builder.start({"a": np.zeros(2)})
    with pytest.raises(ValueError, match=r"start: the episode of env 0 goes on; take what it has with finish\(env=0\)"):
        builder.start({"a": np.zeros(2)})
    builder.add_step(np.zeros(1), {"a": np.zeros(2)}, 1.0)
    good: dict[str, Any] = {"action": np.zeros(1), "next_observation": {"a": np.zeros(2)}, "reward": 1.0}
    for changes, message in (
        ({"next_observation": {"a": np.zeros(3)}}, r"observation: a: expected float64\[2\], got float64\[3\], as in"),
        ({"next_observation": {}}, r"observation: a: expected float64\[2\], got nothing"),
        ({"action": 1}, r"step: action: expected float64\[1\], got int32\[\]"),
        ({"reward": None}, r"step: reward: expected float32\[\], got nothing"),
        ({"extras": {"k": 1}}, r"step: extras.k: expected nothing there, got int32\[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            builder.add_step(**(good | changes))
    with pytest.raises(TypeError, match="action: expected an array, got str"):
        builder.add_step(**(good | {"action": {"action": "up"}}))
    made = builder.finish()
    assert made is not None
    assert len(made) == 1
