"""Several processes over loopback: what they hold, record and draw is what one process with as many devices does."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreplay as replay
from jaxreplay import record, samplers
from tests.record.checking import DISABLED
from tests.record.counting import Counting

DEVICES, ENVS, SLOTS, BATCH = 4, 8, 6, 8
COLLECTIVE = re.compile(r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\b")
HEARTBEAT = 5  # seconds
SECONDS = 240  # that a process may take on a busy machine


def sharding() -> NamedSharding:
    return NamedSharding(jax.make_mesh((DEVICES,), ("data",)), P("data"))


def own_envs() -> slice:
    """The envs of this process."""
    share = ENVS // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def shards(tree: Any) -> dict[str, Any]:
    """What this process has of arrays: by leaf and place, the values."""
    found = {}
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        for shard in x.addressable_shards:
            at = [part.indices(size)[:2] for part, size in zip(shard.index, x.shape, strict=True)]
            found[f"{jax.tree_util.keystr(path)} {at}"] = np.asarray(shard.data).tolist()
    return found


def a_step_of_training() -> Any:
    """Append what each process has of a block, sample, learn priorities, and pop; no device asks another."""
    example = {"x": jnp.float32(0), "end": jnp.bool_(False)}
    buffer = replay.create(
        example, SLOTS * ENVS, ENVS, episode_end="end", sampler=samplers.prioritized(), sharding=sharding()
    )
    rng, own = np.random.default_rng(0), own_envs()
    steps = {"x": rng.random((SLOTS + 2, ENVS), np.float32), "end": rng.random((SLOTS + 2, ENVS)) < 0.2}
    mask = rng.random((SLOTS + 2, ENVS)) < np.linspace(0.5, 1, ENVS)
    block = replay.local_step(jax.tree.map(lambda x: x[:, own], steps), buffer, mask[:, own])
    one = replay.local_step(jax.tree.map(lambda x: x[0, own], steps), buffer)
    buffer = replay.extend(buffer, *block)

    def train(buffer: replay.Buffer, one: Any, key: Any) -> Any:
        buffer = replay.append(buffer, one)
        batch = replay.sample(buffer, key, BATCH)
        buffer = replay.set_priorities(buffer, batch.rows, batch.data["x"])
        again = replay.sample(buffer, key, BATCH)
        buffer, popped = replay.pop(buffer, 2)
        return buffer, batch, again, replay.take(buffer, batch.rows), popped

    train = jax.jit(train, donate_argnums=0)
    text = train.lower(buffer, one, jax.random.key(1)).compile().as_text()
    out = train(buffer, one, jax.random.key(1))
    sizes = replay.size(out[0]), replay.stats(out[0]), replay.importance_weights(out[1], 0.5)
    outside = replay.sample(out[0], jax.random.key(2), BATCH)
    return {
        "shards": shards((out, sizes, outside)),
        "collectives": COLLECTIVE.findall(text),
        "batch": out[1].mask.shape,
    }


def recorded_environments() -> Any:
    """Each process steps envs of its own; it resets, reads and sets its buffer when it likes."""
    own = range(ENVS)[own_envs()]
    envs = [functools.partial(Counting, env=env, copies=True) for env in own]
    env = gymnasium.vector.SyncVectorEnv(envs, autoreset_mode=DISABLED)
    data = {"return": np.float32(0), "length": np.int32(0)}
    buffer = replay.create(
        replay.example_transition(env), 12 * ENVS, ENVS, max_episodes=12 * ENVS, episode_data=data, sharding=sharding()
    )
    recorded = record.RecordTransitions(env, buffer, block=4)
    del buffer
    recorded.reset()
    cuts = {6: 1, 9: 5, 12: 5}  # in mid-episode, at a time in which process an env is cut
    for time in range(17):
        _, _, terminated, truncated, _ = recorded.step(100 * np.array(own) + time)
        again = terminated | truncated | (np.array(own) == cuts.get(time, -1))
        if again.any():
            recorded.reset(options={"reset_mask": again})
        if time % (3 + own.start) == 2:
            held = recorded.buffer
        if time == 10:
            recorded.buffer = replay.clear(recorded.buffer)
    del held
    return {"shards": shards((recorded.buffer, replay.episodes(recorded.buffer)))}


def a_collection_of_episodes() -> Any:
    own = range(ENVS)[own_envs()]
    envs = [functools.partial(Counting, env=env, copies=True) for env in own]
    env = gymnasium.vector.SyncVectorEnv(envs, autoreset_mode=DISABLED)
    buffer = replay.create(replay.example_transition(env), 32 * ENVS, ENVS, sharding=sharding())
    policy = lambda observation, key: np.zeros(len(own), int)  # noqa: E731
    buffer, report = record.collect_episodes(env, policy, buffer, num_episodes=len(own), progress=False)
    assert report.whole == report.episodes == len(own)
    return {"shards": shards(replay.size(buffer))}


def a_rollout() -> Any:
    """One program, in which each device steps its envs."""
    from tests.record.test_rollout import Counter

    example = replay.example_transition(Counter())
    buffer = replay.create(example, SLOTS * ENVS, ENVS, sharding=sharding())
    policy = lambda observation, key: jnp.zeros(observation.shape[:1], example.action.dtype)  # noqa: E731
    return {"shards": shards(record.rollout(Counter(), policy, buffer, jax.random.key(0), 8 * ENVS))}


def wrong_steps() -> Any:
    """Errors that name the leaf, and how many envs this process has."""
    buffer = replay.create({"x": jnp.float32(0)}, SLOTS * ENVS, ENVS, sharding=sharding())
    envs = len(range(ENVS)[own_envs()])
    for step, error, message in (
        (np.zeros(envs + 1, np.float32), ValueError, rf"x: expected float32\[{envs}\].*{envs} of the {ENVS} envs"),
        (np.zeros((3, envs + 1), np.float32), ValueError, rf"x: expected float32\[3,{envs}\]"),
        (np.zeros(envs), TypeError, r"x: .*float64"),
    ):
        with pytest.raises(error, match=message):
            replay.local_step({"x": step}, buffer)
    with pytest.raises(ValueError, match="missing x"):
        replay.local_step({}, buffer)
    with pytest.raises(ValueError, match="mask: expected"):
        replay.local_step({"x": np.zeros(envs, np.float32)}, buffer, np.ones(envs + 1, bool))
    with pytest.raises(TypeError, match=r"x: .*outside jit"):
        jax.jit(lambda x: replay.local_step({"x": x}, buffer))(np.zeros(envs, np.float32))
    plain = replay.create({"x": jnp.float32(0)}, 2 * envs, envs)
    step = {"x": np.zeros(envs, np.float32)}
    assert replay.local_step(step, plain)["x"] is step["x"]
    if jax.process_count() > 1:
        env = gymnasium.vector.SyncVectorEnv([Counting] * ENVS, autoreset_mode=DISABLED)
        whole = replay.create(replay.example_transition(env), ENVS, ENVS, sharding=sharding())
        with pytest.raises(ValueError, match=f"num_envs={ENVS}, of which {envs} lie with this process"):
            record.RecordTransitions(env, whole)
        with pytest.raises(ValueError, match="x: it is a global array already"):
            replay.local_step(replay.local_step(step, buffer), buffer)
    return {"shards": {}}


CASES = (a_step_of_training, recorded_environments, a_collection_of_episodes, a_rollout, wrong_steps)


def start(count: int, index: int, port: int, *words: str) -> subprocess.Popen[str]:
    """Start one of so many processes, which share the devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES // count}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", __name__, str(count), str(index), str(port), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def results(*counts: int) -> list[list[dict[str, Any]]]:
    """Run all cases, for each count in so many processes at once; give what each process printed."""
    ports = [free_port() for _ in counts]
    groups = [[start(count, i, port) for i in range(count)] for count, port in zip(counts, ports, strict=True)]
    try:
        outs = [[process.communicate(timeout=SECONDS) for process in group] for group in groups]
    finally:
        for process in (process for group in groups for process in group):
            process.kill()
    for group, printed in zip(groups, outs, strict=True):
        for process, (_, errors) in zip(group, printed, strict=True):
            assert process.returncode == 0, errors[-6000:]
    return [[json.loads(out.splitlines()[-1]) for out, _ in printed] for printed in outs]


