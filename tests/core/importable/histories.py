"""Decide whether several processes can have seen what they say they saw of one task.

How it works. A history has the begin, the end and the answer of each operation. Each takes effect
on the latest result at one moment between its begin and its end. `History` has all situations that
are possible: the latest value, and the running operations that have taken effect. When an operation
ends, all orders are tried in which it can have taken effect with its answer, and situations where
it has not are dropped. If none is left, the history is impossible. A killed operation has taken
effect before its death, or never. Of the result that is set aside for a call, all values are known
that it may be: operations that run together make them more, and one that runs alone makes them one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Op = dict[str, Any]


class Value(NamedTuple):
    """A saved value: its seed tells it from all others. Call 0: it has none."""

    seed: int
    call: int


Situation = tuple[Value | None, frozenset[int]]
Found = Value | None

REMOVE = {"remove_task", "remove_workflow", "prune"}
CHANGE = {"save", "restore", *REMOVE}


@dataclass
class Running:
    """An operation that has begun.

    Attributes:
        answer: known from the beginning; None if it was killed.
        before: the latest results that there may have been when it began.
        latest: the latest results that there may have been since it began.
        aside: of its call, the results that may have been set aside since it began.
        alone: whether no other operation that changes something has run beside it.
    """

    op: Op
    answer: Any
    before: set[Found]
    latest: set[Found] = field(default_factory=set)
    aside: set[Found] = field(default_factory=set)
    alone: bool = True

    @property
    def kind(self) -> str:
        return str(self.op["kind"])

    @property
    def call(self) -> int:
        return int(self.op.get("call", 0))


@dataclass
class History:
    """What can be true of one task; `begin` and `end` must come in the order of their times.

    Attributes:
        aside: for each call, the results that may be set aside.
        exposed: values whose side data may be missing. Two causes are documented: a result was
            restored while another process removed it, and a save took longer than `gc` waits.
    """

    values: dict[int, Value]
    situations: set[Situation] = field(default_factory=lambda: {(None, frozenset())})
    aside: dict[int, set[Found]] = field(default_factory=lambda: defaultdict(lambda: {None}))
    running: dict[int, Running] = field(default_factory=dict)
    exposed: set[Value] = field(default_factory=set)

    def begin(self, number: int, op: Op, answer: Any) -> None:
        """Begin an operation."""
        started = Running(op, answer, {latest for latest, _ in self.situations})
        if started.kind in CHANGE:
            for other in self.running.values():
                if other.kind in CHANGE:
                    other.alone = started.alone = False
        self.running[number] = started
        self._look()

    def end(self, number: int) -> bool:
        """End an operation; return whether that is possible."""
        self._look()
        new = list(self.situations)
        while new:
            latest, done = new.pop()
            for other in self.running.keys() - done:
                for after in self._effects(self.running[other], latest):
                    found = after, done | {other}
                    if found not in self.situations:
                        self.situations.add(found)
                        new.append(found)
        self._look()
        ended = self.running[number]
        self.situations = {
            (latest, done - {number})
            for latest, done in self.situations
            if number in done or ended.answer is None
        }
        if ended.alone and ended.answer is not None:
            self._settle(ended)
        del self.running[number]
        return bool(self.situations)

    def _look(self) -> None:
        """Note what there may be now."""
        latest = {value for value, _ in self.situations}
        for running in self.running.values():
            running.latest |= latest
            if running.kind in ("save", "restore") and not running.op.get("if_absent"):
                # It looks, reads and copies at three moments: the copy can be of another result.
                for value in running.latest:
                    if value and value.call not in (0, running.call):
                        self.aside[value.call] |= running.latest
            if running.kind in REMOVE:
                for found in self.aside.values():
                    found.add(None)
            if running.kind == "save" and running.call:
                # An earlier result of the same call is removed if one of both has side data.
                self.aside[running.call].add(None)
        for running in self.running.values():
            running.aside |= self.aside[running.call]
        kinds = {running.kind for running in self.running.values()}
        if "restore" in kinds and kinds - {"restore"} & CHANGE:
            for found in (latest, *self.aside.values()):
                self.exposed.update(filter(None, found))

    def _settle(self, ended: Running) -> None:
        """Tell what is set aside after an operation with which no other changed anything."""
        if ended.answer == "ok" and (ended.kind in REMOVE and not ended.op.get("keep")):
            self.aside.clear()
        if ended.answer == "ok" and ended.kind in ("save", "restore"):
            # After a kill there can be several, and the right one may have been there already:
            # then nothing was replaced.
            replaced = next(iter(ended.before), None)
            if len(ended.before) == 1 and replaced and replaced.call not in (0, ended.call):
                self.aside[replaced.call] = {replaced}

    def _effects(self, running: Running, latest: Found) -> Iterable[Found]:
        """Return what can be the latest result after an operation; nothing if it can't be now."""
        answer, call, unchanged = running.answer, running.call, [latest]
        other = {found for found in running.aside if found is None or found.call != call}
        if answer is None and running.kind not in CHANGE:
            return []  # it was killed, so it saw nothing
        match running.kind:
            case "save" if answer == "exists":
                return unchanged if latest else []
            case "save":
                put = latest is None or not running.op["if_absent"]
                return [self.values[running.op["seed"]]] if put else []
            case "restore" if answer == "absent":
                return unchanged if None in other else []
            case "restore":
                there = latest is not None and latest.call == call
                return [*filter(None, running.aside), *(unchanged if there else [])]
            case "remove_task" | "remove_workflow":
                return [None] if latest is None or answer != "absent" else []
            case "list":
                return unchanged if (latest is not None) == (running.op["task"] in answer) else []
            case "verify":
                places = {place for task, place in answer if task == running.op["task"]}
                excused = {value.call for value in self.exposed} | {0}
                sound = 0 in places and latest not in self.exposed
                return [] if sound or places - excused else unchanged
            case "read":
                elsewhere = running.aside if call else set()
                if answer == "absent" and call:
                    return unchanged if other and (latest is None or latest.call != call) else []
                if answer == "absent":
                    return [] if latest else unchanged
                if answer == "damaged":
                    return unchanged if self.exposed & {latest, *elsewhere} else []
                found = self.values.get(answer)
                right = found is not None and call in (0, found.call)
                return unchanged if right and found in {latest, *elsewhere} else []
        return unchanged


