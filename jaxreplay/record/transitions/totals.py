"""What is kept of each episode beside its steps: seed, options, return and length, on their way into the buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay.buffer import Buffer
from jaxreplay.record.transitions.columns import fit
from jaxreplay.types import PyTree

NAMES = ("seed", "options", "return", "length")
NO_SEED = -1
Start = Sequence[dict[str, Any]]
"""What is known of each env's episode when it begins."""


Mark = tuple[list[dict[str, Any]], np.ndarray, np.ndarray, int]


class Tally:
    """Counts the running episode of every env, and keeps those that ended until they are written.

    Its arrays and `running` are replaced and never written to, so that a mark stays what it was.
    """

    def __init__(self, fields: Mapping[str, PyTree], num_envs: int) -> None:
        self.fields = fields
        self.running: list[dict[str, Any]] = [self._unseeded() for _ in range(num_envs)]
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self.ended: list[tuple[int, dict[str, Any]]] = []

    def describe(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Start:
        """What to keep of episodes that these would begin. Raises ValueError for what does not fit."""
        starts = []
        for seed in seeds:
            start = self._unseeded()
            if "seed" in start and seed is not None:
                start["seed"] = self._fit("seed", self.fields["seed"], seed)
            if "options" in start and options:
                start["options"] = self._choose("options", self.fields["options"], start["options"], options)
            starts.append(start)
        return starts

    def begin(self, envs: np.ndarray, starts: Start | None = None) -> None:
        """Begin episodes; without `starts`, by an automatic reset."""
        running = list(self.running)
        for env in map(int, np.flatnonzero(envs)):
            running[env] = self._unseeded() if starts is None else starts[env]
        self.running = running
        self.returns, self.lengths = np.where(envs, 0, self.returns), np.where(envs, 0, self.lengths)

    def add(self, valid: np.ndarray, reward: np.ndarray) -> None:
        self.returns, self.lengths = self.returns + np.where(valid, reward, 0), self.lengths + valid

    def end(self, envs: np.ndarray) -> None:
        """Take note that the running episodes of these envs ended."""
        for env in map(int, np.flatnonzero(envs & (self.lengths > 0))):
            self.ended.append((env, self._count(env)))
        self.lengths = np.where(envs, 0, self.lengths)

    def mark(self) -> Mark:
        """Where it stands, to `go_back` to before the next `take`."""
        return self.running, self.returns, self.lengths, len(self.ended)

    def go_back(self, mark: Mark) -> None:
        """Forget what came after a mark."""
        self.running, self.returns, self.lengths, count = mark
        del self.ended[count:]

    def take(self) -> tuple[np.ndarray, np.ndarray, PyTree] | None:
        """Give `(env, behind, data)` of what ended since the last call and of what runs, for `Keeper.set_data`.

        The number of rows is a power of two, so that few programs are compiled; env is -1 in those that fill it up.
        """
        rows = self.ended + [(int(env), self._count(int(env))) for env in np.flatnonzero(self.lengths)]
        self.ended = []
        if not rows:
            return None
        newer: dict[int, int] = {}
        behind = []
        for env, _ in reversed(rows):
            behind.append(newer.get(env, 0))
            newer[env] = newer.get(env, 0) + 1
        spare = 2 ** (len(rows) - 1).bit_length() - len(rows)
        data = [row for _, row in rows] + [rows[0][1]] * spare
        return (
            np.array([env for env, _ in rows] + [-1] * spare, np.int32),
            np.array(behind[::-1] + [0] * spare, np.int32),
            jax.tree.map(lambda *x: np.stack(x), *data),
        )

    def _count(self, env: int) -> dict[str, Any]:
        out = dict(self.running[env])
        for name, value in (("return", self.returns[env]), ("length", self.lengths[env])):
            if name in self.fields:
                out[name] = self._fit(name, self.fields[name], value)
        return out

    def _unseeded(self) -> dict[str, Any]:
        out = {}
        if "seed" in self.fields:
            out["seed"] = self._fit("seed", self.fields["seed"], NO_SEED)
        if "options" in self.fields:
            out["options"] = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.fields["options"])
        return out

    def _fit(self, path: str, leaf: Any, value: Any) -> np.ndarray:
        return np.array(fit(f"episode_data.{path}", value, leaf.shape, leaf.dtype))

    def _choose(self, path: str, fields: PyTree, default: PyTree, given: Any) -> PyTree:
        """The options that the buffer has room for."""
        if not isinstance(fields, dict):
            return self._fit(path, fields, given)
        if not isinstance(given, Mapping):
            raise ValueError(f"episode_data.{path}: expected a dict of {sorted(fields)}, got {type(given).__name__}")
        return {
            name: self._choose(f"{path}.{name}", inner, default[name], given[name]) if name in given else default[name]
            for name, inner in fields.items()
        }


def make_tally(buffer: Buffer, num_envs: int) -> Tally | None:
    """A tally of what the buffer keeps of each episode; None if that is nothing that a recorder knows."""
    if buffer.episode_data is None:
        return None
    example = buffer.episode_data.layout.one_step()
    fields = {name: example[name] for name in NAMES if name in example} if isinstance(example, dict) else {}
    for name, kind, wanted in (
        ("seed", jnp.signedinteger, "a signed whole number"),
        ("return", jnp.floating, "a float"),
        ("length", jnp.integer, "a whole number"),
    ):
        leaf = fields.get(name)
        if leaf is not None and (getattr(leaf, "shape", None) != () or not jnp.issubdtype(leaf.dtype, kind)):
            raise ValueError(f"episode_data.{name}: expected {wanted}, a scalar, in the buffer's example, got {leaf}")
    return Tally(fields, num_envs) if fields else None
