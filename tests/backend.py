"""Whether JAX has asked for a device in this process."""

from __future__ import annotations

import jax


def backend_started() -> bool:
    """Tell by a public setting that can be changed only before the first device is asked for."""
    number = jax.config.jax_num_cpu_devices
    try:
        jax.config.update("jax_num_cpu_devices", number + 2)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", number)
    return False
