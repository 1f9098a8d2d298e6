"""Records made by hand, and what makes two of them the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxreplay.record.actions.record import ActionRecord, Environment
from tests.datasets.test_values import assert_same

ENVIRONMENT = Environment("Robot-v0", {"gravity": "-5.0"}, "Discrete(3)", "Box(0, 1)")


def record_of(actions: list[Any], seed: int | None = 7, base: ActionRecord | None = None) -> ActionRecord:
    rng = np.random.default_rng(len(actions))
    return ActionRecord(
        actions=tuple(actions),
        rewards=rng.normal(size=len(actions)),
        terminated=True,
        truncated=False,
        seed=seed,
        options={"goal": np.array([1, 2], np.float32), "name": "left"},
        environment=ENVIRONMENT,
        not_replayable="" if seed is not None else "it was reset without a seed",
        base=base,
        base_steps=None if base is None else np.array([len(base)] + [0] * len(actions)),
    )


def nested() -> ActionRecord:
    actions = [{"arm": np.array([i, -i], np.float32), "grip": i % 2} for i in range(5)]
    return record_of(actions, base=record_of([np.int64(i) for i in range(6)], seed=3))


def assert_same_record(a: ActionRecord, b: ActionRecord) -> None:
    for field in dataclasses.fields(ActionRecord):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if field.name == "base" and mine is not None:
            assert_same_record(mine, other)
        elif field.name == "environment":
            assert mine == other
        else:
            assert_same(mine, other)
