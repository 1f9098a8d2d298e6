"""A plain-Python model of the buffer, the reference of the law tests, and streams of steps to feed to both.

The model keeps a list of slices and looks everything up by searching it. Nothing of the library is used here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

import jaxreplay as replay

LEAVES = {  # every dtype of the laws, packed and not; "obs." parts have a next value
    "obs.pixels": ((9, 30), np.uint8),  # more bytes a row than are packed
    "obs.vector": ((3,), ml_dtypes.bfloat16),
    "action": ((), np.int32),
    "reward": ((), np.float32),
    "done": ((), np.bool_),
    "extras.half": ((2,), np.float16),
    "extras.flags": ((5,), np.bool_),
    "extras.bytes": ((7,), np.int8),
    "extras.short": ((), np.uint16),
    "extras.eighth": ((3,), ml_dtypes.float8_e4m3fn),
    "extras.nibbles": ((3,), ml_dtypes.int4),
    "extras.complex": ((2,), np.complex64),
    "extras.wide": ((70,), np.float32),  # not packed, and nothing follows from it
    "extras.empty": ((0, 2), np.float32),
    "extras.key": ((), "key"),
}


def as_tree(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nest leaves by path, with the next values if they are there."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def random_leaf(rng: np.random.Generator, lead: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Random bits as a leaf; keys as their words."""
    if dtype == "key":
        return rng.integers(0, 2**32, (*lead, *shape, 2), dtype=np.uint32)
    if dtype == np.bool_:
        return rng.integers(0, 2, (*lead, *shape)).astype(bool)
    if dtype == ml_dtypes.int4:
        return rng.integers(-8, 8, (*lead, *shape)).astype(ml_dtypes.int4)
    size = np.dtype(dtype).itemsize
    bits = rng.integers(0, 256, (*lead, *shape, size), dtype=np.uint8)
    return np.ascontiguousarray(bits).view(dtype).reshape(*lead, *shape)


def random_steps(rng: np.random.Generator, lead: tuple[int, ...], end_rate: float) -> dict[str, np.ndarray]:
    """Random steps of all leaves, next values included, episodes ending at `end_rate`."""
    steps = {path: random_leaf(rng, lead, *kind) for path, kind in LEAVES.items()}
    steps |= {"next_" + path: random_leaf(rng, lead, *LEAVES[path]) for path in LEAVES if path.startswith("obs.")}
    steps["done"] = rng.random(lead) < end_rate
    return steps


def bits(x: Any) -> np.ndarray:
    """The bits of an array, to compare NaNs and signed zeros too."""
    x = np.asarray(x)
    if x.dtype == ml_dtypes.int4:
        return x.astype(np.int8)
    return np.ascontiguousarray(x).view(np.uint8) if x.size else x


@dataclasses.dataclass
class Episode:
    start: int
    length: int
    closed: bool
    final: dict[str, np.ndarray]


class Model:
    """What a buffer of `num_slots` slices of `num_envs` envs, with `num_records` episodes an env, must hold."""

    def __init__(self, num_slots: int, num_envs: int, num_records: int):
        self.num_slots, self.num_envs, self.num_records = num_slots, num_envs, num_records
        self.slices: list[list[dict[str, Any] | None]] = []  # [time][env]
        self.episodes: list[list[Episode]] = [[] for _ in range(num_envs)]
        self.oldest = 0

    def append(self, steps: dict[str, np.ndarray], mask: np.ndarray) -> None:
        """One slice, leaves `[E, ...]`."""
        new: list[dict[str, Any] | None] = []
        for env in range(self.num_envs):
            mine = self.episodes[env]
            if not mask[env]:
                if mine:
                    mine[-1].closed = True
                new.append(None)
                continue
            step = {path: value[env].copy() for path, value in steps.items()}
            if not mine or mine[-1].closed:
                mine.append(Episode(len(self.slices), 0, False, {}))
            mine[-1].length += 1
            mine[-1].final = {path[5:]: step.pop(path) for path in list(step) if path.startswith("next_")}
            mine[-1].closed = bool(step["done"])
            new.append({"step": step, "episode": len(mine) - 1, "removed": False})
        self.slices.append(new)
        self.oldest = max(self.oldest, len(self.slices) - self.num_slots)

    def holds(self, time: int, env: int) -> bool:
        return self.oldest <= time < len(self.slices) and 0 <= env < self.num_envs

    def valid(self, time: int, env: int) -> bool:
        if not self.holds(time, env):
            return False
        row = self.slices[time][env]
        if row is None or row["removed"]:
            return False
        return row["episode"] >= len(self.episodes[env]) - self.num_records

    def get(self, time: int, env: int) -> dict[str, np.ndarray] | None:
        """The step as it must be read, next values included, or None where it cannot be."""
        if not self.valid(time, env):
            return None
        row = self.slices[time][env]
        assert row is not None
        step = dict(row["step"])
        episode = self.episodes[env][row["episode"]]
        last = time == episode.start + episode.length - 1
        for path, final in episode.final.items():
            step["next_" + path] = final if last else self.slices[time + 1][env]["step"][path]  # type: ignore[index]
        return step

    def put(self, time: int, env: int, leaves: dict[str, np.ndarray]) -> None:
        if self.holds(time, env) and self.slices[time][env] is not None:
            self.slices[time][env]["step"].update(leaves)  # type: ignore[index]

    def end(self, mask: np.ndarray, leaves: dict[str, np.ndarray]) -> None:
        """End the open episodes of some envs after their newest step, and overwrite leaves `[E, ...]` there."""
        for env, mine in enumerate(self.episodes):
            if mask[env] and mine and not mine[-1].closed:
                self.put(len(self.slices) - 1, env, {path: x[env] for path, x in leaves.items()})
                mine[-1].closed = True

    def remove(self, time: int, env: int) -> None:
        if self.valid(time, env):
            self.slices[time][env]["removed"] = True  # type: ignore[index]

    def pop(self, n: int) -> list[dict[str, np.ndarray] | None]:
        """The steps of the n oldest slices, which are gone afterwards."""
        popped = [self.get(self.oldest + i, env) for i in range(n) for env in range(self.num_envs)]
        self.oldest = min(self.oldest + n, len(self.slices))
        return popped

    def clear(self) -> None:
        self.oldest = len(self.slices)
        for mine in self.episodes:
            if mine:
                mine[-1].closed = True

    @property
    def size(self) -> int:
        return sum(self.valid(t, e) for t in range(self.oldest, len(self.slices)) for e in range(self.num_envs))


NEXT_OF = {"next_obs": "obs"}


def make_buffer(num_slots: int, num_envs: int | None, num_records: int, **options: Any) -> replay.Buffer:
    """The buffer that the model describes."""
    import jax

    example = {}
    for path, (shape, dtype) in LEAVES.items():
        leaf = jax.random.key(0) if dtype == "key" else jax.ShapeDtypeStruct(shape, dtype)
        example[path] = leaf
        if path.startswith("obs."):
            example["next_" + path] = leaf
    envs = num_envs or 1
    return replay.create(
        as_tree(example),
        num_slots * envs,
        num_envs,
        max_episodes=num_records * envs,
        next_of=NEXT_OF,
        episode_end="done",
        **options,
    )


def to_steps(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    """Leaves as the step pytree that the buffer takes."""
    import jax

    return as_tree({p: jax.random.wrap_key_data(x) if p == "extras.key" else x for p, x in leaves.items()})


def from_steps(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Undo `to_steps`."""
    import jax

    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in flat}
    return {p: np.asarray(jax.random.key_data(x) if p == "extras.key" else x) for p, x in named.items()}
