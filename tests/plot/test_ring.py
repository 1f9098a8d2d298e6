"""The map of the ring says of every slot what lies in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import jaxreplay as replay
from jaxreplay.plot._ring import EMPTY, KINDS, NUM_COLOURS, row_codes
from tests.test_errors import expect
from tests.test_next_observation import buffer_of, step

SLOTS, ENVS = 16, 3


def wrapped(length: int = 23, max_episodes: int = 9) -> replay.Buffer:
    """A ring with void, removed and lost rows; episodes of four steps."""
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, ENVS)), step(0))
    steps = steps.replace(terminated=jnp.broadcast_to((jnp.arange(length) % 4 == 3)[:, None], (length, ENVS)))
    buffer = replay.create(step(0), SLOTS * ENVS, ENVS, max_episodes=max_episodes)
    buffer = replay.extend(buffer, steps, jnp.ones((length, ENVS), bool).at[length - 3, 1].set(False))
    gone = replay.Rows(time=jnp.array([length - 2, length - 1]), env=jnp.array([0, 2]))
    return replay.remove(buffer, gone)


def drawn(ax: plt.Axes) -> np.ndarray:
    """The codes in the picture, `[slots, envs]`."""
    return np.ma.filled(ax.images[0].get_array(), EMPTY).T


@pytest.mark.parametrize("length", [10, 23])
def test_every_slot_has_the_colour_of_its_episode_or_of_its_kind(length: int) -> None:
    buffer = wrapped(length)
    codes = drawn(replay.plot.ring(buffer))
    time = jnp.arange(length - SLOTS, length)
    rows = replay.Rows(*jnp.broadcast_arrays(time[:, None], jnp.arange(ENVS)[None]))
    batch = replay.take(buffer, rows, replay.views.with_episode())
    readable = np.asarray(batch.mask)
    found = codes[np.asarray(time) % SLOTS]
    assert (readable == ((found >= 0) & (found < NUM_COLOURS))).all()
    assert (found[readable] == np.asarray(batch.data.number)[readable] % NUM_COLOURS).all()
    counted = replay.stats(buffer)
    for kind in KINDS:
        assert (found == NUM_COLOURS + KINDS.index(kind)).sum() == getattr(counted, kind)
    assert (found == EMPTY).sum() == SLOTS * ENVS - counted.held
    assert (length < SLOTS) or counted.lost > 0
    assert counted.void > 0
    assert counted.removed > 0
    plt.close("all")


def test_the_line_is_between_the_newest_slice_and_the_next() -> None:
    ax = replay.plot.ring(wrapped(23))
    assert ax.lines[0].get_xdata()[0] == 23 % SLOTS - 0.5
    assert "time 23 is next" in ax.texts[0].get_text()
    assert "slot of the ring" in ax.get_xlabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["episodes, in turn", *KINDS]
    plt.close("all")


def test_a_large_ring_is_drawn_by_a_bounded_number_of_rows_and_says_so() -> None:
    buffer = replay.append(replay.create({"x": jnp.int32(0)}, 500 * 4000, 500), {"x": jnp.zeros(500, jnp.int32)})
    ax = replay.plot.ring(buffer, max_slots=50, max_envs=20)
    assert drawn(ax).shape == (50, 20)
    assert "1 of 80 slots; 1 of 25 envs" in ax.get_xlabel()
    assert ax.get_xlim() == (-0.5, 3999.5)
    plt.close("all")


def test_it_is_drawn_in_the_axes_that_are_given_of_a_single_stream_too() -> None:
    figure, ax = plt.subplots()
    assert replay.plot.ring(buffer_of(step(0)), ax) is ax
    assert len(figure.axes) == 1
    plt.close("all")


def test_the_codes_are_the_same_however_the_ring_lies_in_memory() -> None:
    make = lambda platform: replay.create(step(0), 8, platform=platform)  # noqa: E731
    plain, tiled = (replay.append(make(p), step(0)) for p in ("cpu", "tpu"))
    slots, envs = np.arange(8), np.arange(1)
    assert (row_codes(plain.rings, slots, envs) == row_codes(tiled.rings, slots, envs)).all()


def test_a_batch_of_buffers_is_refused() -> None:
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), buffer_of())
    with expect(ValueError, "a batch of buffers (2,)"):
        replay.plot.ring(batch)
