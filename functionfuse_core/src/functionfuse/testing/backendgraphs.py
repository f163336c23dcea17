"""Tests of graphs on a backend: results, objects, settings, errors."""

from __future__ import annotations

import os
import random
import uuid
from typing import Any

import pytest

from ..backends.builtin.localback import LocalWorkflow
from ..backends.plugins import InitializerPlugin, PluginCollection, RandomStatePlugin
from ..errors import DuplicateNameError, GraphError, InvalidNameError, NoMatchError
from ..storage import Storage
from .backendbase import Backend, Backends
from .program import Program, Variable

__all__ = ["BackendGraphs"]


class BackendGraphs(Backends):
    """A graph gives the same results as calling its functions by hand."""

    def test_one_node_gives_one_result(self, backend: Backend, program: Program) -> None:
        """One node gives its result itself, and its function is called once."""
        assert 3 == self.run(backend(program.number(3), workflow_name="w"))
        assert ["number"] == program.calls()

    def test_several_nodes_give_a_list(self, backend: Backend, program: Program) -> None:
        """Several nodes give a list in the given order; a node given twice is in it twice."""
        one, two = program.number(1), program.number(2)
        assert [2, 1, 2] == self.run(backend(two, one, two, workflow_name="w"))
        assert ["number", "number"] == program.calls()

    def test_a_chain_and_a_diamond(self, backend: Backend, program: Program) -> None:
        """Every node of a chain or a diamond is computed once, after its parents."""
        top = program.number(1)
        left, right = program.add(top, 10), program.add(top, 20)
        assert 32 == self.run(backend(program.add(left, right), workflow_name="w"))
        assert ["add", "add", "add", "number"] == program.calls()

    def test_arguments_by_place_and_by_name(self, backend: Backend, program: Program) -> None:
        """Arguments by position and by name can be nodes or values; all names are allowed."""
        node = program.number(1)
        more = {"function": node, "name": 10, "target": node, "args": 100, "storage": 1000}
        assert 1113 == self.run(backend(program.add(node, **more), workflow_name="w"))
        assert 7 == self.run(backend(program.number(), workflow_name="w"))

    @pytest.mark.parametrize("kind", ["list", "tuple", "dict", "set", "nested"])
    def test_nodes_in_containers(self, backend: Backend, program: Program, kind: str) -> None:
        """Functions get containers of the same kind, with results in place of nodes."""
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
        """Items of results, at any depth, can be arguments, and can be given to the workflow."""
        node = program.parts(5)
        picked = program.add(node["list"][0], node["list"][-1], node["deep"][0]["tuple"])
        assert [18, [5, 6], 7] == self.run(
            backend(picked, node["list"], node["deep"][0]["tuple"], workflow_name="w")
        )
        assert ["add", "parts"] == program.calls()

    def test_all_below_the_roots_is_run(self, backend: Backend, program: Program) -> None:
        """Giving the first node also runs its descendants, with their other parents."""
        first = program.number(1).set_name("first")
        program.add(program.half(first), program.number(5))
        assert 1 == self.run(backend(first, workflow_name="w"))
        assert ["add", "half", "number", "number"] == program.calls()

    def test_many_nodes(self, backend: Backend, program: Program) -> None:
        """A wide graph and a deep graph run."""
        wide = program.total([program.number(value) for value in range(40)])
        deep = program.number(0)
        for _ in range(40):
            deep = program.add(deep, 1)
        assert [780, 40] == self.run(backend(wide, deep, workflow_name="w"))
        assert 82 == len(program.calls())

    def test_a_big_value(self, backend: Backend, program: Program) -> None:
        """Results of megabytes go from node to node unchanged."""
        data = self.run(backend(program.same(program.big(8 << 20)), workflow_name="w"))
        assert bytes(range(256)) * (32 << 10) == data

    def test_equal_calls_are_made_each(self, backend: Backend, program: Program) -> None:
        """Two nodes that call one function with equal arguments are two calls."""
        one, two = program.throw(), program.throw()
        first, second, third = self.run(backend(one, two, one, workflow_name="w"))
        assert first == third != second
        numbers = [program.number(1) for _ in range(3)]
        assert 3 == self.run(backend(program.add(*numbers), workflow_name="w"))
        assert ["add", "number", "number", "number"] == program.calls()

    @pytest.mark.parametrize("stored", [False, True])
    def test_values_stay_with_the_workers(
        self, backend: Backend, program: Program, storage: Storage, stored: bool
    ) -> None:
        """This process unpickles no value that goes from node to node, stored or not."""
        self.needs("keeps_values")

        def run() -> Any:
            node = program.weigh(program.same(program.freight(5)).set_name("passed"))
            return self.run(self.kept(backend, storage if stored else None, node.set_name("last")))

        assert 5 == run()
        if stored:
            storage.remove_task("w", "last")
            assert 5 == run()
        places = {call for call in program.calls() if call.startswith("arrived")}
        assert places
        assert f"arrived-{os.getpid()}" not in places

    def test_what_is_refused(self, backend: Backend, program: Program) -> None:
        """No nodes, no name, equal names and objects that are no nodes are refused at once."""
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
        """Nodes have given or numbered names; patterns match whole names."""
        node = program.add(program.number(1), program.number(2)).set_name("the sum")
        workflow = backend(node, workflow_name="w")
        names = [name for name, _ in workflow.graph_traversal()]
        assert ["number_0000", "number_0001", "the sum"] == names
        assert [node] == workflow.find_nodes("the .*")
        assert 3 == len(workflow.find_nodes())
        with pytest.raises(NoMatchError):
            workflow.query("the")

    def test_a_graph_runs_again(self, backend: Backend, program: Program) -> None:
        """Without a storage, each run computes all nodes, with the same results."""
        workflow = backend(program.add(program.number(1), 1), workflow_name="w")
        assert [2, 2] == [self.run(workflow), self.run(workflow)]
        assert ["add", "add", "number", "number"] == program.calls()

    def test_other_backends_run_the_same_graph(self, backend: Backend, program: Program) -> None:
        """Other backends run the same graph, with the same results."""
        node = program.add(program.number(1), program.parts(2)["list"][1])
        assert 4 == LocalWorkflow(node, workflow_name="w").run()
        assert 4 == self.run(backend(node, workflow_name="w"))

    def test_calls_on_an_object(self, backend: Backend, program: Program) -> None:
        """Calls are made on one object, in the order of the program; as a result, it is None."""
        account = program.Account(program.number(100))
        calls = [account.pay(1), account.pay(program.number(10)), account.pay(1000)]
        assert [101, 111, 1111, None] == self.run(backend(*calls, account, workflow_name="w"))
        assert ["Account", "number", "number", "pay", "pay", "pay"] == program.calls()

    def test_objects_are_apart(self, backend: Backend, program: Program) -> None:
        """Each constructor call makes its own object; results of methods go to other nodes."""
        one, two = program.Account(1), program.Account()
        node = program.add(one.pay(1), two.pay(10), one.pay(100))
        assert 114 == self.run(backend(node, workflow_name="w"))

    def test_an_object_in_a_storage(
        self, backend: Backend, program: Program, storage: Storage
    ) -> None:
        """Results of methods are stored; if none is missing, no object is made."""
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

    def test_logged_nodes(self, backend: Backend, program: Program, storage: Storage) -> None:
        """Logged nodes run every time, and are never stored."""
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
        """`replace_func` applies to its workflow only, and counts as changed code."""
        node = program.same(5)
        workflow = self.kept(backend, storage, node)
        workflow.replace_func(node, lambda value: value * 100)
        assert [500, 5] == [self.run(workflow), self.stored(backend, storage, node)]
        assert ["same"] == program.calls()
        with pytest.raises(GraphError):
            workflow.replace_func(node, "no function")

    def test_a_node_plugin(self, backend: Backend, program: Program) -> None:
        """An initializer is called here for each of its nodes; its call runs with the node."""
        names = [f"FUNCTIONFUSE_{uuid.uuid4().hex}" for _ in range(2)]
        nodes = [program.variable(name).set_name(name) for name in names]
        workflow = backend(*nodes, workflow_name="w")
        plugin = Variable(names[0], "first")
        workflow.set_plugin(names[0], plugin)
        workflow.set_plugin(names[1], Variable(names[1], "second"))
        assert ["first", "second"] == self.run(workflow)
        assert 1 == plugin.handed_over

    def test_several_node_plugins(self, backend: Backend, program: Program) -> None:
        """Several initializers, also in a collection, prepare a node in the given order."""
        name = f"FUNCTIONFUSE_{uuid.uuid4().hex}"
        workflow = backend(program.variable(name), workflow_name="w")
        first, second = Variable(name, "first"), Variable(name, "second")
        workflow.query(None).set_plugins(PluginCollection([first, second]), InitializerPlugin(int))
        assert "second" == self.run(workflow)
        workflow.query(None).set_plugins(second, first)
        assert "first" == self.run(workflow)

    def test_seeds(self, backend: Backend, program: Program) -> None:
        """Each node gets its own seed, which depends on its name, not on other nodes."""
        drawn = []
        for names in ("abc", "abc", "cb"):
            nodes = [program.throw().set_name(name) for name in names]
            workflow = backend(*nodes, workflow_name="w")
            workflow.query(None).set_plugin(RandomStatePlugin(0, 1 << 32, 5, random.seed))
            drawn.append(self.run(workflow))
        assert drawn[0] == drawn[1]
        assert 3 == len(set(drawn[0]))
        assert drawn[0][:0:-1] == drawn[2]

    def test_settings_need_nodes(self, backend: Backend, program: Program) -> None:
        """A pattern that matches no name is an error, not a setting without effect."""
        workflow = backend(program.number(), workflow_name="w")
        with pytest.raises(NoMatchError):
            workflow.set_plugin("none", Variable("x", "y"))
