"""Samplers: which rows are drawn. `base` documents the protocol."""

from jaxreplay.samplers.base import Sampler
from jaxreplay.samplers.uniform import uniform

__all__ = ["Sampler", "uniform"]
