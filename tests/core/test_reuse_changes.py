"""Changes during a run: which are none, and which variable the report names."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage


@pytest.fixture
def after(tmp_path: Path) -> Callable[[Callable[[], Any], Callable[[], Any]], str]:
    """Run a function that changes something, then one that reads it; return why that ran."""

    def run(change: Callable[[], Any], read: Callable[[], Any]) -> str:
        nodes = [workflow(call)().set_name(name) for name, call in (("a", change), ("b", read))]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(FileStorage(str(tmp_path)))
        flow.run()
        assert flow.report is not None
        return flow.report["b"].reason.removeprefix("nothing stored")

    return run


def test_members_that_code_combines_are_no_change(after: Any) -> None:
    """Python notes them in the class of a flag, and in a member its opposite."""

    class Color(enum.Flag):
        RED = 1
        GREEN = 2

    class Mode(enum.IntFlag):
        READ = 4
        WRITE = 2

    def combine() -> str:
        return f"{Color.RED | Color.GREEN} {~Color.RED} {Color(-2)} {Mode.READ | 3} {Mode(-3)}"

    assert not after(combine, lambda: [Color.RED, Mode.READ, combine()])
