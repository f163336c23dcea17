"""Function Fuse plugin for dask arrays.

This release reserves the place and provides nothing yet.
"""

__version__ = "0.1.0"
