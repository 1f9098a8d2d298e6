"""What is kept of each episode beside its steps: seed, options, return and length, on their way into the buffer."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxreplay.buffer import Buffer
from jaxreplay.record.transitions.staging import fit
from jaxreplay.types import PyTree

KINDS = {"seed": jnp.signedinteger, "return": jnp.floating, "length": jnp.integer}
NO_SEED = -1


class Totals(NamedTuple):
    """The running episode of every env, and those that ended since they were written; never changed, but replaced."""

    fields: dict[str, PyTree]  # of these there is data in the buffer, with their shapes and dtypes
    starts: tuple[dict[str, Any], ...]  # the seed and options of each env's running episode
    returns: np.ndarray
    lengths: np.ndarray
    ended: tuple[tuple[int, dict[str, Any]], ...] = ()  # (env, data)

    def add(self, valid: np.ndarray, reward: Any, ended: np.ndarray, some: bool) -> Self:
        """Count a step of the valid envs, which `ended` the episodes of `some`."""
        valid, reward = valid.reshape(-1), np.asarray(reward, np.float64).reshape(-1)
        counted = self._replace(returns=self.returns + np.where(valid, reward, 0), lengths=self.lengths + valid)
        return counted.restart(ended, ended, None) if some else counted

    def restart(self, ended: np.ndarray, begun: np.ndarray, starts: Sequence[dict[str, Any]] | None) -> Self:
        """End running episodes and begin others; without `starts`, by an automatic reset."""
        ended, begun = ended.reshape(-1) & (self.lengths > 0), begun.reshape(-1)
        starts = starts or describe_starts(self.fields, [None], None) * len(begun)
        return self._replace(
            starts=tuple(starts[i] if begins else self.starts[i] for i, begins in enumerate(begun.tolist())),
            returns=np.where(begun, 0, self.returns),
            lengths=np.where(begun, 0, self.lengths),
            ended=(*self.ended, *((env, self._data(env)) for env in np.flatnonzero(ended).tolist())),
        )

    def rows(self) -> tuple[np.ndarray, np.ndarray, PyTree] | None:
        """Give `(env, behind, data)` of what ended and of what runs, for `SET_DATA`; None if there is nothing.

        behind: how many later episodes of its env there are. The number of rows is a power of two, so that few programs
        are compiled; env is -1 in those that fill it up.
        """
        rows = [*self.ended, *((env, self._data(env)) for env in np.flatnonzero(self.lengths).tolist())]
        if not rows:
            return None
        envs, data = [env for env, _ in rows], [row for _, row in rows]
        later, behind = collections.Counter(envs), []
        for env in envs:
            later[env] -= 1
            behind.append(later[env])
        spare = 2 ** (len(rows) - 1).bit_length() - len(rows)
        stacked = jax.tree.map(lambda *x: np.stack(x), *data, *data[:1] * spare)
        return np.array(envs + [-1] * spare, np.int32), np.array(behind + [0] * spare, np.int32), stacked

    def _data(self, env: int) -> dict[str, Any]:
        counted = {"return": self.returns[env], "length": self.lengths[env]}
        return self.starts[env] | {x: _fit(x, self.fields[x], counted[x]) for x in counted.keys() & self.fields}


def begin_totals(buffer: Buffer, num_envs: int) -> Totals | None:
    """Begin to count what the buffer keeps of each episode; None if that is nothing that a recorder knows."""
    example = None if buffer.episode_data is None else buffer.episode_data.layout.one_step()
    fields = example if isinstance(example, dict) else {}
    fields = {name: fields[name] for name in (*KINDS, "options") if name in fields}
    for name in fields.keys() & KINDS:
        leaf, kind = fields[name], KINDS[name]
        if getattr(leaf, "shape", None) != () or not jnp.issubdtype(leaf.dtype, kind):
            raise ValueError(
                f"episode_data.{name}: expected a scalar of a {kind.__name__} dtype in the buffer's example, got {leaf}"
            )
    starts = describe_starts(fields, [None], None) * num_envs
    return Totals(fields, starts, np.zeros(num_envs), np.zeros(num_envs, np.int64)) if fields else None


def describe_starts(
    fields: dict[str, PyTree], seeds: Sequence[Any], options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], ...]:
    """Give what to keep of episodes that these would begin. Raises ValueError for what does not fit."""
    start = {}
    if "options" in fields:
        start["options"] = _keep("options", fields["options"], options) if options else _zeros(fields["options"])
    if "seed" not in fields:
        return (start,) * len(seeds)
    seeds = [NO_SEED if seed is None else seed for seed in seeds]
    return tuple(start | {"seed": _fit("seed", fields["seed"], seed)} for seed in seeds)


def _keep(path: str, fields: PyTree, given: Any) -> PyTree:
    """Give the options that the buffer has room for, and zeros for those that are not given."""
    if not isinstance(fields, dict):
        return _fit(path, fields, given)
    if not isinstance(given, Mapping):
        raise ValueError(f"episode_data.{path}: expected a dict of {sorted(fields)}, got {type(given).__name__}")
    return {
        name: _keep(f"{path}.{name}", inner, given[name]) if name in given else _zeros(inner)
        for name, inner in fields.items()
    }


def _zeros(fields: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), fields)


def _fit(path: str, leaf: Any, value: Any) -> np.ndarray:
    return np.array(fit(f"episode_data.{path}", value, leaf.shape, leaf.dtype))
