"""The base of the tests of a backend: its fixture, a storage, and a user's program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ..storage import Storage
from ..storage.filestore import FileStore
from .program import Program
from .suite import Suite

__all__ = ["Backend", "Backends", "full_message"]

Backend = Callable[..., Any]


class Backends(Suite):
    """See `BackendSuite`."""

    plans = True
    logs_nodes = True
    keeps_values = False
    interrupts = True
    resources: Mapping[str, float] | None = None

    @pytest.fixture
    def backend(self) -> Backend:
        """Return a callable that makes workflows."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `backend`")

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """Return a fresh, empty storage; override it to test with others."""
        return Storage(FileStore(str(tmp_path / "store")))

    @pytest.fixture
    def program(self, tmp_path: Path) -> Program:
        """Return a user's program."""
        return Program(tmp_path / "calls")

    def run(self, workflow: Any) -> Any:
        """Run a workflow, and return the results of its given nodes."""
        return workflow.run()

    def value(self, workflow: Any, node: Any) -> Any:
        """Return the result of a node of the workflow, before it is run."""
        return workflow.value(node)

    def kept(self, backend: Backend, storage: Any, *nodes: Any, name: str = "w") -> Any:
        """Return a workflow of the nodes, with a storage."""
        workflow = backend(*nodes, workflow_name=name)
        workflow.set_storage(storage)
        return workflow

    def stored(self, backend: Backend, storage: Any, *nodes: Any) -> Any:
        """Run nodes with a storage and return their results."""
        return self.run(self.kept(backend, storage, *nodes))


def full_message(error: BaseException) -> str:
    """Return an error's message and notes, and those of its causes."""
    messages = [str(error), *getattr(error, "__notes__", ())]
    if error.__cause__ is not None:
        messages.append(full_message(error.__cause__))
    return "\n".join(messages)
