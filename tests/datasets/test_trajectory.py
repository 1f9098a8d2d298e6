"""Trajectories: what they accept, what they refuse and with which words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxreplay.datasets import Trajectory
from tests.datasets.episodes import same


def make(**fields: Any) -> Trajectory:
    return Trajectory(**{"observations": np.zeros((4, 2)), "actions": np.zeros(3, np.int32)} | fields)


def test_its_length_is_that_of_its_actions() -> None:
    assert len(make()) == 3
    assert len(make(actions={"a": (np.zeros((3, 2)), jnp.zeros(3))}, observations=[jnp.zeros(4)])) == 3


def test_rewards_of_every_floating_dtype_are_accepted() -> None:
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        assert make(rewards=np.zeros(3, dtype)).rewards.dtype == dtype


def test_extras_without_leaves_are_none_and_flags_are_bools() -> None:
    made = make(extras={}, terminated=np.bool_(True), truncated=jnp.array(False))
    assert made.extras is None
    assert made.terminated is True
    assert made.truncated is False
    assert made.ended
    assert not make().ended


def test_arrays_are_mapped_and_the_rest_stays() -> None:
    made = make(rewards=np.zeros(3), infos=[{"a": 1}] * 3, episode_data="x", extras=np.zeros(3), truncated=True)
    on_device = made.map_arrays(jnp.asarray)
    assert isinstance(on_device.extras, jax.Array)
    assert isinstance(on_device.rewards, jax.Array)
    assert (on_device.infos, on_device.episode_data, on_device.truncated) == (made.infos, "x", True)
    same(made.map_arrays(lambda x: x), made)


def test_it_is_no_pytree() -> None:
    made = make()
    assert jax.tree.leaves([made]) == [made]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"observations": np.zeros((3, 2))}, ValueError, r"observations: expected T \+ 1 = 4 .* got float64\[3,2\]"),
        ({"observations": {"a": {"b": np.zeros(5)}}}, ValueError, r"observations.a.b: expected T \+ 1 = 4"),
        ({"observations": {}}, ValueError, r"observations: expected at least one array \[T \+ 1, ...\]"),
        ({"observations": [0.0, 1.0]}, TypeError, "observations.0: expected a NumPy or JAX array, got float; np.asar"),
        ({"observations": np.array(["a"] * 4)}, TypeError, "observations: expected an array of numbers, got dtype <U1"),
        ({"observations": np.array([{}] * 4)}, TypeError, "observations: expected an array of numbers, got dtype obj"),
        ({"observations": np.zeros(4, ">f4")}, TypeError, "observations: expected the machine's byte order"),
        (
            {"actions": np.zeros(0)},
            ValueError,
            r"actions: expected \[T, ...\] with at least one step, got float64\[0\]",
        ),
        ({"actions": np.float32(0)}, TypeError, "actions: expected a NumPy or JAX array, got float32"),
        ({"actions": None}, ValueError, "actions: expected at least one array"),
        ({"actions": (np.zeros(3), np.zeros(2))}, ValueError, r"actions.1: expected T = 3 .* got float64\[2\]"),
        ({"rewards": np.zeros(3, np.int32)}, TypeError, "rewards: expected a floating dtype, got int32; convert them"),
        ({"rewards": np.zeros((3, 1))}, ValueError, r"rewards: expected \[T\] = \[3\], got float64\[3,1\]"),
        ({"rewards": [0.0] * 3}, TypeError, "rewards: expected a NumPy or JAX array, got list"),
        ({"terminated": 1}, TypeError, "terminated: expected one bool, about the last step, got int"),
        ({"truncated": np.zeros(3, bool)}, TypeError, r"truncated: expected one bool, .* got bool\[3\]"),
        ({"extras": {"p": np.zeros(4)}}, ValueError, r"extras.p: expected T = 3 .* got float64\[4\]"),
        ({"infos": [{}] * 2}, ValueError, "infos: expected a list of T = 3 dicts, got 2"),
        ({"infos": {"a": 1}}, TypeError, "infos: expected a list of T = 3 dicts, got dict"),
        ({"infos": [{}, 1, {}]}, TypeError, "infos.1: expected a dict, got int"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**fields)
