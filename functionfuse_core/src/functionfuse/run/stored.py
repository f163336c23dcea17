"""The stored results of a run's nodes: find them, read them, save new ones."""

from __future__ import annotations

import gc
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import repeat
from math import inf
from typing import Any

from ..errors import DamagedResultError, NewerFormatError, OriginalResultError
from ..graph.settings import ALWAYS
from ..graph.workflow import BaseWorkflow, Graph
from ..reuse.identity import Identities
from ..reuse.plan import REUSE, Decisions
from ..reuse.results import NO_USE, Done, Info, created_at, whole
from ..serializers.script import borrowed
from .job import Flight, Load, Save
from .resultstore import OF_NO_USE, FourMembers, HeaderStore, MinimalStorage, ResultStore

__all__ = ["StoredResults"]

logger = logging.getLogger(__name__)

Fields = tuple[dict[str, Any], dict[str, Any]]  # of a record: about the run, and about its nodes

# So often a result is computed again because other runs have replaced it before it was read.
_OFTEN = 100


class StoredResults:
    """The stored results of one workflow's nodes, by index of the node.

    Args:
        stored: for each node, whether the storage holds its present result.
        unsaved: indexes of the nodes that always run and are never stored.

    Attributes:
        headers: the storage, if it returns headers without reading values, as a `Storage` does.
        saved: for each node, whether this run saved its result.
        run: the id of the run.
        decisions: set when the run is planned; None without headers.
    """

    def __init__(
        self,
        storage: HeaderStore | MinimalStorage,
        workflow_name: str,
        names: Sequence[str],
        stored: bytearray,
        unsaved: set[int],
    ) -> None:
        self.storage: ResultStore
        self.headers: HeaderStore | None = None
        if isinstance(storage, HeaderStore):
            self.storage = self.headers = storage
        else:
            self.storage = FourMembers(storage)
        self.stored = stored
        self.unsaved = unsaved
        self.saved = bytearray(len(names))
        self.run = ""
        self.decisions: Decisions | None = None
        self._of_no_use: set[int] = set()  # nodes whose stored results can't be used
        self._lost = Counter[int]()  # by node: how often its saved result was gone
        self._unrestored: dict[str, Exception] = {}  # by task
        self._asked = False  # whether `new_workflow` was called
        self._refusal: Exception | None = None  # the error that it raised
        self._workflow_name = workflow_name
        self._names = names
        save = self.storage.save
        self._taken = _taken_by(getattr(save, "__func__", save))

    def prepare(self, count: int) -> None:
        """Raise now if saving can't work, before the first of so many nodes is computed."""
        if refusal := self._refused():
            self._unrestored.clear()  # the run ends with this error
            refusal.add_note(
                f"up to {count} node(s) of workflow {self._workflow_name!r} must be computed"
            )
            raise refusal

    def lose(self, error: BaseException) -> None:
        """Note an error of the storage. If it can't be reached, nothing else is written."""
        if isinstance(error, ConnectionError):
            self._asked, self._refusal = True, error

    def _refused(self) -> Exception | None:
        """Return why the storage can't be written; None if it can.

        A run asks once, when it is about to compute or to restore. Reading needs no right to write.
        """
        if not self._asked:
            self._asked = True
            try:
                self.storage.new_workflow(self._workflow_name)
            except Exception as error:  # noqa: BLE001  # raised when a node must be computed
                self._refusal = error
        return self._refusal

    def decide(
        self,
        headers: HeaderStore,
        graph: Graph,
        identities: Identities,
        settings: BaseWorkflow,
        *,
        done: Mapping[int, Done],
        at_hand: Collection[int],
    ) -> Decisions:
        """Read the headers of all stored results, and decide which of them are still right.

        Args:
            settings: has the policies of reuse, and the ages at which results expire.
            done, at_hand: see `Decisions`.
        """
        names = self._names
        if done:
            names = [name for index, name in enumerate(names) if index not in done]
        infos = headers.task_infos(self._workflow_name, names)
        if done:
            nodes, found = range(len(self._names)), infos
            infos = iter([done[n].stored if n in done else next(found) for n in nodes])
        if ALWAYS in (settings._policy, *settings._policies.values()):
            infos = self._with_originals(headers, graph, settings, infos)
        decisions = self.decisions = Decisions(
            graph,
            identities,
            policies=settings._policies,
            policy=settings._policy,
            unsaved=self.unsaved,
            expires=settings.node_settings("expires", graph),
            infos=infos,
            earlier=headers.earlier_results(self._workflow_name),
            done=done,
            at_hand=at_hand,
        )
        self.stored[:] = bytes([verdict == REUSE for verdict in decisions.verdicts])
        for index in done:
            self.stored[index] = done[index].stored is not None
        return decisions

    def _with_originals(
        self, headers: HeaderStore, graph: Graph, settings: BaseWorkflow, infos: Iterable[Info]
    ) -> Iterator[Info]:
        """Iterate over headers; read the original's results of nodes that always reuse theirs."""
        policies = map(settings._policies.get, graph.nodes, repeat(settings._policy))
        for name, info, policy in zip(self._names, infos, policies, strict=True):
            if policy == ALWAYS and isinstance(info, OriginalResultError):
                yield from headers.task_infos(self._workflow_name, [name], originals=[name])
            else:
                yield info

    def load(self, index: int) -> Load:
        """Return the record by which a stored value is read, here or in another process."""
        decisions, own = self.decisions, ()
        if decisions:
            header = whole(decisions.stored[index])
            own = header.own if getattr(header, "by_value", False) else ()
        names = self._workflow_name, self._names[index]
        return Load(self.storage, *names, *self._wanted(index), borrowed(own) if own else {})

    def read(self, index: int, into: dict[int, Any]) -> bool:
        """Read a stored value into `into`; return False if it can't be read, so it is computed.

        Raises the error of the reading if `give_up` returns False.
        """
        try:
            into[index] = self.load(index).value()
        except OF_NO_USE as error:
            if not self.give_up(index, error):
                raise
            return False
        return True

    def read_many(self, indexes: Sequence[int], into: dict[int, Any]) -> None:
        """Read several stored values at once, if all can be read; else call `read` for each."""
        stored = [index for index in indexes if self.stored[index] and index not in into]
        if self.headers and len(stored) > 1:
            names = {self._names[index]: self._wanted(index) for index in sorted(stored)}
            with suppress(*OF_NO_USE):
                values = self.headers.read_tasks(self._workflow_name, names, digests=names)
                into.update({index: values[self._names[index]] for index in stored})

    def again(self, index: int) -> tuple[Any, ...]:
        """Return another copy of a value that this run has had; () if that is slow."""
        if self.headers is None or self.decisions is None or not self.stored[index]:
            return ()
        header = whole(self.decisions.stored[index])
        names = self._workflow_name, self._names[index]
        try:
            return (self.headers.read_again(*names, header),) if header else ()
        except OF_NO_USE:
            return ()

    def _wanted(self, index: int) -> tuple[str, str]:
        """Return digest and call of the value that this run saved, or its plan saw; else "".

        So what another run has stored under the name meanwhile is never taken for it.
        """
        header = self.decisions.stored[index] if self.decisions else None
        return getattr(header, "digest", ""), getattr(header, "call", "")

    def save(
        self,
        index: int,
        function: str,
        fingerprint: Mapping[str, object] | None = None,
        describe: Callable[..., Any] | None = None,
    ) -> Save:
        """Return the record by which a node's result is stored.

        Args:
            function: the full name of the function.
            fingerprint, describe: see `Storage.save`.
        """
        absent = self.decisions and self.decisions.infos[index] is None and not self._lost[index]
        replaces = None if absent and "replaces" in self._taken else ...
        run = self.run if "run" in self._taken else ""
        names = self._workflow_name, self._names[index]
        return Save(self.storage, *names, run, function, fingerprint, describe, replaces)

    def restore(self, indexes: Sequence[int]) -> None:
        """Make the earlier results that are reused the latest ones again.

        An error is logged when the run ends: the values of this run are right anyway.
        """
        decisions, headers = self.decisions, self.headers
        tasks = {
            self._names[index]: (decisions.stored[index].call, decisions.infos[index])
            for index in indexes
            if decisions and index in decisions.restored
        }
        if headers and tasks:
            if refusal := self._refused():
                self._unrestored |= dict.fromkeys(tasks, refusal)
            else:
                self._unrestored |= headers.restore(self._workflow_name, tasks)

    def remember(self) -> None:
        """End the run: let later plans know what it saved, and remove what is too old."""
        if self.headers is None:
            return
        if self._unrestored:
            task, error = next(iter(self._unrestored.items()))
            logger.warning(
                "%d reused earlier result(s) of workflow %r can't be made the latest again, so"
                " read_task reads those of another run: task %r: %r",
                *(len(self._unrestored), self._workflow_name, task, error),
            )
        if self._refusal:
            return
        try:
            self.headers.remember(self._workflow_name, set_aside=self._set_aside())
        except Exception as error:  # noqa: BLE001  # the run's values are right anyway
            logger.warning(
                "the earlier results of workflow %r are not pruned: %r", self._workflow_name, error
            )

    @property
    def records(self) -> bool:
        """Whether the storage wants records of runs; see `functionfuse.run.record`."""
        return bool(getattr(self.headers, "run_records", False))

    def record(self, run: str, made: Callable[[], Fields]) -> None:
        """Store the record of the run, or log a line if that fails.

        Nothing is tried if the run knows already that the storage can't be written.

        Args:
            made: makes its fields.
        """
        storage: Any = self.headers
        if self._refusal:
            return
        try:
            storage.record_run(self._workflow_name, *_uncollected(made))
        except Exception as error:  # noqa: BLE001  # the run's values are right anyway
            logger.warning(
                "the record of run %r of workflow %r can't be stored: %r",
                *(run, self._workflow_name, error),
            )

    def _set_aside(self) -> int:
        """Return the size of the results that this run has set aside, in bytes."""
        size, decisions = 0, self.decisions
        for index, info in enumerate(decisions.infos if decisions else ()):
            if decisions and (self.saved[index] or index in decisions.restored):
                call = getattr(info, "call", "")
                if call and call != getattr(decisions.stored[index], "call", ""):
                    size += getattr(info, "size", 0)
        return size

    def flight(self, index: int, call: bytes | None) -> Flight | None:
        """Return the flight that lets one of several runs compute a node; None if unsupported."""
        if call is None or self.headers is None or index in self._of_no_use:
            return None  # the one that is there can't be used
        names = self._workflow_name, self._names[index]
        since = self.decisions.ages.since(index) if self.decisions else -inf
        look = partial(_look, self.headers, names, since)
        return Flight(look, call.hex(), self.headers.lease(*names))

    def give_up(self, index: int, error: Exception) -> bool:
        """Note that a stored result can't be used, with a warning: its node is computed.

        Returns False if this run has saved it, and it is damaged already, or has been gone often.
        """
        if self.saved[index]:
            self._lost[index] += 1
            if self._lost[index] > _OFTEN or not isinstance(error, FileNotFoundError):
                return False
        self.stored[index] = False
        self._of_no_use.add(index)
        if self.decisions:
            self.decisions.give_up(index, f"{NO_USE}{error}")
        self.warn(index, error)
        return True

    def warn(self, index: int, error: Exception) -> None:
        """Warn that a stored result can't be used; try to keep a copy of a damaged one until gc."""
        if self.headers is None:
            return  # reading is the only way to find out that nothing is stored
        names = self._workflow_name, self._names[index]
        kept = ""
        if isinstance(error, OriginalResultError):
            kept = "; it moves to '.original' then, or to '.damaged' if its SHA-1 is wrong"
        elif isinstance(error, (DamagedResultError, NewerFormatError)):
            try:
                if self.headers.keep_damaged(*names):
                    kept = "; a copy of its bytes is in '.damaged'"
            except OSError as second:  # a reader may have no right to write
                kept = f"; its bytes can't be kept: {second}"
        logger.warning(
            "the stored result of task %r of workflow %r can't be used, and is computed when it is"
            " needed: %s%s",
            names[1],
            names[0],
            error,
            kept,
        )


def _uncollected(made: Callable[[], Fields]) -> Fields:
    """Return what a function returns, without a collection of garbage meanwhile.

    Because of the many objects of a record, the collector would look at all that the run has made.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return made()
    finally:
        if collects:
            gc.enable()


def _look(storage: HeaderStore, names: tuple[str, str], since: float) -> Info:
    """Return the header that is stored under these names now; None if it is too old."""
    found = next(iter(storage.task_infos(names[0], [names[1]])))
    return found if since == -inf or created_at(found) >= since else None


@lru_cache(100)
def _taken_by(save: Callable[..., object]) -> frozenset[str]:
    """Return which of `replaces` and `run` a `save` takes; that of a subclass may not."""
    parameters = inspect.signature(save).parameters
    if any(known.kind is known.VAR_KEYWORD for known in parameters.values()):
        return frozenset(("replaces", "run"))
    return frozenset(("replaces", "run")) & parameters.keys()
