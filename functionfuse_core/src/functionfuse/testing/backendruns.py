"""Tests of how a backend runs nodes: failures, attempts, limits of time and resources, events."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from ..errors import NodeTimeoutError, OptionsError
from ..report import NodeRecord
from ..run.calling import current_node
from ..run.events import Event
from ..storage import Storage
from .backendbase import Backend, Backends, full_message
from .program import FullStore, Program

__all__ = ["BackendRuns"]


class BackendRuns(Backends):
    """A run goes on, tries again and stops as its settings say."""

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_run_keeps_going(
        self, backend: Backend, program: Program, storage: Storage, stored: bool
    ) -> None:
        """With `keep_going`, only nodes that follow a failed one aren't run; the run fails last."""
        after = program.same(program.fail(1).set_name("wrong")).set_name("after")
        other = program.same(program.slow(3).set_name("slow")).set_name("other")
        nodes = after, program.fail(2).set_name("second"), other
        workflow = self.kept(backend, storage if stored else None, *nodes)
        workflow.keep_going = True
        with pytest.raises(LookupError, match="no 1 here") as raised:
            self.run(workflow)
        assert "wrong" in full_message(raised.value)
        assert "1 other node failed, too: 'second'" in full_message(raised.value)
        assert ["fail", "fail", "same", "slow"] == program.calls()
        assert (["other", "slow"] if stored else []) == storage.list_tasks("w")
        if self.plans:
            assert ["after"] == workflow.report.names("not run")
            assert "follows 'wrong', which failed" == workflow.report["after"].reason
            assert {"wrong", "second"} == {*workflow.report.names("failed")}

    @pytest.mark.parametrize("kind", ["interrupt", "storage"])
    def test_a_run_that_keeps_going_ends(
        self, backend: Backend, program: Program, storage: Storage, kind: str
    ) -> None:
        """After Ctrl-C, or if the storage can't be written; queued nodes don't begin any more."""
        first = program.interrupt()
        if kind == "storage":
            first = program.big(1 << 20)
            storage = Storage(FullStore(storage.store, 100_000))
        others = [program.slow(value) for value in range(30)]
        workflow = self.kept(backend, storage, first, *others)
        workflow.keep_going = True
        with pytest.raises(BaseException) as raised:  # noqa: PT011  # backends have their own
            self.run(workflow)
        assert not isinstance(raised.value, AssertionError)
        assert program.calls().count("slow") < 30
        time.sleep(0.3)  # longer than a node takes
        assert [] == program.calls(), "a node began after the run"

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_node_is_tried_again(
        self, backend: Backend, program: Program, storage: Storage, stored: bool
    ) -> None:
        """Each attempt has fresh arguments. The class of the error need not be importable."""
        node = program.flaky(program.same([1]), [2], times=2).set_name("flaky")
        workflow = self.kept(backend, storage if stored else None, program.same(node))
        workflow.query("flaky").set_retries(2, on=LookupError, delay=0.01)
        assert [1, 0, 2, 0] == self.run(workflow)
        assert ["flaky", "flaky", "flaky", "same", "same"] == program.calls()
        if self.plans:
            record: NodeRecord = workflow.report["flaky"]
            assert ("computed", 3) == (record.action, record.attempts)
            assert "not yet" in record.error

    @pytest.mark.parametrize(("kind", "expected"), [(LookupError, 3), (OSError, 1)])
    def test_how_often_a_node_is_tried(
        self, backend: Backend, program: Program, kind: type[Exception], expected: int
    ) -> None:
        """As often as its setting says, and only after the errors that the setting names."""
        node = program.fail(1).set_name("wrong")
        workflow = backend(program.same(node), workflow_name="w")
        workflow.query("wrong").set_retries(2, on=kind, delay=0)
        with pytest.raises(LookupError, match="no 1 here"):
            self.run(workflow)
        assert ["fail"] * expected == program.calls()
        if self.plans:
            record: NodeRecord = workflow.report["wrong"]
            assert ("failed", expected) == (record.action, record.attempts)

    def test_a_timeout(self, backend: Backend, program: Program, storage: Storage) -> None:
        """It ends an attempt, though the function catches errors; other nodes are run.

        If the backend can't interrupt functions, nothing is run.
        """
        nodes = program.number(1).set_name("one"), program.nap(0.4).set_name("nap")
        workflow = self.kept(backend, storage, *nodes)
        workflow.query("nap").set_timeout(0.1).set_retries(1, on=TimeoutError, delay=0)
        workflow.keep_going = True
        if not self.interrupts:
            with pytest.raises(OptionsError, match="node 'nap' has a timeout, but"):
                self.run(workflow)
            assert [] == program.calls()
            return
        with pytest.raises(NodeTimeoutError, match=r"longer than 0\.1 seconds") as raised:
            self.run(workflow)
        assert "nap" in full_message(raised.value)
        assert ["nap", "nap", "number"] == program.calls()
        assert ["one"] == storage.list_tasks("w")
        workflow.query("nap").set_timeout(60)
        assert [1, 0.4] == self.run(workflow)
        assert ["nap", "overslept"] == program.calls()

    def test_resources(self, backend: Backend, program: Program) -> None:
        """Nodes hold resources while they run; they are free again after a failed attempt, too."""
        nodes = [program.alone(value) for value in range(3)]
        workflow = backend(*nodes, workflow_name="w")
        workflow.query(None).set_resources(**self._resources_of(workflow))
        workflow.query(None).set_retries(1, on=LookupError, delay=0)
        assert [0, 1, 2] == self.run(workflow)
        assert ["alone"] * 4 == program.calls()

    @pytest.mark.parametrize("kind", ["too much", "unknown"])
    def test_resources_that_are_not_there(
        self, backend: Backend, program: Program, kind: str
    ) -> None:
        """A node that needs more than there is, or another resource, is refused at once."""
        workflow = backend(program.number(), program.same(1), workflow_name="w")
        ((name, amount),) = self._resources_of(workflow).items()
        needs = {name: amount + 1} if kind == "too much" else {"a resource of the kit": 1}
        workflow.query("same.*").set_resources(**needs)
        with pytest.raises(OptionsError, match="node 'same_0000' needs"):
            self.run(workflow)
        assert [] == program.calls()

    def test_events(self, backend: Backend, program: Program, storage: Storage) -> None:
        """Listeners get all events of each attempt, in order, between those of the run."""
        node = program.flaky(program.slow([1]).set_name("slow"), [2], times=1).set_name("flaky")
        workflow = self.kept(backend, storage, node)
        workflow.query("flaky").set_retries(1, delay=0.01)
        events: list[Event] = []
        workflow.listeners.append(events.append)
        self.run(workflow)
        assert ("run started", 2) == (events[0].kind, events[0].total)
        assert ("run finished", None) == (events[-1].kind, events[-1].error)
        found = defaultdict(list)
        for event in events:
            found[event.node].append((event.kind, event.attempt))
        once = [("planned", 0), ("queued", 0), ("started", 1), ("finished", 1), ("saved", 0)]
        twice = [*once[:3], ("retrying", 1), ("queued", 0), ("started", 2), ("finished", 2)]
        assert once == found["slow"]
        assert [*twice, ("saved", 0)] == found["flaky"]
        finished, saved = (
            next(each for each in events if (each.kind, each.node) == (kind, "slow"))
            for kind in ("finished", "saved")
        )
        assert finished.seconds >= 0.2
        assert saved.size > 0

    def test_the_current_node(self, backend: Backend, program: Program) -> None:
        """Functions and methods get the name of their node from `current_node`."""
        names = ["a/b *", "näme"]
        nodes = [program.who().set_name(names[0]), program.Account().who().set_name(names[1])]
        assert names == self.run(backend(*nodes, workflow_name="w"))
        assert "" == current_node()

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_graph_that_grows(
        self, backend: Backend, program: Program, storage: Storage, stored: bool
    ) -> None:
        """`value` computes only what its node needs, and `run` goes on from there: it is one run.

        Values and objects that the backend keeps stay until then.
        """
        workflow = self.kept(backend, storage if stored else None, program.number(1))
        events: list[Event] = []
        workflow.listeners.append(events.append)
        parts, account = program.parts(3), program.Account(10)
        items = self.value(workflow, parts["list"])
        assert [3, 4] == items
        assert ["parts"] == program.calls()
        assert 11 == self.value(workflow, account.pay(1))
        added = [program.add(parts["list"][0], item) for item in items]
        workflow.add(program.total(added), account.pay(parts["list"][1]))
        assert [1, 13, 15] == self.run(workflow)
        assert ["Account", "add", "add", "number", "pay", "pay", "total"] == program.calls()
        assert 1 == len({event.run for event in events})
        if self.plans:
            assert 8 == len(workflow.report.names("computed"))

    def _resources_of(self, workflow: Any) -> Mapping[str, float]:
        """Return one resource and how much there is of it; set it, unless the backend has it."""
        if self.resources is None:
            workflow.resources = {"machine": 1}
            return {"machine": 1}
        return dict([next(iter(self.resources.items()))])
