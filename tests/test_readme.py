"""The examples of the README run as they stand there, given what they say is the reader's own."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxreplay as replay
from tests.extras import library

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(contains: str, **given: Any) -> dict[str, Any]:
    """Run the one block that contains a text, with names that it takes as given."""
    (block,) = [block for block in BLOCKS if contains in block]
    scope = {"jax": jax, "jnp": jnp, "replay": replay, **given}
    exec(block, scope)
    return scope


def block() -> replay.Transition:
    zeros, flag = jnp.zeros((40, 2, 3)), jnp.zeros((40, 2), bool)
    return replay.Transition(zeros, zeros[..., 0], zeros[..., 0], flag.at[9::10].set(True), flag, zeros)


@functools.cache
def filled() -> replay.Buffer:
    example = jax.tree.map(lambda x: x[0, 0], block())
    return replay.extend(replay.create(example, 80, 2, sampler=replay.samplers.prioritized()), block())


def test_the_first_example(capsys: pytest.CaptureFixture[str]) -> None:
    run("rollout = jax.tree.map")
    assert capsys.readouterr().out == "(256, 4) (256,) 1408\n"


@pytest.mark.usefixtures("standard_promotion")  # its environment is Gymnasium's
def test_the_jitted_loop(capsys: pytest.CaptureFixture[str]) -> None:
    functional = library("gymnasium.envs.phys2d.cartpole")
    from jaxreplay.demo import cartpole

    def step_envs(envs: Any, action: jax.Array) -> Any:
        return cartpole.step(envs, action, jax.random.key(0))

    scope = run(
        "def train_step",
        env=functional.CartPoleFunctional(),
        envs=cartpole.reset(jax.random.key(0), 16),
        step_envs=step_envs,
        policy=lambda params, envs, key: jax.random.randint(key, (16,), 0, 2),
        update=lambda params, data: params + data.reward.sum(),
        params=jnp.float32(0),
        key=jax.random.key(0),
    )
    assert capsys.readouterr().out.startswith("in place")
    params, buffer, _, _ = scope["train"]((jnp.float32(0), scope["buffer"], scope["envs"], scope["key"]))
    assert int(replay.size(buffer)) == replay.capacity(buffer) == 100_000
    assert float(params) > 0


def test_any_structure() -> None:
    scalar, obs = jnp.float32(0), jnp.zeros(3)
    scope = run("next_of={", obs=obs, action=scalar, reward=scalar, done=jnp.bool_(False))
    step = {"obs": obs, "next_obs": obs, "action": scalar, "reward": scalar, "done": jnp.bool_(True)}
    buffer = replay.append(scope["buffer"], step)
    assert replay.sample(buffer, jax.random.key(0), 4, scope["view"]).data.reward.shape == (4,)


def test_several_sources() -> None:
    """The priorities are those of the online buffer's rows, and the offline one may have none."""
    rows, _ = replay.rows(filled())
    rollout = jax.tree.map(lambda x: x[:, 0], block())
    example = jax.tree.map(lambda x: x[0], rollout)
    offline = replay.extend(replay.create(example, 60), rollout)
    key, priorities = jax.random.key(0), jnp.arange(256.0)
    scope = run("RLPD", example=example, rollout=rollout, offline=offline, key=key, rows=rows, priorities=priorities)
    batch = scope["batch"]
    assert batch.rows.source.tolist() == [0] * 128 + [1] * 128
    set_anew = replay.take(scope["online"], batch.rows.of(0)).probability[:128]
    assert len(set(set_anew.tolist())) > 1


def test_priorities() -> None:
    rollout = jax.tree.map(lambda x: jnp.zeros((4, 128, *x.shape), x.dtype), replay.take(filled(), _row()).data)
    example, errors = jax.tree.map(lambda x: x[0, 0], rollout), -jnp.arange(256.0)
    scope = run(
        "sampler=replay.samplers.prioritized(0.6)",
        example=example,
        rollout=rollout,
        key=jax.random.key(0),
        td_errors=errors,
    )
    after = replay.take(scope["buffer"], scope["batch"].rows).probability
    assert after[255] > after[1] > 0


def test_the_replay_of_a_recurrent_agent() -> None:
    example = jax.tree.map(lambda x: x[0, 0], block())
    scope = run("every=40", example=example)
    steps = jax.tree.map(lambda x: jnp.zeros((120, 16, *x.shape), x.dtype), scope["step"])
    batch = replay.sample(replay.extend(scope["buffer"], steps), jax.random.key(0), 8, scope["view"])
    assert set(batch.rows.time.tolist()) == {0, 40}
    assert batch.data.observation.shape[:2] == (8, 80)
    assert batch.data.extras["state"].shape == (8, 64)


def _row() -> replay.Rows:
    return replay.Rows(time=jnp.int32(0), env=jnp.int32(0))


def test_a_recorded_environment() -> None:
    library("gymnasium")
    scope = run("env = record.RecordTransitions(env, buffer)")
    assert scope["batch"].data.observation.shape == (256, 4)


def test_what_else_to_keep() -> None:
    gymnasium = library("gymnasium")
    buffer = run("of Atari", env=gymnasium.make("CartPole-v1"))["buffer"]
    assert sorted(replay.episode_data(buffer)) == ["length", "return", "seed"]
    assert "extras.lives" in buffer.rings.layout.paths


def test_atari() -> None:
    library("ale_py")
    library("cv2")
    batch = run("AtariPreprocessing")["batch"]
    assert batch.data.observation.shape == (32, 4, 84, 84)
    assert bool(batch.mask.all())


def test_recordings_through_wrappers() -> None:
    gymnasium = library("gymnasium")
    from jaxreplay import record

    env = gymnasium.make("CartPole-v1")
    env = record.RecordTransitions(env, replay.create(replay.example_transition(env), 1000))
    for seed in range(3):
        env.reset(seed=seed)
        while not any(env.step(env.action_space.sample())[2:4]):
            pass
    scope = run("record.convert_dataset(", env=env, record=record)
    steps = len(scope["trajectory"].actions)
    assert scope["stacked"].observations.shape == (steps + 1, 4, 4)
    assert scope["converted"].num_episodes == 3


def test_a_torch_loader() -> None:
    library("torch")
    seen = []
    scope = run("convert.to_torch_dataset", buffer=filled(), train=lambda *batch: seen.append(batch))
    assert sum(len(mask) for _, mask in seen) == len(scope["rows"])
    assert seen[0][0].shape[1:] == (4, 3)


def test_every_example_is_run() -> None:
    """Here, or in `samplers/test_own_sampler.py`."""
    run_here = re.findall(r'run\(\s*"((?:[^"\\]|\\.)*)"', pathlib.Path(__file__).read_text())
    missed = [block for block in BLOCKS if not any(text in block for text in [*run_here, "class Recent"])]
    assert not missed


def test_a_data_set(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run("dataset.save(")
    assert scope["batch"].data.observation.shape == (256, 4)


def test_action_records(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    library("gymnasium")
    monkeypatch.chdir(tmp_path)
    run("record.load_actions(")
    assert capsys.readouterr().out.count("as recorded") == 3
