"""Decide for each node whether a run reuses or computes it, from headers and digests only.

1. A stored result is reused if its header records the same call as now (see `identity`).
2. The call needs the digests of the parents' results. If a parent's result is no longer stored, the
   child's header has a record of that parent: digest, call and recipe. It is valid if the parent
   has the same call or recipe now.
3. If that parent's call or recipe differs, the verdict is MAYBE: the parent is computed first.
4. The run passes the new digest to `settle`, and asks `judge` for the child's verdict again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from xxhash import xxh3_128_digest

from ..errors import FingerprintError, FunctionFuseError
from ..graph.nodes import ConstructorCall, MethodCall, Node
from ..graph.workflow import ALWAYS, NEVER, Graph
from .difference import changed_during_run, difference
from .identity import RULE, Identities
from .results import Header, Held, Info, Results, Summary
from .workers import Expected

__all__ = ["COMPUTE", "MAYBE", "REUSE", "Decisions"]

REUSE = "reuse"
COMPUTE = "compute"
MAYBE = "maybe"

_Digests = Sequence[bytes | None] | Mapping[int, bytes]  # by index of a node


class Decisions:
    """The verdicts on the nodes of a graph, as far as they are known; `settle` adds to them.

    Args:
        policies, policy: reuse policies of single nodes, and of all others.
        unsaved: indexes of the nodes that always run and are never stored.
        infos: for each node its stored result with `digest`, `call` and `info`; None if nothing is
            stored; the error if the stored result can't be used.

    Attributes:
        verdicts: REUSE, COMPUTE or MAYBE for each node, whether it is needed or not.
        reasons: why a node is computed, as text; "" for REUSE.
        digests: of results that are reused or were computed; else None.
        changed: by index of a node: the variable, argument or plugin that changed during the run.
    """

    def __init__(
        self,
        graph: Graph,
        identities: Identities,
        *,
        policies: Mapping[Node, str],
        policy: str,
        unsaved: set[int],
        infos: Iterable[Info],
    ) -> None:
        self.graph = graph
        self.identities = identities
        self.infos = list(infos)
        self._stored: list[Header | Info] = list(self.infos)  # as this run has saved them
        self._policies = list(map(policies.get, graph.nodes, repeat(policy)))
        self._why_not: dict[int, str] = {}  # of nodes without a fingerprint
        self._unsaved = unsaved
        never = {index for index, found in enumerate(self._policies) if found == NEVER}
        self._volatile = unsaved | never  # each run computes these, so no record is valid
        self._always = ALWAYS in self._policies
        self._useless: set[int] = set()  # indexes of damaged stored results
        self._before: dict[int, int] = {}  # by method call: the earlier call on its object
        count = len(graph.nodes)
        self.verdicts = [COMPUTE] * count
        self.reasons = [""] * count
        self.digests: list[bytes | None] = [None] * count
        self._own: list[bytes | None] = [None] * count
        self._calls: list[bytes | None] = [None] * count
        self._found: tuple[list[bytes | None], list[bytes | None]] | None = None
        self.changed: dict[int, str] = {}
        self._tainted: set[int] = set()  # indexes of nodes computed from these
        self._results = Results(identities, self.infos)
        for index, node in enumerate(graph.nodes):
            if type(node) is MethodCall:
                self._before[index] = graph.positions[node.before]
            try:
                self._own[index] = self.identities.own(node)
            except FingerprintError as error:
                self._why_not[index] = str(error)
        for index in range(count):
            self.judge(index)

    def needed(self, targets: Sequence[int]) -> list[int]:
        """Return the indexes of the nodes to compute or judge again for the targets, sorted."""
        found = {index for index in targets if self.verdicts[index] != REUSE}
        stack = list(found)
        while stack:
            index = stack.pop()
            awaited = self._awaited if self.verdicts[index] == MAYBE else self._missing
            for parent in awaited(index):
                if parent not in found:
                    found.add(parent)
                    stack.append(parent)
        for index in found:
            if self.verdicts[index] == REUSE:
                self.reasons[index] = "replayed for a later call on its object"
        return sorted(found)

    def possible(self, planned: Collection[int]) -> dict[int, str]:
        """Return the nodes that are computed only if a planned MAYBE node is, with the reasons."""
        found: dict[int, str] = {}
        stack = [(index, self.reasons[index]) for index in planned if self.verdicts[index] == MAYBE]
        while stack:
            index, reason = stack.pop()
            for parent in self._missing(index):
                if parent not in planned and parent not in found:
                    found[parent] = reason
                    stack.append((parent, reason))
        return found

    def judge(self, index: int) -> str:
        """Decide on a node from its parents' current digests; store and return the verdict."""
        verdict, reason = self._judged(index)
        if verdict == REUSE:
            self.digests[index] = self._results.counts_as(index, self.header(index))
        self.verdicts[index], self.reasons[index] = verdict, reason
        return verdict

    def give_up(self, index: int, reason: str) -> None:
        """Note that a stored result can't be read, so that its node is computed."""
        self.verdicts[index], self.reasons[index] = COMPUTE, reason
        self.digests[index] = None
        if self._stands(index):
            self._found = None
        self._useless.add(index)

    def settle(self, index: int, digest: bytes | None, stored: Header | None = None) -> None:
        """Note the digest of a computed result; None for an object, which has none.

        Args:
            stored: the stored result, as the storage returned it from the save.
        """
        if stored is not None:  # its record has noted the call
            self._stored[index] = stored
            digest = self._results.counts_as(index, stored)
        else:
            call = self._combined(index, self.digests, self._calls)
            self._calls[index] = call or self._calls[index]
        self.digests[index] = digest

    def take(self, index: int, info: Summary) -> None:
        """Reuse a result that another run has stored since the plan was made."""
        self.infos[index] = self._stored[index] = info
        self.verdicts[index], self.reasons[index] = REUSE, ""
        self.digests[index] = self._results.counts_as(index, info)

    def call(self, index: int) -> bytes | None:
        """Return the digest of a node's call; None while a part of it is unknown."""
        return self._calls[index]

    def record(self, index: int) -> dict[str, object]:
        """Return a node's fingerprint for the header of its result; its parents must be settled."""
        node, before = self.graph.nodes[index], self._before.get(index)
        call = self._combined(index, self.digests, self._calls)
        self._calls[index] = call or self._calls[index]
        if call is None or (self._results.unclear and self._no_digest(index)):
            return {"why not": self._no_digest(index)}
        changed = self.identities.changed(node)
        if self._results.coded and not changed:
            changed = self._changed_class(index)
        if before is not None and not changed:  # that call may have changed the object
            changed = self.changed.get(before, "")
        if changed:
            self.changed[index] = changed
            return {"why not": changed_during_run(changed)}
        results, calls = self._found or self._recipes()
        marks = None
        if before is not None:
            made_by, recipe = (self._calls[before] or b"").hex(), (calls[before] or b"").hex()
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
            made_by, recipe = (self._calls[parent] or b"").hex(), (recipes[parent] or b"").hex()
            if self._always and self._stands(parent):
                made_by = self.header(parent).call  # it may be of an earlier call
            if parent in self.changed or parent in self._tainted:
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
        for parent in self.graph.needs[index]:
            held = self._held(parent)[1:]
            if held and (changed := self.identities.held_changed(*held)):
                return f"{changed}, which the result of {self.graph.names[parent]!r} uses,"
        return ""

    def stored(self, index: int) -> Header | Info:
        """Return a node's stored result, as the storage returned it for the plan or the save."""
        return self._stored[index]

    def header(self, index: int) -> Summary:
        """Return the header of a result that is stored."""
        return self.infos[index]  # type: ignore[return-value]

    def notes(self) -> list[str]:
        """Return hints: packages whose version has changed since reused results were made."""
        reused = [index for index, verdict in enumerate(self.verdicts) if verdict == REUSE]
        return self._results.notes(map(self.header, reused))

    def _held(self, index: int) -> Held:
        """Return the digest of a result's value, and the code in it; see `Results.held`."""
        return self._results.held(self._stored[index])

    def _no_digest(self, index: int) -> str:
        """Return why a node has no fingerprint; "" if it has one."""
        unclear = self._results.unclear
        for parent in self.graph.needs[index] if unclear else ():
            if parent in unclear:
                return f"the result of {self.graph.names[parent]!r} holds {unclear[parent]}"
        return self._why_not.get(index, "")

    def _recipes(self) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return the recipes of all results, and of all calls; they are made at the first use.

        They differ for a result that `_stands`: its children are computed from the stored value.
        """
        if self._found is None:
            results: list[bytes | None] = []
            calls: list[bytes | None] = []
            for index in range(len(self.graph.nodes)):
                volatile = index in self._volatile
                recipe = None if volatile else self._combined(index, results, calls)
                calls.append(recipe)
                if self._always and self._stands(index):
                    digest = self._results.counts_as(index, self.header(index))
                    recipe = xxh3_128_digest(b"stored" + digest)
                results.append(recipe)
            self._found = results, calls
        return self._found

    def _stands(self, index: int) -> bool:
        """Whether a node's stored result is reused, whatever it was computed from."""
        useless = index in self._unsaved or index in self._useless
        always = self._policies[index] == ALWAYS
        return always and not useless and hasattr(self.infos[index], "digest")

    def _combined(self, index: int, results: _Digests, calls: _Digests) -> bytes | None:
        """Return the digest of a node's own part and of its parents'; None if one is unknown.

        Args:
            results: digests or recipes of results, by index.
            calls: digests or recipes of calls, for the earlier call on an object.
        """
        part = self._own[index]
        if part is None:
            return None
        known = [part]
        for parent in self.graph.needs[index]:
            part = results[parent]
            if part is None:
                return None
            known.append(part)
        if index in self._before:
            part = calls[self._before[index]]
            if part is None:
                return None
            known.append(part)
        return xxh3_128_digest(b"".join(known))

    def _judged(self, index: int) -> tuple[str, str]:
        info, policy = self.infos[index], self._policies[index]
        call = self._calls[index] = self._combined(index, self.digests, self._calls)
        if index in self._unsaved:
            return COMPUTE, "runs always, and is not stored"
        if type(self.graph.nodes[index]) is ConstructorCall:
            return COMPUTE, "an object is never stored"
        if info is None:
            return COMPUTE, "nothing stored"
        if isinstance(info, FunctionFuseError):
            return COMPUTE, f"stored result is of no use: {info}"
        if policy == NEVER:
            return COMPUTE, "is never reused"
        if policy == ALWAYS:
            return REUSE, ""
        if reason := self._no_digest(index):
            return COMPUTE, reason
        if call is not None and call.hex() == info.call:
            return REUSE, ""
        recorded = info.info.fingerprint
        if "call" not in recorded:
            return COMPUTE, recorded.get("why not") or "stored without a fingerprint"
        if recorded.get("rule") != RULE:
            return COMPUTE, "recorded by an earlier rule"
        if call is None:
            supposed, awaited = self._supposed(index, recorded)
            if supposed is not None and supposed.hex() == recorded["call"]:
                if not awaited:
                    self._calls[index] = supposed
                    return REUSE, ""
                names = " or ".join(repr(self.graph.names[parent]) for parent in awaited)
                return MAYBE, f"compute if {names} changes"
        return COMPUTE, self._difference(index, recorded)

    def _supposed(self, index: int, recorded: Mapping[str, Any]) -> tuple[bytes | None, list[int]]:
        """Return the call if unknown parents are as recorded, and the parents that may differ."""
        parents, awaited = recorded["parents"], []
        needs, before = self.graph.needs[index], self._before.get(index)
        if len(parents) != len(needs):
            return None, []
        results, calls = self._recipes()
        known: dict[int, bytes] = {}
        earlier: dict[int, bytes] = {}
        for parent, (_, digest, *marks) in zip(needs, parents, strict=True):
            known[parent] = self.digests[parent] or self._results.as_recorded(digest, *marks[2:])
            if self.digests[parent] is None and not self._same(parent, marks, results):
                awaited.append(parent)
        if before is not None:
            if recorded["before"] is None:
                return None, []
            _, _, *marks = recorded["before"]
            earlier[before] = self._calls[before] or bytes.fromhex(marks[0])
            if self._calls[before] is None and not self._same(before, marks, calls):
                awaited.append(before)
        return self._combined(index, known, earlier), awaited

    def _same(self, index: int, marks: Sequence[str], recipes: Sequence[bytes | None]) -> bool:
        """Whether a node without a stored result would compute the recorded one."""
        call, recipe, *_ = marks
        if index in self._volatile:
            return False
        now = self._calls[index]
        if now is not None:
            return now.hex() == call
        recipe_now = recipes[index]
        return recipe_now is not None and recipe_now.hex() == recipe

    def _awaited(self, index: int) -> Sequence[int]:
        """Return the parents that must be computed before a node can be judged again."""
        return self._supposed(index, self.header(index).info.fingerprint)[1]

    def _missing(self, index: int) -> Sequence[int]:
        """Return the parents that must be computed before a node can be computed."""
        verdicts, before = self.verdicts, self._before.get(index)
        parents = self.graph.parents[index]
        if REUSE not in map(verdicts.__getitem__, parents):
            return parents
        return [parent for parent in parents if parent == before or verdicts[parent] != REUSE]

    def _difference(self, index: int, recorded: Mapping[str, Any]) -> str:
        """Return the first difference from the recorded fingerprint, as text."""
        node, before = self.graph.nodes[index], self._before.get(index)
        reason = difference(node.label, self.identities.parts(node), recorded)
        if reason:
            return reason
        needs = self.graph.needs[index]
        for parent, (_, was, _, _, *held) in zip(needs, recorded["parents"], strict=False):
            digest = self.digests[parent]
            if digest is not None and digest.hex() == was:
                continue
            name = self.graph.names[parent]
            if held and digest is not None and held == list(self._held(parent)):
                names = ", ".join(repr(path.rstrip(":").rpartition(":")[2]) for path in held[1])
                return f"code of {names} changed, which is in the result of {name!r}"
            return f"parent {name!r} changed"
        if before is not None:
            return f"an earlier call on its object changed: {self.graph.names[before]!r}"
        return "what it was computed from changed"
