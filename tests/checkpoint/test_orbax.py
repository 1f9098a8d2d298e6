"""Orbax saves and restores a buffer inside a training state as any other pytree, bit for bit."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import struct

import jaxreplay as replay
from tests.extras import library
from tests.model import make_buffer
from tests.test_laws import assert_same, stream
from tests.test_restoring import PRIORITIZED

ocp = library("orbax.checkpoint")
DATA = {"seed": jnp.int32(0), "key": jax.random.key(0)}


class State(struct.PyTreeNode):
    params: Any
    buffer: replay.Buffer
    key: jax.Array


def make() -> State:
    buffer = make_buffer(5, 2, 3, sampler=PRIORITIZED, episode_data=DATA)
    return State({"w": jnp.zeros(3, jnp.bfloat16)}, buffer, jax.random.key(0))


def filled() -> State:
    buffer = replay.extend(make().buffer, *stream(7, 2, 0))
    return State({"w": jnp.ones(3, jnp.bfloat16)}, buffer, jax.random.key(7))


@pytest.mark.parametrize("kind", ["Standard", "PyTree"])
def test_a_training_state_goes_through_a_checkpoint_manager(kind: str, tmp_path: pathlib.Path) -> None:
    state = filled()
    with ocp.CheckpointManager(tmp_path) as manager:
        save, restore = getattr(ocp.args, f"{kind}Save"), getattr(ocp.args, f"{kind}Restore")
        manager.save(0, args=save(state))
        manager.wait_until_finished()
        restored = manager.restore(0, args=restore(jax.eval_shape(make)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_same(restored, state)
