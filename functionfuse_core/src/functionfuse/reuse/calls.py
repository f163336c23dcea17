"""The digests of calls: of a node's own part, and of the results that it takes.

A call's digest identifies the computation: code, arguments, and values of the parents' results. A
recipe has the parents' recipes in place of their results, so it is known before anything is
computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from xxhash import xxh3_128_digest

from ..errors import FingerprintError
from ..graph.nodes import MethodCall
from ..graph.workflow import Graph
from ..serializers.content import Source, are_same
from .identity import Identities

__all__ = ["Calls"]

_Digests = Sequence[bytes | None] | Mapping[int, bytes]  # by index of a node


class Calls:
    """The calls of a graph's nodes, as far as the results of their parents are known.

    Attributes:
        before: by index of a method call, the index of the earlier call on its object.
        why_not: by index of a node, why its own part has no digest.
        results: for each node the digest of its result; None while it is unknown.
        made: for each node the digest of its call; None while it is unknown.
        held_files: by index of a node, the files in its result, if that isn't stored.
    """

    def __init__(self, graph: Graph, identities: Identities, unsaved: Collection[int]) -> None:
        self.before: dict[int, int] = {}
        self.why_not: dict[int, str] = {}
        self.results: list[bytes | None] = [None] * len(graph.nodes)
        self.made: list[bytes | None] = [None] * len(graph.nodes)
        self.held_files: dict[int, Sequence[Source]] = {}
        self._own: list[bytes | None] = [None] * len(graph.nodes)
        self._graph = graph
        self._identities = identities
        self._unsaved = unsaved
        # By index of a call: the files of all calls on its object, and how many are of those up
        # to this call.
        self._kept: dict[int, tuple[dict[Source, str], int]] = {}
        for index, node in enumerate(graph.nodes):
            if type(node) is MethodCall:
                self.before[index] = graph.positions[node.before]
            try:
                self._own[index] = identities.own(node)
            except FingerprintError as error:
                self.why_not[index] = str(error)

    def now(self, index: int) -> bytes | None:
        """Return the digest of a node's call; None while a part of it is unknown."""
        return self.combined(index, self.results, self.made)

    def note(self, index: int) -> bytes | None:
        """Return the digest of a node's call as `now` does, and keep it if it is known."""
        call = self.now(index)
        self.made[index] = call or self.made[index]
        return call

    def unknown(self, index: int) -> list[int]:
        """Return the nodes that make the call of a node known, when they are computed."""
        found = [parent for parent in self._graph.needs[index] if self.results[parent] is None]
        before = self.before.get(index)
        if before is not None and self.made[before] is None:
            found.append(before)
        return found

    def combined(self, index: int, results: _Digests, calls: _Digests) -> bytes | None:
        """Return the digest of a node's own part and of its parents'; None if one is unknown.

        Args:
            results: digests or recipes of results, by index.
            calls: digests or recipes of calls, for the earlier call on an object.
        """
        part = self._own[index]
        if part is None:
            return None
        known = [part]
        for parent in self._graph.needs[index]:
            part = results[parent]
            if part is None:
                return None
            known.append(part)
        if index in self.before:
            part = calls[self.before[index]]
            if part is None:
                return None
            known.append(part)
        return xxh3_128_digest(b"".join(known))

    def files(self, index: int) -> list[tuple[str, Source]]:
        """Return the files that must not change while a node runs, for `refuse_changed`.

        They are in its arguments, in its code, and in results that aren't stored. An object may
        keep those of its constructor, and of the earlier calls on it. A node that is never stored
        may write to a file that it gets from another such node.
        """
        found = self._files_of(index, held=index not in self._unsaved)
        missing, call = list[int](), self.before.get(index)
        while call is not None and call not in self._kept:
            missing.append(call)
            call = self.before.get(call)
        kept, count = ({}, 0) if call is None else self._kept[call]
        for call in reversed(missing):
            for source, origin in self._files_of(call).items():
                kept.setdefault(source, origin)
            count = len(kept)
            self._kept[call] = kept, count
        files = {**dict(islice(kept.items(), count)), **found}
        return [(origin, source) for source, origin in files.items()]

    def _files_of(self, index: int, *, held: bool = True) -> dict[Source, str]:
        nodes = self._graph.nodes
        found = {source: origin for origin, source in self._identities.files(nodes[index])}
        for parent in self._graph.needs[index] if held and self.held_files else ():
            origin = f"the result of {self._graph.names[parent]!r}"
            found.update(dict.fromkeys(self.held_files.get(parent, ()), origin))
        return found

    def has_other_files(self, index: int) -> bool:
        """Return whether a file that a node takes has changed since the plan."""
        return not are_same(source for _, source in self.files(index))

    def recipes(
        self, volatile: Collection[int], stand: Mapping[int, bytes]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return the recipes of all results, and of all calls.

        They differ for a result that stands: its children are computed from the stored value.

        Args:
            volatile: indexes of nodes that have none, because each run computes them.
            stand: by index, the digests of results that stand, whatever they were computed from.
        """
        results: list[bytes | None] = []
        calls: list[bytes | None] = []
        for index in range(len(self._own)):
            recipe = None if index in volatile else self.combined(index, results, calls)
            calls.append(recipe)
            if index in stand:
                recipe = xxh3_128_digest(b"stored" + stand[index])
            results.append(recipe)
        return results, calls

    def levels(self) -> list[list[int]]:
        """Return the indexes of all nodes by the length of the longest path above them."""
        levels: list[list[int]] = []
        depths: list[int] = []
        for index, parents in enumerate(self._graph.parents):
            depth = 1 + max(map(depths.__getitem__, parents), default=-1)
            depths.append(depth)
            if depth == len(levels):
                levels.append([])
            levels[depth].append(index)
        return levels
