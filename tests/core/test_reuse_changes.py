"""Changes during a run: which are none, and which variable the report names."""

from __future__ import annotations

import abc
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


class Measured:
    """A class of results; nodes that take them don't name it."""

    size = 1


def test_code_in_a_parents_result_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report names it, although the node's own code doesn't refer to it."""
    made = workflow(lambda: [Measured()])().set_name("made")
    enlarge = workflow(lambda: monkeypatch.setattr(Measured, "size", 2))().set_name("enlarge")
    taken = workflow(lambda *values: len(values))(made, enlarge).set_name("taken")
    flow = LocalWorkflow(taken, workflow_name="w")
    flow.set_storage(FileStorage(str(tmp_path)))
    flow.run()
    assert flow.report is not None
    reason = flow.report["taken"].reason
    assert reason.endswith("which the result of 'made' uses, changed during the run")


def many(rows=[1], names=[2], *, sizes=[3]):  # noqa: B006
    return [*rows, *names, *sizes]


many.notes, many.size, many.tags = [1], 2, [3]


class Registered(abc.ABC):  # noqa: B024
    pass


class Other:
    pass


class Counting:
    """A decorator."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.calls


CHANGES = {
    "default 'rows' of 'many'": lambda: many.__defaults__[0].append(4),
    "default 'names' of 'many'": lambda: many.__defaults__[1].append(4),
    "default 'sizes' of 'many'": lambda: many.__kwdefaults__["sizes"].append(4),
    "attribute 'notes' of 'many'": lambda: many.notes.append(4),
    "attribute 'size' of 'many'": lambda: setattr(many, "size", 4),
    "attribute 'tags' of 'many'": lambda: many.tags.append(4),
    "the attributes of 'many'": lambda: setattr(many, "new", 4),
    "what is registered with 'Registered'": lambda: Registered.register(Other),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_reason_names_what_changed(what: str, after: Any) -> None:
    """Of several things of one function, each by itself."""
    change = CHANGES[what]

    def changed() -> int:
        change()
        return 1

    def read() -> list[Any]:
        return [many(), isinstance(Other(), Registered)]

    assert f"; {what} changed during the run" == after(changed, read)


def test_a_decorator_that_changes_itself(tmp_path: Path) -> None:
    """What it counts is no input of the plan, so what comes out later isn't stored as that."""
    count = workflow(Counting(lambda: 1))
    nodes = [count().set_name(name) for name in ("first", "second")]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(FileStorage(str(tmp_path)))
    assert [1, 2] == flow.run()
    assert flow.report is not None
    reasons = [flow.report[name].reason for name in ("first", "second")]
    changed = "nothing stored; the state of 'Counting' changed during the run"
    assert ["nothing stored", changed] == reasons
