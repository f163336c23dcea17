"""The kit of backends on Ray, over each kind of storage."""

from __future__ import annotations

import pytest

from functionfuse.testing import BackendSuite
from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")


class TestRayWorkflow(BackendSuite):
    """Over files."""

    @pytest.fixture
    def backend(self):
        return RayWorkflow

    def run(self, workflow):
        return workflow.run(return_results=True)
