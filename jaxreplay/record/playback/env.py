"""An environment that plays a recorded trajectory back, and accepts only its actions."""

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from jaxreplay._core.trees import describe
from jaxreplay.datasets.trajectory import Trajectory
from jaxreplay.types import PyTree

spaces = gymnasium.spaces
ARRAYS = (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
NARROW = {np.dtype(f"{kind}64"): np.dtype(f"{kind}32") for kind in ("int", "uint", "float")}
"""What `example_transition` makes of a space's dtype, and a buffer therefore holds."""


class WrongAction(ValueError):
    """An action that is not the recorded one came to a playback."""


class PlaybackOver(ValueError):
    """A playback was stepped behind its last step."""


Form = tuple[Any, Any, Any]
"""The form of an environment's steps: its two spaces, and its spec or None, which some wrappers ask for."""


class Playback(gymnasium.Env):
    """Play a trajectory of T steps back, as the environment that it was recorded in would.

    env_or_spaces: that environment, of which only the spaces and the spec are used; or `(observation_space,
        action_space)`. Dict and Tuple spaces may nest Box, Discrete, MultiDiscrete and MultiBinary. By default they are
        boxes of the arrays' shapes and dtypes, with the dtypes' bounds: enough for wrappers that ask for no more.

    Observations of a 64-bit space may come as 32 bits, as they were recorded: they are given in the space's dtype,
    whole numbers exactly, floats as they were rounded.

    `reset` gives observation 0 and an empty info; its seed only seeds `np_random`. `step` takes the action recorded at
    that step and gives the next observation, the reward (0.0 where the trajectory has none), the recorded end, and the
    recorded info. A trajectory that did not end is truncated at its last step, with `info["playback_cut"]` True; with
    `truncate_cut=False` it stays unfinished. There is nothing to render.

    Raises ValueError or TypeError naming the leaf where the trajectory does not fit the spaces; `step` raises
    ValueError for another action than the recorded one (values are compared, whatever their dtype), and behind the last
    step. An action recorded as float32 in a float64 space is compared as float32.

    >>> import gymnasium, numpy as np
    >>> from jaxreplay.datasets import Trajectory
    >>> spaces = (gymnasium.spaces.Box(-1, 1, (1,), np.float32), gymnasium.spaces.Discrete(2))
    >>> episode = Trajectory(np.float32([[0.0], [0.5], [1.0]]), np.array([0, 1]), np.array([0.0, 1.0]), terminated=True)
    >>> env = gymnasium.wrappers.FrameStackObservation(Playback(episode, spaces), 2)
    >>> env.reset()[0].ravel().tolist(), env.step(0)[0].ravel().tolist()
    ([0.0, 0.0], [0.0, 0.5])
    >>> env.step(0)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ...
    WrongAction: step 1 was recorded with action 1, got 0; a playback takes its own actions
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as Gymnasium declares it)

    def __init__(self, trajectory: Trajectory, env_or_spaces: Any = None, *, truncate_cut: bool = True):
        if env_or_spaces is None:
            env_or_spaces = tuple(infer_space(path, getattr(trajectory, path)) for path in ("observations", "actions"))
        self.observation_space, self.action_space, self.spec = read_form(env_or_spaces)
        self.trajectory = trajectory.map_arrays(np.asarray)
        check_fit("observations", self.observation_space, self.trajectory.observations, same_dtype=True)
        check_fit("actions", self.action_space, self.trajectory.actions, same_dtype=False)
        self.truncate_cut = truncate_cut
        self.position = -1

    @property
    def is_over(self) -> bool:
        """Whether the last step was played."""
        return self.position == len(self.trajectory)

    @property
    def next_action(self) -> Any:
        """The action that the next step takes."""
        self._check_position()
        return read_step(self.action_space, self.trajectory.actions, self.position)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Go back to the first observation."""
        super().reset(seed=seed)
        self.position = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        """Go on by one step, if this is its action."""
        self._check_position()
        played, step, space = self.trajectory, self.position, self.action_space
        try:
            given = list_leaves("action", space, action)
        except ValueError as error:
            raise WrongAction(f"step {step}: {error}") from error
        for (path, inner, came), (_, _, recorded) in zip(given, list_leaves("", space, played.actions)):
            wanted, came = recorded[step], np.asarray(came)
            if came.dtype == inner.dtype == np.float64 and wanted.dtype == np.float32:
                came = came.astype(wanted.dtype)
            if came.dtype.kind not in "biufc" or not np.array_equal(came, wanted, equal_nan=True):
                raise WrongAction(
                    f"step {step} was recorded with {path} {wanted}, got {came}; a playback takes its own actions"
                )
        self.position += 1
        info = {} if played.infos is None else copy.deepcopy(played.infos[step])
        terminated, truncated = (played.terminated, played.truncated) if self.is_over else (False, False)
        if self.is_over and self.truncate_cut and not played.ended:
            truncated, info["playback_cut"] = True, True
        reward = 0.0 if played.rewards is None else played.rewards[step]
        return self._observation(), reward, terminated, truncated, info

    def _observation(self) -> Any:
        return read_step(self.observation_space, self.trajectory.observations, self.position, as_space=True)

    def _check_position(self) -> None:
        if self.position < 0:
            raise gymnasium.error.ResetNeeded("Playback: call reset before the first step")
        if self.is_over:
            raise PlaybackOver(f"Playback: all {len(self.trajectory)} steps of the trajectory were played; call reset")


def read_form(env_or_spaces: Any) -> Form:
    """Take the spaces of an environment (of one of them, for a vector environment), or those given as a pair."""
    env: Any = env_or_spaces
    if isinstance(env, gymnasium.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space, env.spec
    if isinstance(env, gymnasium.Env):
        return env.observation_space, env.action_space, env.spec
    if isinstance(env, tuple) and len(env) in (2, 3) and all(isinstance(x, gymnasium.Space) for x in env[:2]):
        return env[0], env[1], None if len(env) == 2 else env[2]
    came = type(env).__name__
    raise TypeError(f"env_or_spaces: expected a gymnasium.Env or (observation_space, action_space), got {came}")


def list_leaves(path: str, space: Any, value: Any) -> list[tuple[str, Any, Any]]:
    """List `(path, space, value)` of the leaves of a value nested as a space is. Raises ValueError where it is not."""
    came = type(value).__name__
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            came = f"a dict of {', '.join(sorted(map(str, value)))}" if isinstance(value, Mapping) else came
            raise ValueError(f"{path}: expected a dict of {', '.join(space.spaces)}, got {came}")
        parts = [(name, inner, value[name]) for name, inner in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, list | tuple) or len(value) != len(space.spaces):
            came = f"{came} of {len(value)}" if isinstance(value, list | tuple) else came
            raise ValueError(f"{path}: expected a tuple of {len(space.spaces)}, got {came}")
        parts = [(i, inner, value[i]) for i, inner in enumerate(space.spaces)]
    else:
        return [(path, space, value)]
    return [leaf for name, inner, part in parts for leaf in list_leaves(f"{path}.{name}", inner, part)]


def check_fit(path: str, space: Any, tree: PyTree, same_dtype: bool) -> None:
    """Raise unless a tree of `[T, ...]` holds elements of the space; `same_dtype`: of its dtype, or `NARROW` of it."""
    for name, inner, leaf in list_leaves(path, space, tree):
        if not isinstance(inner, (*ARRAYS, spaces.Discrete)):
            raise TypeError(f"{name}: {type(inner).__name__} has elements of no fixed shape: no trajectory holds them")
        if not hasattr(leaf, "dtype"):
            raise ValueError(f"{name}: expected an array [T, ...] for {inner}, got {type(leaf).__name__}")
        shape, dtype = tuple(inner.shape or ()), np.dtype(inner.dtype)
        if leaf.shape[1:] != shape:
            expected, came = describe((len(leaf), *shape), dtype), describe(leaf.shape, leaf.dtype)
            raise ValueError(f"{name}: expected {expected} by its space, got {came}")
        if same_dtype and leaf.dtype not in (dtype, NARROW.get(dtype, dtype)):
            raise TypeError(f"{name}: expected {dtype} by its space, got {leaf.dtype}; convert it with astype")


def read_step(space: Any, tree: PyTree, step: int, as_space: bool = False) -> Any:
    """Copy one element of the space out of a tree of `[T, ...]`, with its own dtype or that of the space."""
    if isinstance(space, spaces.Dict):
        return {name: read_step(inner, tree[name], step, as_space) for name, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(read_step(inner, tree[i], step, as_space) for i, inner in enumerate(space.spaces))
    value = np.array(tree[step], space.dtype if as_space else None)
    return value if isinstance(space, ARRAYS) else value[()]


def infer_space(path: str, tree: PyTree) -> Any:
    """Make a Gymnasium space of the shape and dtype of one step of `[T, ...]`: dicts, tuples and lists of boxes.

    What an environment allows cannot be told from what happened in it: whole numbers do not become Discrete.

    >>> import numpy as np
    >>> infer_space("observations", {"camera": np.zeros((3, 2, 2), np.uint8), "speed": np.zeros(3)})
    Dict('camera': Box(0, 255, (2, 2), uint8), 'speed': Box(-inf, inf, (), float64))
    """
    if isinstance(tree, dict):
        return spaces.Dict({name: infer_space(f"{path}.{name}", inner) for name, inner in tree.items()})
    if isinstance(tree, tuple | list):
        return spaces.Tuple([infer_space(f"{path}.{i}", inner) for i, inner in enumerate(tree)])
    dtype = getattr(tree, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or dtype.itemsize > 8:
        came = type(tree).__name__ if dtype is None else dtype
        raise TypeError(f"{path}: no Gymnasium space can be told from {came}; give the spaces, or convert it")
    bounds, shape = {"f": (-np.inf, np.inf), "b": (0, 1)}.get(dtype.kind), tree.shape[1:]
    low, high = bounds or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype.type)
