"""How the tests are shared out when several processes run them."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# The machine may be busy: how long an example takes says nothing.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

# What takes longest is handed out first: in the end, one process would be left with it.
LONGEST = (
    "tests/ray/cluster/",  # before the others of Ray, whose Ray is started once
    "tests/ray/",
    "tests/dask/test_kit.py",
    "tests/s3/test_kits.py",
    "tests/packaging/",
    "tests/core/test_edits.py",
    "tests/docs/test_documents.py",
    "tests/s3/",
    "tests/core/battery/",
    "tests/dask/",
    "tests/core/testing/",
    "tests/core/test_script_classes.py",
    "tests/core/test_changes.py",
    "tests/core/test_reuse_property.py",
    "tests/core/test_graph.py",
    "examples/",
    "tests/examples/",
)


def pytest_collectstart() -> None:
    """Have the garbage collector wait: what is collected here all stays."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first."""
    items.sort(key=lambda item: _place(item.nodeid))


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what is there: it would look at it in every test."""
    gc.collect()
    gc.freeze()
    gc.enable()


getpid = os.getpid  # tests may replace it
PROCESS = getpid()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport() -> None:
    """End a fork in which a test has failed: it would go on with the next test."""
    if getpid() != PROCESS:
        os._exit(1)


@pytest.fixture(scope="session", autouse=True)
def no_lot() -> None:
    """Prune no records of runs, which happens at a record drawn by lot: it costs a request.

    Tests that prune set the constant themselves.
    """
    from functionfuse.storage import storage

    storage._PRUNED_EVERY = sys.maxsize


def _place(nodeid: str) -> int:
    return next((n for n, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file together, for its fixtures, and those that share what starts slowly.

    That is Ray, a cluster of it, and the process that forks for each job of the battery.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folders = "tests/ray/cluster/", "tests/ray/", "tests/core/battery/"
            file = nodeid.partition("::")[0]
            return next((folder for folder in folders if file.startswith(folder)), file)

        def remove_node(self, node: Any) -> Any:
            """Give the other tests of a process that ended to the next one, and not its last again.

            It would end that process, too, after it hung for ten minutes, say. Nor the files that
            are done: xdist would wait for a process to report on nothing.
            """
            units = self.assigned_work[node]
            items = ((unit, item) for unit in units.values() for item in unit)
            unit, last = next((each for each in items if not each[0][each[1]]), (None, None))
            if unit is not None:
                unit[last] = True
            for scope in [scope for scope, unit in units.items() if all(unit.values())]:
                del units[scope]
            super().remove_node(node)
            return last

    return Together(config, log)


@pytest.fixture
def after_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what `functionfuse run` and `plan` leave behind in a process, which is theirs."""
    from functionfuse.plugins import entrypoints
    from functionfuse.run.workflow import ComputingWorkflow, Overrides

    logger, before = logging.getLogger("functionfuse.run.progress"), {**os.environ}
    level = logger.level
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    # As in a process that is no worker; a test before may have made it one.
    monkeypatch.setattr("functionfuse.serializers.script._script", "")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    ComputingWorkflow.overrides = Overrides()
    entrypoints.forget()  # a variable of the test may have blocked some
    logger.setLevel(level)
    os.environ.clear()
    os.environ.update(before)
