"""Samplers: which rows are drawn. `base` documents the protocol.

For samplers of your own: `counts`, `nth_rows` and `rank` number the rows of each env that can be read, and
`redraw_rows` draws again what cannot be used.
"""

from jaxreplay._core.lookup import counts, nth_rows, rank
from jaxreplay.samplers._prioritized import prioritized
from jaxreplay.samplers._uniform import uniform
from jaxreplay.samplers.base import Sampler
from jaxreplay.samplers.redraw import redraw_rows

__all__ = ["Sampler", "counts", "nth_rows", "prioritized", "rank", "redraw_rows", "uniform"]
