"""Serializers and backends that break one promise each."""

from __future__ import annotations

import copy
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

from kit_plugins import Table, Tables

from functionfuse.backends import Outcome, Packer, compute, outcome_of, rest_of, unpack
from functionfuse.backends.builtin.inplace import InProcess, OnExecutor
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.run.packing import pack
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage


class OneName(Tables):
    """Writes every table into the same file."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        with protocols[FILE_PROTOCOL].open("table", "wb") as file:
            file.write(json.dumps({"rows": obj.rows}).encode())
        return self.name, "table"


class LosesTypes(Tables):
    """Keeps numbers as text."""

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        rows = super().unpickle(pid, protocols).rows
        return Table([[str(cell) for cell in row] for row in rows])


class Remembers(Tables):
    """Keeps in memory what it should store."""

    def __init__(self) -> None:
        self.seen: dict[str, Table] = {}

    def __reduce__(self) -> Any:
        return type(self), ()

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        name, pid = super().pickle(Table([]), protocols)
        self.seen[pid] = obj
        return name, pid

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        return self.seen[pid]


class ReadsWhatItFinds(Tables):
    """Makes something of any file."""

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        try:
            return super().unpickle(pid, protocols)
        except ValueError:
            return Table([])


class PidOfItsOwn(Tables):
    """What it returns names a class of its own."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        name, pid = super().pickle(obj, protocols)
        return name, Path(pid)

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        return super().unpickle(str(pid), protocols)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        super().remove(str(pid), protocols)


class LeavesFiles(Tables):
    """Leaves a local file behind."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"a copy on the way")
        return super().pickle(obj, protocols)


class LeavesOpen(Tables):
    """Doesn't close what it reads."""

    opened: list[Any] = []  # noqa: RUF012

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        self.opened.append(protocols[FILE_PROTOCOL].open(pid, "rb"))
        return super().unpickle(pid, protocols)


class AnotherNameEachTime(Tables):
    """Its name is made with the instance."""

    def __init__(self) -> None:
        self.name = generate_name()

    def __reduce__(self) -> Any:
        return type(self), ()


class ChangesTheValue(Tables):
    """Takes out of the value what it stores."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        stored = super().pickle(obj, protocols)
        obj.rows = []
        return stored


class RemovesNothing(Tables):
    """Leaves what it should remove."""

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        pass


class ComputesAlways(LocalWorkflow):
    """Takes no stored result."""

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._policy = "never"


class TakesWhateverIsThere(LocalWorkflow):
    """Takes stored results by name alone."""

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._policy = "always"


class ReturnsAnyway(LocalWorkflow):
    """Returns when something has failed."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except (LookupError, OSError, TypeError):
            return None


