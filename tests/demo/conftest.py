"""The demo learns with optax's Adam, which does not work under JAX's strict promotion. All the rest of it does."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _standard() -> Iterator[None]:
    """Switch it off for every test here, and for the fixtures that they share."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def strict_without_adam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Switch it on, and learn with an optimizer that works under it."""
    import optax

    monkeypatch.setattr(optax, "adam", lambda rate: optax.sgd(1e-3))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
