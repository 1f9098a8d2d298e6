"""Trajectories made step by step on the host."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.comparing import compare_kinds
from jaxreplay.datasets.trajectory import Trajectory, check_flag, check_infos
from jaxreplay.types import PyTree


@dataclasses.dataclass
class _Open:
    """An episode that goes on: its observations, one more than its steps, and each step's other parts and info."""

    observations: list[PyTree]
    episode_data: PyTree
    steps: list[PyTree] = dataclasses.field(default_factory=list)
    infos: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class TrajectoryBuilder:
    """Collect steps one by one, and make a `Trajectory` of each episode, for environments of any kind.

    Several environments may run at once: `env` says whose step it is, by a number or any other hashable name. What is
    given is copied to the host, so an environment may reuse its arrays. Python numbers become int32 and float32, as in
    a buffer. `replay.record` has wrappers for Gymnasium's environments, which need no builder.

    >>> import numpy as np
    >>> builder = TrajectoryBuilder()
    >>> builder.start(np.zeros(2))
    >>> builder.add_step(1, np.ones(2), reward=0.5) is None
    True
    >>> len(builder.add_step(0, np.zeros(2), reward=1.0, terminated=True))
    2
    """

    def __init__(self) -> None:
        self._open: dict[Hashable, _Open] = {}
        self._like: dict[str, PyTree] = {}  # the first observation and step, which all others must be like

    @property
    def open(self) -> tuple[Hashable, ...]:
        """List the environments whose episode was started and has not ended."""
        return tuple(self._open)

    def start(self, observation: PyTree, *, env: Hashable = 0, episode_data: PyTree = None) -> None:
        """Start an episode with the observation of a reset. Raises ValueError if the environment's last one goes on."""
        if env in self._open:
            raise ValueError(f"start: the episode of env {env!r} goes on; take what it has with finish(env={env!r})")
        copied = self._copy("observation", observation)
        self._like.setdefault("observation", copied)
        self._open[env] = _Open([copied], episode_data)

    def add_step(
        self,
        action: PyTree,
        next_observation: PyTree,
        reward: Any = None,
        *,
        terminated: Any = False,
        truncated: Any = False,
        extras: PyTree = None,
        info: dict[str, Any] | None = None,
        env: Hashable = 0,
    ) -> Trajectory | None:
        """Add a step; if it ends the episode, return the trajectory, after which the environment is to be started anew.

        next_observation: what this step led to, at the end the true final observation, not that of the next reset.
        Raises ValueError if no episode was started, and naming a leaf that is not as in the first step.
        """
        if env not in self._open:
            raise ValueError(f"add_step: no episode of env {env!r} goes on; call start(observation, env={env!r}) first")
        flags = check_flag("terminated", terminated), check_flag("truncated", truncated)
        (info,) = check_infos([{} if info is None else info], 1)
        if type(reward) in (bool, int):
            reward = float(reward)
        observation = self._copy("observation", next_observation)
        step = self._copy("step", {"action": action, "reward": reward, "extras": extras})
        episode = self._open[env]
        if "step" not in self._like:
            _stack(_Open([episode.observations[-1], observation], None, [step], [info]))  # makes the checks
            self._like["step"] = step
        episode.observations.append(observation)
        episode.steps.append(step)
        episode.infos.append({name: x.copy() if isinstance(x, np.ndarray) else x for name, x in info.items()})
        return _stack(self._open.pop(env), *flags) if any(flags) else None

    def finish(self, env: Hashable = 0) -> Trajectory | None:
        """Take the episode that goes on as it is, unfinished: neither terminated nor truncated. None without a step.

        Raises ValueError if no episode was started.
        """
        if env not in self._open:
            raise ValueError(f"finish: no episode of env {env!r} goes on; there are those of {self.open}")
        if self._open[env].steps:
            return _stack(self._open.pop(env))
        del self._open[env]
        return None

    def _copy(self, what: str, tree: PyTree) -> PyTree:
        try:
            leaves = [np.array(leaf, trees.shape_dtype(path, leaf)[1]) for path, leaf in trees.paths(tree)]
        except OverflowError as error:
            raise ValueError(f"{what}: {error}; give it as an array of a wider dtype") from error
        copied = jax.tree.unflatten(jax.tree.structure(tree), leaves)
        if problem := compare_kinds(self._like.get(what, copied), copied):
            raise ValueError(f"{what}: {problem}, as in the first")
        return copied


def _stack(episode: _Open, terminated: bool = False, truncated: bool = False) -> Trajectory:
    observations, steps = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *rows) for rows in (episode.observations, episode.steps)
    )
    return Trajectory(
        observations=observations,
        actions=steps["action"],
        rewards=steps["reward"],
        terminated=terminated,
        truncated=truncated,
        extras=steps["extras"],
        infos=episode.infos if any(episode.infos) else None,
        episode_data=episode.episode_data,
    )
