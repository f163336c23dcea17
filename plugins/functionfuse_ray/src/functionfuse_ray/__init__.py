"""Function Fuse plugin for Ray clusters.

This release reserves the place and provides nothing yet.
"""

__version__ = "0.1.0"