class _Quiet(Storage):
    def save(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().save(*arguments, **options)
        except OSError:
            return super().save(*arguments[:2], None, **options)


class LosesWhatDoesNotFit(LocalWorkflow):
    """Doesn't tell of a failed save."""

    def set_storage(self, storage: Any) -> None:
        super().set_storage(storage)
        if isinstance(storage, Storage):
            self.storage = _Quiet(storage.store)


class SwallowsInterrupts(LocalWorkflow):
    """Returns None after Ctrl-C."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except KeyboardInterrupt:
            return None


class TriesAgain(LocalWorkflow):
    """Calls a function that failed a second time, unasked."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except LookupError:
            return super().run(*arguments, **options)


class NoPlugins(LocalWorkflow):
    """Doesn't run node plugins where the node runs."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        for node, plugins in self._plugins.items():
            for plugin in plugins:
                plugin.local_initialize()
            self._plugins[node] = ()
        return super().run(*arguments, **options)


class _Loses(InProcess):
    def wait(self, timeout: float | None) -> Any:
        return [outcome for outcome in super().wait(timeout) if outcome.key != 1]


class LosesAnOutcome(LocalWorkflow):
    """Says nothing of the second node."""

    def run(self, *_: Any, **options: Any) -> Any:
        return super().run(_Loses(), **options)


class _Twice(InProcess):
    def wait(self, timeout: float | None) -> Any:
        return [*super().wait(timeout)] * 2


class TellsTwice(LocalWorkflow):
    """Gives each outcome two times."""

    def run(self, *_: Any, **options: Any) -> Any:
        return super().run(_Twice(), **options)


class _RunsTwice(InProcess):
    def submit(self, job: Any) -> None:
        if job.run().error is None:
            super().submit(job)


class CallsTwice(LocalWorkflow):
    """Runs each job two times."""

    def run(self, *_: Any, **options: Any) -> Any:
        return super().run(_RunsTwice(), **options)


class _TakesForPure(InProcess):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, Any] = {}

    def submit(self, job: Any) -> None:
        key = job.function, repr(job.args)
        if key not in self.known:
            self.known[key] = job.run()
        outcome = copy.copy(self.known[key])
        outcome.key = job.key
        self._done.append(outcome)


class TakesCallsForPure(LocalWorkflow):
    """Makes one of two equal calls."""

    def run(self, *_: Any, **options: Any) -> Any:
        return super().run(_TakesForPure(), **options)


class _ThroughHere:
    remote = keeps = True
    limit = 0

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("forkserver"))
        self.packer, self.outcomes = Packer(), []

    def submit(self, job: Any) -> Any:
        packed = self.packer.pack(job)
        values = [pack(value) for value in job.values]
        value, rest = self.pool.submit(_computed, packed, values).result()
        self.outcomes.append(outcome_of(job.key, rest))
        return unpack(value) if job.wanted else None

    def wait(self, timeout: float | None) -> Any:
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def cancel(self) -> Any:
        return self.wait(0)

    def fetch(self, handles: Any) -> Any:
        return handles


def _computed(packed: Any, values: Any) -> Any:
    outcome = compute(packed, values)
    return outcome.value, rest_of(outcome)


class SendsAllThroughTheDriver(LocalWorkflow):
    """Each value comes to the driver, and goes from there to the next worker."""

    keeps_values = True

    def run(self, *_: Any, **options: Any) -> Any:
        backend = _ThroughHere()
        with backend.pool:
            return super().run(backend, **options)


class _CancelsSilently(OnExecutor):
    def cancel(self) -> Any:
        super().cancel()
        return ()


class _LeavesRunning(OnExecutor):
    def cancel(self) -> Any:
        return ()


class EndsBeforeItsNodes(LocalWorkflow):
    """After an error, returns while nodes run on, and are stored."""

    pools: ClassVar[list[Any]] = []

    def run(self, *_: Any, **options: Any) -> Any:
        pool = ThreadPoolExecutor(4)
        self.pools.append(pool)  # it ends with the process
        return super().run(_LeavesRunning(pool, "w"), **options)


class _SwallowsCtrlC(InProcess):
    def wait(self, timeout: float | None) -> Any:
        return super().wait(timeout)

    def submit(self, job: Any) -> None:
        super().submit(job)
        if isinstance(self._done[0].error, KeyboardInterrupt):
            self._done[0] = Outcome(job.key)


class SwallowsCtrlC(LocalWorkflow):
    """Goes on after Ctrl-C."""

    def run(self, *_: Any, **options: Any) -> Any:
        return super().run(_SwallowsCtrlC(), **options)


class ForgetsWhatRan(LocalWorkflow):
    """After Ctrl-C, says nothing of what ran meanwhile."""

    def run(self, *_: Any, **options: Any) -> Any:
        with ThreadPoolExecutor(4) as pool:
            return super().run(_CancelsSilently(pool, "w"), **options)


SERIALIZERS = [
    OneName,
    LosesTypes,
    Remembers,
    ReadsWhatItFinds,
    PidOfItsOwn,
    LeavesFiles,
    LeavesOpen,
    AnotherNameEachTime,
    ChangesTheValue,
    RemovesNothing,
]
BACKENDS = [
    ComputesAlways,
    TakesWhateverIsThere,
    ReturnsAnyway,
    LosesWhatDoesNotFit,
    SwallowsInterrupts,
    TriesAgain,
    NoPlugins,
    LosesAnOutcome,
    TellsTwice,
    CallsTwice,
    TakesCallsForPure,
    SendsAllThroughTheDriver,
    EndsBeforeItsNodes,
    SwallowsCtrlC,
    ForgetsWhatRan,
]
