"""Tests of a backend with a storage: all results stored, changes computed, failures reported."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..backends.builtin.localback import LocalWorkflow
from ..errors import GraphError, OptionsError
from ..storage import Storage
from ..storage.keys import key_of
from .backendbase import Backend, Backends, full_message
from .program import FullStore, Program, Shelf
from .resultbase import Trap

__all__ = ["BackendResults"]


class BackendResults(Backends):
    """A run stores all results before it returns; the next run computes only changes."""

    def test_every_result_is_stored(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """When a run returns, all results are stored by workflow and node name, any text."""
        one = program.number(1).set_name("../a/b *")
        two = program.add(one, 1).set_name("näme")
        assert 2 == self.run(self.kept(backend, storage, two, name="my/flow"))
        assert {"../a/b *": 1, "näme": 2} == {
            name: storage.read_task("my/flow", name) for name in storage.list_tasks("my/flow")
        }
        info = storage.task_info("my/flow", "näme")
        assert "notebook.add" == info.function
        assert info.seconds is not None
        assert info.fingerprint["call"]

    def test_a_second_run_computes_nothing(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A second run computes nothing: on the same graph, or an equal one in a new session."""
        node = program.add(program.number(1), 1)
        assert [2, 2] == [self.stored(backend, storage, node) for _ in range(2)]
        assert ["add", "number"] == program.calls()
        program.restart()
        assert 2 == self.stored(backend, storage, program.add(program.number(1), 1))
        assert [] == program.calls()

    def test_backends_reuse_each_others_results(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Backends reuse the results of other backends."""
        node = program.add(program.number(1), program.parts(1)["list"][0])
        assert 2 == self.kept(LocalWorkflow, storage, node).run()
        program.calls()
        assert 2 == self.stored(backend, storage, node)
        assert [] == program.calls()
        storage.remove_workflow("w")
        assert 2 == self.stored(backend, storage, node)
        program.calls()
        assert 2 == LocalWorkflow(node, workflow_name="other").run()
        program.calls()
        local = LocalWorkflow(node, workflow_name="w")
        local.set_storage(storage)
        assert 2 == local.run()
        assert [] == program.calls()

    def test_a_changed_argument(self, backend: Backend, program: Program, storage: Storage) -> None:
        """A changed argument makes its node and the descendants run again, and no others."""
        for value, expected in ((1, ["add", "half", "number", "number"]), (5, ["add", "number"])):
            nodes = program.add(program.number(value), 1), program.half(program.number(8))
            assert [value + 1, 4] == self.stored(backend, storage, *nodes)
            assert expected == program.calls()

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("sum(values) + sum", "1 + sum(values) + sum", (3, ["add"])),
            ('note("add")', 'note("add")  # a comment', (2, [])),
            ("    return value\n", "    return 1 * value\n", (2, ["number", "same"])),
        ],
        ids=["code", "comment", "code, results equal"],
    )
    def test_changed_code(
        self,
        backend: Backend,
        program: Program,
        storage: Storage,
        old: str,
        new: str,
        expected: tuple[int, list[str]],
    ) -> None:
        """Changed code is computed again; comments don't count, and equal results end a change."""
        for edited in (False, True):
            if edited:
                program.edit(old, new)
            node = program.add(program.same(program.number(1)), 1)
            result = self.stored(backend, storage, node), program.calls()
        assert expected == result

    def test_equal_results_end_the_change(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A child depends on its parents' results, not on how they were computed."""
        for value, expected in ((4, ["half", "number", "same"]), (5, ["half", "number"])):
            node = program.same(program.half(program.number(value)))
            assert 2 == self.stored(backend, storage, node)
            assert expected == program.calls()

    @pytest.mark.parametrize(("policy", "expected"), [("always", []), ("never", ["add", "number"])])
    def test_policies(
        self,
        backend: Backend,
        program: Program,
        storage: Storage,
        policy: str,
        expected: list[str],
    ) -> None:
        """`set_reuse` makes a run reuse any stored result, or none."""
        self.stored(backend, storage, program.add(program.number(1), 1))
        program.calls()
        value = 3 if policy == "always" else 1
        workflow = self.kept(backend, storage, program.add(program.number(value), 1))
        workflow.set_reuse(policy)
        assert 2 == self.run(workflow)
        assert expected == program.calls()
        with pytest.raises(OptionsError):
            workflow.set_reuse("sometimes")

    def test_a_policy_of_one_node(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A policy set by a query applies to the matching nodes."""
        node = program.add(program.number(1).set_name("one"), program.number(2).set_name("two"))
        self.stored(backend, storage, node)
        program.calls()
        workflow = self.kept(backend, storage, node)
        workflow.query("two").set_reuse("never")
        assert 3 == self.run(workflow)
        assert ["number"] == program.calls()

    def test_a_removed_result(self, backend: Backend, program: Program, storage: Storage) -> None:
        """A removed result is computed again if needed: that of a last node, not of a parent."""
        node = program.add(program.number(1).set_name("one"), 1).set_name("last")
        self.stored(backend, storage, node)
        program.calls()
        storage.remove_task("w", "one")
        assert 2 == self.stored(backend, storage, node)
        assert [] == program.calls()
        storage.remove_task("w", "last")
        assert 2 == self.stored(backend, storage, node)
        assert ["add", "number"] == program.calls()
        assert ["last", "one"] == storage.list_tasks("w")

    @pytest.mark.parametrize("offset", [80, -1], ids=["header", "value"])
    def test_a_damaged_result(
        self, backend: Backend, program: Program, storage: Storage, offset: int
    ) -> None:
        """A damaged result counts as missing, and is replaced."""
        node = program.same(program.big(4096)).set_name("last")
        expected = self.stored(backend, storage, node)
        program.calls()
        data = bytearray(storage.store.get(key_of("w", "last")))
        data[offset] ^= 1
        storage.store.put(key_of("w", "last"), [data])
        assert expected == self.stored(backend, storage, node)
        assert ["same"] == program.calls()
        assert expected == storage.read_task("w", "last")

    def test_none_is_a_result(self, backend: Backend, program: Program, storage: Storage) -> None:
        """None is stored and reused like any other result."""
        node = program.same(None)
        assert [None, None] == [self.stored(backend, storage, node) for _ in range(2)]
        assert ["same"] == program.calls()

    def test_workflows_are_apart(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Results of one workflow are not reused by another."""
        for name in ("v", "w"):
            assert 1 == self.run(self.kept(backend, storage, program.number(1), name=name))
        assert ["number", "number"] == program.calls()
        assert ["v", "w"] == storage.list_workflows()

    def test_always_read(self, backend: Backend, program: Program, storage: Storage) -> None:
        """With `always_read`, children get a saved result as the storage reads it."""
        storage.always_read = True
        # A trap is unpickled as text.
        assert "str" == self.stored(backend, storage, program.kind(program.same(Trap())))

    def test_a_storage_of_four_members(
        self, backend: Backend, program: Program, tmp_path: Path
    ) -> None:
        """`new_workflow`, `save`, `read_task` and `always_read` are enough to be a storage."""
        shelf = Shelf(tmp_path / "shelf")
        assert 2 == self.stored(backend, shelf, program.add(program.number(1), 1).set_name("t"))
        assert 2 == shelf.read_task("w", "t")

    def test_what_is_no_storage(self, backend: Backend, program: Program) -> None:
        """An object that is no storage is refused when it is set; None removes an earlier one."""
        workflow = backend(program.number(1), workflow_name="w")
        with pytest.raises(GraphError):
            workflow.set_storage(object())
        workflow.set_storage(None)
        assert 1 == self.run(workflow)

    def test_a_plan(self, backend: Backend, program: Program, storage: Storage) -> None:
        """A plan returns the action of a run for each node, and runs nothing."""
        self.needs("plans")

        def planned(value: int) -> dict[str, str]:
            one = program.number(value).set_name("one")
            plan = self.kept(backend, storage, program.add(one, 1).set_name("sum")).plan()
            return {record.name: record.action for record in plan.nodes}

        assert {"one": "compute", "sum": "compute"} == planned(1)
        assert [] == storage.list_tasks("w")
        one = program.number(1).set_name("one")
        self.stored(backend, storage, program.add(one, 1).set_name("sum"))
        program.calls()
        assert {"one": "reuse", "sum": "reuse"} == planned(1)
        assert {"one": "compute", "sum": "maybe"} == planned(2)
        assert [] == program.calls()

    def test_a_report(self, backend: Backend, program: Program, storage: Storage) -> None:
        """A report returns the action of the run for each node, and the reason."""
        self.needs("plans")
        for value, expected in ((4, "computed"), (4, "reused"), (5, "reused")):
            one = program.number(value).set_name("one")
            two = program.half(one).set_name("two")
            workflow = self.kept(backend, storage, program.same(two).set_name("three"))
            self.run(workflow)
            actions = {record.name: record.action for record in workflow.report.nodes}
            assert expected == actions["three"]
            assert ("reused" if value == 4 and expected == "reused" else "computed") == (
                actions["two"]
            )
        assert "argument 'value' changed" in workflow.report["one"].reason

    def test_a_failing_node(self, backend: Backend, program: Program, storage: Storage) -> None:
        """A run raises a node's error with its name; results stay stored, descendants don't run."""
        one = program.number(1).set_name("one")
        wrong = program.fail(one).set_name("wrong")
        with pytest.raises(LookupError, match="no 1 here") as raised:
            self.stored(backend, storage, program.add(wrong, 1))
        assert "wrong" in full_message(raised.value)
        assert ["one"] == storage.list_tasks("w")
        assert ["fail", "number"] == program.calls()

    def test_an_interrupt_in_a_node(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Ctrl-C ends the run with an error; nothing that follows the node is computed."""
        with pytest.raises(BaseException) as raised:  # noqa: PT011  # backends have their own
            self.stored(backend, storage, program.add(program.interrupt(), 1))
        assert not isinstance(raised.value, AssertionError)
        assert "add" not in program.calls()
        assert [] == storage.list_tasks("w")

    @pytest.mark.parametrize("kind", ["error", "interrupt"])
    def test_the_report_of_a_run_that_failed(
        self, backend: Backend, program: Program, storage: Storage, kind: str
    ) -> None:
        """It says of each node whether its result was stored; no node is tried again."""
        self.needs("plans")
        wrong = program.interrupt() if kind == "interrupt" else program.fail(1)
        after = program.same(wrong.set_name("wrong")).set_name("after")
        others = [program.slow(value).set_name(f"slow {value}") for value in range(3)]
        workflow = self.kept(backend, storage, after, *others)
        with pytest.raises(BaseException) as raised:  # noqa: PT011  # backends have their own
            self.run(workflow)
        assert not isinstance(raised.value, AssertionError)
        actions = {record.name: record.action for record in workflow.report.nodes}
        assert ("failed", "not run") == (actions.pop("wrong"), actions.pop("after"))
        stored = set(storage.list_tasks("w"))
        computed = {name for name, action in actions.items() if action == "computed"}
        assert computed <= stored
        if kind == "error":  # an interrupt may come after a node is stored, and before it tells
            assert computed == stored
        time.sleep(0.5)  # longer than a node takes
        assert stored == set(storage.list_tasks("w")), "a node ran on after the run"
        assert 1 == sum(name in ("fail", "interrupt") for name in program.calls())

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such signal")
    def test_ctrl_c(self, backend: Backend, program: Program, storage: Storage) -> None:
        """Ctrl-C in the workflow's process ends the run soon; the report says what is stored."""
        nodes = [program.slow(value).set_name(f"slow {value}") for value in range(30)]
        workflow = self.kept(backend, storage, *nodes)

        def interrupt(_: int, frame: FrameType | None) -> None:
            while frame is not None:
                if frame.f_code.co_name == "__del__":  # Python drops what is raised there
                    signal.setitimer(signal.ITIMER_REAL, 0.01)
                    return
                frame = frame.f_back
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                self.run(workflow)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        stored = set(storage.list_tasks("w"))
        assert len(stored) < 30
        if self.plans:
            assert {*workflow.report.names("computed")} <= stored
        time.sleep(0.5)  # longer than a node takes
        assert stored == set(storage.list_tasks("w")), "a node ran on after the run"

    def test_a_run_goes_on_after_a_repair(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """After a repair, a run reuses the results from before the failure."""

        def node() -> Any:
            return program.same(program.fail(program.number(1)))

        with pytest.raises(LookupError):
            self.stored(backend, storage, node())
        program.calls()
        program.edit('raise LookupError(f"no {value} here")', "return value + 1")
        assert 2 == self.stored(backend, storage, node())
        assert ["fail", "same"] == program.calls()

    def test_an_error_of_a_class_that_can_t_be_imported(
        self, backend: Backend, program: Program
    ) -> None:
        """The message of an error arrives, even if its class can't be imported."""
        with pytest.raises(Exception, match="a class that nobody can import"):
            self.run(backend(program.strange(), workflow_name="w"))

    def test_a_failing_object(self, backend: Backend, program: Program) -> None:
        """An error in a method is raised like one in a function."""
        account = program.Account(1)
        account.pay(1)
        with pytest.raises(LookupError, match="no account"):
            self.run(backend(account.fail().set_name("wrong"), workflow_name="w"))

    def test_a_result_that_can_t_be_saved(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A result that can't be saved is an error that names the node; nothing is stored."""
        node = program.generator().set_name("stream")
        with pytest.raises(TypeError) as raised:
            self.stored(backend, storage, node)
        assert "stream" in full_message(raised.value)
        assert [] == storage.list_tasks("w")

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_node_in_a_result(
        self, backend: Backend, program: Program, storage: Storage, stored: bool
    ) -> None:
        """A result with a node inside is an error that names the node; it is not stored."""
        made = self.kept(backend, storage if stored else None, program.unrun(1).set_name("made"))
        with pytest.raises(GraphError, match="holds node 'number_0000'") as raised:
            self.run(made)
        assert "'made'" in full_message(raised.value)
        assert ["unrun"] == program.calls()
        assert [] == storage.list_tasks("w")

    def test_a_storage_that_is_full(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A full storage's error is raised; results that were saved before stay stored."""
        full = Storage(FullStore(storage.store, 100_000))
        one = program.number(1).set_name("one")
        last = program.add(program.total([one, 1]), 1)
        node = program.kind([last, program.big(1 << 20).set_name("big")])
        with pytest.raises(OSError, match="no room") as raised:
            self.stored(backend, full, node)
        assert "big" in full_message(raised.value)
        assert "big" not in storage.list_tasks("w")
