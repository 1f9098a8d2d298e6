"""Recording needs Gymnasium."""

from tests.extras import library

library("gymnasium")
