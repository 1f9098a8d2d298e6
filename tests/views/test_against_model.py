"""Windows, stacks and sequences against the plain-Python model, over random lives of a buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import jaxreplay as replay
from jaxreplay import views
from tests.model import LEAVES, Model, bits, from_steps, make_buffer
from tests.test_laws import SHAPES, operate, operations

OBSERVATIONS = [path for path in LEAVES if path.startswith("obs.")]


def held_steps(model: Model, time: int, env: int) -> tuple[list[int], dict[str, np.ndarray]]:
    """The times of the held steps of a row's episode, and what followed its newest."""
    episode = model.episodes[env][model.slices[time][env]["episode"]]  # type: ignore[index]
    newest = episode.start + episode.length - 1
    return list(range(max(episode.start, model.oldest), newest + 1)), episode.final


def step_at(model: Model, time: int, env: int) -> dict[str, np.ndarray]:
    """A held step with its next values, removed or not."""
    times, final = held_steps(model, time, env)
    step = dict(model.slices[time][env]["step"])  # type: ignore[index]
    for path in OBSERVATIONS:
        following = final[path] if time == times[-1] else model.slices[time + 1][env]["step"][path]  # type: ignore[index]
        step["next_" + path] = following
    return step


def check_rows(buffer: replay.Buffer, model: Model, view: views.View, expect: Any) -> None:
    """Each row's batch is what `expect(time, env)` says, leaf by leaf; None where it must be masked, and zeros."""
    rows, _ = replay.rows(buffer)
    batch = replay.take(buffer, rows, view)
    came = from_steps(batch.data)
    for i, (time, env) in enumerate(zip(rows.time.tolist(), rows.env.tolist())):
        wanted = expect(time, env) if model.valid(time, env) else None
        assert bool(batch.mask[i]) == (wanted is not None)
        for path, leaf in came.items():
            expected = np.zeros_like(leaf[i]) if wanted is None else wanted[path]
            np.testing.assert_array_equal(bits(leaf[i]), bits(expected), err_msg=f"{path}, time {time}, env {env}")


NAMES = ("obs", "action", "reward", "done", "next_obs")
PATHS = [path for path in (*LEAVES, *("next_" + path for path in OBSERVATIONS)) if path.split(".")[0] in NAMES]


def compared(step: Any) -> dict[str, Any]:
    """The parts that are compared, without those of no interest here."""
    return {name: step[name] for name in NAMES}


def window_parts(window: Any) -> dict[str, Any]:
    return {"mask": window.mask, **compared(window.data)}


def sequence_parts(sequence: Any) -> dict[str, Any]:
    names = ("mask", "learn", "index")
    return {**{name: getattr(sequence, name) for name in names}, **compared(sequence.data)}


def episode_parts(batch: Any) -> dict[str, Any]:
    return {**{name: getattr(batch, name) for name in ("number", "index", "length")}, **compared(batch.data)}


def episode_by_hand(model: Model, time: int, env: int) -> dict[str, Any]:
    number = model.slices[time][env]["episode"]  # type: ignore[index]
    episode = model.episodes[env][number]
    numbers = {"number": number, "index": time - episode.start, "length": episode.length}
    return {name: np.int32(x) for name, x in numbers.items()} | stacked(model, 2, "edge", time, env)


def n_step_parts(batch: Any) -> dict[str, Any]:
    return {"obs": batch.observation, "next_obs": batch.next_observation}


def stack_by_hand(model: Model, n: int, fill: str, time: int, env: int, follows: bool, path: str) -> np.ndarray:
    """The last n observations up to a held step's own, or up to the one after it."""
    times, final = held_steps(model, time, env)
    frames = [model.slices[t][env]["step"][path] for t in times] + [final[path]]  # type: ignore[index]
    last = times.index(time) + int(follows)
    places = range(last - n + 1, last + 1)
    return np.stack([frames[max(i, 0)] if i >= 0 or fill == "edge" else np.zeros_like(frames[0]) for i in places])


def stacked(model: Model, n: int, fill: str, time: int, env: int) -> dict[str, np.ndarray]:
    step = {path: x for path, x in step_at(model, time, env).items() if path in PATHS}
    for path in OBSERVATIONS:
        step[path] = stack_by_hand(model, n, fill, time, env, False, path)
        step["next_" + path] = stack_by_hand(model, n, fill, time, env, True, path)
    return step


def window_by_hand(
    model: Model, offsets: tuple[int, ...], fill: str, time: int, env: int, frames: int = 0
) -> dict[str, Any]:
    times, _ = held_steps(model, time, env)
    inside = [time + o in times for o in offsets]
    nearest = [min(max(time + o, times[0]), times[-1]) for o in offsets]
    steps = [stacked(model, frames, "edge", t, env) if frames else step_at(model, t, env) for t in nearest]
    out: dict[str, Any] = {"mask": np.array(inside)}
    for path in PATHS:
        out[path] = np.stack(
            [s[path] if k or fill == "edge" else np.zeros_like(s[path]) for s, k in zip(steps, inside)]
        )
    return out


def sequence_by_hand(model: Model, length: int, burn_in: int, complete: bool, time: int, env: int) -> Any:
    times, _ = held_steps(model, time, env)
    there = [time + i in times for i in range(length)]
    if complete and not all(there):
        return None
    out = window_by_hand(model, tuple(range(length)), "zero", time, env)
    last = step_at(model, time + sum(there) - 1, env)
    start = model.episodes[env][model.slices[time][env]["episode"]].start  # type: ignore[index]
    out |= {"next_" + path: last["next_" + path] for path in OBSERVATIONS}
    out["learn"] = np.array([ok and i >= burn_in for i, ok in enumerate(there)])
    out["index"] = np.array([time - start + i if ok else 0 for i, ok in enumerate(there)], np.int32)
    return out


