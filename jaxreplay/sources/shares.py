"""Shares of a whole: proportions of a mixture, fractions of a split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxreplay._core import trees

TOLERANCE = 1e-6  # by how much shares may miss 1


def check_shares(name: str, shares: Sequence[float]) -> tuple[float, ...]:
    """Return shares as Python numbers, or raise where they are traced, outside 0 to 1, or do not add up to 1."""
    if not trees.is_concrete(shares):
        raise TypeError(f"{name}: expected Python numbers (they shape the program), got traced values")
    values = tuple(float(share) for share in np.asarray(shares, np.float64).ravel())
    if not values or not all(0 <= value <= 1 for value in values) or abs(math.fsum(values) - 1) > TOLERANCE:
        raise ValueError(f"{name}: expected numbers from 0 to 1 that add up to 1, got {list(values)}")
    return values
