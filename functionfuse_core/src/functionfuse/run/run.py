"""One run of a workflow: the plan, the computation, the results, the report.

A run decides from the storage which nodes to compute. The scheduler computes these. If a stored
result that is returned can't be read, its node is computed after all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ..errors import FunctionFuseError
from ..graph.nodes import ConstructorCall
from ..graph.settings import ALWAYS, NEVER
from ..reuse.identity import Identities
from ..reuse.plan import REUSE
from .contract import Backend
from .events import RunEvents
from .jobs import JobMaker
from .order import Resources
from .owning import Values
from .report import Report
from .scheduler import Scheduler
from .stored import StoredResults

if TYPE_CHECKING:
    from .workflow import ComputingWorkflow

__all__ = ["Run"]


class Run:
    """Runs a workflow once. A node is an index in the graph here; parents have lower ones.

    Args:
        backend: runs the jobs.
        returns: whether the results of the given nodes are returned.
        keep_going: whether nodes that don't follow a failed one are computed.
        resources: how much there is of each resource that nodes need; None: any amount.
        single_flight: whether to wait for a node that another run is computing.
    """

    def __init__(
        self,
        workflow: ComputingWorkflow,
        backend: Backend,
        *,
        returns: bool = True,
        keep_going: bool = False,
        resources: Mapping[str, float] | None = None,
        single_flight: bool = False,
    ) -> None:
        self._workflow = workflow
        self._backend = backend
        self._graph = graph = workflow.graph()
        positions = graph.positions
        self._returned = [positions[node] for node, _ in workflow.leaves] if returns else []
        self._stored = stored = bytearray(len(graph.nodes))
        self._events = RunEvents(workflow.workflow_name, graph, workflow.listeners)
        self._results: StoredResults | None = None
        if workflow.storage is not None:
            names = workflow.workflow_name, graph.names
            unsaved = {positions[node] for node in workflow._logged if node in positions}
            self._results = StoredResults(workflow.storage, *names, stored, unsaved)
        again = self._results.again if self._results and not backend.keeps else None
        self._values = Values(graph, set(self._returned), stored, again)
        self._jobs = JobMaker(
            workflow,
            graph,
            backend,
            self._results,
            self._values,
            single_flight=single_flight,
        )
        # A backend that places nodes by their resources has its own limits: these are checked only.
        needs, there = self._jobs.resources, resources
        if there is None and needs:
            there = getattr(backend, "resources", None)
        self._resources = None
        if there is not None and needs:
            self._resources = Resources(there, needs, graph.names)
        self._scheduler = Scheduler(
            graph,
            backend,
            self._results,
            self._values,
            jobs=self._jobs,
            events=self._events,
            keep_going=keep_going,
            resources=None if resources is None else self._resources,
        )

    def plan(self) -> Report:
        """Return the plan of `run`."""
        if self._results is None or self._results.headers:
            self._events.wanted = self._decide()
        else:
            self._identities().check(self._graph.nodes)
        return self._events.plan()

    def run(self) -> list[Any]:
        """Run; return the results of the given nodes, and set the workflow's `report`.

        Raises the error of the first node that failed, with a note of its name.
        """
        scheduler = self._scheduler
        try:
            if self._results:
                self._results.prepare()
            indexes = self._decide()
            if self._resources:
                self._resources.check(indexes)
            scheduler.check_timeouts(indexes)
            self._announce(indexes)
            scheduler.activate(indexes)
            scheduler.work()
            values = self._returned_values()
        except BaseException as error:
            try:
                scheduler.cancel()
            except Exception as second:  # noqa: BLE001  # the first error is more important
                error.add_note(f"cancel of the backend failed: {second!r}")
            self._events.end(error)
            raise
        else:
            self._events.end(None)
            return values
        finally:
            scheduler.clear()
            self._workflow.report = self._events.report()
            if self._results:
                self._results.remember()

    def _announce(self, indexes: Sequence[int]) -> None:
        """Emit what is planned and what is reused, and warn of stored results of no use."""
        decisions, reused = self._jobs.decisions, []
        if decisions and self._results:
            for index, info in enumerate(decisions.infos):
                if isinstance(info, FunctionFuseError):
                    self._results.warn(index, info)
            planned = set(indexes)
            verdicts = enumerate(decisions.verdicts)
            reused = [index for index, verdict in verdicts if verdict == REUSE]
            self._results.restore(reused)
            reused = [index for index in reused if index not in planned]
        self._events.begin(indexes, reused)

    def _returned_values(self) -> list[Any]:
        """Return the results of the given nodes, in this process."""
        held, backend = self._values.held, self._backend
        here: dict[int, Any] = {} if backend.keeps else held
        while missing := [index for index in dict.fromkeys(self._returned) if index not in here]:
            if backend.keeps and (kept := [index for index in missing if index in held]):
                values = backend.fetch([held.pop(index) for index in kept])
                here.update(zip(kept, values, strict=True))
            if self._results:
                self._results.read_many(missing, here)
            # A stored result can prove damaged when it is read; then its node must be computed.
            self._scheduler.activate(
                [index for index in missing if not self._scheduler.read(index, here)]
            )
            self._scheduler.work()
        return [
            here[index] if pick is None else pick.of(here[index])
            for index, (_, pick) in zip(self._returned, self._workflow.leaves, strict=False)
        ]

    def _decide(self) -> Sequence[int]:
        """Find the stored results; return the indexes of the nodes to compute, ascending."""
        graph, workflow, identities = self._graph, self._workflow, self._identities()
        if self._results is None or self._results.headers is None:
            identities.check(graph.nodes)  # `Decisions` checks all nodes itself
        if self._results is None:
            return range(len(graph.nodes))
        # The result of a constructor is None, so there is no reason to make the object for it.
        returned = [index for index in self._returned if not self._is_constructor(index)]
        targets = [*graph.last(), *returned, *self._results.unsaved]
        if self._results.headers:
            given = self._results.headers, graph, identities, workflow
            decisions = self._results.decide(*given)
            self._scheduler.decisions = self._jobs.decisions = self._events.decisions = decisions
            return decisions.needed(targets)
        # A storage without headers: read only the results that are needed, and keep their values.
        policies = list(map(workflow._policies.get, graph.nodes, repeat(workflow._policy)))
        aging = self._aging(policies)
        found: set[int] = set()
        while targets:
            index = targets.pop()
            if index in found:
                continue
            is_saved = index not in self._results.unsaved and not self._is_constructor(index)
            policy = NEVER if index in aging else policies[index]
            self._stored[index] = is_saved and policy != NEVER
            if self._stored[index] and self._scheduler.is_there(index):
                self._events.reuse([index])
            else:
                found.add(index)
                targets += graph.parents[index]
        return sorted(found)

    def _aging(self, policies: Sequence[str]) -> set[int]:
        """Return the nodes that expire, and those that follow them and aren't reused always.

        Without headers, ages are unknown, and a new result can't be compared with the one before.
        """
        aging = set(self._workflow.node_settings("expires", self._graph))
        for index, parents in enumerate(self._graph.parents) if aging else ():
            if policies[index] != ALWAYS and not aging.isdisjoint(parents):
                aging.add(index)
        return aging

    def _identities(self) -> Identities:
        workflow = self._workflow
        return Identities(
            workflow._functions,
            own=workflow._own,
            packages=workflow._packages,
            plugins=self._jobs.counting_plugins(),
        )

    def _is_constructor(self, index: int) -> bool:
        return type(self._graph.nodes[index]) is ConstructorCall
