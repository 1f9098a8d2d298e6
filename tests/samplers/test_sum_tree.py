"""The laws of the sum tree: sums without drift, and draws in proportion.

The statistical tests compare counts with a chi-square test at a false-alarm rate of 1e-6 each, with fixed keys.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxreplay.samplers import sum_tree
from jaxreplay.samplers.sums import FAN_OUT, unit

set_leaves = jax.jit(sum_tree.set_leaves)
SIZES = [1, 5, 16, 17, 256, 300, 5000]


def tree_of(numbers: Any) -> sum_tree.Tree:
    numbers = jnp.asarray(numbers, jnp.float32)
    return set_leaves(sum_tree.make_tree(numbers.shape[0]), jnp.arange(numbers.shape[0]), numbers)


def check_sums(tree: sum_tree.Tree) -> None:
    """Every node is the sum of its children, added up in float64, to 1e-6; and the root that of all leaves."""
    for below, level in itertools.pairwise(tree):
        exact = np.asarray(below, np.float64).reshape(-1, FAN_OUT).sum(axis=1)
        np.testing.assert_allclose(np.asarray(level)[: exact.size], exact, rtol=1e-6, atol=0)
        assert not np.asarray(level)[exact.size :].any()
    exact = np.asarray(tree[0], np.float64).sum()
    np.testing.assert_allclose(float(sum_tree.total(tree)), exact, rtol=1e-6 * len(tree))


@functools.partial(jax.jit, static_argnames=("count", "stratified"))
def draw(tree: sum_tree.Tree, key: jax.Array, count: int, stratified: bool = False) -> Any:
    bits = jax.random.bits(key, (2, count), jnp.uint32)
    position = unit(bits[0])
    if stratified:
        position = (jnp.arange(count, dtype=jnp.float32) + position) / count
    return sum_tree.draw(tree, position, bits[1])


@functools.partial(jax.jit, static_argnames=("num_leaves", "rounds"), donate_argnums=0)
def churn(tree: sum_tree.Tree, key: jax.Array, num_leaves: int, rounds: int) -> sum_tree.Tree:
    """Update 256 random leaves, `rounds` times, with numbers over twelve orders of magnitude, some of them zero."""

    def body(tree: sum_tree.Tree, key: jax.Array) -> Any:
        where, size, zero = jax.random.split(key, 3)
        index = jax.random.randint(where, (1,), 0, num_leaves) + 7919 * jnp.arange(256)
        values = 10.0 ** jax.random.uniform(size, (256,), minval=-6.0, maxval=6.0)
        values = jnp.where(jax.random.bernoulli(zero, 0.1, (256,)), 0.0, values)
        return sum_tree.set_leaves(tree, index % num_leaves, values), None

    return jax.lax.scan(body, tree, jax.random.split(key, rounds))[0]


def test_a_million_updates_leave_no_drift() -> None:
    tree = churn(sum_tree.make_tree(2**16 + 3), jax.random.key(0), 2**16 + 3, 4096)
    check_sums(tree)


def test_after_large_numbers_are_gone_small_ones_are_drawn_right() -> None:
    tree = tree_of(np.full(40, 1e-6))
    for _ in range(3):
        tree = set_leaves(tree, jnp.array([3]), jnp.array([1e12]))
        tree = set_leaves(tree, jnp.array([3]), jnp.array([1e-6]))
    index, _ = draw(tree, jax.random.key(0), 100_000)
    assert stats.chisquare(np.bincount(index, minlength=40)).pvalue > 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stratified", [False, True])
def test_leaves_are_drawn_in_proportion(size: int, stratified: bool) -> None:
    rng = np.random.default_rng(size)
    numbers = rng.exponential(size=size) * (rng.random(size) < 0.7) + (np.arange(size) == size // 2)
    index, value = draw(tree_of(numbers), jax.random.key(1), 2**17, stratified)
    counts = np.bincount(index, minlength=size)
    np.testing.assert_array_equal(value, numbers.astype(np.float32)[index])
    assert counts[numbers == 0].sum() == 0
    expected = 2**17 * numbers / numbers.sum()
    if stratified:  # each leaf is drawn as often as it should be, to the two parts at its ends
        assert (np.abs(counts - expected) <= 2.1).all()
    often = expected >= 5
    seen, wanted = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    if (wanted > 0).sum() > 1 and not stratified:
        assert stats.chisquare(seen[wanted > 0], wanted[wanted > 0]).pvalue > 1e-6


def test_numbers_over_twelve_orders_of_magnitude_are_drawn_in_proportion() -> None:
    numbers = np.tile(10.0 ** np.arange(-6, 7), 30)
    index, _ = draw(tree_of(numbers), jax.random.key(2), 2**20)
    counts = np.bincount(np.asarray(index) % 13, minlength=13)
    expected = 2**20 * 10.0 ** np.arange(-6, 7) / (10.0 ** np.arange(-6, 7)).sum()
    assert counts[:5].sum() <= 3  # expected 1e-2
    assert stats.chisquare(counts[5:], expected[5:] * counts[5:].sum() / expected[5:].sum()).pvalue > 1e-6


def test_every_one_of_many_leaves_is_drawn_as_often_as_the_others() -> None:
    """2^22 equal leaves: a position of 24 bits alone would favour some; counts must vary as those of fair draws."""
    size = 2**22
    tree = churn_free(size)
    index, _ = draw(tree, jax.random.key(3), 2**22)
    low = np.bincount(np.asarray(index) % 4096, minlength=4096)
    assert stats.chisquare(low).pvalue > 1e-6
    counts = np.bincount(np.bincount(index, minlength=size), minlength=12)[:12]
    expected = size * stats.poisson.pmf(np.arange(11), 1.0)
    expected = np.append(expected, size - expected.sum())
    kept = expected >= 5
    assert stats.chisquare(counts[kept], expected[kept] * counts[kept].sum() / expected[kept].sum()).pvalue > 1e-6


def churn_free(size: int) -> sum_tree.Tree:
    """Equal leaves, written as blocks are."""
    tree = sum_tree.make_tree(size)
    write = jax.jit(sum_tree.set_wrapped, static_argnums=4)
    return write(tree, jnp.int32(0), jnp.arange(size, dtype=jnp.int32), jnp.ones(size), size)


def never_zero(draws: int) -> None:
    """Draws of a tree with a few leaves that are not zero, and of one with every other, hit no zero."""
    few = np.zeros(70_001)
    few[[0, 17, 300, 70_000]] = [1e-6, 1.0, 1e6, 1e-3]
    last = np.zeros(4000)
    last[:3999] = 1.0  # and after the last that is not zero, at the upper end, one is
    other = np.zeros(4096)
    other[::2] = np.random.default_rng(0).exponential(size=2048)
    for numbers in (few, last, other):
        tree, held = tree_of(numbers), jnp.asarray(numbers > 0)

        @jax.jit
        def hits(tree: Any, held: jax.Array, key: jax.Array) -> jax.Array:
            index, value = draw(tree, key, 2**16, True)
            return jnp.sum(~held[index] | (value <= 0))

        for seed in range(max(1, draws // 3 // 2**16)):
            assert int(hits(tree, held, jax.random.key(seed))) == 0


def test_zeros_are_never_drawn() -> None:
    never_zero(10**6)


@pytest.mark.slow
def test_zeros_are_never_drawn_in_a_hundred_million_draws() -> None:
    never_zero(10**8)


@pytest.mark.parametrize("position", [1 - 2**-24, 1.0, 0.0])
@pytest.mark.parametrize("size", [20, 257, 5000])
def test_at_the_edges_no_zero_is_drawn(position: float, size: int) -> None:
    """At both ends of the total, with zeros on both sides and whatever is drawn below."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        numbers = np.zeros(size)
        numbers[size // 3 : size // 2] = 10.0 ** rng.uniform(-6, 6, size // 2 - size // 3)
        for bits in (0, 2**32 - 1, int(rng.integers(2**32))):
            index, _ = jax.jit(sum_tree.draw)(
                tree_of(numbers), jnp.full((1,), position, jnp.float32), jnp.full((1,), bits, jnp.uint32)
            )
            assert numbers[int(index[0])] > 0


def test_of_equal_indices_the_last_is_marked() -> None:
    rng = np.random.default_rng(0)
    tree = tree_of(np.where(np.arange(40) % 3, 2.0**100 / 40, 0))
    for _ in range(20):
        index = rng.integers(0, 12, 30)
        index[rng.random(30) < 0.2] = sum_tree.nowhere(tree)
        _, last = jax.jit(sum_tree.mark_last)(tree, jnp.asarray(index))
        wanted = [x < sum_tree.nowhere(tree) and x not in index[i + 1 :] for i, x in enumerate(index)]
        np.testing.assert_array_equal(last, wanted)


@pytest.mark.parametrize("width", [1, 3, 16, 24, 32, 128])
def test_a_block_is_written_as_single_leaves_are(width: int) -> None:
    size, rng = width * 23, np.random.default_rng(width)
    blocks, single = sum_tree.make_tree(size), sum_tree.make_tree(size)
    write = jax.jit(sum_tree.set_block)
    for start in [*range(0, size, width), 0, size - width, *(rng.integers(23, size=20) * width)]:
        values = jnp.asarray(rng.random(width), jnp.float32)
        blocks = write(blocks, jnp.int32(start), values)
        single = set_leaves(single, jnp.arange(start, start + width), values)
        jax.tree.map(np.testing.assert_array_equal, blocks, single)
    check_sums(blocks)


@pytest.mark.parametrize("size", [1, 7, 20, 161, 500, 4500])
def test_leaves_round_the_ring_are_written_as_single_leaves_are(size: int) -> None:
    rng = np.random.default_rng(size)
    write = jax.jit(sum_tree.set_wrapped, static_argnums=4)
    for length in {1, min(5, size), min(19, size), size}:
        for start in {0, size // 2, size - 1, max(0, size - 17), max(0, size - 18), int(rng.integers(size))}:
            tree = tree_of(rng.random(size))
            index = (start + jnp.arange(length)) % size
            values = jnp.asarray(rng.random(length), jnp.float32)
            came = write(tree, jnp.int32(start), index, values, size)
            jax.tree.map(np.testing.assert_array_equal, came, set_leaves(tree, index, values))


def test_what_is_written_nowhere_changes_nothing() -> None:
    tree = tree_of(np.arange(40.0))
    came = set_leaves(tree, jnp.array([sum_tree.nowhere(tree), 3]), jnp.array([7.0, 3.0]))
    jax.tree.map(np.testing.assert_array_equal, came, tree)


@pytest.mark.slow
def test_a_tree_of_2_to_the_27_leaves() -> None:
    size = 2**27
    tree = sum_tree.make_tree(size)
    tree = jax.jit(sum_tree.set_wrapped, static_argnums=4, donate_argnums=0)(
        tree, jnp.int32(0), jnp.arange(size, dtype=jnp.int32), jnp.ones(size), size
    )
    assert float(sum_tree.total(tree)) == size
    tree = set_leaves(tree, jnp.arange(0, size, 2**20), jnp.zeros(128))
    index, value = draw(tree, jax.random.key(0), 2**20)
    assert (value == 1).all()
    assert stats.chisquare(np.bincount(np.asarray(index) >> 17, minlength=1024)).pvalue > 1e-6
    assert stats.chisquare(np.bincount(np.asarray(index) & 1023, minlength=1024)).pvalue > 1e-6


@pytest.mark.parametrize("size", [5, 300, 5000])
def test_the_tree_in_the_tiles_of_a_tpu_has_the_same_sums_and_draws(size: int) -> None:
    rng = np.random.default_rng(size)
    trees = [sum_tree.make_tree(size), sum_tree.make_tree(size, tiled=True)]
    for width in (1, 64):
        index = jnp.asarray(rng.choice(size + 3, min(width, size), replace=False), jnp.int32)
        values = jnp.asarray(rng.exponential(size=index.shape[0]), jnp.float32)
        trees = [sum_tree.set_leaves(tree, index, values) for tree in trees]
        trees = [sum_tree.set_block(tree, jnp.int32(0), values[:5]) for tree in trees]
    flat, tiled = (draw(tree, jax.random.key(0), 4096) for tree in trees)
    assert all(level.shape[1] == 128 for level in trees[1])
    jax.tree.map(np.testing.assert_array_equal, tiled, flat)
    assert float(sum_tree.total(trees[0])) == float(sum_tree.total(trees[1]))
    every = jnp.arange(size + 3)
    np.testing.assert_array_equal(*(sum_tree.get_leaves(tree, every) for tree in trees))
