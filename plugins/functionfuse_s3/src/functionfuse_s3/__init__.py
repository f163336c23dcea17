"""Function Fuse plugin for results in S3.

This release reserves the place and provides nothing yet.
"""

__version__ = "0.1.0"
