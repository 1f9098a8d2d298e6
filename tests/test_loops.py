"""Bisection between numbers of one's own, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreplay._core.loops import bisect_between


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 8, 100])
def test_it_finds_the_last_number_for_which_it_holds_and_asks_of_none_past_the_last(most: int, unroll: bool) -> None:
    rng = np.random.default_rng(most)
    first = rng.integers(-50, 50, 200).astype(np.int32)
    last = (first + rng.integers(0, most + 1, 200)).astype(np.int32)
    answer = rng.integers(first, last + 1)

    def holds(number: jax.Array) -> jax.Array:
        return (number <= answer) | (number > last)

    found = bisect_between(jnp.asarray(first), jnp.asarray(last), most, holds, unroll)
    np.testing.assert_array_equal(found, answer)
