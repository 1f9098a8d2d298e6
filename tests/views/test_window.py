"""Windows whose episodes are told by the user's own leaves, against a plain-Python model over random streams."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay import views

OFFSETS = (-3, -1, 0, 2)
SLOTS, ENVS = 6, 2


@jax.jit
def fill(buffer: replay.Buffer, block: Any, mask: jax.Array) -> replay.Buffer:
    return replay.extend(buffer, block, mask)


def same_episode(block: dict[str, np.ndarray], mask: np.ndarray, how: str, a: int, b: int, env: int) -> bool:
    """Whether all steps from time a to time b are there and of one episode."""
    first, last = min(a, b), max(a, b)
    if not mask[first : last + 1, env].all():
        return False
    if how == "id":
        return len(set(block["id"][first : last + 1, env].tolist())) == 1
    return not (block["done"][first:last, env] | block["cut"][first:last, env]).any()


@pytest.mark.parametrize("fill_with", ["edge", "zero", None])
@pytest.mark.parametrize("how", ["id", "end"])
@settings(settings.get_profile("short"), max_examples=20)
@given(length=st.integers(1, 14), seed=st.integers(0, 2**20), rate=st.sampled_from([0.0, 0.2, 0.6]))
def test_the_users_own_leaves_bound_windows(how: str, fill_with: str | None, length: int, seed: int, rate: float):
    rng = np.random.default_rng(seed)
    lead = (length, ENVS)
    block = {
        "x": rng.integers(1, 10**6, lead).astype(np.int32),
        "id": rng.integers(0, 2, lead).astype(np.int32),
        "done": rng.random(lead) < rate,
        "cut": rng.random(lead) < rate,
    }
    mask = rng.random(lead) >= rate / 2
    options = {"episode_id": "id"} if how == "id" else {"episode_end": ("done", "cut")}
    view = views.offsets(OFFSETS, fill_with, **options)
    padded = {name: np.concatenate([np.zeros((14 - length, ENVS), x.dtype), x]) for name, x in block.items()}
    there = np.concatenate([np.zeros((14 - length, ENVS), bool), mask])  # always 14 slices: one program
    buffer = replay.create({name: x[0, 0] for name, x in block.items()}, SLOTS * ENVS, ENVS)
    buffer = fill(buffer, padded, there)
    rows, _ = replay.rows(buffer)
    batch = replay.take(buffer, rows, view)
    oldest = 14 - SLOTS
    for i, (time, env) in enumerate(zip(rows.time.tolist(), rows.env.tolist())):
        assert bool(batch.mask[i]) == bool(there[time, env])
        if not there[time, env]:
            assert not batch.data.mask[i].any()
            continue
        inside = [oldest <= time + o < 14 and same_episode(padded, there, how, time, time + o, env) for o in OFFSETS]
        assert batch.data.mask[i].tolist() == inside
        for j, o in enumerate(OFFSETS):
            if not inside[j] and fill_with is None:
                continue
            nearest, to = time, (1 if o > 0 else -1)
            while (
                nearest != time + o
                and oldest <= nearest + to < 14
                and same_episode(padded, there, how, time, nearest + to, env)
            ):
                nearest += to
            wanted = 0 if not inside[j] and fill_with == "zero" else padded["x"][nearest, env]
            assert int(batch.data.data["x"][i, j]) == wanted


def test_over_transitions_windows_keep_to_both_the_leaf_and_the_buffers_episodes() -> None:
    flag, number = jnp.bool_(False), jnp.float32(0)
    example = replay.Transition(number, number, number, flag, flag, number, {"section": jnp.int32(0)})
    time = jnp.arange(8.0)
    block = replay.Transition(
        time, time, time, time == 3, jnp.zeros(8, bool), time + 1 + jnp.where(time == 3, 100.0, 0.0),
        {"section": jnp.array([0, 0, 1, 1, 1, 1, 1, 1])},
    )  # fmt: skip
    buffer = replay.extend(replay.create(example, 8), block)
    rows = replay.Rows(time=jnp.array([1, 3, 5]), env=jnp.zeros(3, jnp.int32))
    batch = replay.take(buffer, rows, views.window(2, 2, episode_id="extras.section")).data
    assert batch.mask.tolist() == [
        [False, True, True, False, False],
        [False, True, True, False, False],
        [False] + [True] * 4,
    ]
    assert batch.data.observation.tolist() == [[0, 0, 1, 1, 1], [2, 2, 3, 3, 3], [4, 4, 5, 6, 7]]
    assert batch.data.next_observation.tolist() == [[1, 1, 2, 2, 2], [3, 3, 104, 104, 104], [5, 5, 6, 7, 8]]


def test_leaves_that_cannot_bound_windows() -> None:
    buffer = replay.create({"x": jnp.zeros(3), "id": jnp.int32(0)}, 8)
    for part in ("x", "ids"):
        with pytest.raises(ValueError, match=f"'{part}' is no stored scalar; these are: id"):
            replay.take(buffer, replay.rows(buffer)[0], views.window(1, 0, episode_id=part))
    with pytest.raises(ValueError, match="not both"):
        views.window(1, 0, episode_id="id", episode_end="end")
