"""The main job on several devices: data-parallel, with no word between devices but of gradients and metrics."""

from __future__ import annotations

import functools
import math
import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreplay.demo import dqn, main
from tests.devices import Cases

COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
TINY = dqn.Settings(steps=2000, num_envs=8, capacity=8000, batch_size=8, hidden=8, devices=4)
METRICS = 8  # scalars a step: loss, episodes, lengths, the maximum of weights
cases = Cases(4)


@cases.case(False, True)
def devices_tell_one_another_gradients_and_metrics_alone(prioritized: bool) -> None:
    settings = dqn.Settings(**{**vars(TINY), "prioritized": prioritized})
    lie = dqn.shardings(settings)
    begin = jax.jit(jax.vmap(lambda seed: dqn.start(settings, jax.random.key(seed))), out_shardings=lie)
    state = begin(jnp.arange(2))
    train = jax.vmap(functools.partial(dqn.train, settings, length=20))
    program = jax.jit(train, donate_argnums=0, out_shardings=(lie, None)).lower(state).compile()
    found = COLLECTIVE.findall(program.as_text())
    assert {name for _, name in found} == {"all-reduce"}
    sizes = [
        math.prod(map(int, filter(None, x.split(",")))) for shapes, _ in found for x in re.findall(r"\[(.*?)\]", shapes)
    ]
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    assert parameters <= sum(sizes) <= parameters + 2 * METRICS
    for x in jax.tree.leaves((state.buffer, state.envs)):
        assert all(shard.data.shape[1] * 4 == x.shape[1] for shard in x.addressable_shards)
    state, metrics = program(state)
    assert np.isfinite(np.asarray(metrics.loss)).all()
    for x in jax.tree.leaves(state.params):
        first, *others = (np.asarray(shard.data) for shard in x.addressable_shards)
        assert all((first == other).all() for other in others)


@cases.case()
def the_command_trains_seeds_over_devices() -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--devices", "4", "--steps", "800", "--num-envs", "4", "--num-seeds", "2", "--prioritized"]
        assert main.main([*flags, "--out", folder]) == 0
        assert main.load_parameters(pathlib.Path(folder) / "parameters_seed1.msgpack")


@pytest.mark.parametrize("name", cases.named)
def test_on_devices(name: str) -> None:
    cases.check(name, __name__)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "0"], "--devices: expected at least 1, got 0"),
        (["--devices", "3"], "--devices: 3 does not divide --num-envs, 16"),
        (["--devices", "256", "--num-envs", "256"], "--devices: 256 does not divide a batch, 128"),
        (["--devices", "128", "--num-envs", "128"], "--devices: there are"),
    ],
)
def test_wrong_numbers_of_devices_end_with_a_message(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jax.devices()  # from here on there are no more
    with pytest.raises(SystemExit) as stop:
        main.main(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


if __name__ == "__main__":
    cases.main()
