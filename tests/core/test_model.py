"""A dictionary against a storage, through saves, removals, damage, faults, kills and reopening.

A kill is a child process that ends, without any clean-up, in the middle of a system call's place;
a fault is an error of a system call. After each, a result is the earlier one or the later one,
whole; and after `gc` there is nothing that no result needs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from kept_values import Kept, KeptSerializer

from functionfuse.errors import (
    DamagedResultError,
    NewerFormatError,
    ResultExistsError,
    ResultNotFoundError,
)
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
ABSENT, DAMAGED = "absent", "damaged"
CALLS = ["open", "write", "writev", "rename", "link", "unlink", "fsync", "mkdir", "rmdir", "close"]

LONG = "long" * 60
workflows = st.sampled_from(["w", "../v", LONG])
tasks = st.sampled_from(["a", "b/c", "b[1]", ".d", LONG])
short_workflows = st.sampled_from(["w", "../v"])
short_tasks = st.sampled_from(["a", "b/c", "b[1]", ".d"])
contents = st.one_of(
    st.integers(),
    st.text(max_size=5),
    st.tuples(st.just("array"), st.sampled_from([10, 1000, 200_000]), st.integers(0, 99)),
    st.tuples(st.just("kept"), st.integers(1, 3), st.integers(0, 99)),
)


def made(content: Any) -> Any:
    """Return the value that a content stands for."""
    match content:
        case ("array", count, number):
            return np.full(count, number)
        case ("kept", count, number):
            return [Kept(b"%d" % number) for _ in range(count)]
    return content


def same(content: Any, value: Any) -> bool:
    match content:
        case ("array", count, number):
            return np.array_equal(value, np.full(count, number))
        case ("kept", count, number):
            kinds = isinstance(value, list) and {type(part) for part in value} == {Kept}
            return kinds and [b"%d" % number] * count == [kept.data for kept in value]
    return type(content) is type(value) and bool(content == value)


@contextmanager
def at_call(name: str, number: int, act: Any) -> Iterator[None]:
    """Have the `number`th call of a function of `os` replaced by an act."""
    original, left = getattr(os, name), number

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            act()
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, patched)
        yield


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="model-"))
        self.model: dict[tuple[str, str], Any] = {}
        self.blurred = False  # a fault or a kill may have left something for gc
        self.reopen()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize()
    def start(self) -> None:
        self.storage.new_workflow("w")

    @rule()
    def reopen(self) -> None:
        self.storage = FileStorage(self.root / "store")
        self.storage.register_persistent_serializers(KeptSerializer)

    def file(self, names: tuple[str, str]) -> Path:
        """Return a sound result's file, found by what is in it."""
        for path in self.files():
            data = path.read_bytes()
            with contextlib.suppress(ValueError):
                header = json.loads(data[64 : 64 + int.from_bytes(data[12:16], "little")])
                if (header["workflow"], header["task"]) == names:
                    return path
        raise AssertionError(names)

    def files(self) -> list[Path]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        return [path for path in found if path.name != ".functionfuse"]

    def stored(self, names: tuple[str, str]) -> Any:
        """Return what a read gives, as ABSENT, DAMAGED, or a function that compares."""
        try:
            value = self.storage.read_task(*names)
        except ResultNotFoundError:
            return ABSENT
        except (DamagedResultError, NewerFormatError):
            return DAMAGED
        return value

    def agrees(self, names: tuple[str, str], content: Any) -> bool:
        value = self.stored(names)
        if isinstance(content, str) and content in (ABSENT, DAMAGED):
            return isinstance(value, str) and value == content
        if isinstance(value, str) and value in (ABSENT, DAMAGED):
            return False
        return same(content, value)

    # What a user does.

    @rule(workflow=workflows, task=tasks, content=contents, durable=st.booleans())
    def save(self, workflow: str, task: str, content: Any, durable: bool) -> None:
        self.storage.save(workflow, task, made(content), durable=durable)
        self.model[workflow, task] = content

    @rule(workflow=workflows, task=tasks, content=contents)
    def save_if_absent(self, workflow: str, task: str, content: Any) -> None:
        if (workflow, task) in self.model:
            with pytest.raises(ResultExistsError):
                self.storage.save(workflow, task, made(content), if_absent=True)
        else:
            self.storage.save(workflow, task, made(content), if_absent=True)
            self.model[workflow, task] = content

    @rule(workflow=workflows, task=tasks)
    def save_what_can_t_be_pickled(self, workflow: str, task: str) -> None:
        with pytest.raises(TypeError):
            self.storage.save(workflow, task, [Kept(b"1"), (number for number in ())])

    @rule(workflow=workflows, task=tasks)
    def read(self, workflow: str, task: str) -> None:
        assert self.agrees((workflow, task), self.model.get((workflow, task), ABSENT))

    @rule(workflow=workflows, task=tasks)
    def remove(self, workflow: str, task: str) -> None:
        if (workflow, task) in self.model:
            self.forget(workflow, task)
            self.storage.remove_task(workflow, task)
        else:
            with pytest.raises(ResultNotFoundError):
                self.storage.remove_task(workflow, task)

    @rule(workflow=workflows)
    def remove_pattern(self, workflow: str) -> None:
        found = [names for names in self.model if names[0] == workflow and names[1][0] == "b"]
        if found:
            for names in found:
                self.forget(*names)
            self.storage.remove_task(workflow, pattern="b*")
        else:
            with pytest.raises(ResultNotFoundError):
                self.storage.remove_task(workflow, pattern="b*")

    def forget(self, workflow: str, task: str) -> None:
        # The side data of a result whose header was damaged can't be told: gc finds it.
        self.blurred |= self.model.pop((workflow, task)) == DAMAGED

    @rule(workflow=workflows)
    def remove_workflow(self, workflow: str) -> None:
        found = [names for names in self.model if names[0] == workflow]
        if found:
            self.storage.remove_workflow(workflow)
            for names in found:
                del self.model[names]

    # What happens to a user.

    # The name of a damaged result can only be told while it is short.
    @rule(
        workflow=short_workflows,
        task=short_tasks,
        place=st.floats(0, 1, exclude_max=True),
        cut=st.booleans(),
    )
    def damage(self, workflow: str, task: str, place: float, cut: bool) -> None:
        if self.model.get((workflow, task), DAMAGED) == DAMAGED:
            return
        path = self.file((workflow, task))
        data = bytearray(path.read_bytes())
        # One that doesn't begin as ours is not removed: test_no_removal.py has that.
        byte = 8 + int(place * (len(data) - 8))
        data[byte] ^= 1
        path.write_bytes(data[:byte] if cut else data)
        self.model[workflow, task] = DAMAGED
        self.blurred = True

    @rule(workflow=workflows, task=tasks)
    def keep_damaged(self, workflow: str, task: str) -> None:
        aside = self.storage.keep_damaged(workflow, task)
        # A damaged version number looks like a newer format, which is left alone.
        assert not aside or self.model.get((workflow, task)) == DAMAGED

    @rule(
        workflow=workflows,
        task=tasks,
        content=contents,
        call=st.sampled_from(CALLS),
        number=st.integers(1, 16),
        kill=st.booleans(),
        durable=st.booleans(),
        remove=st.booleans(),
    )
    def fail(
        self,
        workflow: str,
        task: str,
        content: Any,
        call: str,
        number: int,
        kill: bool,
        durable: bool,
        remove: bool,
    ) -> None:
        """A save or a removal is killed at a system call, or that call fails."""
        names = workflow, task
        before = self.model.get(names, ABSENT)
        if remove and before == ABSENT:
            return
        after = ABSENT if remove else content

        def work() -> None:
            if remove:
                self.storage.remove_task(workflow, task)
            else:
                self.storage.save(workflow, task, made(content), durable=durable)

        def error() -> None:
            raise OSError(errno.EIO, "Input/output error")

        if kill:
            child = os.fork()
            if child == 0:
                try:
                    with at_call(call, number, lambda: os._exit(9)):
                        work()
                    os._exit(0)
                finally:
                    os._exit(1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, 9)
            failed = code == 9
        else:
            failed = False
            try:
                with at_call(call, number, error):
                    work()
            except OSError:
                failed = True
        event(f"{'kill' if kill else 'fault'} at {call}: {'failed' if failed else 'done'}")
        self.blurred = True
        if not failed or not self.agrees(names, before):
            assert self.agrees(names, after)
            self.settle(names, after)

    def settle(self, names: tuple[str, str], content: Any) -> None:
        if isinstance(content, str) and content == ABSENT:
            self.model.pop(names, None)
        else:
            self.model[names] = content

    # What the storage tells.

    @rule()
    def gc(self) -> None:
        # As the next save does. What a killed first save leaves is in a folder without a marker.
        for workflow in ("w", "../v", LONG):
            self.storage.new_workflow(workflow)
        planned = self.storage.gc(-1, dry_run=True)
        assert planned == self.storage.gc(-1)
        assert [] == self.storage.gc(-1)
        if DAMAGED not in self.model.values():
            kept = [path for path in self.files() if path.name.startswith(".tmp-")]
            assert [] == kept
            side = sum(
                len(entry.files)
                for names in self.model
                for entry in self.storage.task_info(*names).side_data
            )
            assert len(self.model) + side == len(self.files())
            self.blurred = False

    @rule()
    def verify(self) -> None:
        found = {(record.workflow, record.task): record.problem for record in self.storage.verify()}
        assert self.model.keys() == found.keys()
        for names, problem in found.items():
            assert bool(problem) == (self.model[names] == DAMAGED)

    @invariant()
    def all_is_listed(self) -> None:
        # An empty one is listed, too; a long name only by its segment.
        listed = self.storage.list_workflows()
        assert {workflow for workflow, _ in self.model} <= set(listed)
        assert listed == sorted(listed)
        for workflow in ("w", "../v", LONG):
            expected = sorted(task for name, task in self.model if name == workflow)
            assert expected == self.storage.list_tasks(workflow)

    @invariant()
    def nothing_is_left_over(self) -> None:
        if not self.blurred:
            temporary = [path for path in self.files() if path.name.startswith(".tmp-")]
            assert [] == temporary

    @invariant()
    def nothing_is_outside(self) -> None:
        assert {"store"} >= {path.name for path in self.root.iterdir()}


