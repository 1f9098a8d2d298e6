"""A block of steps on the host: preallocated arrays, a row a slice, on their way into the buffer."""

import collections
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay._core import trees
from jaxreplay.processes import envs_here
from jaxreplay.state import Buffer
from jaxreplay.types import PyTree

BLOCK_BYTES, LONGEST_BLOCK = 2**23, 256
FLAGS = (np.False_, np.True_)
WHOLE = frozenset((int, np.int32, np.int64))


class Staging:
    """Rows of `Transition` steps, of one env (`lead` `()`) or of E (`(E,)`), addressed by the time of their slice.

    Row 0 is the slice of time `first`; slices before `written` were handed on. A row that was handed on is never
    changed or used again, because JAX may read it later. The observation has one row more than the block: the row of a
    slice not yet staged is where the envs are now.
    """

    def __init__(self, buffer: Buffer, lead: tuple[int, ...], block: int | None, leave_out: Sequence[str]) -> None:
        layout = buffer.rings.layout
        self.layout, self.lead = layout, lead
        self.stored_lead = () if buffer.single else (envs_here(buffer),)
        if block is None:
            slice_bytes = max(1, sum(leaf.num_bytes for leaf in layout.leaves) * (lead[0] if lead else 1))
            block = 2 ** max(0, min(LONGEST_BLOCK, BLOCK_BYTES // slice_bytes).bit_length() - 1)
        self.block = trees.check_count("block", block)
        self.first = self.written = 0
        self.mask = np.ones((self.block, *lead), np.bool_)
        self.columns: list[Column] = []
        for leaf in layout.leaves:
            if trees.is_key_dtype(leaf.dtype):
                raise TypeError(f"{leaf.path}: PRNG keys cannot be recorded from an environment; store their key data")
            rows = self.block + trees.is_below(leaf.path, "observation")
            self.columns.append(Column(leaf.path, rows, (*lead, *leaf.shape), leaf.dtype))
        self.example = jax.tree.unflatten(layout.treedef, list(range(len(layout.leaves))))
        columns = jax.tree.unflatten(layout.treedef, self.columns)
        self.observation, self.action = jax.tree.leaves(columns.observation), jax.tree.leaves(columns.action)
        self.next_observation = jax.tree.leaves(columns.next_observation)
        self.reward, self.terminated, self.truncated = columns.reward, columns.terminated, columns.truncated
        self.extras = list(zip(info_paths(self.example.extras), jax.tree.leaves(columns.extras), strict=True))
        self.leave_out = frozenset(f"observation.{path}" for path in leave_out)

    def put_action(self, time: int, action: Any) -> None:
        row = time - self.first
        for column, leaf in zip(self.action, list_leaves("action", self.example.action, action)):
            column.put(row, leaf)

    def put_answer(self, time: int, observation: Any, reward: Any, terminated: Any, truncated: Any) -> Any:
        """Put what a step led to, and return where it ended an episode."""
        row, leaves = time - self.first, self._list_observation(observation)
        for now, following, leaf in zip(self.observation, self.next_observation, leaves):
            now.put(row + 1, leaf)
            following.put(row, leaf)
        self.reward.put(row, reward)
        self.terminated.put(row, terminated)
        self.truncated.put(row, truncated)
        if self.lead == ():
            return FLAGS[bool(terminated) or bool(truncated)]
        return self.terminated.array[row] | self.truncated.array[row]

    def put_infos(self, time: int, valid: np.ndarray, replaced: np.ndarray | None, info: Mapping[str, Any]) -> None:
        """Put the fields of the step's info where it is `valid`, and what is final of envs reset within the step."""
        row = time - self.first
        now = valid if replaced is None else valid & ~replaced
        for names, column in self.extras if now.any() else ():
            column.put(row, look_up(info, names, now))
        if replaced is None:
            return
        finals = [look_up(info, ("final_info", *names), replaced) for names, _ in self.extras]
        columns = [*(column for _, column in self.extras), *self.next_observation]
        for env in np.flatnonzero(replaced).tolist():
            # One observation of each env (an object array, None where nothing ended), or batched like observations.
            observation = jax.tree.map(operator.itemgetter(env), info.get("final_obs"))
            if observation is None:
                raise ValueError(f"env {env} ended and was reset in the same step, yet info has no 'final_obs' of it")
            leaves = [*(final[env] for final in finals), *self._list_observation(observation)]
            for column, leaf in zip(columns, leaves, strict=True):
                column.array[row, env] = fit(column.path, leaf, column.shape[1:], column.dtype)

    def put_start(self, time: int, observation: Any, envs: np.ndarray) -> None:
        """Put the first observation of the marked envs' episodes, `envs` in the shape of a flag."""
        row = time - self.first
        for column, leaf in zip(self.observation, self._list_observation(observation), strict=True):
            others = column.array[row, ~envs]
            column.put(row, leaf)
            column.array[row, ~envs] = others

    def newest(self, time: int) -> PyTree:
        """Give where the envs are now, as it is stored."""
        row = time - self.first
        leaves = [column.array[row].copy() for column in self.observation]
        return jax.tree.unflatten(jax.tree.structure(self.example.observation), leaves)

    def _list_observation(self, observation: Any) -> list[Any]:
        return list_leaves("observation", self.example.observation, observation, self.leave_out)

    def hand_on(self, time: int, write: Callable[[PyTree, np.ndarray], None]) -> None:
        """Write what is staged before a time, so that the buffer is exactly as if every slice had been appended."""
        while count := time - self.written:
            # A part of a block goes in lengths that are powers of two, so that few programs are compiled.
            length = count if count == self.block else 1 << (count.bit_length() - 1)
            rows = slice(self.written - self.first, self.written - self.first + length)
            leaves = [
                column.array[rows].reshape(length, *self.stored_lead, *leaf.shape)
                for column, leaf in zip(self.columns, self.layout.leaves, strict=True)
            ]
            mask = self.mask[rows].reshape(length, *self.stored_lead)
            write(jax.tree.unflatten(self.layout.treedef, leaves), mask)
            self.written += length

    def begin_block(self, time: int) -> None:
        """Go on in new arrays, where the envs are now; all is written."""
        now = [column.array[time - self.first] for column in self.observation]
        for column in self.columns:
            column.array = np.empty_like(column.array)
        for column, leaf in zip(self.observation, now, strict=True):
            column.array[0] = leaf
        self.mask = np.ones_like(self.mask)
        self.first = time


def info_paths(extras: PyTree, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the names that lead to each leaf (an int) of dicts of extras, and to it in `info`, in the order of JAX."""
    if isinstance(extras, dict):
        return [found for name in leaf_order(extras) for found in info_paths(extras[name], (*path, name))]
    if path and isinstance(extras, int):
        return [path]
    raise ValueError(
        f"{'.'.join(('extras', *path))}: expected a dict of info fields (which may be dicts again), got "
        f"{type(extras).__name__}; the buffer's extras are what is recorded of each step's info"
    )


def look_up(info: Any, names: tuple[str, ...], envs: np.ndarray) -> Any:
    """Find a field of the infos of one env, or of many, where `envs` `[E]` must have it; else ValueError.

    A vector environment says in `_name` which envs gave `name`; if it says nothing, all did.
    """
    for i, name in enumerate(names):
        known = isinstance(info, Mapping) and name in info
        given = np.asarray(info.get(f"_{name}", True) if known and envs.shape else known)
        if not np.all(given | ~envs):
            of = f" of envs {np.flatnonzero(envs & ~given).tolist()}" if envs.shape else ""
            has = sorted(k for k in info if not str(k).startswith("_")) if isinstance(info, Mapping) else "no fields"
            raise ValueError(
                f"extras.{'.'.join(names)}: the step's info{of} has no {'.'.join(names[: i + 1])!r}, but {has}; leave "
                "it out of the buffer's extras, or add it in a wrapper below the recorder"
            )
        info = info[name]
    return info


class Column:
    """Staged values `array` `[rows, *shape]` of one leaf, with its dtype, written one row at a time."""

    def __init__(self, path: str, rows: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.array = np.zeros((rows, *shape), dtype)
        self.is_float = jnp.issubdtype(dtype, jnp.floating)
        # Scalars that NumPy writes without a value changing unseen: of these types, and whole numbers between bounds.
        self.plain: tuple[type, ...] = ()
        self.least, self.most = 0, -1
        if shape == () and self.is_float:
            self.plain = (float, np.float64, np.float32)
        elif shape == ():
            self.plain = (bool, np.bool_) if self.dtype == np.bool_ else (self.dtype.type,)
            if jnp.issubdtype(dtype, jnp.integer):
                self.least, self.most = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)

    def put(self, row: int, value: Any) -> None:
        """Copy a value `[*shape]` into a row. Raises ValueError or TypeError where it does not fit."""
        kind = type(value)
        if kind is np.ndarray:
            same = value.dtype == self.dtype or (self.is_float and value.dtype.kind == "f")
            known = same and value.shape == self.shape
        else:
            known = kind in self.plain or (kind in WHOLE and self.least <= value <= self.most)
        self.array[row] = value if known else fit(self.path, value, self.shape, self.dtype)


def fit(path: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Give a value as an array of the shape and dtype: floats are rounded, anything else is held exactly, or raises."""
    came = np.asarray(value)
    if came.dtype.kind in "OUSMm":
        raise TypeError(f"{path}: expected an array of numbers, got dtype {came.dtype} ({type(value).__name__})")
    if came.shape != shape:
        expected = trees.describe(shape, dtype)
        raise ValueError(f"{path}: expected {expected}, got {trees.describe(came.shape, came.dtype)}")
    if came.dtype == dtype:
        return came
    if came.dtype.kind == "i" and np.dtype(dtype).kind == "i":  # the way of most actions, and cheaper
        out = came.astype(dtype)
        exact = out == came
    elif jnp.issubdtype(came.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating):
        return came.astype(dtype)
    else:
        with np.errstate(invalid="ignore"):
            out = came.astype(dtype)
            exact = (out.astype(came.dtype) == came) & ((out < 0) == (came < 0))
    if not exact.all():
        first = came[~exact].ravel()[0] if came.shape else came[()]
        raise ValueError(
            f"{path}: {first} ({came.dtype}) does not fit in {np.dtype(dtype)}, the dtype that the buffer was created "
            "with; create it with a dtype that holds it, or convert it in a wrapper below the recorder"
        )
    return out


def leaf_order(example: dict[Any, Any]) -> list[Any]:
    """List the names of a dict in the order in which JAX lists its leaves."""
    return list(example) if isinstance(example, collections.OrderedDict) else sorted(example)


def list_leaves(path: str, example: PyTree, value: Any, leave_out: Collection[str] = ()) -> list[Any]:
    """List the leaves of a value structured like `example`, whose leaves are ints, mostly without a call into JAX.

    Any mapping will do for a dict, and any tuple or list for either. leave_out: paths of what else the value may hold.
    """
    if isinstance(example, int):
        return [value]
    if isinstance(example, dict):
        names = leaf_order(example)
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: expected a dict of {names}, got {type(value).__name__}")
        if any(name not in value for name in names) or (
            len(value) > len(names) and any(x not in example and f"{path}.{x}" not in leave_out for x in value)
        ):
            raise ValueError(f"{path}: expected a dict of {names}, got {sorted(map(str, value))}")
        return [x for name in names for x in list_leaves(f"{path}.{name}", example[name], value[name], leave_out)]
    if type(example) in (tuple, list):
        if not isinstance(value, tuple | list) or len(value) != len(example):
            came = f"{len(value)}" if isinstance(value, tuple | list) else type(value).__name__
            raise ValueError(f"{path}: expected a tuple of {len(example)}, got {came}")
        parts = enumerate(zip(example, value, strict=True))
        return [x for i, (inner, part) in parts for x in list_leaves(f"{path}.{i}", inner, part, leave_out)]
    leaves, came = jax.tree.flatten(value)
    if came != jax.tree.structure(example):
        raise ValueError(f"{path}: expected the structure {jax.tree.structure(example)}, got {came}")
    return leaves
