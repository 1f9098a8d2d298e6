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
from jaxreplay.datasets.conversion import convert
from jaxreplay.datasets.dataset import Dataset, Episodes
from jaxreplay.datasets.report import Report
from jaxreplay.datasets.trajectory import Trajectory

__all__ = [
    "Batch",
    "Dataset",
    "Episodes",
    "Padded",
    "Report",
    "Statistics",
    "Summary",
    "Trajectory",
    "convert",
    "discounted_returns",
    "flatten",
    "pad",
    "segment",
    "statistics",
]
