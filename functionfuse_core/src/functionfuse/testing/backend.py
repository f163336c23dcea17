"""`BackendSuite`: the conformance kit of backends."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..backends.builtin.localback import LocalWorkflow
from ..backends.plugins import InitializerPlugin, PluginCollection, RandomStatePlugin
from ..errors import DuplicateNameError, GraphError, InvalidNameError, NoMatchError, OptionsError
from ..storage import Storage
from ..storage.filestore import FileStore
from ..storage.keys import key_of
from .program import FullStore, Program, Shelf, Variable
from .resultbase import Trap
from .suite import Suite

__all__ = ["BackendSuite"]

Backend = Callable[..., Any]


class BackendSuite(Suite):
    """Inherit it, with a fixture `backend`: what makes a workflow, from nodes and `workflow_name`.

    Usually that is the class of the workflow itself. The functions of the nodes are those of a
    notebook: nothing can import them. The processes of the backend must see the files of this one.

    Attributes:
        plans: the workflow has `plan` and, after a run, `report`.
        logs_nodes: the workflow has `log_nodes`.

    Methods:
        run: runs a workflow and returns its results; by default `workflow.run()`.
    """

    plans = True
    logs_nodes = True

    @pytest.fixture
    def backend(self) -> Backend:
        """Return what makes workflows."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `backend`")

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """Return a fresh, empty storage; override it to try others."""
        return Storage(FileStore(str(tmp_path / "store")))

    @pytest.fixture
    def program(self, tmp_path: Path) -> Program:
        """Return a user's program."""
        return Program(tmp_path / "calls")

    def run(self, workflow: Any) -> Any:
        """Run a workflow and return the results of the nodes that it was handed."""
        return workflow.run()

    def kept(self, backend: Backend, storage: Any, *nodes: Any, name: str = "w") -> Any:
        """Return a workflow with a storage."""
        workflow = backend(*nodes, workflow_name=name)
        workflow.set_storage(storage)
        return workflow

    def stored(self, backend: Backend, storage: Any, *nodes: Any) -> Any:
        """Run nodes with a storage and return their results."""
        return self.run(self.kept(backend, storage, *nodes))

    # Graphs

    def test_one_node_gives_one_result(self, backend: Backend, program: Program) -> None:
        """The result itself, and the function is called once."""
        assert 3 == self.run(backend(program.number(3), workflow_name="w"))
        assert ["number"] == program.calls()

    def test_several_nodes_give_a_list(self, backend: Backend, program: Program) -> None:
        """In the order in which they were handed over, the same one twice if so."""
        one, two = program.number(1), program.number(2)
        assert [2, 1, 2] == self.run(backend(two, one, two, workflow_name="w"))
        assert ["number", "number"] == program.calls()

    def test_a_chain_and_a_diamond(self, backend: Backend, program: Program) -> None:
        """Every node is computed once, after its parents."""
        top = program.number(1)
        left, right = program.add(top, 10), program.add(top, 20)
        assert 32 == self.run(backend(program.add(left, right), workflow_name="w"))
        assert ["add", "add", "add", "number"] == program.calls()

    def test_arguments_by_place_and_by_name(self, backend: Backend, program: Program) -> None:
        """Nodes and values in both; no name of an argument is taken by the backend."""
        node = program.number(1)
        more = {"function": node, "name": 10, "target": node, "args": 100, "storage": 1000}
        assert 1113 == self.run(backend(program.add(node, **more), workflow_name="w"))
        assert 7 == self.run(backend(program.number(), workflow_name="w"))

    @pytest.mark.parametrize("kind", ["list", "tuple", "dict", "set", "nested"])
    def test_nodes_in_containers(self, backend: Backend, program: Program, kind: str) -> None:
        """Functions are given results in their places, in containers of the same kind."""
        one, two = program.number(1), program.number(2)
        made: dict[str, tuple[Any, Any]] = {
            "list": ([one, 5, two], [1, 5, 2]),
            "tuple": ((one, two), (1, 2)),
            "dict": ({"a": one, "b": {"c": two}}, {"a": 1, "b": {"c": 2}}),
            "set": ({one, two}, {1, 2}),
            "nested": ([{"a": (one, [two])}, one], [{"a": (1, [2])}, 1]),
        }
        argument, expected = made[kind]
        result = self.run(backend(program.same(argument), workflow_name="w"))
        assert expected == result
        assert type(expected) is type(result)

    def test_picks(self, backend: Backend, program: Program) -> None:
        """Items of results, at any depth, as arguments and as what is handed over."""
        node = program.parts(5)
        picked = program.add(node["list"][0], node["list"][-1], node["deep"][0]["tuple"])
        assert [18, [5, 6], 7] == self.run(
            backend(picked, node["list"], node["deep"][0]["tuple"], workflow_name="w")
        )
        assert ["add", "parts"] == program.calls()

    def test_all_below_the_roots_is_run(self, backend: Backend, program: Program) -> None:
        """Handing over the first node runs what follows from it, with its other parents."""
        first = program.number(1).set_name("first")
        program.add(program.half(first), program.number(5))
        assert 1 == self.run(backend(first, workflow_name="w"))
        assert ["add", "half", "number", "number"] == program.calls()

    def test_many_nodes(self, backend: Backend, program: Program) -> None:
        """A wide graph, and a deep one."""
        wide = program.total([program.number(value) for value in range(40)])
        deep = program.number(0)
        for _ in range(40):
            deep = program.add(deep, 1)
        assert [780, 40] == self.run(backend(wide, deep, workflow_name="w"))
        assert 82 == len(program.calls())

    def test_a_big_value(self, backend: Backend, program: Program) -> None:
        """Results of megabytes go from node to node as they are."""
        data = self.run(backend(program.same(program.big(8 << 20)), workflow_name="w"))
        assert bytes(range(256)) * (32 << 10) == data

    def test_what_is_refused(self, backend: Backend, program: Program) -> None:
        """No nodes, no names, two nodes of one name, what is no node: before anything runs."""
        with pytest.raises(GraphError):
            self.run(backend(workflow_name="w"))
        with pytest.raises(GraphError):
            backend("no node", workflow_name="w")
        with pytest.raises(InvalidNameError):
            backend(program.number(), workflow_name="")
        twice = [program.number(value).set_name("twin") for value in (1, 2)]
        with pytest.raises(DuplicateNameError, match="twin"):
            self.run(backend(*twice, workflow_name="w"))
        assert [] == program.calls()

    def test_nodes_are_found_by_name(self, backend: Backend, program: Program) -> None:
        """Names are given or numbered; patterns match whole names."""
        node = program.add(program.number(1), program.number(2)).set_name("the sum")
        workflow = backend(node, workflow_name="w")
        names = [name for name, _ in workflow.graph_traversal()]
        assert ["number_0000", "number_0001", "the sum"] == names
        assert [node] == workflow.find_nodes("the .*")
        assert 3 == len(workflow.find_nodes())
        with pytest.raises(NoMatchError):
            workflow.query("the")

    def test_a_graph_runs_again(self, backend: Backend, program: Program) -> None:
        """Without a storage everything is computed, with the same results."""
        workflow = backend(program.add(program.number(1), 1), workflow_name="w")
        assert [2, 2] == [self.run(workflow), self.run(workflow)]
        assert ["add", "add", "number", "number"] == program.calls()

    def test_other_backends_run_the_same_graph(self, backend: Backend, program: Program) -> None:
        """With the results that this one gives."""
        node = program.add(program.number(1), program.parts(2)["list"][1])
        assert 4 == LocalWorkflow(node, workflow_name="w").run()
        assert 4 == self.run(backend(node, workflow_name="w"))

    # Objects

    def test_calls_on_an_object(self, backend: Backend, program: Program) -> None:
        """They are made in the order in which they are written, on one object."""
        account = program.Account(program.number(100))
        calls = [account.pay(1), account.pay(program.number(10)), account.pay(1000)]
        assert [101, 111, 1111] == self.run(backend(*calls, workflow_name="w"))
        assert ["Account", "number", "number", "pay", "pay", "pay"] == program.calls()

    def test_objects_are_apart(self, backend: Backend, program: Program) -> None:
        """Each constructor's call is an object of its own; results of calls go to other nodes."""
        one, two = program.Account(1), program.Account()
        node = program.add(one.pay(1), two.pay(10), one.pay(100))
        assert 114 == self.run(backend(node, workflow_name="w"))

    def test_an_object_in_a_storage(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Results of calls are stored; while none is missing, no object is made."""
        account = program.Account(1)
        calls = [account.pay(1).set_name("first"), account.pay(2).set_name("second")]
        assert [2, 4] == self.stored(backend, storage, *calls)
        assert ["first", "second"] == storage.list_tasks("w")
        program.calls()
        assert [2, 4] == self.stored(backend, storage, *calls)
        assert [] == program.calls()
        storage.remove_task("w", "second")
        assert [2, 4] == self.stored(backend, storage, *calls)
        assert ["Account", "pay", "pay"] == program.calls()

    # Storage

    def test_every_result_is_stored(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """When the run returns, under the names of workflow and nodes, whatever text they are."""
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
        """Neither on the same graph, nor on an equal one in a new session."""
        node = program.add(program.number(1), 1)
        assert [2, 2] == [self.stored(backend, storage, node) for _ in range(2)]
        assert ["add", "number"] == program.calls()
        program.restart()
        assert 2 == self.stored(backend, storage, program.add(program.number(1), 1))
        assert [] == program.calls()

    def test_backends_reuse_each_others_results(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """What one has computed counts for all."""
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
        """What takes it is computed, and what follows; nothing else."""
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
        """Counts where it does something else; a result that turns out equal changes no more."""
        for edited in (False, True):
            if edited:
                program.edit(old, new)
            node = program.add(program.same(program.number(1)), 1)
            result = self.stored(backend, storage, node), program.calls()
        assert expected == result

    def test_equal_results_end_the_change(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """A child counts its parents' results, not how they came about."""
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
        """`set_reuse` takes whatever is stored, or nothing."""
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
        """Set by a query, it holds for the nodes that match."""
        node = program.add(program.number(1).set_name("one"), program.number(2).set_name("two"))
        self.stored(backend, storage, node)
        program.calls()
        workflow = self.kept(backend, storage, node)
        workflow.query("two").set_reuse("never")
        assert 3 == self.run(workflow)
        assert ["number"] == program.calls()

    def test_a_removed_result(self, backend: Backend, program: Program, storage: Storage) -> None:
        """It is computed again if it is needed: the last is, a parent is not."""
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

    @pytest.mark.parametrize("place", [80, -1], ids=["header", "value"])
    def test_a_damaged_result(
        self, backend: Backend, program: Program, storage: Storage, place: int
    ) -> None:
        """It counts as none, and is replaced."""
        node = program.same(program.big(4096)).set_name("last")
        expected = self.stored(backend, storage, node)
        program.calls()
        data = bytearray(storage.store.get(key_of("w", "last")))
        data[place] ^= 1
        storage.store.put(key_of("w", "last"), [data])
        assert expected == self.stored(backend, storage, node)
        assert ["same"] == program.calls()
        assert expected == storage.read_task("w", "last")

    def test_none_is_a_result(self, backend: Backend, program: Program, storage: Storage) -> None:
        """Stored and reused as any other."""
        node = program.same(None)
        assert [None, None] == [self.stored(backend, storage, node) for _ in range(2)]
        assert ["same"] == program.calls()

    def test_workflows_are_apart(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Results of one are not taken for another."""
        for name in ("v", "w"):
            assert 1 == self.run(self.kept(backend, storage, program.number(1), name=name))
        assert ["number", "number"] == program.calls()
        assert ["v", "w"] == storage.list_workflows()

    def test_always_read(self, backend: Backend, program: Program, storage: Storage) -> None:
        """What follows a saved node is given what the storage gives back."""
        storage.always_read = True
        # A trap comes back from its pickle as text.
        assert "str" == self.stored(backend, storage, program.kind(program.same(Trap())))

    def test_a_storage_of_four_members(
        self, backend: Backend, program: Program, tmp_path: Path
    ) -> None:
        """`new_workflow`, `save`, `read_task` and `always_read` are enough to be a storage."""
        shelf = Shelf(tmp_path / "shelf")
        assert 2 == self.stored(backend, shelf, program.add(program.number(1), 1).set_name("t"))
        assert 2 == shelf.read_task("w", "t")

    def test_what_is_no_storage(self, backend: Backend, program: Program) -> None:
        """It is refused when it is set; None is no storage, and takes an earlier one away."""
        workflow = backend(program.number(1), workflow_name="w")
        with pytest.raises(GraphError):
            workflow.set_storage(object())
        workflow.set_storage(None)
        assert 1 == self.run(workflow)

    # Plans and reports

    def test_a_plan(self, backend: Backend, program: Program, storage: Storage) -> None:
        """It says what a run would do, and why, and does nothing."""
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
        """It says what the run did with each node."""
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

    # Failures

    def test_a_failing_node(self, backend: Backend, program: Program, storage: Storage) -> None:
        """Its error is raised, naming the node; what was computed stays, what follows is not."""
        one = program.number(1).set_name("one")
        wrong = program.fail(one).set_name("wrong")
        with pytest.raises(LookupError, match="no 1 here") as raised:
            self.stored(backend, storage, program.add(wrong, 1))
        assert "wrong" in _told(raised.value)
        assert ["one"] == storage.list_tasks("w")
        assert ["fail", "number"] == program.calls()

    def test_a_run_goes_on_after_a_repair(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """With what was computed before the failure."""

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
        """Its message arrives."""
        with pytest.raises(Exception, match="a class that nobody can import"):
            self.run(backend(program.strange(), workflow_name="w"))

    def test_a_failing_object(self, backend: Backend, program: Program) -> None:
        """An error in a method is raised as one in a function."""
        account = program.Account(1)
        account.pay(1)
        with pytest.raises(LookupError, match="no account"):
            self.run(backend(account.fail().set_name("wrong"), workflow_name="w"))

    def test_a_result_that_can_t_be_saved(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """It is an error that names the node; a run never says that all is stored if it isn't."""
        node = program.generator().set_name("stream")
        with pytest.raises(TypeError) as raised:
            self.stored(backend, storage, node)
        assert "stream" in _told(raised.value)
        assert [] == storage.list_tasks("w")

    def test_a_storage_that_is_full(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Its error is raised; results that did go in are there."""
        full = Storage(FullStore(storage.store, 100_000))
        one = program.number(1).set_name("one")
        last = program.add(program.total([one, 1]), 1)
        node = program.kind([last, program.big(1 << 20).set_name("big")])
        with pytest.raises(OSError, match="no room") as raised:
            self.stored(backend, full, node)
        assert "big" in _told(raised.value)
        assert "big" not in storage.list_tasks("w")

    # Settings

    def test_logged_nodes(self, backend: Backend, program: Program, storage: Storage) -> None:
        """They run every time, and are never stored."""
        self.needs("logs_nodes")
        node = program.same(program.number(1).set_name("one")).set_name("show")
        for expected in (["number", "same"], ["same"]):
            workflow = self.kept(backend, storage, node)
            workflow.log_nodes("show")
            assert 1 == self.run(workflow)
            assert expected == program.calls()
        assert ["one"] == storage.list_tasks("w")

    def test_another_function_for_a_node(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """`replace_func` holds in its workflow, and counts as other code."""
        node = program.same(5)
        workflow = self.kept(backend, storage, node)
        workflow.replace_func(node, lambda value: value * 100)
        assert [500, 5] == [self.run(workflow), self.stored(backend, storage, node)]
        assert ["same"] == program.calls()
        with pytest.raises(GraphError):
            workflow.replace_func(node, "no function")

    def test_a_node_plugin(self, backend: Backend, program: Program) -> None:
        """It is asked here for each node that it prepares, and what it gives runs with the node."""
        names = [f"FUNCTIONFUSE_{uuid.uuid4().hex}" for _ in range(2)]
        nodes = [program.variable(name).set_name(name) for name in names]
        workflow = backend(*nodes, workflow_name="w")
        plugin = Variable(names[0], "first")
        workflow.set_plugin(names[0], plugin)
        workflow.set_plugin(names[1], Variable(names[1], "second"))
        assert ["first", "second"] == self.run(workflow)
        assert 1 == plugin.handed_over

    def test_several_node_plugins(self, backend: Backend, program: Program) -> None:
        """They prepare a node in their order; a collection is one of them."""
        name = f"FUNCTIONFUSE_{uuid.uuid4().hex}"
        workflow = backend(program.variable(name), workflow_name="w")
        first, second = Variable(name, "first"), Variable(name, "second")
        workflow.query(None).set_plugins(PluginCollection([first, second]), InitializerPlugin(int))
        assert "second" == self.run(workflow)
        workflow.query(None).set_plugins(second, first)
        assert "first" == self.run(workflow)

    def test_seeds(self, backend: Backend, program: Program) -> None:
        """Each node gets a seed of its own, and each run of the same nodes the same ones."""
        import random

        drawn = []
        for _ in range(2):
            nodes = [program.throw() for _ in range(3)]
            workflow = backend(*nodes, workflow_name="w")
            workflow.query(None).set_plugin(RandomStatePlugin(0, 100, 5, random.seed))
            drawn.append(self.run(workflow))
        assert drawn[0] == drawn[1]
        assert 3 == len(set(drawn[0]))

    def test_settings_need_nodes(self, backend: Backend, program: Program) -> None:
        """A pattern that no name matches is an error, not a setting without effect."""
        workflow = backend(program.number(), workflow_name="w")
        with pytest.raises(NoMatchError):
            workflow.set_plugin("none", Variable("x", "y"))


def _told(error: BaseException) -> str:
    """Return an error's message with its notes, and those of what it came from."""
    told = [str(error), *getattr(error, "__notes__", ())]
    if error.__cause__ is not None:
        told.append(_told(error.__cause__))
    return "\n".join(told)
