"""The demo needs Gymnasium, Optax and Matplotlib."""

from tests.extras import library

for name in ("gymnasium", "optax", "matplotlib"):
    library(name)
