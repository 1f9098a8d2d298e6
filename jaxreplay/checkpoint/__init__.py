"""Checkpoints: buffers, and training states with buffers in them, saved and loaded bit for bit.

`save` commits all of it or nothing, and a second save to the same folder writes what changed. `load` checks that what
was saved fits before it reads anything large, and reads it in pieces, so that no second copy is needed.
"""

from jaxreplay.checkpoint.loading import load
from jaxreplay.checkpoint.saving import save

__all__ = ["load", "save"]
