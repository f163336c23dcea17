"""Backends, which run workflows. `workflow_factory` makes a workflow with one from a config.

The other names are for those who write a backend: see docs/writing-a-backend.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facade import resolver

if TYPE_CHECKING:
    from ..config.factories import workflow_factory as workflow_factory
    from ..run.contract import Backend as Backend
    from ..run.contract import Started as Started
    from ..run.crossing import compare as compare
    from ..run.crossing import compute as compute
    from ..run.crossing import outcome_of as outcome_of
    from ..run.crossing import rest_of as rest_of
    from ..run.job import Job as Job
    from ..run.job import Outcome as Outcome
    from ..run.packing import Packer as Packer
    from ..run.packing import unpack as unpack

__all__ = [
    "Backend",
    "Job",
    "Outcome",
    "Packer",
    "Started",
    "compare",
    "compute",
    "outcome_of",
    "rest_of",
    "unpack",
    "workflow_factory",
]

__getattr__ = resolver(__name__)
