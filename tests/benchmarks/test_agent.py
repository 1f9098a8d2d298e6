"""The main job's agent with other replays in place of this library's, as the benchmark of a training step runs it."""

import jax
import numpy as np
import pytest

from benchmarks import agent
from tests.extras import library as need


@pytest.mark.parametrize("library", [agent.Constant, agent.ConstantInTurn, agent.Flashbax])
def test_the_agent_trains_with_another_replay(library: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if library is agent.Flashbax:
        need("flashbax")
    monkeypatch.setattr(agent, "STEPS", 2)
    metrics = agent.run_agent(library())()
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(metrics))
