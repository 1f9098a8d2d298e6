"""Frames for acting: the stacks that a policy sees are those that the view reads for the same rows, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxreplay as replay
from jaxreplay import views
from tests.model import LEAVES, as_tree, bits, from_steps, make_buffer, random_leaf, random_steps, to_steps

LENGTH = 12
push = jax.jit(views.push_frames)
VIEWS = {
    "edge": views.frame_stack(3),
    "zero": views.frame_stack(4, axis=-1, fill="zero"),
    "one frame": views.frame_stack(1),
    "a part, under another view": views.compose(views.frame_stack(2, parts=("obs.vector",)), views.sequence(2)),
}


def plain(view: Any) -> Any:
    """The stacks alone, as the view reads them for every row."""
    return views.frame_stack(view.n, view.axis, view.fill, view.parts)


@functools.cache
def reader(view: Any) -> Any:
    return jax.jit(lambda buffer, rows: replay.take(buffer, rows, view))


def observation_of(steps: dict[str, np.ndarray], following: bool = False) -> Any:
    prefix = "next_obs." if following else "obs."
    return as_tree({path.removeprefix(prefix): x for path, x in steps.items() if path.startswith(prefix)})


@pytest.mark.parametrize("num_envs", [None, 3])
@pytest.mark.parametrize("name", VIEWS)
@settings(settings.get_profile("short"), max_examples=8)
@given(
    seed=st.integers(0, 2**20),
    end_rate=st.sampled_from([0.0, 0.2, 0.6]),
    void_rate=st.sampled_from([0.0, 0.3]),
    on_host=st.booleans(),
)
def test_stacks_of_acting_are_those_that_the_view_reads(
    name: str, num_envs: int | None, seed: int, end_rate: float, void_rate: float, on_host: bool
) -> None:
    view, rng, envs = VIEWS[name], np.random.default_rng(seed), num_envs or 1
    steps = random_steps(rng, (LENGTH, envs), end_rate)
    mask = rng.random((LENGTH, envs)) >= void_rate
    begins = np.concatenate([np.ones((1, envs), bool), (steps["done"] | ~mask)[:-1]])
    for path in [path for path in steps if path.startswith("next_")]:  # what follows within an episode is the next row
        goes_on = ~begins[1:].reshape(LENGTH - 1, envs, *[1] * (steps[path].ndim - 2))
        steps[path][:-1] = np.where(goes_on & _rank(mask[1:], goes_on), steps[path[5:]][1:], steps[path][:-1])
    if num_envs is None:
        steps, mask, begins = {path: x[:, 0] for path, x in steps.items()}, mask[:, 0], begins[:, 0]
    buffer = replay.extend(make_buffer(LENGTH, num_envs, LENGTH), to_steps(steps), mask)
    rows, _ = replay.rows(buffer)
    read = from_steps(reader(plain(view))(buffer, rows).data)
    example = as_tree({p[4:]: jax.ShapeDtypeStruct(*kind) for p, kind in LEAVES.items() if p.startswith("obs.")})
    frames = views.init_frames(view, example, num_envs, part="obs")
    for i in range(LENGTH):
        now = observation_of({path: x[i] for path, x in steps.items()})
        then = observation_of({path: x[i] for path, x in steps.items()}, following=True)
        pushed = views.push_frames if on_host else push
        frames = pushed(frames, now, begins[i])
        following = pushed(frames, then)  # at an episode's end, the true final observation
        for prefix, stacks in (("obs.", frames.stacked), ("next_obs.", following.stacked)):
            for path, came in from_steps(stacks).items():
                assert isinstance(jax.tree.leaves(stacks)[0], np.ndarray if on_host else jax.Array)
                expected = read[prefix + path].reshape(LENGTH, envs, *read[prefix + path].shape[1:])[i]
                came = np.asarray(came).reshape(expected.shape)
                keep = np.asarray(mask[i]).reshape(envs)
                np.testing.assert_array_equal(bits(came[keep]), bits(expected[keep]), err_msg=f"{prefix}{path}, {i}")


def _rank(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim))


@pytest.mark.parametrize("on_host", [False, True])
def test_every_dtype_keeps_its_bits(on_host: bool) -> None:
    rng = np.random.default_rng(0)
    kinds = {"half": np.float16, "brain": ml_dtypes.bfloat16, "eighth": ml_dtypes.float8_e4m3fn, "flag": np.bool_}
    kinds |= {"byte": np.int8, "word": np.uint16, "complex": np.complex64, "nibble": ml_dtypes.int4}
    frames = views.init_frames(
        views.frame_stack(2, fill="zero"), {x: jax.ShapeDtypeStruct((2,), kind) for x, kind in kinds.items()}, 3
    )
    one, two = ({name: random_leaf(rng, (3,), (2,), kind) for name, kind in kinds.items()} for _ in range(2))
    pushed = views.push_frames if on_host else push
    frames = pushed(pushed(frames, one), two, np.array([False, True, False]))
    for name in kinds:
        before = one[name].copy()
        before[1] = np.zeros_like(before[1])
        np.testing.assert_array_equal(bits(frames.stacked[name]), bits(np.stack([before, two[name]], 1)), err_msg=name)


def test_keys_are_stacked() -> None:
    keys = jax.random.split(jax.random.key(0), (2, 3))
    frames = views.init_frames(views.frame_stack(2, axis=-1), {"key": jax.random.key(0)}, 3)
    for key in keys:
        frames = push(frames, {"key": key})
    wanted = jnp.stack([jax.random.key_data(x) for x in keys], 1)
    np.testing.assert_array_equal(jax.random.key_data(frames.stacked["key"]), wanted)


def test_it_scans_and_vmaps_over_seeds() -> None:
    def act(observations: jax.Array, resets: jax.Array) -> jax.Array:
        frames = views.init_frames(views.frame_stack(3), jnp.float32(0), 2)

        def body(frames: views.Frames, now: Any) -> Any:
            frames = views.push_frames(frames, *now)
            return frames, frames.stacked

        return jax.lax.scan(body, jax.tree.map(jnp.asarray, frames), (observations, resets))[1]

    observations = jnp.arange(40, dtype=jnp.float32).reshape(2, 10, 2)
    resets = jnp.asarray(np.random.default_rng(0).random((2, 10, 2)) < 0.3)
    came = jax.jit(jax.vmap(act))(observations, resets)
    for i in range(2):
        np.testing.assert_array_equal(came[i], act(observations[i], resets[i]))
    assert came.shape == (2, 10, 2, 3)


def test_what_does_not_fit_is_refused_by_name() -> None:
    view, example = views.frame_stack(2, axis=1), {"camera": jnp.zeros((4, 4)), "speed": jnp.float32(0)}
    with pytest.raises(TypeError, match=r"view: expected views\.frame_stack\(\.\.\.\)"):
        views.init_frames(views.transition(), example)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"axis 1 is out of bounds for observation\.speed"):
        views.init_frames(view, example)
    with pytest.raises(ValueError, match=r"stacks nothing of 'observation', which has: \['camera', 'speed'\]"):
        views.init_frames(views.frame_stack(2, parts=("observation.sound",)), example)
    with pytest.raises(ValueError, match="num_envs: expected at least 1"):
        views.init_frames(views.frame_stack(2), example, 0)
    over = views.compose(views.frame_stack(2), views.with_episode())
    for wrong_view, words in ((over, "give the frame_stack alone"), (views.frame_stack, "got <function frame_stack")):
        with pytest.raises(TypeError, match=words):
            views.init_frames(wrong_view, example)  # type: ignore[arg-type]
    step = replay.Transition(jnp.zeros(2), 0, 0.0, False, False, jnp.zeros(2))
    with pytest.raises(TypeError, match=r"got a Transition; pass example\.observation"):
        views.init_frames(views.frame_stack(2), step)
    with pytest.raises(TypeError, match="frames: expected what init_frames gives, got ArrayImpl"):
        views.push_frames(jnp.zeros(3), jnp.zeros(3))  # type: ignore[arg-type]
    frames = views.init_frames(views.frame_stack(2), example, 3)
    good = {"camera": jnp.zeros((3, 4, 4)), "speed": jnp.zeros(3)}
    for wrong, error, message in (
        ({"camera": good["camera"]}, ValueError, "missing speed"),
        (good | {"speed": jnp.zeros(2)}, ValueError, r"observation\.speed: expected float32\[3\], got float32\[2\]"),
        (good | {"speed": jnp.zeros(3, jnp.int32)}, TypeError, "Nothing is cast silently"),
    ):
        with pytest.raises(error, match=message):
            views.push_frames(frames, wrong)
    with pytest.raises(ValueError, match=r"reset: expected bool\[3\], got bool\[\]"):
        views.push_frames(frames, good, True)