Model.TestCase.settings = settings(
    max_examples=1000 if FULL else 25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("remove", [False, True])
def test_a_fault_at_every_call(tmp_path: Path, call: str, remove: bool) -> None:
    """Of a flushed overwriting, or a removal, with side data: the old or the new result is whole.

    Also when only what follows the commit fails.
    """

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    outcomes: list[tuple[bool, Any]] = []
    while True:
        storage = FileStorage(tmp_path / f"{len(outcomes)}")
        storage.register_persistent_serializers(KeptSerializer)
        storage.save("w", "t", [Kept(b"1")], durable=True)
        calls = iter(range(len(outcomes) + 1))
        with at_call(call, len(outcomes) + 1, lambda calls=calls: (list(calls), fail())):
            try:
                if remove:
                    storage.remove_task("w", "t")
                else:
                    storage.save("w", "t", [Kept(b"2")], durable=True)
            except OSError:
                failed = True
            else:
                failed = False
        reached = next(calls, None) is None
        try:
            found = storage.read_task("w", "t")[0].data.decode()
        except ResultNotFoundError:
            found = ABSENT
        assert found in ("1", ABSENT if remove else "2")
        assert failed or found != "1"
        assert all(not record.problem for record in storage.verify())
        storage.gc(-1)
        assert (0 if found == ABSENT else 2) == sum(
            path.is_file() and path.name != ".functionfuse"
            for path in (tmp_path / f"{len(outcomes)}").rglob("*")
        )
        if not reached:
            break
        outcomes.append((failed, found))
    print(f"{len(outcomes)} faults at {call}: {outcomes}")


@pytest.mark.battery
class TestModel(Model.TestCase):  # type: ignore[misc]
    """1,000 examples in the full battery."""
