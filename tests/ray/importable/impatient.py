"""A store that workers don't wait for as long as usual."""

from __future__ import annotations

import os

from ray_functions import remember

from functionfuse_ray import connection
from functionfuse_ray.store import RayStore


class Impatient(RayStore):
    """Notes each process that opens it and has NOTES in its environment; there, it waits 15 s."""

    def __init__(self, *args):
        super().__init__(*args)
        if "NOTES" in os.environ:
            connection.PATIENCE, connection._QUIET = 15.0, 0.5
            remember(os.environ["NOTES"], os.getpid())
