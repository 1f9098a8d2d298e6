"""What all tests share: a persistent compilation cache, and reproducible hypothesis profiles."""

import pathlib

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

short = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("short", short)
settings.register_profile("long", short, max_examples=600, derandomize=False)
settings.load_profile("short")