def compare(one: dict[str, Any], each: list[dict[str, Any]]) -> None:
    """What each process has is what the one has there, and together they have all of it."""
    for mine in each:
        for place, values in mine["shards"].items():
            assert values == one["shards"][place], place
    assert set().union(*(mine["shards"] for mine in each)) == set(one["shards"])


@pytest.fixture(scope="module")
def printed() -> list[list[dict[str, Any]]]:
    return results(1, 2)


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_two_processes_do_what_one_does(case: str, printed: list[list[dict[str, Any]]]) -> None:
    (one,), both = printed
    compare(one[case], [process[case] for process in both])


def test_a_batch_is_a_global_array_that_is_made_without_a_collective(printed: list[list[dict[str, Any]]]) -> None:
    for process in printed[1]:
        found = process["a_step_of_training"]
        assert found["batch"] == [BATCH]
        assert found["collectives"] == []
        rows = [place for place in found["shards"] if place.startswith("[0][1].mask")]
        assert len(rows) == DEVICES // 2


@pytest.mark.slow
def test_four_processes_do_what_one_does() -> None:
    (one,), four = results(1, 4)
    for case in CASES:
        compare(one[case.__name__], [process[case.__name__] for process in four])


@pytest.mark.parametrize("dies", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_others_with_an_error(dies: int) -> None:
    port = free_port()
    processes = [start(2, i, port, "die") for i in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert "ready\n" in iter(process.stdout.readline, "")
        processes[dies].kill()
        _, errors = processes[1 - dies].communicate(timeout=HEARTBEAT + 60)
        assert processes[1 - dies].returncode not in (0, None)
        assert re.search("heartbeat|unavailable|connection|terminat", errors, re.IGNORECASE), errors
    finally:
        for process in processes:
            process.kill()


def main() -> None:
    count, index, port = map(int, sys.argv[1:4])
    if count > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            count,
            index,
            initialization_timeout=SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT if "die" in sys.argv else SECONDS,
            shutdown_timeout_seconds=SECONDS if "die" not in sys.argv else HEARTBEAT,
        )
    if "die" in sys.argv:
        buffer = replay.create({"x": jnp.float32(0)}, SLOTS * ENVS, ENVS, sharding=sharding())
        assert int(replay.size(buffer)) == 0
        print("ready", flush=True)
        while True:
            int(replay.size(buffer))
    import tests.conftest  # noqa: F401  (JAX's settings of all tests)

    assert jax.device_count() == DEVICES
    print(json.dumps({case.__name__: case() for case in CASES}))


if __name__ == "__main__":
    main()
