"""Decide for each node whether a run reuses or computes it, from headers and digests only.

1. A stored result is reused if its header records the same call as now (see `identity`).
2. The call needs the digests of the parents' results. If a parent's result is no longer stored, the
   child's header has a record of that parent: digest, call and recipe. It is valid if the parent
   has the same call or recipe now.
3. If that parent's call or recipe differs, the verdict is MAYBE: the parent is computed first.
4. The run passes the new digest to `settle`, and asks `judge` for the child's verdict again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import FingerprintError, FunctionFuseError
from ..graph.nodes import ConstructorCall, MethodCall, Node
from ..graph.workflow import ALWAYS, NEVER, Graph
from .difference import changed_during_run, difference
from .identity import RULE, Identities, combined
from .results import Header, Held, Info, Results, Summary
from .workers import Expected

__all__ = ["COMPUTE", "MAYBE", "REUSE", "Decisions"]

REUSE = "reuse"
COMPUTE = "compute"
MAYBE = "maybe"


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
        infos: Sequence[Info],
    ) -> None:
        self.graph = graph
        self.identities = identities
        self.infos = list(infos)
        self._policies = policies
        self._policy = policy
        self._why_not: dict[int, str] = {}  # of nodes without a fingerprint
        self._unsaved = unsaved
        self._useless: set[int] = set()  # indexes of damaged stored results
        count = len(graph.nodes)
        self.verdicts = [COMPUTE] * count
        self.reasons = [""] * count
        self.digests: list[bytes | None] = [None] * count
        self._own: list[bytes | None] = [None] * count
        self._calls: list[bytes | None] = [None] * count
        self._found: tuple[list[bytes | None], list[bytes | None]] | None = None
        self.changed: dict[int, str] = {}
        self._tainted: set[int] = set()  # indexes of nodes computed from these
        self._saved: dict[int, Header] = {}  # stored results of this run
        self._results = Results(identities)
        self._unclear: dict[int, str] = {}  # why a result's code has no digest
        for index, node in enumerate(graph.nodes):
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
            for parent in self._awaited(index):
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
        verdict, reason, call = self._judged(index, self.graph.nodes[index])
        if verdict == REUSE:
            self.digests[index] = self._counts_as(index, self.header(index))
            self._calls[index] = call
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
        if stored is not None:
            self._saved[index] = stored
            digest = self._counts_as(index, stored)
        self.digests[index] = digest
        self._call(index, self.graph.nodes[index])

    def take(self, index: int, info: Summary) -> None:
        """Reuse a result that another run has stored since the plan was made."""
        self.infos[index] = info
        self.verdicts[index], self.reasons[index] = REUSE, ""
        self.digests[index] = self._counts_as(index, info)

    def call(self, index: int) -> bytes | None:
        """Return the digest of a node's call; None while a part of it is unknown."""
        return self._calls[index]

    def record(self, index: int) -> dict[str, object]:
        """Return a node's fingerprint for the header of its result; its parents must be settled."""
        node = self.graph.nodes[index]
        own, call = self._own[index], self._call(index, node)
        if own is None or call is None or self._no_digest(index, node):
            return {"why not": self._no_digest(index, node)}
        changed = self.identities.changed(node) or self._changed_class(node)
        if type(node) is MethodCall and not changed:  # that call may have changed the object
            changed = self.changed.get(self._index(node.before), "")
        if changed:
            self.changed[index] = changed
            return {"why not": changed_during_run(changed)}
        results, calls = self._recipes()
        parents = []
        for parent in map(self._index, node.needs):
            made_by = _hex(self._calls[parent])
            if self._stands(parent):
                made_by = self.header(parent).call  # with ALWAYS, it may be of an earlier call
            digest, recipe = _hex(self.digests[parent]), _hex(results[parent])
            if parent in self.changed or parent in self._tainted:
                # The next run computes the parent again, and its result may differ.
                made_by, recipe = "", ""
                self._tainted.add(index)
            held = self._held(parent)
            parents.append([self.graph.names[parent], digest, made_by, recipe, *held])
        before = None
        if type(node) is MethodCall:
            earlier = self._index(node.before)
            marks = "", _hex(self._calls[earlier]), _hex(calls[earlier])
            before = [self.graph.names[earlier], *marks]
        return {
            "call": call.hex(),
            "recipe": _hex(calls[index]),
            "parents": parents,
            "before": before,
            **self.identities.parts(node),
        }

    def expected(self, index: int) -> list[tuple[Expected, object]]:
        """Return the checks a worker makes before it calls a node; see `Identities.expected`."""
        node = self.graph.nodes[index]
        held = [self._held(parent)[1:] for parent in map(self._index, node.needs)]
        return self.identities.expected(node, [parts for parts in held if parts])

    def _changed_class(self, node: Node) -> str:
        """Return the code in parents' results that changed since the run began; "" for none."""
        for index in map(self._index, node.needs):
            held = self._held(index)[1:]
            if held and (changed := self.identities.held_changed(*held)):
                return f"{changed}, which the result of {self.graph.names[index]!r} uses,"
        return ""

    def stored(self, index: int) -> Header | Info:
        """Return a node's stored result, as the storage returned it for the plan or the save."""
        return self._saved.get(index, self.infos[index])

    def header(self, index: int) -> Summary:
        """Return the header of a result that is stored."""
        return self.infos[index]  # type: ignore[return-value]

    def notes(self) -> list[str]:
        """Return hints: packages whose version has changed since reused results were made."""
        reused = [index for index, verdict in enumerate(self.verdicts) if verdict == REUSE]
        return self._results.notes(map(self.header, reused))

    def _counts_as(self, index: int, info: Header | Summary) -> bytes:
        """Return a result's digest; a random one, equal to no other, if its code has none."""
        try:
            return self._results.counts_as(info)
        except FingerprintError as error:
            self._unclear[index] = str(error)
            return os.urandom(16)

    def _held(self, index: int) -> Held:
        """Return the digest of a result's value, and the code in it; see `Results.held`."""
        return self._results.held(self.stored(index))

    def _no_digest(self, index: int, node: Node) -> str:
        """Return why a node has no fingerprint; "" if it has one."""
        for parent in map(self._index, node.needs) if self._unclear else ():
            if parent in self._unclear:
                return f"the result of {self.graph.names[parent]!r} holds {self._unclear[parent]}"
        return self._why_not.get(index, "")

    def _index(self, node: Node) -> int:
        return self.graph.positions[node]

    def _recipes(self) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return the recipes of all results, and of all calls; they are made at the first use.

        They differ for a result that `_stands`: its children are computed from the stored value.
        """
        if self._found is None:
            results: list[bytes | None] = []
            calls: list[bytes | None] = []
            for index, node in enumerate(self.graph.nodes):
                own, recipe = self._own[index], None
                if own is not None and not self._volatile(index, node):
                    parents = [results[self._index(parent)] for parent in node.needs]
                    if type(node) is MethodCall:
                        parents.append(calls[self._index(node.before)])
                    if None not in parents:
                        recipe = combined(own, parents)  # type: ignore[arg-type]
                calls.append(recipe)
                if self._stands(index):
                    recipe = combined(b"stored", [self._counts_as(index, self.header(index))])
                results.append(recipe)
            self._found = results, calls
        return self._found

    def _stands(self, index: int) -> bool:
        """Whether a node's stored result is reused, whatever it was computed from."""
        policy = self._policies.get(self.graph.nodes[index], self._policy)
        useless = index in self._unsaved or index in self._useless
        return policy == ALWAYS and not useless and hasattr(self.infos[index], "digest")

    def _volatile(self, index: int, node: Node) -> bool:
        """Whether each run computes a node, so that no record of its result is valid."""
        return index in self._unsaved or self._policies.get(node, self._policy) == NEVER

    def _call(self, index: int, node: Node) -> bytes | None:
        """Return and store the digest of a node's call; None while a part of it is unknown."""
        own = self._own[index]
        if own is None:
            return None
        known: list[bytes] = []
        for parent in node.needs:
            digest = self.digests[self._index(parent)]
            if digest is None:
                return None
            known.append(digest)
        if type(node) is MethodCall:
            before = self._calls[self._index(node.before)]
            if before is None:
                return None
            known.append(before)
        call = self._calls[index] = combined(own, known)
        return call

    def _judged(self, index: int, node: Node) -> tuple[str, str, bytes | None]:
        call, info = self._call(index, node), self.infos[index]
        policy = self._policies.get(node, self._policy)
        if index in self._unsaved:
            return COMPUTE, "runs always, and is not stored", None
        if type(node) is ConstructorCall:
            return COMPUTE, "an object is never stored", None
        if isinstance(info, FunctionFuseError):
            return COMPUTE, f"stored result is of no use: {info}", None
        if info is None:
            return COMPUTE, "nothing stored", None
        if policy == NEVER:
            return COMPUTE, "is never reused", None
        if policy == ALWAYS:
            return REUSE, "", call
        if reason := self._no_digest(index, node):
            return COMPUTE, reason, None
        if call is not None and call.hex() == info.call:
            return REUSE, "", call
        recorded = info.info.fingerprint
        if "call" not in recorded:
            return COMPUTE, recorded.get("why not") or "stored without a fingerprint", None
        if recorded.get("rule") != RULE:
            return COMPUTE, "recorded by an earlier rule", None
        if call is None:
            supposed, awaited = self._supposed(index, node, recorded)
            if supposed is not None and supposed.hex() == recorded["call"]:
                if not awaited:
                    return REUSE, "", supposed
                names = " or ".join(repr(self.graph.names[parent]) for parent in awaited)
                return MAYBE, f"compute if {names} changes", None
        return COMPUTE, self._difference(node, recorded), None

    def _supposed(
        self, index: int, node: Node, recorded: Mapping[str, Any]
    ) -> tuple[bytes | None, list[int]]:
        """Return the call if unknown parents are as recorded, and the parents that may differ."""
        own, parents, awaited = self._own[index], recorded["parents"], []
        if own is None or len(parents) != len(node.needs):
            return None, []
        results, calls = self._recipes()
        known: list[bytes] = []
        for parent_node, (_, digest, *marks) in zip(node.needs, parents, strict=True):
            parent = self._index(parent_node)
            known.append(self.digests[parent] or self._results.as_recorded(digest, *marks[2:]))
            if self.digests[parent] is None and not self._same(parent, marks, results):
                awaited.append(parent)
        if type(node) is MethodCall:
            if recorded["before"] is None:
                return None, []
            parent = self._index(node.before)
            _, _, *marks = recorded["before"]
            known.append(self._calls[parent] or bytes.fromhex(marks[0]))
            if self._calls[parent] is None and not self._same(parent, marks, calls):
                awaited.append(parent)
        return combined(own, known), awaited

    def _same(self, index: int, marks: Sequence[str], recipes: Sequence[bytes | None]) -> bool:
        """Whether a node without a stored result would compute the recorded one."""
        call, recipe, *_ = marks
        if self._volatile(index, self.graph.nodes[index]):
            return False
        now = self._calls[index]
        if now is not None:
            return now.hex() == call
        recipe_now = recipes[index]
        return recipe_now is not None and recipe_now.hex() == recipe

    def _awaited(self, index: int) -> list[int]:
        """Return the parents that must be computed before a node can be computed or judged."""
        node = self.graph.nodes[index]
        if self.verdicts[index] == MAYBE:
            return self._supposed(index, node, self.header(index).info.fingerprint)[1]
        return self._missing(index)

    def _missing(self, index: int) -> list[int]:
        """Return the parents that must be computed before a node can be computed."""
        node = self.graph.nodes[index]
        before = node.before if type(node) is MethodCall else None
        return [
            self._index(parent)
            for parent in node.parents
            if parent is before or self.verdicts[self._index(parent)] != REUSE
        ]

    def _difference(self, node: Node, recorded: Mapping[str, Any]) -> str:
        """Return the first difference from the recorded fingerprint, as text."""
        reason = difference(node.label, self.identities.parts(node), recorded)
        if reason:
            return reason
        for parent, (_, was, _, _, *held) in zip(node.needs, recorded["parents"], strict=False):
            index = self._index(parent)
            digest = self.digests[index]
            if digest is not None and digest.hex() == was:
                continue
            name = self.graph.names[index]
            if held and digest is not None and held == list(self._held(index)):
                names = ", ".join(repr(path.rstrip(":").rpartition(":")[2]) for path in held[1])
                return f"code of {names} changed, which is in the result of {name!r}"
            return f"parent {name!r} changed"
        if type(node) is MethodCall:
            before = self.graph.names[self._index(node.before)]
            return f"an earlier call on its object changed: {before!r}"
        return "what it was computed from changed"


def _hex(digest: bytes | None) -> str:
    return digest.hex() if digest else ""
