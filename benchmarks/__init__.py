"""Benchmarks side by side: `python -m benchmarks` from the root of the repository runs them all."""
