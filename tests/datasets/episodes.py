"""What the tests of data sets share: episodes of any structure, and when two are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from jaxreplay.datasets import Trajectory

WIDE = (np.dtype("int64"), np.dtype("float64"), np.dtype("uint64"), np.dtype("complex128"))
NARROW = tuple(
    np.dtype(x)
    for x in (
        "float16",
        "float32",
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        "uint8",
        "int32",
        "bool",
        "complex64",
    )
)


def same(a: Trajectory, b: Trajectory) -> None:
    """Raise unless two trajectories hold the same bits in the same structure, and the same flags and infos."""
    for part in ("observations", "actions", "rewards", "extras"):
        same_tree(getattr(a, part), getattr(b, part), part)
    assert (a.terminated, a.truncated) == (b.terminated, b.truncated)
    assert (a.infos is None) == (b.infos is None)
    same_tree(a.infos, b.infos, "infos")
    same_tree(a.episode_data, b.episode_data, "episode_data")


def same_tree(a: Any, b: Any, what: str) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b), what
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y), (what, x, y)
        if isinstance(x, str):
            assert x == y
        else:
            x, y = np.asarray(x), np.asarray(y)
            assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), (what, x, y)


def all_same(a: Iterable[Trajectory], b: Iterable[Trajectory]) -> None:
    for x, y in zip(a, b, strict=True):
        same(x, y)


def bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of random bits, NaNs with payloads included."""
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape).copy()


@st.composite
def structures(draw: Any, dtypes: tuple[np.dtype, ...]) -> Any:
    """A nesting of dicts, tuples and lists with `(dtype, shape)` as leaves, in lists of one element."""
    leaf = st.tuples(st.sampled_from(dtypes), st.lists(st.integers(0, 3), max_size=2).map(tuple)).map(Leaf)
    names = st.text("abc./ é", min_size=1, max_size=4)
    return draw(
        st.recursive(
            leaf,
            lambda inner: st.one_of(
                st.dictionaries(names, inner, min_size=1, max_size=3),
                st.lists(inner, min_size=1, max_size=2),
                st.lists(inner, min_size=1, max_size=2).map(tuple),
            ),
            max_leaves=3,
        )
    )


class Leaf:
    """A leaf's dtype and shape a step."""

    def __init__(self, kind: tuple[np.dtype, tuple[int, ...]]) -> None:
        self.dtype, self.shape = kind


@st.composite
def trajectories(draw: Any, wide: bool = True, infos: bool = True, most: int = 5, longest: int = 6) -> Any:
    """A list of trajectories of one random structure, of random bits."""
    dtypes = NARROW + WIDE if wide else NARROW
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    observation, action = draw(structures(dtypes)), draw(structures(dtypes))
    extras = draw(st.none() | structures(dtypes))
    reward = draw(st.none() | st.sampled_from([np.dtype(x) for x in ("float32", "float16", ml_dtypes.bfloat16)]))
    made = []
    for length in draw(st.lists(st.integers(1, longest), min_size=1, max_size=most)):
        fill = lambda tree, n: jax.tree.map(lambda leaf: bits(rng, (n, *leaf.shape), leaf.dtype), tree)  # noqa: E731
        info = {"x": 0.5, "text": "é", "nan": float("nan"), "inner": {"a": (1, None, True)}, "b": np.float32(2)}
        data = {"seed": np.int32(draw(st.integers(0, 9))), "name": "one", "goal": bits(rng, (2,), dtypes[0])}
        made.append(
            Trajectory(
                observations=fill(observation, length + 1),
                actions=fill(action, length),
                rewards=None if reward is None else bits(rng, (length,), reward),
                terminated=draw(st.booleans()),
                truncated=draw(st.booleans()),
                extras=fill(extras, length),
                infos=[info, *[{}] * (length - 1)] if infos and draw(st.booleans()) else None,
                episode_data=data if infos else None,
            )
        )
    return made


def simple(length: int, start: float = 0.0, **flags: Any) -> Trajectory:
    """An episode whose observations count up from `start`; actions and rewards count from 0 and 1."""
    return Trajectory(
        observations=start + np.arange(length + 1, dtype=np.float32),
        actions=np.arange(length, dtype=np.int32),
        rewards=1 + np.arange(length, dtype=np.float32),
        **flags,
    )
