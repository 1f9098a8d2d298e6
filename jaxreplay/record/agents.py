"""The agents of a PettingZoo environment as the envs of a vector environment."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate


class AgentsAsEnvs(VectorEnv):
    """Step the A agents of a parallel environment as A envs: a vector environment to record, and to `collect` from.

    env: a `pettingzoo.ParallelEnv`, or what has its interface. Env i is agent i of its `possible_agents`; their spaces
        must be equal, as `supersuit.pad_observations_v0` makes them.

    Observations, actions, rewards and flags are `[A, ...]`. An agent's episode goes from its first observation to its
    end. While it is absent it shows zeros, its action is ignored, and `RecordTransitions` writes void rows for it.
    `info["acted"]` `[A]` bool says which agents took the step. An agent that leaves without an end is truncated. The
    step after that in which the last agent ended resets all (`AutoresetMode.NEXT_STEP`), without a seed.
    Raises ValueError for agents that are not known beforehand or whose spaces differ, and, in a step, where an agent
    that acted got no observation. Example::

        env = record.AgentsAsEnvs(parallel_env)
        buffer = replay.create(replay.example_transition(env), 1000 * env.num_envs, env.num_envs)
        buffer = record.collect(env, policy, buffer, num_steps=10_000)  # policy: observations [A, ...], a key
    """

    def __init__(self, env: Any) -> None:
        agents = list(getattr(env, "possible_agents", ()))
        if not agents or not all(hasattr(env, name) for name in ("observation_space", "action_space", "step")):
            raise ValueError(f"env: expected a parallel environment of PettingZoo with possible_agents, got {env}")
        for name in ("observation_space", "action_space"):
            spaces = [getattr(env, name)(agent) for agent in agents]
            other = next((agent for agent, space in zip(agents, spaces) if space != spaces[0]), None)
            if other is not None:
                raise ValueError(
                    f"env: the {name} of {other!r} differs from that of {agents[0]!r}; make them equal in a wrapper, "
                    "as supersuit.pad_observations_v0 and pad_action_space_v0 do"
                )
            setattr(self, f"single_{name}", spaces[0])
            setattr(self, name, batch_space(spaces[0], len(agents)))
        self.env, self.possible_agents, self.num_envs = env, agents, len(agents)
        self.metadata = {**getattr(env, "metadata", {}), "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = getattr(env, "render_mode", None)
        self._present = np.zeros(len(agents), np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment, and so all agents."""
        if not np.all((options or {}).get("reset_mask", True)):
            raise ValueError("options: agents are reset together, so reset_mask must be True for all, or not given")
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._batch(observations), self._info(infos, np.zeros(self.num_envs, np.bool_))

    def step(self, actions: Any) -> Any:
        """Step the agents that are present; reset all if there is none."""
        acted = self._present
        rewards = np.zeros(self.num_envs)
        terminated, truncated = (np.zeros(self.num_envs, np.bool_) for _ in range(2))
        if not acted.any():
            observation, info = self.reset()
            return observation, rewards, terminated, truncated, info
        given = zip(self.possible_agents, iterate(self.action_space, actions), acted)
        answers = self.env.step({agent: action for agent, action, is_present in given if is_present})
        observations, *by_agent, infos = answers
        silent = [agent for agent, did in zip(self.possible_agents, acted) if did and agent not in observations]
        if silent:
            raise ValueError(f"agents {silent} acted, and the step gave no observation of them; give it in a wrapper")
        for values, out in zip(by_agent, (rewards, terminated, truncated)):
            out[:] = [values.get(agent, 0) if did else 0 for agent, did in zip(self.possible_agents, acted)]
        observation = self._batch(observations)
        truncated |= acted & ~self._present & ~terminated
        return observation, rewards, terminated, truncated, self._info(infos, acted)

    def render(self) -> Any:
        """Render the environment."""
        return self.env.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()

    def _batch(self, observations: dict[Any, Any]) -> Any:
        """Give observations `[A, ...]`, zeros of absent agents, and note who is present now."""
        unknown = [agent for agent in self.env.agents if agent not in self.possible_agents]
        if unknown:
            raise ValueError(f"agents {unknown} came, which are not of possible_agents {self.possible_agents}")
        self._present = np.array([agent in self.env.agents for agent in self.possible_agents], np.bool_)
        zeros = create_empty_array(self.single_observation_space, self.num_envs)
        blanks = zip(self.possible_agents, iterate(self.observation_space, zeros))
        shown = [observations.get(agent, blank) for agent, blank in blanks]
        return concatenate(self.single_observation_space, shown, zeros)

    def _info(self, infos: dict[Any, Any], acted: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, agent in enumerate(self.possible_agents):
            found = self._add_info(found, infos.get(agent, {}), i)
        return {**found, "acted": acted}
