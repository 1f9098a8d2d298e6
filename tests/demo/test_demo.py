"""The main job: its environment, its jitted program, and what the command leaves behind."""

from __future__ import annotations

import csv
import dataclasses
import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxreplay as replay
from jaxreplay.demo import cartpole, dqn, main
from jaxreplay.types import PyTree

TINY = dqn.Settings(steps=2000, num_envs=4, capacity=400, batch_size=8, hidden=8)


@functools.cache
def trained() -> tuple[dqn.State, dqn.Metrics]:
    state = jax.jit(dqn.start, static_argnums=0)(TINY, jax.random.key(0))
    return jax.jit(dqn.train, static_argnums=(0, 2))(TINY, state, 300)


def test_the_recorded_transitions_are_those_of_the_environment() -> None:
    """Each next observation is one step of the dynamics on, also at an end, where the env is then reset."""
    buffer = trained()[0].buffer
    rows, mask = replay.rows(buffer)
    assert bool(mask.all())
    data = replay.take(buffer, rows).data
    expected = jax.vmap(cartpole.ENV.transition)(data.observation, data.action)
    np.testing.assert_allclose(data.next_observation, expected, rtol=1e-5, atol=1e-6)
    ended = np.asarray(data.terminated | data.truncated)
    assert ended.any()
    np.testing.assert_array_equal(data.terminated, jax.vmap(lambda s: cartpole.ENV.terminal(s, None))(expected))
    after = np.asarray(data.observation).reshape(-1, 4, 4)[1:]  # the next slice of each env
    ended = ended.reshape(-1, 4)[:-1]
    assert (np.abs(after[ended]) <= 0.05).all()
    np.testing.assert_array_equal(after[~ended], np.asarray(data.next_observation).reshape(-1, 4, 4)[:-1][~ended])


def test_an_episode_is_truncated_at_the_time_limit() -> None:
    envs = cartpole.reset(jax.random.key(0), 2).replace(elapsed=jnp.array([498, 499], jnp.int32))
    after, transition = cartpole.step(envs, jnp.array([0, 1]), jax.random.key(1))
    assert transition.truncated.tolist() == [False, True]
    assert transition.terminated.tolist() == [False, False]
    assert after.elapsed.tolist() == [499, 0]


def test_counts_and_learning_of_a_short_run() -> None:
    state, metrics = trained()
    assert int(state.updates) == 300
    assert int(replay.stats(state.buffer).time) == 300
    assert int(replay.size(state.buffer)) == 400
    assert np.isfinite(float(metrics.loss))
    fresh = dqn.start(TINY, jax.random.key(0)).params
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), fresh, state.params))


@pytest.mark.parametrize("prioritized", [False, True])
def test_the_training_step_keeps_the_buffer_in_place_also_over_seeds(prioritized: bool) -> None:
    settings = dataclasses.replace(TINY, capacity=8000, prioritized=prioritized)
    step = functools.partial(dqn.train_step, settings)
    state = jax.eval_shape(lambda: dqn.start(settings, jax.random.key(0)))
    assert replay.check_in_place(step, state)
    seeds = jax.eval_shape(lambda: jax.vmap(lambda s: dqn.start(settings, jax.random.key(s)))(jnp.arange(2)))
    assert replay.check_in_place(jax.vmap(step), seeds)


def test_with_priorities_rows_are_drawn_by_their_errors() -> None:
    settings = dataclasses.replace(TINY, prioritized=True, n_step=3)
    state, metrics = jax.jit(lambda key: dqn.train(settings, dqn.start(settings, key), 100))(jax.random.key(0))
    assert np.isfinite(float(metrics.loss))
    rows, _ = replay.rows(state.buffer)
    drawn = np.unique(np.asarray(replay.take(state.buffer, rows).probability))
    assert len(drawn) > 50


def test_seeds_trained_in_one_program_train_as_they_do_alone() -> None:
    settings = dqn.Settings(steps=200, num_envs=2, capacity=200, batch_size=4, hidden=4)

    def run(seed: jax.Array) -> tuple[dqn.State, dqn.Metrics]:
        return dqn.train(settings, dqn.start(settings, jax.random.key(seed)), 60)

    together, _ = jax.jit(jax.vmap(run))(jnp.arange(2))
    for seed in range(2):
        alone, _ = jax.jit(run)(jnp.int32(seed))
        assert int(together.updates[seed]) == int(alone.updates)
        np.testing.assert_allclose(together.envs.state[seed], alone.envs.state, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("run") / "deeper"
    assert main.main(["--steps", "800", "--num-envs", "2", "--num-seeds", "2", "--seed", "3", "--out", str(out)]) == 0
    return out


def test_the_command_saves_curve_metrics_and_parameters(run: pathlib.Path) -> None:
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader((run / "metrics.csv").open()))
    assert len(lines) == 2 * main.CHUNKS
    assert {line["seed"] for line in lines} == {"3", "4"}
    assert lines[-1]["step"] == "800"
    params = main.load_parameters(run / "parameters_seed4.msgpack")
    returns = dqn.evaluate(dqn.Settings(), params, jax.random.key(0), 3)
    assert returns.shape == (3,)
    assert bool((returns >= 1).all())


