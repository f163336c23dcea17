"""The kit on the backend that core brings, in process and on executors."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from loky import get_reusable_executor

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.testing import BackendSuite
from functionfuse.testing.backendruns import BackendRuns


class TestLocalWorkflow(BackendSuite):
    """One node after the other, here."""

    @pytest.fixture
    def backend(self):
        return LocalWorkflow


class TestLocalWorkflowOnThreads(BackendSuite):
    """Nodes at the same time, in threads."""

    interrupts = False

    @pytest.fixture
    def backend(self):
        return LocalWorkflow

    def run(self, workflow):
        with ThreadPoolExecutor(2) as executor:
            return workflow.run(executor)

    def value(self, workflow, node):
        with ThreadPoolExecutor(2) as executor:
            return workflow.value(node, executor)

    def test_seeds(self):
        pytest.skip("threads share one state of `random`, which is seeded and used in turn")


class OnPool:
    """Runs on `pool`, an executor that the class has."""

    @pytest.fixture
    def backend(self):
        return LocalWorkflow

    def run(self, workflow):
        return workflow.run(self.pool)

    def value(self, workflow, node):
        return workflow.value(node, self.pool)


class TestLocalWorkflowOnProcesses(OnPool, BackendSuite):
    """Nodes in other processes, to which everything is pickled."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def executor(cls):
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(2, mp_context=context) as cls.pool:
            yield


class TestRunsOnLoky(OnPool, BackendRuns):
    """Nodes in processes of joblib's executor."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def executor(cls):
        with get_reusable_executor(2) as cls.pool:
            yield
