"""Batches as flat vectors: their order, and that steps made of them are those that were stored, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.model import bits

KEY = jax.random.key(0)
FIELDS = ("observation", "action", "reward", "terminated", "truncated", "next_observation", "extras")


def steps(lead: tuple[int, ...], seed: int = 0) -> replay.Transition:
    rng = np.random.default_rng(seed)
    some = lambda shape, dtype: jnp.asarray(rng.integers(0, 200, (*lead, *shape)), dtype)  # noqa: E731
    observation = lambda: {"b": some((2, 3), jnp.uint8), "a": some((2,), jnp.bfloat16), "none": some((0,), jnp.int32)}  # noqa: E731
    flag = some((), jnp.int32) > 150
    extras = {"whole": some((), jnp.int16) - jnp.int16(100), "half": some((1, 2), jnp.float16)}
    return replay.Transition(
        observation(), some((), jnp.int32), some((2,), jnp.float32) / 3, flag, ~flag, observation(), extras
    )


EXAMPLE = jax.tree.map(lambda x: x[0], steps((1,)))


def stored() -> replay.Buffer:
    return replay.extend(replay.create(EXAMPLE, 32), steps((20,)))


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(bits(x), bits(y))


@pytest.mark.parametrize("jitted", [False, True])
def test_steps_made_of_vectors_are_those_that_were_stored(jitted: bool) -> None:
    view = views.ravel(dtype=jnp.float32)

    def there_and_back(buffer: replay.Buffer) -> Any:
        batch = replay.take(buffer, replay.newest(buffer, 20), view)
        return batch.data, views.unravel(EXAMPLE, batch.data)

    vectors, made = (jax.jit(there_and_back) if jitted else there_and_back)(stored())
    assert (vectors.shape, vectors.dtype) == ((20, 8 + 1 + 2 + 1 + 1 + 8 + 3), jnp.float32)
    rows = replay.newest(stored(), 20)
    assert_same(made, replay.take(stored(), rows).data)
    again = replay.extend(replay.create(EXAMPLE, 32), made)
    assert_same(replay.take(again, rows).data, replay.take(stored(), rows).data)
    assert_same(views.unravel(jax.eval_shape(lambda: EXAMPLE), vectors[3]), jax.tree.map(lambda x: x[3], made))
    assert_same(jax.vmap(lambda v: views.unravel(EXAMPLE, v))(vectors), made)


def test_parts_stand_in_the_order_in_which_they_are_named_and_leaves_in_that_of_jax() -> None:
    batch = replay.sample(stored(), KEY, 8).data
    view = views.ravel("reward", "observation", "extras.whole", dtype=jnp.float32)
    vectors = replay.sample(stored(), KEY, 8, view).data
    columns = (batch.reward, batch.observation["a"], batch.observation["b"], batch.extras["whole"])
    wanted = np.concatenate([np.asarray(x).astype(np.float32).reshape(8, -1) for x in columns], 1)
    np.testing.assert_array_equal(vectors, wanted)
    part = views.unravel(EXAMPLE, vectors, "reward", "observation", "extras.whole")
    assert list(part) == ["reward", "observation", "extras.whole"]
    assert_same(part, {"reward": batch.reward, "observation": batch.observation, "extras.whole": batch.extras["whole"]})


def test_a_part_made_of_vectors_can_be_put() -> None:
    buffer, rows = stored(), replay.newest(stored(), 5)
    vectors = replay.take(buffer, rows, views.ravel("extras", "reward", dtype=jnp.float32)).data
    put = jax.jit(lambda b, v: replay.put(b, rows, views.unravel(EXAMPLE, v, "extras", "reward")))
    buffer = put(buffer, vectors + 1)
    old, new = replay.take(stored(), rows).data, replay.take(buffer, rows).data
    np.testing.assert_array_equal(new.reward, old.reward + 1)
    np.testing.assert_array_equal(new.extras["whole"], old.extras["whole"] + jnp.int16(1))


def test_numbers_for_integers_and_flags_are_rounded() -> None:
    example = {"flag": jnp.bool_(False), "whole": jnp.int32(0)}
    made = views.unravel(example, jnp.array([[0.9, 2.6], [0.2, -1.4]]))
    assert made["flag"].tolist() == [True, False]
    assert made["whole"].tolist() == [3, -1]


def test_it_goes_over_other_views_and_masked_rows_are_zeros() -> None:
    view = views.compose(views.sequence(3), views.select("reward"), views.ravel())
    batch = replay.take(stored(), replay.Rows(jnp.array([99]), jnp.array([0])), views.ravel("reward"))
    assert not batch.data.any()
    rewards = {"reward": jnp.zeros(2), "end": jnp.bool_(False)}
    buffer = replay.create(rewards, 8, episode_end="end")
    buffer = replay.extend(buffer, {"reward": jnp.arange(12.0).reshape(6, 2), "end": jnp.zeros(6, bool)})
    batch = replay.take(buffer, replay.Rows(jnp.array([1, 5]), jnp.array([0, 0])), view)
    assert batch.data.tolist() == [[2, 3, 4, 5, 6, 7], [0] * 6]


def test_what_cannot_be_flattened_is_refused_by_path() -> None:
    keyed = replay.create({"key": KEY, "wave": jnp.complex64(0), "x": jnp.float32(0)}, 4)
    keyed = replay.append(keyed, {"key": KEY, "wave": jnp.complex64(1), "x": jnp.float32(0)})
    as_float = {"dtype": jnp.float32}
    step = replay.Transition(jnp.zeros(2), jnp.int32(0), jnp.float32(0), flag := jnp.bool_(False), flag, jnp.zeros(2))
    plain = replay.append(replay.create(step, 4), step)
    for error, message, call in (
        (
            ValueError,
            r"ravel: expected one dtype, got .*cast all",
            lambda: replay.sample(stored(), KEY, 4, views.ravel()),
        ),
        (ValueError, "ravel: the batch has no 'goal'", lambda: replay.sample(stored(), KEY, 4, views.ravel("goal"))),
        (ValueError, "unravel: the example has no 'goal'", lambda: views.unravel(EXAMPLE, jnp.zeros(1), "goal")),
        (TypeError, "key: key<fry> cannot be cast", lambda: replay.sample(keyed, KEY, 4, views.ravel(**as_float))),
        (TypeError, "complex64 cannot be cast", lambda: replay.sample(keyed, KEY, 4, views.ravel("wave", **as_float))),
        (
            ValueError,
            r"ravel: expected arrays, and \['extras'\] have none",
            lambda: replay.sample(plain, KEY, 4, views.ravel("extras")),
        ),
        (TypeError, "ravel: expected names", lambda: views.ravel(3)),  # type: ignore[arg-type]
        (
            ValueError,
            r"vectors: expected 3 numbers on the last axis \(2 of reward, 1 of action\), got float32\[4,2\]",
            lambda: views.unravel(
                {"reward": jnp.zeros(2), "action": jnp.int32(0)}, jnp.zeros((4, 2)), "reward", "action"
            ),
        ),
    ):
        with pytest.raises(error, match=message):
            call()