def test_the_same_seed_gives_the_same_metrics(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    main.main(["--steps", "800", "--num-envs", "2", "--num-seeds", "2", "--seed", "3", "--out", str(tmp_path)])
    assert (tmp_path / "metrics.csv").read_text() == (run / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "100"], "--steps: expected at least 25 of each env"),
        (["--num-envs", "0"], "--num-envs: expected at least 1, got 0"),
        (["--num-seeds", "-1"], "--num-seeds: expected at least 1"),
        (["--steps", "many"], "invalid int value"),
        (["--out", "/dev/null/x"], "--out: cannot write"),
    ],
)
def test_wrong_flags_end_with_a_message(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_last_policy_is_reported_and_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is the worst: here every policy scores less than the one before it."""

    def train(settings: dqn.Settings, state: dqn.State, length: int) -> tuple[dqn.State, dqn.Metrics]:
        updates = state.updates + length
        target = jax.tree.map(lambda x: jnp.full_like(x, updates), state.target)
        return state.replace(updates=updates, target=target), dqn.Metrics(*jnp.zeros(3))

    def evaluate(settings: dqn.Settings, params: PyTree, key: jax.Array, num_episodes: int) -> jax.Array:
        return jnp.full(num_episodes, 1000.0 - jax.tree.leaves(params)[0].mean())

    monkeypatch.setattr(dqn, "train", train)
    monkeypatch.setattr(dqn, "evaluate", evaluate)
    updates = 800 // 2 // main.CHUNKS * main.CHUNKS
    assert main.main(["--steps", "800", "--num-envs", "2", "--out", str(tmp_path)]) == 0
    assert f"mean {1000 - updates:.1f}, lowest" in capsys.readouterr().out
    tests = [float(line["test_return"]) for line in csv.DictReader((tmp_path / "metrics.csv").open())]
    assert len(tests) == main.CHUNKS
    assert (tests[-1], max(tests)) == (1000 - updates, tests[0])
    for leaf in jax.tree.leaves(main.load_parameters(tmp_path / "parameters_seed0.msgpack")):
        np.testing.assert_array_equal(leaf, updates)


@pytest.mark.usefixtures("strict_without_adam")
def test_training_and_tests_work_under_strict_promotion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "CHUNKS", 1)
    history, _ = main.train(dataclasses.replace(TINY, steps=40, prioritized=True), [0])
    assert history[0].test_return >= 1


def test_a_short_training_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "CHUNKS", 10)
    history, _ = main.train(dqn.Settings(steps=4_000, num_envs=4), [0])
    tests = [record.test_return for record in history]
    assert np.mean(tests[-3:]) > max(100, 2 * tests[0])


@pytest.mark.slow
@pytest.mark.parametrize("prioritized", [False, True])
def test_five_seeds_rise_and_stay(prioritized: bool) -> None:
    settings = dataclasses.replace(dqn.Settings(), prioritized=prioritized)
    assert settings.steps <= 300_000
    history, params = main.train(settings, range(5))
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 2))(jnp.arange(5))
    returns = jax.vmap(functools.partial(dqn.evaluate, settings, num_episodes=100))(params, keys)
    assert float(returns.mean(axis=1).min()) >= main.SOLVED
    curves = np.array([[record.test_return for record in history if record.seed == seed] for seed in range(5)])
    assert curves.shape == (5, main.CHUNKS)
    late = curves[:, -main.CHUNKS // 4 :]  # the last quarter of the training
    assert late.mean() >= main.SOLVED
    assert late.min() >= 400


@pytest.mark.parametrize("missing", ["optax", "gymnasium", "matplotlib", "tqdm"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = f"import sys, runpy; sys.modules[{missing!r}] = None; runpy.run_module('jaxreplay', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert missing in done.stderr
    assert "pip install 'jaxreplay[demo]'" in done.stderr
