"""`BaseWorkflow`: the base of all backends, with the graph and the selection of nodes by name."""

from __future__ import annotations

import itertools
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import (
    DuplicateNameError,
    FunctionFuseError,
    GraphError,
    NoMatchError,
    OptionsError,
)
from ..names import check_name, close_to, default_name, label_of
from .arguments import Reference
from .decorator import WorkflowClass, WorkflowFunction
from .nodes import Call, ConstructorCall, MethodCall, Node, Pick, as_node
from .parameters import parameters_of
from .query import NodePlugin, Query
from .settings import UNCHANGED, check_policy
from .texts import shell

__all__ = ["BaseWorkflow", "Graph"]


@dataclass(frozen=True)
class Graph:
    """The nodes of a workflow at one moment.

    Attributes:
        nodes: the nodes in order of creation, so parents come first.
        names: the name of each node, in the same order; all different.
        positions: the index of each node. A child of a node can be missing: it depends on another
            root, which is no ancestor of the workflow's nodes.
        left_out: number of nodes that are connected with the graph but don't belong to it.
    """

    nodes: list[Node]
    names: list[str]
    positions: dict[Node, int]
    left_out: int = 0

    @cached_property
    def called(self) -> set[Any]:
        """All decorated functions and classes that are called."""
        return set(map(operator.attrgetter("called"), self.nodes))

    @cached_property
    def needs(self) -> list[tuple[int, ...]]:
        """For each node, the indexes of the nodes in `Node.needs`."""
        index_of = self.positions.__getitem__
        return [tuple(map(index_of, node.needs)) for node in self.nodes]

    @cached_property
    def parents(self) -> list[tuple[int, ...]]:
        """For each node, the indexes of the nodes in `Node.parents`."""
        index_of = self.positions.__getitem__
        return [
            needed if node.parents is node.needs else tuple(map(index_of, node.parents))
            for node, needed in zip(self.nodes, self.needs, strict=True)
        ]

    @cached_property
    def children(self) -> list[list[int]]:
        """For each node, the indexes of the nodes of this graph that have it as a parent."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, parents in enumerate(self.parents):
            for parent in parents:
                children[parent].append(index)
        return children

    def last(self) -> list[int]:
        """Return the indexes of the nodes that have no child in the graph."""
        return [index for index, children in enumerate(self.children) if not children]

    def notes(self) -> list[str]:
        """Return hints about nodes that are left out, or whose function was defined again since."""
        found = []
        if self.left_out:
            found.append(f"left out, as nothing here needs them: {self.left_out} connected node(s)")
        for called in dict.fromkeys(node.called for node in self.nodes):
            now: Any = sys.modules.get(getattr(called, "__module__", None) or "")
            for part in label_of(called.func).split("."):
                now = getattr(now, part, None)
            if now is not called and isinstance(now, (WorkflowFunction, WorkflowClass)):
                count = sum(node.called is called for node in self.nodes)
                found.append(
                    f"{label_of(called.func)!r} was defined again since its node"
                    f"{' was' if count == 1 else f's ({count}) were'} made: the earlier one runs"
                )
        return found


class BaseWorkflow:
    """The graph of some nodes, under a name.

    In a script, the graph has three parts: the roots above the nodes, all descendants of those
    roots, and all ancestors of those. In a notebook or an interpreter, earlier versions of a cell
    depend on the same roots. So there the graph is only the nodes and their ancestors. The graph is
    computed at each use, so it has the nodes that were added after the workflow was made.

    Args:
        nodes: nodes, picks from nodes, or objects of decorated classes. Others can be added later.
        workflow_name: the name under which results are stored.

    Raises:
        GraphError: one of `nodes` is something else.
        InvalidNameError: `workflow_name` is no string, or empty.
    """

    _drawn = 300  # nodes in a picture for a notebook

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        self.workflow_name = check_name(workflow_name, "workflow")
        self.leaves = [(as_node(leaf), leaf if isinstance(leaf, Pick) else None) for leaf in nodes]
        self._asked: dict[Node, None] = {}  # nodes of `value`
        self._named: dict[Node, str] = {}  # the names that these, and their parents, keep
        self._functions: dict[Node, Callable[..., Any]] = {}
        self._plugins: dict[Node, tuple[NodePlugin, ...]] = {}
        self._policy = UNCHANGED
        self._own: tuple[str, ...] = ()
        self._packages: tuple[str, ...] = ()
        self._policies: dict[Node, str] = {}
        names = ("retries", "timeout", "expires", "resources")
        self._settings: dict[str, dict[Node, Any]] = {name: {} for name in names}
        self._standing: list[tuple[dict[Node, Any], Any]] = []  # also for nodes that are added

    def __repr__(self) -> str:
        count = len(self.leaves)
        made = repr(self.leaves[0][0].name) if count == 1 else f"{count:,} nodes"
        return f"<{type(self).__name__} {self.workflow_name!r}, made from {made}>"

    def _repr_html_(self) -> str:
        from .drawing import html_of  # for notebooks only

        nodes, names, title = list[Node](), list[str](), f"workflow {self.workflow_name!r}"
        try:
            graph = self.graph()
            nodes, names, notes = graph.nodes, graph.names, graph.notes()
            title += f": {len(nodes):,} node{'s' if len(nodes) > 1 else ''}"
        except FunctionFuseError as error:
            notes = [str(error)]
        return html_of(title, nodes, names, notes=notes, drawn=self._drawn)

    def add(self, *nodes: object) -> None:
        """Add nodes, as if the workflow had been made with them; see there for the errors."""
        self.leaves += [(as_node(leaf), leaf if isinstance(leaf, Pick) else None) for leaf in nodes]

    def graph(self) -> Graph:
        """Return the graph, in time linear in its size.

        Raises:
            GraphError: there are no nodes.
            DuplicateNameError: two nodes have the same name; the message describes both.
        """
        handed = [node.last if type(node) is ConstructorCall else node for node, _ in self.leaves]
        handed += self._asked
        if not handed:
            raise GraphError(f"workflow {self.workflow_name!r} has no nodes: add(node) adds one")
        needed = _closure(handed, _parents)
        roots = [node for node in needed if not node.parents]
        connected = _closure(_closure(roots, _children), _parents)
        nodes = sorted(needed if _is_interactive() else connected, key=_number)
        return self._graph_of(nodes, len(connected) - len(nodes))

    def part(self, node: Node) -> Graph:
        """Return the graph of a node and of what it needs.

        In a script, later graphs have these nodes, too, under the same names. Raises
        DuplicateNameError as `graph` does.
        """
        found = self._graph_of(sorted(_closure([node], _parents), key=_number), 0)
        if not _is_interactive():
            self._asked[node] = None
            self._named.update(zip(found.nodes, found.names, strict=True))
        return found

    def _graph_of(self, nodes: list[Node], left_out: int) -> Graph:
        for target, value in reversed(self._standing):
            for node in nodes:
                target.setdefault(node, value)
        names = _names(nodes, self.workflow_name, self._named)
        positions = dict(zip(nodes, itertools.count(), strict=False))
        return Graph(nodes, names, positions, left_out)

    def graph_traversal(self) -> Iterator[tuple[str, Node]]:
        """Iterate over (name, node), parents before children."""
        graph = self.graph()
        return zip(graph.names, graph.nodes, strict=True)

    def find_nodes(self, pattern: str | None = None) -> list[Node]:
        """Return the nodes whose whole name matches a regular expression, or is equal to it.

        Args:
            pattern: None matches all.

        Raises:
            OptionsError: it is no regular expression, and no node's name.
        """
        if pattern is None:
            return self.graph().nodes
        nodes = list(self.graph_traversal())
        try:
            matches = re.compile(pattern).fullmatch
        except re.error as error:
            found = [node for name, node in nodes if name == pattern]
            if not found:
                raise OptionsError(
                    f"{pattern!r} is no regular expression ({error}); None matches every node"
                ) from None
            return found
        return [node for name, node in nodes if name == pattern or matches(name)]

    def query(self, pattern: str | None = None) -> Query:
        """Return the nodes whose whole name matches a regular expression, for settings.

        Args:
            pattern: None matches all, also those that are added later.

        Raises:
            NoMatchError: no name matches.
        """
        return Query(self, pattern)

    def set_reuse(
        self, policy: str, *, own: Iterable[str] = (), packages: Iterable[str] = ()
    ) -> None:
        """Decide when a stored result is reused instead of computing its node.

        Args:
            policy: "unchanged" (the default): if the same code computed it from the same inputs;
                "always": if a result is stored under the node's name; "never".
            own: installed top-level packages whose code is compared, as your own code is.
            packages: packages whose version counts for all nodes.

        Raises:
            OptionsError: there is no such policy, or `own` or `packages` is no list of names.
        """
        self._own = check_names(own, "own")
        self._packages = check_names(packages, "packages")
        self._policy = check_policy(policy)

    def set_plugin(self, pattern: str | None, plugin: NodePlugin) -> None:
        """Let `plugin` prepare all matching nodes. See `query` and `Query.set_plugin`."""
        self.query(pattern).set_plugin(plugin)

    def replace_func(self, node: Node, func: Callable[..., Any]) -> None:
        """Let this workflow call `func` for `node`, instead of the node's own function.

        Raises:
            GraphError: `node` is not a call of a decorated function, or `func` can't be called with
                its arguments.
        """
        if isinstance(func, (WorkflowFunction, WorkflowClass)):
            func = func.func
        if not isinstance(node, Call):
            given = node._located() if isinstance(node, Reference) else repr(node)
            raise GraphError(f"only a function's call can be given another function, not {given}")
        if not callable(func) or isinstance(func, Reference):
            raise GraphError(f"{func!r} can't be called in place of {node.function!r}")
        try:
            parameters_of(func).check(*node.args, **node.kwargs)
        except TypeError as error:
            raise GraphError(f"{func!r} can't be called for {node._located()}: {error}") from error
        self._functions[node] = func

    def node_settings(self, name: str, graph: Graph) -> dict[int, Any]:
        """Return a setting of the nodes that have it, by index in the graph.

        Args:
            name: "retries", "timeout", "expires" or "resources".
        """
        found: dict[int, Any] = {}
        for called in graph.called:
            if value := getattr(called.settings, name, None):
                nodes = enumerate(graph.nodes)
                found |= {index: value for index, node in nodes if node.called is called}
        for node, value in self._settings[name].items():
            index = graph.positions.get(node, -1)
            found.pop(index, None)
            # A setting of all nodes can reach calls on objects, which are never tried again.
            if value is not None and index >= 0 and (name != "retries" or type(node) is Call):
                found[index] = value
        return found

    def _matched(self, pattern: str | None) -> list[Node]:
        if pattern is None and not (self.leaves or self._asked):
            return []
        nodes = self.find_nodes(pattern)
        if not nodes:
            raise NoMatchError(
                f"no node of workflow {self.workflow_name!r} has a name that the regular expression"
                f" {pattern!r} matches as a whole{close_to(str(pattern), self.graph().names)}"
            )
        return nodes


def _is_interactive() -> bool:
    """Return whether this is an interpreter, IPython or a notebook."""
    return hasattr(sys, "ps1") or shell() is not None


def check_names(names: Iterable[str], argument: str) -> tuple[str, ...]:
    """Return `names` as a tuple, if they are names; else raise an OptionsError."""
    found = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in found):
        raise OptionsError(f"set_reuse({argument}=...) takes a list of names, not {names!r}")
    return found


_parents, _children, _number = map(operator.attrgetter, ("parents", "children", "number"))


def _closure(
    start: list[Node] | set[Node], neighbours: Callable[[Node], Iterable[Node]]
) -> set[Node]:
    found = set(start)
    stack = list(found)
    while stack:
        for node in neighbours(stack.pop()):
            if node not in found:
                found.add(node)
                stack.append(node)
    return found


def _names(nodes: list[Node], workflow_name: str, named: Mapping[Node, str]) -> list[str]:
    """Return the names of nodes, all different; unnamed nodes are numbered within the workflow.

    Args:
        named: names that nodes have already, also nodes that are not among `nodes`.
    """
    counts: dict[object, tuple[str, Iterator[int]]] = {}
    owners = {name: node for node, name in named.items()}
    names = []
    for node in nodes:
        name = node._name or named.get(node)
        if name is None:
            key: object = node.called.key
            if type(node) is MethodCall:
                key = key, node.method
            if key not in counts:
                counts[key] = node.label, itertools.count()
            label, count = counts[key]
            node._index = next(count)
            name = default_name(label, node._index)
            while name in owners and named:
                node._index = next(count)
                name = default_name(label, node._index)
        other = owners.setdefault(name, node)
        if other is not node:
            raise DuplicateNameError(
                f"workflow {workflow_name!r} has two nodes named {name!r}: {other.described()}, and"
                f" {node.described()}. Give one of them another name with set_name"
            )
        names.append(name)
    return names
