"""One run of a workflow: the plan, the computation, the results, the report.

A run decides from the storage which nodes to compute. The scheduler computes these. If a stored
result that is returned can't be read, its node is computed after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, FunctionFuseError, OptionsError
from ..graph.nodes import ConstructorCall, Node, Pick
from ..graph.settings import ALWAYS, NEVER
from ..reuse.identity import Identities
from ..reuse.plan import REUSE
from ..reuse.results import Done
from .calling import check_interruptible
from .contract import Backend
from .events import RunEvents
from .job import Job, Outcome
from .jobs import JobMaker
from .objects import Objects
from .order import Resources
from .owning import Values, is_shared
from .past import Past
from .progress import Progress
from .record import about, columns_of, error_of
from .report import Report
from .scheduler import Scheduler
from .stored import StoredResults

if TYPE_CHECKING:
    from .workflow import ComputingWorkflow

__all__ = ["Run"]


def _write(*about: Any, **options: Any) -> Path:
    from .page import write  # it takes as long to import as a tenth of the rest

    return write(*about, **options)


def _is_slow(_: int) -> tuple[Any, ...]:
    """Return no copy, as there is no storage: the values are copied from their pickles."""
    return ()


class Run:
    """Runs a workflow once. A node is an index in the graph here; parents have lower ones.

    Args:
        backend: runs the jobs.
        only: a node, and the pick from it if that is wanted: the run brings only this node and what
            it needs up to date, and goes on later with a larger graph.
        returns: whether the results of the given nodes are returned.
        keep_going: whether nodes that don't follow a failed one are computed.
        resources: how much there is of each resource that nodes need; None: any amount.
        single_flight: whether to wait for a node that another run is computing.
        progress: whether to show the run; None: where and when people can see it.
    """

    def __init__(
        self,
        workflow: ComputingWorkflow,
        backend: Backend,
        *,
        only: tuple[Node, Pick | None] | None = None,
        returns: bool = True,
        keep_going: bool = False,
        resources: Mapping[str, float] | None = None,
        single_flight: bool = False,
        progress: bool | None = None,
    ) -> None:
        overrides = workflow.told
        if overrides.make_executor and not hasattr(workflow, "make_executor"):
            kind = type(workflow).__name__
            raise OptionsError(f"{kind} decides itself where nodes run: --workers can't be used")
        if overrides.reuse is not None:
            workflow.set_reuse(overrides.reuse, own=workflow._own, packages=workflow._packages)
        keep_going = keep_going or overrides.keep_going
        returns = returns and (overrides.returns or only is not None)
        self._plans = overrides.plan
        self._workflow = workflow
        self._backend = backend
        self._progress = overrides.progress if progress is None else progress
        self._grows = only is not None
        self._graph = graph = workflow.graph() if only is None else workflow.part(only[0])
        positions = graph.positions
        self._leaves = workflow.leaves if only is None else [only]
        self._returned = [positions[node] for node, _ in self._leaves] if returns else []
        past = workflow._past
        if past is None or past.storage is not workflow.storage:
            past = Past(workflow.storage)
        self._past = past
        self._done = past.within(graph)
        self._stored = stored = bytearray(len(graph.nodes))
        name, listeners = workflow.workflow_name, workflow.listeners
        self._events = RunEvents(name, graph, listeners, past, self._done)
        unsaved = {positions[node] for node in workflow._logged if node in positions}
        self._results: StoredResults | None = None
        if workflow.storage is not None:
            names = workflow.workflow_name, graph.names
            self._results = StoredResults(workflow.storage, *names, stored, unsaved)
        again: Callable[[int], tuple[Any, ...]] | None = None
        if not backend.keeps:
            again = self._results.again if self._results else None
            if again is None and (self._grows or self._done):
                again = _is_slow  # a value that `value` has returned must not change later
        needed = set(self._returned)
        if self._grows:  # what isn't stored is kept
            needed |= unsaved if self._results else set(range(len(graph.nodes)))
        self._values = Values(graph, needed, stored, again)
        for node, value in past.values.items():
            if positions.get(node) in self._done:
                self._values.held[positions[node]] = value
        self._jobs = JobMaker(
            workflow,
            graph,
            backend,
            self._results,
            self._values,
            single_flight=single_flight,
            grows=self._grows,
        )
        self._resources = None
        if resources is not None and self._jobs.resources:
            self._resources = Resources(resources, self._jobs.resources, graph.names)
        self._scheduler = Scheduler(
            graph,
            backend,
            self._results,
            self._values,
            jobs=self._jobs,
            events=self._events,
            keep_going=keep_going,
            resources=self._resources,
            objects=Objects(past.objects, keeps=backend.keeps, grows=self._grows),
        )

    def plan(self) -> Report:
        """Return the plan of `run`."""
        if self._results is None or self._results.headers:
            self._events.wanted = self._decide()
            if decisions := self._events.decisions:
                for index, error in self._missing_files(self._events.wanted):
                    decisions.reasons[index] = str(error)
        else:
            self._identities().check(self._graph.nodes)
        return self._written(self._events.plan(), 0.0)

    def run(self) -> list[Any]:
        """Run; return the results of the given nodes, and set the workflow's `report`.

        Raises the error of the first node that failed, with a note of its name.
        """
        if self._plans and not self._grows:
            self._plans(self._workflow.workflow_name, self.plan)
        progress = Progress(self._progress, self._events, self._scheduler.order)
        with progress.running, progress:
            return self._run(progress)

    def _run(self, progress: Progress) -> list[Any]:
        scheduler, workflow, failure = self._scheduler, self._workflow, None
        self._past.check(self._backend)
        workflow._past = None
        if not self._grows:
            self._past.values.clear()  # they are in `held` now, until their last use
        run, unread = "", False
        if self._results or self._events.listeners:
            run = self._events.open()
        try:
            if self._results:
                self._results.run = run
            indexes = self._decide()
            for _, error in self._missing_files(indexes):
                raise error
            self._check(indexes)
            self._announce(indexes)
            scheduler.activate(indexes)
            scheduler.work()
            values = self._returned_values()
        except BaseException as error:
            unread = isinstance(error, OSError) and self._jobs.decisions is None
            try:
                scheduler.cancel()
            except Exception as second:  # noqa: BLE001  # the first error is more important
                error.add_note(f"cancel of the backend failed: {second!r}")
            finally:
                if self._results and self._results.records:
                    failure = error_of(error, self._events)
                self._events.end(error)
            raise
        else:
            if not self._grows:
                self._events.end(None)
            return values
        finally:
            if self._grows:
                self._keep_past()
                workflow._past = self._past
            scheduler.clear()
            if end := getattr(self._backend, "end", None):
                end()
            progress.last_look()
            workflow.report = self._written(self._events.report(run), self._past.began)
            if self._results:
                if not unread:
                    self._record(run, failure)
                self._results.remember()

    def _written(self, report: Report, began: float) -> Report:
        """Return a report that can be saved as a page; it holds no part of this run's state."""
        workflow, lasted = self._workflow, self._events.lasted() if began else 0.0
        identities = partial(
            Identities, workflow._functions, own=workflow._own, packages=workflow._packages
        )
        report.write = partial(
            _write, self._events, identities, workflow.storage, times=(began, lasted)
        )
        return report

    def _record(self, run: str, failure: dict[str, str] | None) -> None:
        """Let the storage have the record of the run, as well as it can; see `record`."""
        results, events, decisions = self._results, self._events, self._jobs.decisions
        if results is None or not results.records:
            return
        did = bool(events.ran or events.failed or failure)
        if self._grows and not did:
            return  # it was only read

        def record() -> tuple[dict[str, object], dict[str, Sequence[Any]]]:
            head = about(run, events, self._backend, failure)
            if decisions is None:  # the error came before the plan
                return head, {"name": ()}
            given = events, decisions, self._stored, self._past
            return head, columns_of(*given, grows=self._grows)

        results.record(run, record)

    def _check(self, indexes: Sequence[int]) -> None:
        """Raise OptionsError if nodes can't run here: for their resources, or their timeouts.

        The backend runs a job that finds out whether it can interrupt functions.
        """
        resources, needs = self._resources, self._jobs.resources
        if resources is None and not needs.keys().isdisjoint(indexes):
            # A backend that places nodes by their resources has its own limits.
            there = getattr(self._backend, "resources", None)
            if there is not None:
                resources = Resources(there, needs, self._graph.names)
        if resources:
            resources.check(indexes)
        timeouts = self._jobs.timeouts
        timed = [index for index in indexes if index in timeouts] if timeouts else ()
        if not timed:
            return
        self._jobs.begin(indexes)
        job = Job(len(self._graph.nodes), "the check of timeouts", check_interruptible, (), {})
        job.wanted = False
        self._backend.submit(job)
        outcome = None
        while outcome is None:
            news = self._backend.wait(None)
            outcome = next((each for each in news if isinstance(each, Outcome)), None)
        if isinstance(outcome.error, OptionsError):
            name = self._graph.names[timed[0]]
            raise OptionsError(f"node {name!r} has a timeout, but {outcome.error}") from None
        if outcome.error is not None:
            raise outcome.error

    def _announce(self, indexes: Sequence[int]) -> None:
        """Emit what is planned and what is reused, and warn of stored results of no use."""
        decisions, reused = self._jobs.decisions, sorted(self._events.reused)
        if decisions and self._results:
            for index, info in enumerate(decisions.infos):
                if isinstance(info, FunctionFuseError):
                    self._results.warn(index, info)
            planned = set(indexes)
            verdicts = enumerate(decisions.verdicts)
            reused = [index for index, verdict in verdicts if verdict == REUSE]
            self._results.restore(reused)
            reused = [n for n in reused if n not in planned and n not in self._done]
        self._events.begin(indexes, reused)

    def _returned_values(self) -> list[Any]:
        """Return the results of the given nodes, in this process."""
        held, backend = self._values.held, self._backend
        here: dict[int, Any] = {} if backend.keeps else held
        while missing := [index for index in dict.fromkeys(self._returned) if index not in here]:
            if backend.keeps and (kept := [index for index in missing if index in held]):
                values = backend.fetch([held[index] for index in kept])
                here.update(zip(kept, values, strict=True))
            if self._results:
                self._results.read_many(missing, here)
            # A stored result can prove damaged when it is read; then its node must be computed.
            self._scheduler.add(
                [index for index in missing if not self._scheduler.read(index, here)]
            )
            self._scheduler.work()
        if self._grows and here is held:  # later nodes get the value as it is now
            [index] = self._returned
            read_again = self._stored[index] and self._results and self._results.headers
            if not (is_shared(held[index]) or read_again):
                here = {index: self._values.copy(index, held[index])}
        return [
            here[index] if pick is None else pick.of(here[index])
            for index, (_, pick) in zip(self._returned, self._leaves, strict=False)
        ]

    def _keep_past(self) -> None:
        """Note what this part of the run has done, for the next one."""
        past, decisions, held = self._past, self._jobs.decisions, self._values.held
        past.objects = self._scheduler.objects.idle()
        for index, record in self._events.done_now():
            node = self._graph.nodes[index]
            stored: Any = None
            if self._stored[index]:
                stored = decisions.stored[index] if decisions else True
            elif index in held:
                past.values[node] = held[index]
            past.records[node] = record
            past.nodes[node] = Done(stored, reason=record.reason)
            if decisions:
                call, digest = decisions.calls[index], decisions.digests[index]
                about = record.reason, decisions.changed.get(index, ""), decisions.is_tainted(index)
                files = decisions.held_files.get(index, ())
                past.nodes[node] = Done(stored, call, digest, *about, files)

    def _missing_files(self, indexes: Iterable[int]) -> list[tuple[int, FileError]]:
        """Return those of the nodes whose file is missing, with the errors of these."""
        missing = self._events.decisions.identities.missing if self._events.decisions else {}
        found = [(index, missing.get(self._graph.nodes[index])) for index in indexes if missing]
        return [(index, error) for index, error in found if error]

    def _decide(self) -> Sequence[int]:
        """Find the stored results; return the indexes of the nodes to compute, ascending."""
        graph, workflow, identities = self._graph, self._workflow, self._identities()
        if self._results is None or self._results.headers is None:
            identities.check(graph.nodes)  # `Decisions` checks all nodes itself
        if self._results is None:
            every = range(len(graph.nodes))
            return [index for index in every if index not in self._done] if self._done else every
        # The result of a constructor is None, so there is no reason to make the object for it.
        returned = [index for index in self._returned if not self._is_constructor(index)]
        targets = [*graph.last(), *returned, *self._results.unsaved]
        if self._results.headers:
            given = self._results.headers, graph, identities, workflow
            decisions = self._results.decide(
                *given, done=self._done, at_hand=self._past.at_hand(graph)
            )
            self._scheduler.decisions = self._jobs.decisions = self._events.decisions = decisions
            return decisions.demand.needed(targets)
        # A storage without headers: read only the results that are needed, and keep their values.
        policies = list(map(workflow._policies.get, graph.nodes, repeat(workflow._policy)))
        aging = self._aging(policies)
        found: set[int] = set()
        while targets:
            index = targets.pop()
            if index in found:
                continue
            if index in self._done:
                self._stored[index] = self._done[index].stored is not None
                continue
            is_saved = index not in self._results.unsaved and not self._is_constructor(index)
            policy = NEVER if index in aging else policies[index]
            self._stored[index] = is_saved and policy != NEVER
            if self._stored[index] and self._scheduler.is_there(index):
                self._events.reused.add(index)
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
