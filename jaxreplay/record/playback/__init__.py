"""Recorded trajectories as environments, and what wrappers make of them."""
