"""The table of weak scaling reads what a device has and does."""

from __future__ import annotations

import jax
import pytest

from benchmarks import programs, scaling


def test_a_step_on_one_device_is_compiled_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SLOTS", 2**8)
    monkeypatch.setattr(scaling, "STEPS", 2)
    mesh = scaling.mesh_of(jax.devices("cpu")[:1])
    facts = programs.read(scaling.lowered(scaling.of_jaxreplay, mesh))
    assert facts.temp < facts.ring
    assert not facts.collectives
    assert scaling.seconds_of(scaling.of_jaxreplay, mesh) > 0
