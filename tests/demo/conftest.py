"""The demo learns with optax in Gymnasium's environments, and neither works under JAX's strict promotion."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _standard() -> Iterator[None]:
    """Switch it off for every test here, and for the fixtures that they share."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
