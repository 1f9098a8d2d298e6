"""A trajectory: one episode, or the part of one that was recorded, as arrays over its steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay._display import trajectories as display
from jaxreplay.datasets.comparing import Comparison, compare
from jaxreplay.types import PyTree

PARTS = ("observations", "actions", "rewards", "extras")


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """T steps of one episode and the observations around them; NumPy arrays on the host, or JAX arrays.

    observations: any nesting of dicts, tuples and lists of arrays, leaves `[T + 1, ...]`: the last follows the last
        step. actions: likewise, leaves `[T, ...]`. rewards: `[T]` floating, or None where there are none.
    terminated, truncated: whether the last step ended the episode so. Both may be False: the recording stops there.
    extras: more of each step, leaves `[T, ...]`. infos: T dicts of anything. episode_data: anything, of the episode.

    It is checked when made, and the message names the leaf, what came and what was expected: TypeError for what is no
    array of numbers, ValueError for lengths and the rest. Extras without a leaf become None. It is no pytree, because
    infos may be anything; `map_arrays` maps its arrays. `len` is T. `equals` compares by value, `==` by identity.

    >>> import numpy as np
    >>> episode = Trajectory(np.zeros((4, 2)), actions=np.zeros(3, np.int32), rewards=np.ones(3), terminated=True)
    >>> len(episode)
    3
    """

    observations: PyTree
    actions: PyTree
    rewards: Any = None
    terminated: bool = False
    truncated: bool = False
    extras: PyTree = None
    infos: Sequence[dict[str, Any]] | None = None
    episode_data: PyTree = None

    def __post_init__(self) -> None:
        named = trees.paths({"actions": self.actions})
        if not named:
            raise ValueError("actions: expected at least one array [T, ...], got a structure without leaves")
        path, leaf = named[0]
        length, *_ = check_array(path, leaf) or (0,)
        if not length:
            came = trees.describe(leaf.shape, leaf.dtype)
            raise ValueError(f"{path}: expected [T, ...] with at least one step, got {came}")
        _check_leaves("observations", self.observations, length + 1, f"T + 1 = {length + 1}")
        _check_leaves("actions", self.actions, length, f"T = {length}")
        _check_leaves("extras", self.extras, length, f"T = {length}")
        if not jax.tree.leaves(self.observations):
            raise ValueError("observations: expected at least one array [T + 1, ...], got a structure without leaves")
        if not jax.tree.leaves(self.extras):
            object.__setattr__(self, "extras", None)
        if self.rewards is not None:
            shape, dtype = check_array("rewards", self.rewards), self.rewards.dtype
            if not jnp.issubdtype(dtype, np.floating):
                raise TypeError(f"rewards: expected a floating dtype, got {dtype}; convert them with astype")
            if shape != (length,):
                raise ValueError(f"rewards: expected [T] = [{length}], got {trees.describe(shape, dtype)}")
        for name in ("terminated", "truncated"):
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        if self.infos is not None:
            object.__setattr__(self, "infos", check_infos(self.infos, length))

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.actions)[0])

    def __repr__(self) -> str:
        return display.trajectory_repr(self)

    def _repr_html_(self) -> str:
        return display.show_trajectory(self)

    @property
    def ended(self) -> bool:
        """Tell whether the last step is the episode's last."""
        return self.terminated or self.truncated

    def equals(self, other: "Trajectory", *, rtol: float = 0.0, atol: float = 0.0) -> Comparison:
        """Compare all that two trajectories hold. The result is true if they are equal; it prints the first difference.

        Dtypes, shapes, containers and flags must be the same. Numbers, in infos and episode data too, may differ by
        `atol + rtol * |other|`; a NaN is equal to a NaN. Raises TypeError for what is no trajectory.

        >>> import numpy as np
        >>> one, other = (Trajectory(np.arange(3.0), actions=np.array([0, last])) for last in (1, 2))
        >>> print(one.equals(other))
        actions[1]: 1 and 2 (1 of 2 differ)
        >>> bool(one.equals(other, atol=1))
        True
        """
        if not isinstance(other, Trajectory):
            raise TypeError(f"equals: expected a Trajectory, got {type(other).__name__}")
        names = (field.name for field in dataclasses.fields(self))
        found = (compare(name, getattr(self, name), getattr(other, name), rtol, atol) for name in names)
        return Comparison(next(filter(None, found), None))

    def map_arrays(self, fn: Any) -> "Trajectory":
        """Apply `fn` to every array of observations, actions, rewards and extras; `map_arrays(jnp.asarray)`."""
        return dataclasses.replace(self, **{part: jax.tree.map(fn, getattr(self, part)) for part in PARTS})


