"""Steps in a row as episodes: where one goes on with the next, and the observation after the last step of each."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.datasets.comparing import compare_kinds
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import summarise
from jaxreplay.datasets.store import Chunk, Store, consecutive, objects, to_host
from jaxreplay.datasets.trajectory import check_array, check_infos
from jaxreplay.types import PyTree, Transition

PIECE = 16 * 2**20  # bytes of a column that are read at a time, where it is in a file


def join(
    steps: Chunk,
    following: PyTree,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    parted: np.ndarray | bool = False,
    infos: Sequence[dict[str, Any]] | None = None,
    missing_final: str = "drop",
    bits: bool = False,
) -> tuple[Store, Report]:
    """Join N steps in a row to episodes: until one ends, is parted from the next, or does not go on with it.

    steps: columns `[N, ...]`, of the observations too. following: what was observed after each step, arrays or data
        sets of a file; None where it is not known. terminated, truncated: `[N]` bool. parted: `[N - 1]` bool, which
        steps are of another episode than the next. infos: N dicts; an episode whose infos are all empty has none.
    missing_final: what to do without `following`. "drop": an episode's last row serves as its final observation alone;
        "repeat": its observation is the final one. bits: whether a step goes on with the next only if the observations
        are the same bit for bit; else -0.0 is 0.0, and a NaN is any other.

    The report counts what was dropped, and the discontinuities: where steps do not go on though nothing else says so.
    """
    breaks, cuts = (terminated | truncated)[:-1] | parted, 0
    if following is not None:
        same = _goes_on(steps.observations, following, bits)
        breaks, cuts = breaks | ~same, int((~breaks & ~same).sum())
    last = np.flatnonzero(np.append(breaks, True))
    length = np.diff(last, prepend=-1)
    if following is None and missing_final == "drop":
        table = consecutive(length, np.zeros(len(last), bool), np.zeros(len(last), bool))
        table = dataclasses.replace(table, observation=table.step, length=length - 1)
        store = Store((steps,), table).take(length > 1)
        report = Report(dropped_rows=len(last), dropped_episodes=int((length == 1).sum()))
    else:
        observations = jax.tree.map(
            lambda x, after: np.insert(x, last + 1, _take(after, last), axis=0),
            steps.observations,
            steps.observations if following is None else following,
        )
        each = None
        if infos is not None:
            split = [list(infos[end + 1 - n : end + 1]) for end, n in zip(last.tolist(), length.tolist())]
            each = [mine if any(mine) else None for mine in split]
        table = consecutive(length, terminated[last], truncated[last], each)
        store = Store((dataclasses.replace(steps, observations=observations),), table)
        report = Report(discontinuities=cuts)
    if store.num_episodes:
        store.trajectory(0)  # makes the checks of a trajectory
    return store, report


def with_data(store: Store, lengths: Sequence[int], data: Sequence[Any]) -> Store:
    """Give joined episodes their data, of which there is one for each run of `lengths` rows of the steps."""
    run = np.searchsorted(np.cumsum(lengths), store.table.step, side="right")
    return Store(store.chunks, dataclasses.replace(store.table, episode_data=objects([data[i] for i in run])))


def _goes_on(observation: PyTree, following: PyTree, bits: bool) -> np.ndarray:
    """Tell which next observations are the following step's observation, `[N - 1]` bool.

    Raises ValueError naming the leaf in which they differ in shape or dtype.
    """
    if problem := compare_kinds(observation, following):
        raise ValueError(f"next observations: {problem}")
    leaves = jax.tree.leaves(observation)
    same = np.ones(len(leaves[0]) - 1, np.bool_)
    for leaf, other in zip(leaves, jax.tree.leaves(following), strict=True):
        for begin, end in ranges(other):
            b = leaf[begin + 1 : end + 1]
            a = np.asarray(other[begin:end], leaf.dtype)[: len(b)]
            equal = _bytes(a) == _bytes(b) if bits else (a == b) | ((a != a) & (b != b))
            same[begin : begin + len(b)] &= equal.all(axis=tuple(range(1, equal.ndim)))
    return same


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x)[..., None].view(np.uint8)


def ranges(column: Any) -> Iterator[tuple[int, int]]:
    """Give the ranges of rows `[begin, end)` in which a large column is read."""
    row = column.dtype.itemsize * int(np.prod(column.shape[1:]))
    step = max(1, PIECE // max(row, 1))
    return ((begin, min(begin + step, len(column))) for begin in range(0, len(column), step))


def _take(column: Any, rows: np.ndarray) -> np.ndarray:
    """Read rows of a column in ascending order."""
    parts = []
    for begin, end in ranges(column):
        inside = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]
        parts += [column[begin:end][inside - begin]] if len(inside) else []
    return np.concatenate(parts)


def check_rows(tree: PyTree, count: int, what: str = "") -> None:
    """Raise ValueError naming the first column that has not N rows."""
    for path, leaf in trees.paths(tree):
        if leaf.shape[:1] != (count,):
            came = trees.describe(leaf.shape, leaf.dtype)
            raise ValueError(f"{what}{path}: expected N = {count} rows as of the observations, got {came}")


def validate(steps: Transition) -> None:
    """Check that a batch of transitions `[N, ...]` is well formed: the shapes and dtypes alone, so also inside jit.

    Raises TypeError or ValueError naming the first leaf that has not N rows, next observations that are not like the
    observations, flags that are not `[N]` bool, and rewards that are neither `[N]` floating nor None.

    >>> import numpy as np
    >>> from jaxreplay.datasets import Trajectory, flatten
    >>> steps = flatten([Trajectory(np.arange(4.0), actions=np.arange(3))])
    >>> validate(steps)
    >>> validate(steps.replace(action=np.arange(2)))
    Traceback (most recent call last):
    ValueError: validate: action: expected N = 3 rows as of the observations, got int64[2]
    """
    check_transitions("validate", steps)


def check_transitions(what: str, steps: Any) -> int:
    """Return N, or raise TypeError or ValueError; see `validate`."""
    if not isinstance(steps, Transition):
        raise TypeError(f"{what}: expected a Transition, got {type(steps).__name__}")
    for part in ("observation", "action", "next_observation"):
        if not jax.tree.leaves(getattr(steps, part)):
            raise ValueError(f"{what}: {part}: expected arrays [N, ...], got none")
    for path, leaf in trees.paths(steps):
        check_array(f"{what}: {path}", leaf)
    first = np.shape(jax.tree.leaves(steps.observation)[0])
    if not first or not first[0]:
        raise ValueError(f"{what}: observation: expected at least one step [N, ...], got shape {first}")
    check_rows(steps, first[0], f"{what}: ")
    for part in ("terminated", "truncated"):
        flags = getattr(steps, part)
        if np.shape(flags) != first[:1] or flags.dtype != np.bool_:
            came = trees.describe(flags.shape, flags.dtype) if hasattr(flags, "dtype") else type(flags).__name__
            raise TypeError(f"{what}: {part}: expected bool[{first[0]}], got {came}")
    reward = steps.reward
    if reward is not None and np.shape(reward) != first[:1]:
        raise ValueError(f"{what}: reward: expected one array [N] = [{first[0]}], or None")
    if reward is not None and not jnp.issubdtype(reward.dtype, np.floating):
        raise TypeError(f"{what}: rewards: expected a floating dtype, got {reward.dtype}; convert them with astype")
    if problem := compare_kinds(steps.observation, steps.next_observation):
        raise ValueError(f"{what}: next observations: {problem}")
    return first[0]


def join_transitions(transitions: Any, episode: Any, infos: Any) -> tuple[Store, Report]:
    """Join steps `[N, ...]` to episodes; see `Dataset.from_transitions`."""
    steps = jax.tree.map(to_host, transitions) if isinstance(transitions, Transition) else transitions
    count = check_transitions("from_transitions", steps)
    parted: Any = False
    if episode is not None:
        number = np.asarray(episode)
        if number.shape != (count,) or number.dtype.kind not in "iu":
            came = trees.describe(number.shape, number.dtype)
            raise ValueError(f"from_transitions: episode: expected the number of each step's, int[{count}], got {came}")
        parted = number[1:] != number[:-1]
    infos = None if infos is None else check_infos(infos, count)
    columns = Chunk(
        steps.observation, steps.action, steps.reward, steps.extras if jax.tree.leaves(steps.extras) else None
    )
    flags = steps.terminated, steps.truncated
    store, report = join(columns, steps.next_observation, *flags, parted=parted, infos=infos, bits=True)
    return store, summarise(store) + report