def impossible(events: Iterable[tuple[int, int, Op]], tasks: list[str]) -> str:
    """Return the first operation that can't have been, in words; "" if all can.

    Args:
        events: (begin, end, operation) of each, in nanoseconds. The operation has its `answer`;
            None if it was killed, and `end` is the time when it was dead.
        tasks: of each workflow.
    """
    told = list(events)
    values = {op["seed"]: Value(op["seed"], op["call"]) for *_, op in told if "seed" in op}
    histories: dict[tuple[str, str], History] = defaultdict(lambda: History(values))
    # At one time, begins come first: then more is possible.
    order = [(begin, 0, number) for number, (begin, _, _) in enumerate(told)]
    order += [(end, 1, number) for number, (_, end, _) in enumerate(told)]
    for _, ends, number in sorted(order):
        begin, end, op = told[number]
        for task in [op["task"]] if "task" in op else tasks:
            history = histories[op["workflow"], task]
            if not ends:
                if "seed" in op and end - begin > op["patience"]:
                    history.exposed.add(values[op["seed"]])
                history.begin(number, op | {"task": task}, op["answer"])
            elif not history.end(number):
                beside = [
                    f"{other} from {start} to {stop}"
                    for start, stop, other in sorted(told, key=lambda each: each[0])
                    if begin - 10**7 < stop and start < end + 10**6
                    if other["workflow"] == op["workflow"] and other.get("task", task) == task
                ]
                return "\n".join([f"task {task}, {op}, from {begin} to {end}; near it:", *beside])
    return ""