def steps_of(trajectory: Trajectory, first: int, last: int) -> Trajectory:
    """Give the steps `[first, last)` of a trajectory, as views of its arrays; it ends as the whole does if `last` is T.

    Elsewhere it stops unfinished. Raises ValueError unless `0 <= first < last <= T`.
    """
    length = len(trajectory)
    if not 0 <= first < last <= length:
        raise ValueError(f"steps: expected 0 <= first < last <= T = {length}, got first={first}, last={last}")
    ends = {part: last + (part == "observations") for part in PARTS}
    return dataclasses.replace(
        trajectory,
        **{part: jax.tree.map(lambda x: x[first:end], getattr(trajectory, part)) for part, end in ends.items()},  # noqa: B023
        infos=None if trajectory.infos is None else trajectory.infos[first:last],
        terminated=trajectory.terminated and last == length,
        truncated=trajectory.truncated and last == length,
    )


def _check_leaves(name: str, tree: PyTree, expected: int, rule: str) -> None:
    for path, leaf in trees.paths({name: tree}):
        shape = check_array(path, leaf)
        if shape[:1] != (expected,):
            came = trees.describe(shape, leaf.dtype)
            raise ValueError(f"{path}: expected {rule} along the first axis (T steps, by actions), got {came}")


def check_array(path: str, leaf: Any) -> tuple[int, ...]:
    """Return the shape of an array of numbers, or raise TypeError."""
    if not isinstance(leaf, np.ndarray | jax.Array):
        raise TypeError(f"{path}: expected a NumPy or JAX array, got {type(leaf).__name__}; np.asarray it")
    dtype = leaf.dtype
    if not trees.is_key_dtype(dtype) and not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise TypeError(f"{path}: expected an array of numbers, got dtype {dtype}")
    if not trees.is_key_dtype(dtype) and not dtype.isnative:
        raise TypeError(f"{path}: expected the machine's byte order, got dtype {dtype}; convert it with astype")
    return tuple(leaf.shape)


def check_flag(name: str, flag: Any) -> bool:
    """Return one bool as Python's, or raise TypeError."""
    if not isinstance(flag, bool | np.bool_) and not (getattr(flag, "shape", None) == () and flag.dtype == bool):
        came = trees.describe(flag.shape, flag.dtype) if hasattr(flag, "shape") else type(flag).__name__
        raise TypeError(f"{name}: expected one bool, about the last step, got {came}")
    return bool(flag)


def check_infos(infos: Any, length: int) -> list[dict[str, Any]]:
    """Return the infos of so many steps as a list of dicts, or raise TypeError or ValueError."""
    if isinstance(infos, dict | str) or not isinstance(infos, Sequence | np.ndarray):
        raise TypeError(f"infos: expected a list of T = {length} dicts, got {type(infos).__name__}")
    if len(infos) != length:
        raise ValueError(f"infos: expected a list of T = {length} dicts, got {len(infos)}")
    for i, info in enumerate(infos):
        if not isinstance(info, dict):
            raise TypeError(f"infos.{i}: expected a dict, got {type(info).__name__}")
    return list(infos)
