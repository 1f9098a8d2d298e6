"""The benchmarks' tables are drawn with Matplotlib."""

from tests.extras import library

library("matplotlib")
