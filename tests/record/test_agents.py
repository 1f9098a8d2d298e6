"""The agents of a parallel environment recorded as envs: each one's steps, and nothing while it is absent."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import record
from tests.extras import library
from tests.record.parallel import NAMES, Crowd

EXTRAS = {"total": jnp.int32(0)}


def buffer_for(env: Any, slots: int = 200, **options: Any) -> replay.Buffer:
    example = replay.example_transition(env, EXTRAS)
    return replay.create(example, 3 * slots, 3, max_episodes=3 * slots, **options)


def at_random(observation: Any, key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.randint(key, (3,), 0, 10))


def stored(buffer: replay.Buffer) -> list[list[Any]]:
    """The rows of each agent, oldest first, as the environment's own record has them."""
    rows, mask = replay.rows(buffer)
    data = jax.tree.map(np.asarray, replay.take(buffer, rows).data)
    found: list[list[Any]] = [[], [], []]
    for i in np.flatnonzero(mask):
        step = jax.tree.map(lambda x, i=i: x[i].tolist(), data)
        assert step.observation["step"] == step.observation["where"][2] == step.extras["total"] - 1
        seen, then = tuple(step.observation["where"]), tuple(step.next_observation["where"])
        row = (seen, step.action, step.reward, step.terminated, step.truncated, then)
        found[int(rows.env[i])].append(row)
    return found


@pytest.mark.parametrize("leaves", [False, True])
def test_what_each_agent_did_is_what_is_recorded(leaves: bool) -> None:
    crowd = Crowd(leaves)
    env = record.AgentsAsEnvs(crowd)
    buffer = record.collect(env, at_random, buffer_for(env), num_steps=150, progress=False)
    logs = [[tuple(step) for episode in crowd.log[name] for step in episode] for name in NAMES]
    assert stored(buffer) == logs
    assert crowd.episode > 5
    assert int(replay.stats(buffer).void) > 20
    found = replay.episodes(buffer)
    for i, name in enumerate(NAMES):
        lengths = [len(episode) for episode in crowd.log[name] if episode]
        assert np.asarray(found.length[:, i])[np.asarray(found.mask[:, i])].tolist() == lengths


def test_whole_episodes_of_agents_and_what_is_kept_of_each() -> None:
    crowd = Crowd()
    env = record.AgentsAsEnvs(crowd)
    episode_data = {"seed": jnp.int32(0), "length": jnp.int32(0)}
    buffer = buffer_for(env, episode_data=episode_data)
    buffer, report = record.collect_episodes(env, at_random, buffer, num_episodes=7, seed=5, progress=False)
    found, data = replay.episodes(buffer), replay.episode_data(buffer)
    assert report.whole == int(found.mask.sum()) == 7
    np.testing.assert_array_equal(data["length"][found.mask], found.length[found.mask])
    assert crowd.seeds[:2] == [5, None]
    assert set(np.asarray(data["seed"])[np.asarray(found.mask)].tolist()) == {5, -1}  # of all agents, then of none


def test_stacks_of_frames_begin_where_an_agent_comes() -> None:
    env, view, seen = record.AgentsAsEnvs(Crowd()), replay.views.frame_stack(3), []

    def policy(observation: Any, key: Any) -> Any:
        seen.append(observation["where"])
        return np.zeros(3, int)

    buffer = record.collect(env, policy, buffer_for(env), num_steps=60, progress=False, frames=view)
    rows, mask = replay.rows(buffer)
    read = np.asarray(replay.take(buffer, rows, view).data.observation["where"]).reshape(-1, 3, 3, 3)
    kept = np.asarray(mask).reshape(-1, 3)[-len(seen) :]
    assert kept.sum() >= 60
    np.testing.assert_array_equal(np.stack(seen)[kept], read[-len(seen) :][kept])


def test_an_environment_of_pettingzoos_own_interface() -> None:
    """The test environment passes PettingZoo's own test, and an agent as an env passes through Gymnasium's wrappers."""
    library("pettingzoo")
    from pettingzoo import ParallelEnv
    from pettingzoo.test import parallel_api_test

    class Own(Crowd, ParallelEnv):
        pass

    parallel_api_test(Own(), num_cycles=50)
    env = gymnasium.wrappers.vector.TransformReward(record.AgentsAsEnvs(Own()), lambda reward: -reward)
    buffer = record.collect(env, at_random, buffer_for(env), num_steps=30, progress=False)
    assert all(row[2] <= 0 for rows in stored(buffer) for row in rows)


def test_what_cannot_be_recorded_is_refused_by_name() -> None:
    class Uneven(Crowd):
        def action_space(self, agent: str) -> Any:
            return gymnasium.spaces.Discrete(10 if agent == "a" else 4)

    class Mute(Crowd):
        def step(self, actions: Any) -> Any:
            found, *others = super().step(actions)
            return {name: x for name, x in found.items() if name != "a"}, *others

    with pytest.raises(ValueError, match="the action_space of 'b' differs from that of 'a'; make them equal"):
        record.AgentsAsEnvs(Uneven())
    with pytest.raises(ValueError, match="expected a parallel environment of PettingZoo with possible_agents"):
        record.AgentsAsEnvs(object())
    env = record.AgentsAsEnvs(Crowd())
    with pytest.raises(ValueError, match="agents are reset together"):
        env.reset(options={"reset_mask": np.array([True, False, True])})

    class Strange(Crowd):
        def reset(self, **options: Any) -> Any:
            found = super().reset(**options)
            self.agents = [*self.agents, "z"]
            return found

    with pytest.raises(ValueError, match=r"agents \['z'\] came, which are not of possible_agents \['a', 'b', 'c'\]"):
        record.AgentsAsEnvs(Strange()).reset()
    env = record.AgentsAsEnvs(Mute())
    with pytest.raises(ValueError, match=r"agents \['a'\] acted, and the step gave no observation of them"):
        record.collect(env, at_random, buffer_for(env), num_steps=50, progress=False)
