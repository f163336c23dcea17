"""Decide for each node whether a run reuses or computes it, from headers and digests only.

1. A stored result is reused if its header records the same call as now (see `identity`).
2. The call needs the digests of the parents' results. If a parent's result is no longer stored, the
   child's header has a record of that parent: digest, call and recipe. It is valid if the parent
   has the same call or recipe now.
3. If that parent's call or recipe differs, the verdict is MAYBE: the parent is computed first.
4. The run passes the new digest to `settle`, and asks `judge` for the child's verdict again.
5. If the latest result is of another call, an earlier one is sought by the call. While the call is
   unknown, the verdict of a node that has earlier results is MAYBE.
6. A result that is too old is not reused. No record of a node that expires is valid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress, repeat
from types import MappingProxyType
from typing import Any

from ..errors import FingerprintError, FunctionFuseError
from ..graph.nodes import ConstructorCall, Node
from ..graph.settings import ALWAYS, NEVER, UNCHANGED
from ..graph.workflow import Graph
from .calls import Calls
from .demand import COMPUTE, MAYBE, REUSE, Demand
from .difference import changed_during_run, changed_parent, difference
from .identity import RULE, Identities
from .recorded import recorded
from .results import Ages, Done, Earlier, Held, Info, Results, Summary, whole, why_no_use
from .workers import Expected

__all__ = ["COMPUTE", "MAYBE", "REUSE", "Decisions"]


class Decisions:
    """The verdicts on the nodes of a graph, as far as they are known; `settle` adds to them.

    Args:
        policies, policy: reuse policies of single nodes, and of all others.
        unsaved: indexes of the nodes that always run and are never stored.
        expires: by index of a node, the seconds after which its stored results aren't reused.
        infos: for each node its latest stored result.
        earlier: finds earlier results; None if none are kept.
        done: nodes that the run has computed or reused already, by index.
        at_hand: see `Demand`.

    Attributes:
        verdicts: REUSE, COMPUTE or MAYBE for each node, whether it is needed or not.
        reasons: why a node is computed, as text; "" for REUSE.
        stored: for each node its stored result, as the storage returned it for the plan or the
            save; see `infos`.
        calls: for each node the digest of its call; None while a part of it is unknown.
        digests: of results that are reused or were computed; else None.
        held_files, files: as in `Calls`.
        changed: by index of a node: the variable, argument or plugin that changed during the run.
        restored: indexes of the nodes whose earlier results are reused.
        ages: tells which stored results are too old.
        demand: tells which nodes must be computed.
    """

    def __init__(
        self,
        graph: Graph,
        identities: Identities,
        *,
        policies: Mapping[Node, str],
        policy: str,
        unsaved: set[int],
        expires: Mapping[int, float],
        infos: Iterable[Info],
        earlier: Earlier | None = None,
        done: Mapping[int, Done] = MappingProxyType({}),
        at_hand: Collection[int] = (),
    ) -> None:
        self.graph = graph
        self.identities = identities
        self.infos = list(infos)
        self.earlier = earlier
        self._done = done
        self.restored: set[int] = set()
        self._awaited: dict[int, Sequence[int]] = {}  # by index of a MAYBE: parents to compute
        self.stored: list[Any] = list(self.infos)
        self._policies = list(map(policies.get, graph.nodes, repeat(policy)))
        self._unsaved = unsaved
        self._always = ALWAYS in self._policies
        self._useless: set[int] = set()  # indexes of damaged stored results
        self._calls = Calls(graph, identities, unsaved)
        self._before = self._calls.before
        self.files, self.held_files = self._calls.files, self._calls.held_files
        self.calls: list[bytes | None] = self._calls.made
        self.digests: list[bytes | None] = self._calls.results
        now = {index: age for index, age in expires.items() if index not in done}
        self.ages = Ages(now, self._before, self.infos)
        never = {index for index, found in enumerate(self._policies) if found == NEVER}
        # Runs compute these again and again, with any value, so no record is valid.
        self._volatile = unsaved | never | self.ages.limits.keys()
        self.verdicts = [COMPUTE] * len(graph.nodes)
        self.reasons = [""] * len(graph.nodes)
        self._found: tuple[list[bytes | None], list[bytes | None]] | None = None
        self.changed: dict[int, str] = {}
        self._tainted: set[int] = set()  # indexes of nodes computed from these
        self._results = Results(identities, self.infos)
        self.demand = Demand(
            graph,
            self.verdicts,
            self.reasons,
            before=self._before,
            awaited=self._awaited,
            at_hand=at_hand,
        )
        self._judge_all()

    def _judge_all(self) -> None:
        """Judge all nodes, parents first.

        If a read is a request, the headers of the earlier results of all nodes with equally long
        paths above them are read together before, and judging finds them read.
        """
        ahead = self.earlier if self.earlier and self.earlier.batches else None
        for level in self._calls.levels() if ahead else [range(len(self.verdicts))]:
            if ahead:
                ahead.infos(list(self._sought(level)))
            for index in level:
                self.judge(index)

    def _sought(self, indexes: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Iterate over names and calls of nodes whose latest results are of other calls."""
        for index in filter(self._may_go_back, indexes):
            call = self._calls.now(index)
            if call is not None and call.hex() != getattr(self.infos[index], "call", ""):
                yield self.graph.names[index], call.hex()

    def judge(self, index: int) -> str:
        """Decide on a node from its parents' current digests; store and return the verdict."""
        if index in self._done:
            return self._take_done(index, self._done[index])
        verdict, reason = self._judged(index)
        if verdict == COMPUTE and self._may_fit(index):
            verdict, reason = MAYBE, "compute unless an earlier result fits"
            self._awaited[index] = self._calls.unknown(index)
        if verdict == REUSE:
            self.digests[index] = self._results.counts_as(index, self.stored[index])
        self.verdicts[index], self.reasons[index] = verdict, reason
        return verdict

    def _take_done(self, index: int, done: Done) -> str:
        """Take a node as the run has computed or reused it."""
        self.calls[index], self.digests[index] = done.call, done.digest
        if hasattr(done.stored, "digest"):
            self.digests[index] = self._results.counts_as(index, done.stored)
        if done.changed:
            self.changed[index] = done.changed
        if done.tainted:
            self._tainted.add(index)
        self.held_files[index] = done.files
        self.verdicts[index], self.reasons[index] = REUSE, done.reason
        return REUSE

    def give_up(self, index: int, reason: str) -> None:
        """Note that a stored result can't be read, so that its node is computed."""
        self.verdicts[index], self.reasons[index] = COMPUTE, reason
        self.digests[index] = None
        if self._stands(index):
            self._found = None
        self._useless.add(index)

    def settle(self, index: int, digest: bytes | None, stored: Any = None, files: Any = ()) -> None:
        """Note the digest of a computed result; None for an object, which has none.

        Args:
            stored: the stored result, as the storage returned it from the save.
            files: those in a result that isn't stored.
        """
        if stored is not None:  # its record has noted the call
            self.stored[index] = stored
            digest = self._results.counts_as(index, stored)
        else:
            self._calls.note(index)
        if files:
            self.held_files[index] = files
        self.digests[index] = digest

    def take(self, index: int, info: Summary) -> None:
        """Reuse a result that another run has stored since the plan was made."""
        self.verdicts[index], self.reasons[index] = REUSE, ""
        self.settle(index, None, info)

    def record(self, index: int) -> dict[str, object]:
        """Return a node's fingerprint for the header of its result; its parents must be settled."""
        node, before = self.graph.nodes[index], self._before.get(index)
        call = self._calls.note(index)
        if call is None or (self._results.unclear and self._no_digest(index)):
            return {"why not": self._no_digest(index)}
        changed = self.identities.changed(node) or self._changed_class(index)
        if before is not None and not changed:  # that call may have changed the object
            changed = self.changed.get(before, "")
        if changed:
            self.changed[index] = changed
            return {"why not": changed_during_run(changed)}
        results, calls = self._found or self._recipes()
        marks = None
        if before is not None:
            made_by, recipe = (self.calls[before] or b"").hex(), (calls[before] or b"").hex()
            marks = [self.graph.names[before], "", made_by, recipe]
        return {
            "call": call.hex(),
            "recipe": (calls[index] or b"").hex(),
            "parents": self._parents(index, results),
            "before": marks,
            **self.identities.parts(node),
        }

    def _parents(self, index: int, recipes: Sequence[bytes | None]) -> list[list[object]]:
        """Return the record of each parent: name, digest, call, recipe, and the code in it."""
        parents: list[list[object]] = []
        for parent in self.graph.needs[index]:
            made_by = (self.calls[parent] or b"").hex()
            recipe = (recipes[parent] or b"").hex()
            if self._always and self._stands(parent):
                made_by = self.stored[parent].call  # it may be of an earlier call
            if self.is_tainted(parent):
                # The next run computes the parent again, and its result may differ.
                made_by, recipe = "", ""
                self._tainted.add(index)
            digest = (self.digests[parent] or b"").hex()
            held = self._held(parent) if self._results.coded else ()
            parents.append([self.graph.names[parent], digest, made_by, recipe, *held])
        return parents

    def expected(self, index: int) -> list[tuple[Expected, object]]:
        """Return the checks a worker makes before it calls a node; see `Identities.expected`."""
        held = [self._held(parent)[1:] for parent in self.graph.needs[index]]
        return self.identities.expected(self.graph.nodes[index], [code for code in held if code])

    def _changed_class(self, index: int) -> str:
        """Return the code in parents' results that changed since the run began; "" for none."""
        for parent in self.graph.needs[index] if self._results.coded else ():
            held = self._held(parent)[1:]
            if held and (changed := self.identities.held_changed(*held)):
                return f"{changed}, which the result of {self.graph.names[parent]!r} uses,"
        return ""

    def is_tainted(self, index: int) -> bool:
        """Whether a node was computed while a variable changed, or from such a node's result."""
        return index in self.changed or index in self._tainted

    def keeps_other(self, index: int) -> bool:
        """Whether the stored result of a node is of another call, and this run left it so."""
        other = self.verdicts[index] == COMPUTE and index not in self._useless
        return other and getattr(self.infos[index], "call", "") != ""

    def notes(self) -> list[str]:
        """Return hints: packages whose version has changed since reused results were made."""
        return self._results.notes(compress(self.stored, map(REUSE.__eq__, self.verdicts)))

    def _held(self, index: int) -> Held:
        """Return the digest of a result's value, and the code in it; see `Results.held`."""
        return self._results.held(self.stored[index])

    def _no_digest(self, index: int) -> str:
        """Return why a node has no fingerprint; "" if it has one."""
        unclear = self._results.unclear
        for parent in self.graph.needs[index] if unclear else ():
            if parent in unclear:
                return f"the result of {self.graph.names[parent]!r} holds {unclear[parent]}"
        return self._calls.why_not.get(index, "")

    def _recipes(self) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return the recipes of all results, and of all calls; they are made at the first use."""
        if self._found is None:
            stand = filter(self._stands, range(len(self.infos)) if self._always else ())
            digests = {n: self._results.counts_as(n, self.stored[n]) for n in stand}
            self._found = self._calls.recipes(self._volatile, digests)
        return self._found

    def _stands(self, index: int) -> bool:
        """Whether a node's stored result is reused, whatever it was computed from."""
        useless = index in self._unsaved or index in self._useless or index in self.ages.expired
        always = self._policies[index] == ALWAYS
        return always and not useless and hasattr(self.infos[index], "digest")

    def _judged(self, index: int) -> tuple[str, str]:
        info, policy = self.infos[index], self._policies[index]
        call = self.calls[index] = self._calls.now(index)
        if index in self._unsaved:
            return COMPUTE, "runs always, and is not stored"
        if type(self.graph.nodes[index]) is ConstructorCall:
            return COMPUTE, "an object is never stored"
        if info is None:
            return COMPUTE, "nothing stored"
        of_no_use = why_no_use(info)
        if policy == NEVER:
            return COMPUTE, of_no_use or "is never reused"
        too_old = of_no_use or self.ages.expired.get(index, "")
        fits = (COMPUTE, too_old) if too_old else (REUSE, "")
        if policy == ALWAYS:
            return fits
        if reason := self._no_digest(index):
            return COMPUTE, of_no_use or reason
        if self.verdicts[index] == MAYBE and self._calls.has_other_files(index):
            return COMPUTE, "a file that it takes changed"
        if call is not None and call.hex() == getattr(info, "call", ""):
            return fits
        if call is not None and (earlier := self._goes_back(index, call)):
            return earlier
        if isinstance(info, FunctionFuseError):
            return COMPUTE, of_no_use
        header = whole(info)
        record = recorded(header.fingerprint) if header else {}
        if call is None and record.get("rule") == RULE:
            supposed, awaited = self._supposed(index, record)
            if supposed is not None and supposed.hex() == record["call"]:
                if not awaited:
                    self.calls[index] = supposed
                    return fits
                self._awaited[index] = awaited
                names = " or ".join(repr(self.graph.names[parent]) for parent in awaited)
                return fits if too_old else (MAYBE, f"compute if {names} changes")
        return COMPUTE, self._difference(index, record)

    def _may_go_back(self, index: int) -> bool:
        """Whether a node is not reused, but another result is stored under its name."""
        settled = self.verdicts[index] == REUSE or index in self._done
        if settled or index in self._unsaved or index in self._useless:
            return False
        other = self._policies[index] == UNCHANGED and self.infos[index] is not None
        return other and type(self.graph.nodes[index]) is not ConstructorCall

    def _may_fit(self, index: int) -> bool:
        """Whether an earlier result may be of the call of a node, which is still unknown."""
        if self.earlier is None or self.calls[index] is not None or self._no_digest(index):
            return False
        return self._may_go_back(index) and self.earlier.has(self.graph.names[index])

    def _goes_back(self, index: int, call: bytes) -> tuple[str, str] | None:
        """Reuse an earlier result of a call, unless it is too old; return None if there is none."""
        if self.earlier is None or index in self._useless:
            return None
        [found] = self.earlier.infos([(self.graph.names[index], call.hex())])
        if found is None:
            return None
        if reason := self.ages.too_old(index, found):
            return COMPUTE, reason
        self.stored[index] = found
        self.restored.add(index)
        return REUSE, "an earlier result"

    def _supposed(self, index: int, record: Mapping[str, Any]) -> tuple[bytes | None, list[int]]:
        """Return the call if unknown parents are as recorded, and the parents that may differ."""
        parents, awaited = record["parents"], []
        needs, before = self.graph.needs[index], self._before.get(index)
        if len(parents) != len(needs):
            return None, []
        results, calls = self._recipes()
        known: dict[int, bytes] = {}
        called: dict[int, bytes] = {}
        for parent, (_, digest, *marks) in zip(needs, parents, strict=True):
            try:
                known[parent] = self.digests[parent] or self._results.as_recorded(
                    digest, *marks[2:]
                )
            except FingerprintError:
                return None, []
            if self.digests[parent] is None and not self._same(parent, marks, results):
                awaited.append(parent)
        if before is not None:
            if record["before"] is None:
                return None, []
            _, _, *marks = record["before"]
            called[before] = self.calls[before] or bytes.fromhex(marks[0])
            if self.calls[before] is None and not self._same(before, marks, calls):
                awaited.append(before)
        return self._calls.combined(index, known, called), awaited

    def _same(self, index: int, marks: Sequence[str], recipes: Sequence[bytes | None]) -> bool:
        """Whether a node without a stored result would compute the recorded one."""
        call, recipe, *_ = marks
        if index in self._volatile:
            return False
        now = self.calls[index]
        if now is not None:
            return now.hex() == call
        recipe_now = recipes[index]
        return recipe_now is not None and recipe_now.hex() == recipe

    def _difference(self, index: int, record: Mapping[str, Any]) -> str:
        """Return the first difference from the recorded fingerprint, as text."""
        node, before = self.graph.nodes[index], self._before.get(index)
        if reason := difference(node.label, self.identities.parts(node), record):
            return reason
        needs = self.graph.needs[index]
        for parent, (_, was, _, _, *held) in zip(needs, record["parents"], strict=False):
            digest = self.digests[parent]
            if digest is None or digest.hex() != was:
                same = held and digest is not None and held == list(self._held(parent))
                return changed_parent(self.graph.names[parent], held[1] if same else ())
        if before is not None:
            return f"an earlier call on its object changed: {self.graph.names[before]!r}"
        return "what it was computed from changed"
