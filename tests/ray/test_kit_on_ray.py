"""The kit of backends: both of ours on every kind of storage."""

from __future__ import annotations

import pytest

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.testing import BackendSuite
from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")


class OnEveryStorage(BackendSuite):
    """What uses a storage runs on each kind."""

    @pytest.fixture
    def storage(self, each_storage):
        return each_storage


class TestRayWorkflow(OnEveryStorage):
    """On Ray."""

    keeps_values = True
    resources = {"disk": 1}  # noqa: RUF012

    @pytest.fixture
    def backend(self):
        return RayWorkflow

    def run(self, workflow):
        return workflow.run(return_results=True)


class TestLocalWorkflow(OnEveryStorage):
    """In this process."""

    @pytest.fixture
    def backend(self):
        return LocalWorkflow
