"""Data sets on disk, larger than memory: `Writer` writes them, `Dataset.open` opens them.

The files are NumPy's own: `numpy.load(path, mmap_mode="r")` opens each column.
`python -m jaxreplay.storage info|verify|repair|convert PATH` is for the command line.
"""

from jaxreplay.storage.writer import Writer

__all__ = ["Writer"]