def reset_parts(sequence: Any) -> dict[str, Any]:
    return {**sequence_parts(sequence), "reset": sequence.reset}


def across_by_hand(model: Model, length: int, burn_in: int, every: int, time: int, env: int) -> Any:
    """A sequence over ends of episodes: every step is held, and none is void or removed."""
    steps = range(time, time + length)
    if time % every or not all(model.valid(t, env) for t in steps):
        return None
    number = [model.slices[t][env]["episode"] for t in steps]  # type: ignore[index]
    index = np.array([t - model.episodes[env][n].start for t, n in zip(steps, number)], np.int32)
    each = [step_at(model, t, env) for t in steps]
    out = {path: np.stack([step[path] for step in each]) for path in PATHS}
    out |= {"next_" + path: each[-1]["next_" + path] for path in OBSERVATIONS}
    learn = np.arange(length) >= burn_in
    return out | {"mask": np.ones(length, bool), "learn": learn, "index": index, "reset": index == 0}


def sparse_by_hand(model: Model, length: int, complete: bool, every: int, time: int, env: int) -> Any:
    """A sequence that begins with every so many-th step of its episode; the action of the first step alone."""
    out = sequence_by_hand(model, length, 0, complete, time, env)
    if out is None or (time - model.episodes[env][model.slices[time][env]["episode"]].start) % every:  # type: ignore[index]
        return None
    return {path: x[0] if path.split(".")[0] == "action" else x for path, x in out.items()}


def n_step_over_stacks(model: Model, n: int, frames: int, time: int, env: int) -> dict[str, np.ndarray]:
    times, _ = held_steps(model, time, env)
    last = min(time + n - 1, times[-1])
    here, there = stacked(model, frames, "edge", time, env), stacked(model, frames, "edge", last, env)
    return {path: here[path] for path in OBSERVATIONS} | {
        "next_" + path: there["next_" + path] for path in OBSERVATIONS
    }


def windowed(offsets: tuple[int, ...], fill: str) -> Any:
    view = views.compose(views.offsets(offsets, fill), views.map(window_parts))
    return view, lambda model, time, env: window_by_hand(model, offsets, fill, time, env)


N_STEP = views.n_step(2, 0.9, observation="obs", terminated="done", next_observation="next_obs")
CASES: dict[str, Any] = {
    "a window": windowed((-1, 0, 1), "edge"),
    "a window filled with zeros": windowed((-1, 0, 1), "zero"),
    "strided offsets": windowed((-2, 0), "edge"),
    "strided offsets into the future filled with zeros": windowed((0, 2), "zero"),
    "frame stacks": (
        views.compose(views.frame_stack(3), views.map(compared)),
        lambda model, time, env: stacked(model, 3, "edge", time, env),
    ),
    "frame stacks filled with zeros": (
        views.compose(views.frame_stack(4, fill="zero"), views.map(compared)),
        lambda model, time, env: stacked(model, 4, "zero", time, env),
    ),
    "n steps over stacks": (
        views.compose(views.frame_stack(3), N_STEP, views.map(n_step_parts)),
        lambda model, time, env: n_step_over_stacks(model, 2, 3, time, env),
    ),
    "a window of stacks": (
        views.compose(views.frame_stack(2), views.window(1, 1, "zero"), views.map(window_parts)),
        lambda model, time, env: window_by_hand(model, (-1, 0, 1), "zero", time, env, frames=2),
    ),
    "complete sequences": (
        views.compose(views.sequence(2, burn_in=1), views.map(sequence_parts)),
        lambda model, time, env: sequence_by_hand(model, 3, 1, True, time, env),
    ),
    "stacks with their episode": (
        views.compose(views.frame_stack(2), views.with_episode(), views.map(episode_parts)),
        episode_by_hand,
    ),
    "sequences across episodes": (
        views.compose(views.sequence(2, burn_in=1, across=True), views.map(reset_parts)),
        lambda model, time, env: across_by_hand(model, 3, 1, 1, time, env),
    ),
    "every third sequence across episodes": (
        views.compose(views.sequence(4, across=True, every=3), views.map(reset_parts)),
        lambda model, time, env: across_by_hand(model, 4, 0, 3, time, env),
    ),
    "every other sequence": (
        views.compose(views.sequence(2, every=2, first="action"), views.map(sequence_parts)),
        lambda model, time, env: sparse_by_hand(model, 2, True, 2, time, env),
    ),
    "every other padded sequence": (
        views.compose(views.sequence(3, complete=False, every=2, first=["action"]), views.map(sequence_parts)),
        lambda model, time, env: sparse_by_hand(model, 3, False, 2, time, env),
    ),
    "padded sequences": (
        views.compose(views.sequence(3, complete=False), views.map(sequence_parts)),
        lambda model, time, env: sequence_by_hand(model, 3, 0, False, time, env),
    ),
}


def check_case(case: str, shape: Any, operations: list[Any]) -> None:
    """Live through the operations, and compare every row of the view with the model."""
    view, expect = CASES[case]
    buffer, model = make_buffer(*shape), Model(shape[0], shape[1] or 1, shape[2])
    for operation in operations:
        buffer = operate(buffer, model, operation)
    check_rows(buffer, model, view, lambda time, env: expect(model, time, env))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
@settings(settings.get_profile("short"), max_examples=6)
@given(operations=operations)
def test_a_view_gives_what_the_plain_model_holds(case: str, shape: Any, operations: list[Any]) -> None:
    check_case(case, shape, operations)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
@settings(settings.get_profile("long"), max_examples=100)
@given(operations=operations)
def test_the_same_over_many_more_lives(case: str, shape: Any, operations: list[Any]) -> None:
    check_case(case, shape, operations)
