"""Splits by episodes: disjoint, complete, decided by the key, near to what was wished, and still random."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreplay.datasets import Dataset
from jaxreplay.datasets.split import assign
from tests.datasets.episodes import same, simple

KEY = jax.random.key(0)


def first_fit(key: jax.Array, lengths: np.ndarray, fractions: list[float]) -> np.ndarray:
    """What is usual: go through the episodes in random order, and fill one part after the other."""
    order = np.asarray(jax.random.permutation(key, len(lengths)))
    bounds = np.cumsum(fractions)[:-1] * lengths.sum()
    owner = np.empty(len(lengths), int)
    owner[order] = np.searchsorted(bounds, np.cumsum(lengths[order]), side="left")
    return np.minimum(owner, len(fractions) - 1)


def total(lengths: np.ndarray, owner: np.ndarray, fractions: list[float]) -> float:
    steps = np.bincount(owner, weights=lengths, minlength=len(fractions))
    return float(np.abs(steps - np.array(fractions) * lengths.sum()).sum())


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12).map(np.array),
    shares=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 100),
)
@settings(settings.get_profile("short"), max_examples=60)
def test_no_move_and_no_swap_comes_nearer(lengths: np.ndarray, shares: list[int], seed: int) -> None:
    fractions = [share / sum(shares) for share in shares]
    owner = assign(jax.random.key(seed), lengths, fractions)
    reached = total(lengths, owner, fractions)
    for i, part in itertools.product(range(len(lengths)), range(len(fractions))):
        other = owner.copy()
        other[i] = part
        assert total(lengths, other, fractions) >= reached - 1e-6
    for i, j in itertools.combinations(range(len(lengths)), 2):
        other = owner.copy()
        other[[i, j]] = other[[j, i]]
        assert total(lengths, other, fractions) >= reached - 1e-6


def test_parts_are_disjoint_whole_and_complete() -> None:
    dataset = Dataset([simple(1 + i % 7, 100.0 * i) for i in range(40)])
    parts = dataset.random_split(KEY, [0.5, 0.3, 0.2])
    found = sorted((t for part in parts for t in part), key=lambda t: t.observations[0])
    for a, b in zip(found, dataset, strict=True):
        same(a, b)
    assert sum(map(len, parts)) == len(dataset)
    assert max(abs(len(part) - share * len(dataset)) for part, share in zip(parts, (0.5, 0.3, 0.2))) < 1


def test_the_key_decides() -> None:
    dataset = Dataset([simple(1 + i % 7, 100.0 * i) for i in range(40)])

    def starts(seed: int) -> list[list[float]]:
        return [[float(t.observations[0]) for t in p] for p in dataset.random_split(jax.random.key(seed), [0.5, 0.5])]

    assert starts(3) == starts(3)
    assert starts(3) != starts(4)


def test_lengths_in_steps_and_parts_of_none() -> None:
    dataset = Dataset([simple(n) for n in (1, 2, 3, 4)])
    assert [len(part) for part in dataset.random_split(KEY, [7, 3])] == [7, 3]
    assert [len(part) for part in dataset.random_split(KEY, [1.0, 0.0])] == [10, 0]
    assert [len(part) for part in Dataset([simple(1)]).random_split(KEY, [1])] == [1]
    assert [len(part) for part in Dataset().random_split(KEY, [0.5, 0.5])] == [0, 0]
    assert sorted(len(part) for part in dataset.random_split(KEY, [0.125] * 8)) == [0, 0, 0, 0, 1, 2, 3, 4]
    for wrong in ([6, 3], [0.5, 0.4], [], [-1, 11], [[0.5, 0.5]], [[0.5], [0.2, 0.3]], [float("nan"), 1.0], ["a"]):
        with pytest.raises(ValueError, match="lengths: expected ints that add up to 10 steps, or fractions"):
            dataset.random_split(KEY, wrong)
    with pytest.raises(TypeError, match="key: expected a PRNG key"):
        dataset.random_split(0, [0.5, 0.5])


@pytest.mark.parametrize("skew", ["pareto", "lognormal"])
def test_on_skewed_lengths_it_comes_far_nearer_than_filling_in_order(skew: str) -> None:
    rng = np.random.default_rng(0)
    draw = (lambda n: rng.pareto(1.2, n)) if skew == "pareto" else (lambda n: rng.lognormal(0, 1.5, n))
    fractions, ours, theirs = [0.8, 0.1, 0.1], [], []
    for seed in range(20):
        lengths = np.ceil(10 * draw(200)).clip(1, 1000).astype(int)
        key = jax.random.key(seed)
        ours.append(total(lengths, assign(key, lengths, fractions), fractions) / lengths.sum())
        theirs.append(total(lengths, first_fit(key, lengths, fractions), fractions) / lengths.sum())
    assert np.mean(ours) < 0.002
    assert np.mean(ours) < 0.1 * np.mean(theirs)


def test_a_small_part_is_not_left_with_the_short_episodes() -> None:
    """Each length is as frequent in the small part as in all: its mean there within five standard errors."""
    lengths = np.repeat([10, 20, 30, 40, 100], 40)
    means = []
    for seed in range(30):
        owner = assign(jax.random.key(seed), lengths, [0.9, 0.1])
        means.append(lengths[owner == 1].mean())
    error = lengths.std() / np.sqrt(20 * 30)
    assert abs(np.mean(means) - lengths.mean()) < 5 * error


def test_a_negative_length_is_named() -> None:
    dataset = Dataset([simple(n) for n in (1, 2, 3)])
    for wrong, message in (
        ([-1, 7], r"got \[-1, 7\]: -1 is no length; none may be negative"),
        ([-0.5, 1.5], r"got \[-0.5, 1.5\]: -0.5 is no length"),
        ([float("nan"), 1.0], r"nan is no length"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset.random_split(KEY, wrong)
