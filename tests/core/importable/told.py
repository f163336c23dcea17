"""A listener that remembers the events of a run, and checks that they make sense together."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

LETTERS = {
    "planned": "p",
    "reused": "R",
    "queued": "q",
    "started": "s",
    "retrying": "t",
    "finished": "F",
    "saved": "V",
    "failed": "X",
}
ENDS = "finished", "failed", "reused"

# Another run may have stored the result when the node has started. Without a submission, the error
# is one of its initializers.
WHOLE = re.compile("(R|p(qst)*(qsFV?|qsR|R|qs?X|X))+")
STOPPED = re.compile("(R|p(qst)*(qsFV?|qsR|R|qs?X|X))*(p(qst)*(qs?)?)?")


class Told(list[Any]):
    """The events of one run; it is a listener."""

    def __call__(self, event: Any) -> None:
        self.append(event)

    def kinds(self, node: str | None = None) -> list[str]:
        """Return the kinds of the events, of one node or of all."""
        return [event.kind for event in self if node in (None, event.node)]

    def check(self, report: Any = None, error: BaseException | None = None) -> None:
        """Check the order of the events, and that none is missing.

        Args:
            report: of the run: says which nodes had to end.
            error: what the run raised.
        """
        first, *middle, last = self
        assert ("run started", "run finished") == (first.kind, last.kind)
        assert not any(event.kind.startswith("run") for event in middle)
        assert error is last.error
        assert ("", -1, "", -1) == (*first[2:4], *last[2:4])
        assert 1 == len({(event.run, event.workflow) for event in self})
        assert first.run
        times = [event.time for event in self]
        assert sorted(times) == times
        totals = [event.total for event in self]
        assert sorted(totals) == totals
        planned = middle[: first.total]
        assert {"planned", "reused"} >= {event.kind for event in planned}
        assert first.total == len({event.node for event in planned})
        later = [event for event in middle[first.total :] if event.kind == "planned"]
        assert totals[-1] == first.total + len(later)
        ended = sum(event.kind in ENDS for event in self)
        if error is None:
            assert totals[-1] == ended
        else:
            assert totals[-1] >= ended
        for name in {event.node for event in middle}:
            self._check_node(name, None if report is None else report[name].action)

    def _check_node(self, name: str, action: str | None) -> None:
        events = [event for event in self if event.node == name]
        course = "".join(LETTERS[event.kind] for event in events)
        ends = action in ("computed", "failed", "reused")
        assert action != "computed" or "F" in course
        # A node that waited for its next attempt when the run ended has failed, too; it may have
        # been queued for it.
        waited = action == "failed" and bool(re.search("tq?$", course))
        ends = ends and not waited
        assert (WHOLE if ends else STOPPED).fullmatch(course), (name, action, course)
        assert action != "failed" or waited or "X" in course
        attempts = Counter[str]()
        for event in events:
            if event.kind in ("started", "retrying", "finished", "failed"):
                assert event.attempt == attempts["retrying"] + 1, (name, course)
            else:
                assert 0 == event.attempt
            attempts[event.kind] += 1
            assert (event.kind in ("failed", "retrying")) == (event.error is not None)
            assert event.kind in ("finished", "retrying") or not event.seconds
            assert event.kind == "saved" or not event.size
