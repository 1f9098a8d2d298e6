"""The parts of windows and sequences are read without the name `data`, and both stay plain pytrees."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay import views
from tests.test_next_observation import buffer_of, step

VIEWS = [views.window(2, 1), views.sequence(2, complete=False)]
ROWS = replay.Rows(jnp.arange(4), jnp.zeros(4, jnp.int32))


def has_ended(step: Any) -> Any:
    return step["end"]


def dicts() -> replay.Buffer:
    steps = {"values": jnp.arange(4), "mask": jnp.arange(4) > 1, "end": jnp.zeros(4, bool)}
    example = jax.tree.map(lambda x: x[0], steps)
    return replay.extend(replay.create(example, 4, episode_end=has_ended), steps)


@pytest.mark.parametrize("view", VIEWS, ids=["window", "sequence"])
def test_attributes_of_a_transition_and_items_of_a_dict_are_those_of_data(view: Any) -> None:
    batch = replay.take(buffer_of(*map(step, range(4))), ROWS, view).data
    assert batch.observation is batch.data.observation
    assert batch.reward is batch.data.reward
    batch = replay.take(dicts(), ROWS, view).data
    assert batch["values"] is batch.data["values"]
    assert batch["mask"] is batch.data["mask"]
    assert batch.mask.shape == (4, *batch.data["mask"].shape[1:])
    assert batch.mask is not batch["mask"]


@pytest.mark.parametrize("view", VIEWS, ids=["window", "sequence"])
def test_they_stay_plain_pytrees(view: Any) -> None:
    """Copied, pickled, mapped, jitted, vmapped and scanned."""
    came = replay.take(buffer_of(*map(step, range(4))), ROWS, view).data
    for same in (
        copy.copy(came),
        copy.deepcopy(came),
        pickle.loads(pickle.dumps(came)),
        jax.tree.map(lambda x: x, came),
        jax.jit(lambda batch: batch)(came),
        jax.vmap(lambda batch: batch.replace(mask=batch.mask))(came),
        jax.lax.scan(lambda carry, batch: (carry, batch), 0, came)[1],
    ):
        assert type(same) is type(came)
        jax.tree.map(np.testing.assert_array_equal, same, came)
        np.testing.assert_array_equal(same.reward, came.reward)
    doubled = jax.jit(jax.vmap(lambda batch: 2 * batch.observation))(came)
    np.testing.assert_array_equal(doubled, 2 * came.data.observation)


@pytest.mark.parametrize("view", VIEWS, ids=["window", "sequence"])
def test_select_and_map_reach_through(view: Any) -> None:
    chosen = views.compose(view, views.select("values", "data.values"))
    batch = replay.take(dicts(), ROWS, chosen).data
    np.testing.assert_array_equal(batch["values"], batch["data.values"])


def test_what_is_in_neither() -> None:
    steps = views.Window(data=step(0), mask=jnp.ones(1, bool))
    with pytest.raises(AttributeError, match="frames"):
        steps.frames  # noqa: B018
    named = views.Window(data={"obs": jnp.zeros(2)}, mask=jnp.ones(1, bool))
    with pytest.raises(AttributeError, match=r"Window has no field 'obs'; parts of a dict are items, as \['obs'\]"):
        named.obs  # noqa: B018
    with pytest.raises(KeyError, match="action"):
        named["action"]
    array = views.Window(data=jnp.zeros((2, 3)), mask=jnp.ones(1, bool))
    assert not hasattr(array, "shape")
    with pytest.raises(TypeError, match=r"index \.data"):
        array[0]
    for batch in (steps, named, array):
        assert not hasattr(batch, "__array__")
        assert not hasattr(batch, "_replace")
        with pytest.raises(TypeError, match="not iterable"):
            iter(batch)
