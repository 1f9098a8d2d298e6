"""Trajectories, and data sets of them: in memory, on disk, and into a buffer."""

from jaxreplay.datasets._arrays import (
    Padded,
    Statistics,
    Summary,
    discounted_returns,
    flatten,
    pad,
    segment,
    statistics,
)
from jaxreplay.datasets.batches import Batch
from jaxreplay.datasets.builder import TrajectoryBuilder
from jaxreplay.datasets.comparing import Comparison
from jaxreplay.datasets.conversion import convert
from jaxreplay.datasets.dataset import Dataset
from jaxreplay.datasets.joining import validate
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.select import Episodes
from jaxreplay.datasets.trajectory import Trajectory

__all__ = [
    "Batch",
    "Comparison",
    "Dataset",
    "Episodes",
    "Padded",
    "Report",
    "Statistics",
    "Summary",
    "Trajectory",
    "TrajectoryBuilder",
    "convert",
    "discounted_returns",
    "flatten",
    "pad",
    "segment",
    "statistics",
    "validate",
]
