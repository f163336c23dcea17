"""Make the job of a node that is ready: function, arguments, initializers, and how it is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..graph.nodes import Call, ConstructorCall, MethodCall, Node
from ..graph.settings import Retries
from ..graph.workflow import Graph
from ..names import label_of
from ..reuse.described import describing
from ..reuse.plan import Decisions
from .contract import Backend
from .job import Job
from .nodeplugins import counting, made_for
from .owning import Values
from .packing import pack
from .stored import StoredResults

if TYPE_CHECKING:
    from .workflow import ComputingWorkflow

__all__ = ["JobMaker"]

logger = logging.getLogger(__name__)

Describe = Callable[..., Any]

_NONE = pack(None)
_SAMPLES = 100  # functions that are looked at before anything runs, and not just before a call


class JobMaker:
    """Makes the jobs of one run.

    Args:
        single_flight: whether to wait for a node that another run is computing.
        grows: whether nodes will be added to the graph, so that any result may be needed.

    Attributes:
        decisions: set when the run is planned; None without a storage that returns headers.
        retries, timeouts, resources: settings of the nodes that have them, by index.
    """

    def __init__(
        self,
        workflow: ComputingWorkflow,
        graph: Graph,
        backend: Backend,
        results: StoredResults | None,
        values: Values,
        *,
        single_flight: bool,
        grows: bool,
    ) -> None:
        self.decisions: Decisions | None = None
        self._workflow = workflow
        self._functions: Mapping[Node, Callable[..., Any]] = workflow._functions
        self._graph = graph
        self._backend = backend
        self._begun = 0  # 1: the backend's `begin` was called; 2: with the storage
        self._remote = backend.remote
        self._keeps = backend.keeps
        self._results = results
        self._values = values
        self._single_flight = single_flight
        self._grows = grows
        self._known: dict[object, tuple[str, Describe | None]] = {}  # by function
        self._warned: set[str] = set()
        self._plugins = {
            node: [made_for(plugin, graph.names[graph.positions[node]]) for plugin in plugins]
            for node, plugins in workflow._plugins.items()
            if node in graph.positions
        }
        self._prepared: dict[int, Sequence[Callable[[], object]]] = {}
        self.retries: dict[int, Retries] = workflow.node_settings("retries", graph)
        self.timeouts: dict[int, float] = workflow.node_settings("timeout", graph)
        self.resources: dict[int, Mapping[str, float]] = workflow.node_settings("resources", graph)
        self._has_settings = bool(self.retries or self.timeouts or self.resources)

    def counting_plugins(self) -> dict[Node, Sequence[Any]]:
        """Return the plugins that results depend on, by node."""
        return {node: list(counting(found)) for node, found in self._plugins.items()}

    def begin(self, indexes: Collection[int]) -> None:
        """Raise what hinders these nodes, before the first of them is computed.

        That is the storage's error if it can't be written, and results of them are saved. The first
        time, and when results are saved for the first time, it is also what the backend's `begin`
        finds: a stored result can prove lost during the run, and is computed then.

        Args:
            indexes: all nodes that may be computed, also those that are judged again before.
        """
        results, stored, nodes = self._results, self._values.stored, self._graph.nodes
        saves = results is not None and any(
            not stored[index]
            and index not in results.unsaved
            and type(nodes[index]) is not ConstructorCall
            for index in indexes
        )
        storage = None
        if results and saves:
            results.prepare(len(indexes))
            storage = results.storage
        begin = getattr(self._backend, "begin", None)
        stage = 1 if storage is None else 2
        if begin and indexes and stage > self._begun:
            self._begun = stage
            begin(storage, self._workflow.workflow_name, self._samples(indexes))

    def _samples(self, indexes: Iterable[int]) -> list[Job]:
        """Return a job for each function and its settings, for `begin` of a backend."""
        found: dict[object, Job] = {}
        options, decisions, graph = self._workflow.options, self.decisions, self._graph
        for index in indexes:
            node = graph.nodes[index]
            if type(node) is MethodCall or len(found) >= _SAMPLES:
                continue
            function, needs = self._function(node), self.resources.get(index, {})
            key = id(node.called), id(self._functions.get(node)), id(options.get(node))
            settings = *key, *sorted(needs.items())
            if settings in found:
                continue
            job = found[settings] = Job(index, graph.names[index], function, (), {})
            job.constructs = type(node) is ConstructorCall
            job.options, job.resources = options.get(node), needs
            if decisions:
                job.expected = decisions.identities.expected(node, ())
        return list(found.values())

    def _function(self, node: Node) -> Callable[..., Any]:
        """Return what is called for a node that isn't a method's."""
        function: Callable[..., Any] = node.called.compute if self._remote else node.called.func
        return self._functions.get(node, function) if self._functions else function

    @property
    def prepares(self) -> bool:
        """Whether initializers are called before anything runs, by `prepare`.

        So they are called in the order of the nodes: an initializer can count. In this process,
        each is called just before its node.
        """
        return self._remote and bool(self._plugins)

    def prepare(self, index: int) -> None:
        """Call the initializers of a node, once, however often it is tried."""
        self._prepared[index] = self._calls_before(self._graph.nodes[index])

    def make(self, index: int, target: Any) -> Job:
        """Return the job of a node whose parents are settled, or submitted.

        Args:
            target: see `Job`.
        """
        graph, values = self._graph, self._values
        node = graph.nodes[index]
        keeps = self._keeps
        args, kwargs = (
            (node.args, node.kwargs)
            if keeps
            else values.arguments(index, node, fresh=index in self.retries)
        )
        function: Any = node.method if type(node) is MethodCall else self._function(node)
        job = Job(index, graph.names[index], function, args, kwargs)
        job.wanted = values.users[index] > 0 or index in values.needed
        if keeps:
            job.keeps, job.needs = True, node.needs
            job.values = list(map(self._handle, graph.needs[index]))
        if self._workflow.options:
            job.options = self._workflow.options.get(node)
        if self._plugins:
            if index not in self._prepared:
                self.prepare(index)
            job.prepare = self._prepared[index]
        if self._has_settings:
            if index in self.retries:
                job.retry_on = self.retries[index].on
            if index in self.timeouts:
                job.timeout = self.timeouts[index]
            if index in self.resources:
                job.resources = self.resources[index]
        job.target = target
        job.constructs = type(node) is ConstructorCall
        if self._results and not job.constructs and not values.stored[index]:
            if index in self._results.unsaved:
                job.digest = bool(self.decisions and (self._grows or graph.children[index]))
            else:
                self._store(job, index, node, self._results)
        if self.decisions and (files := self.decisions.files(index)):
            job.files = files
        if self._remote and self.decisions:  # saved or not: results of children are made from it
            job.expected = self.decisions.expected(index)
        return job

    def load(self, index: int) -> Job:
        """Return a job that reads a node's stored result."""
        assert self._results is not None
        job = Job(~index, self._graph.names[index], "", (), {})
        job.load = self._results.load(index)
        return job

    def warn(self, index: int, changed: str) -> None:
        """Warn that a variable changed while nodes needed it, once for each variable."""
        if changed and changed not in self._warned:
            self._warned.add(changed)
            logger.warning(
                "%s changed during the run of workflow %r, so the results of node %r, and of those"
                " that use it later, will be computed again in the next run",
                *(changed, self._workflow.workflow_name, self._graph.names[index]),
            )

    def _handle(self, index: int) -> Any:
        """Return the backend's handle of a value; the result of a constructor is None."""
        if type(self._graph.nodes[index]) is ConstructorCall:
            return _NONE
        return self._values.held[index]

    def _store(self, job: Job, index: int, node: Node, results: StoredResults) -> None:
        """Let a job store its result, with the record of its code and inputs."""
        decisions = self.decisions
        known = None if self._functions else self._known.get(node.called)
        name, describe = known or self._of_function(node)
        if decisions is None:
            job.save = results.save(index, name)
            return
        fingerprint = decisions.record(index)
        if decisions.changed:
            self.warn(index, decisions.changed.get(index, ""))
        job.save = results.save(index, name, fingerprint, describe)
        # A method changes its object; if another run made the call, ours would be unchanged.
        if self._single_flight and type(node) is not MethodCall:
            job.flight = results.flight(index, decisions.calls[index])

    def _of_function(self, node: Node) -> tuple[str, Describe | None]:
        """Return the name of the function that is called for a node, and how results are described.

        Both are the same for all calls of a decorated function.
        """
        function = self._functions.get(node, node.function)
        label = node.label if function is node.function else label_of(function)
        describe = None
        if self.decisions:
            describe = describing(self.decisions.identities.own_packages(node))
        found = f"{getattr(function, '__module__', None)}.{label}", describe
        if type(node) is Call:
            self._known[node.called] = found
        return found

    def _calls_before(self, node: Node) -> list[Callable[[], object]]:
        """Return the calls that a node's initializers make before it."""
        calls = []
        for plugin in self._plugins.get(node, ()):
            plugin.local_initialize()
            calls.append(plugin.remote_initialize())
        return [call for call in calls if call is not None]
