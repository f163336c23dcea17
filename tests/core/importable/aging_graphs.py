"""Random graphs that are run again and again while time passes; `test_expires.py` runs them.

A node is computed if no stored result fits and is fresh, and only then.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import datetime
from typing import Any

from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage
from functionfuse.storage.keys import key_of

WORLD: Counter[str] = Counter()  # what functions read, though no argument tells

# For each action of a plan, those of the report that may follow.
MEANS = {
    "compute": {"computed"},
    "reuse": {"reused"},
    "maybe": {"computed", "reused", "not needed"},
    "not needed": {"not needed"},
}


class Clock:
    """The time that results get, and that plans see."""

    strftime, gmtime = staticmethod(time.strftime), staticmethod(time.gmtime)

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1_000_000) * 1000


class Batched(MemoryStore):
    """A store of which many headers are read together."""

    concurrency = 4


Key = tuple[Any, ...]


class Model:
    """A random graph that is run again and again, while time passes and the world changes.

    Attributes:
        sources: names of the nodes that read the world; they always expire.
        calls: for each call that was seen in a header, the arguments that it stands for.
    """

    def __init__(self, chance: random.Random, clock: Clock) -> None:
        self.chance = chance
        self.clock = clock
        self.store = Batched() if chance.random() < 0.5 else MemoryStore()
        self.storage = Storage(self.store)
        self.names = [f"n{number}" for number in range(chance.randrange(2, 8))]
        self.numbers = dict.fromkeys(self.names, 0)
        self.parents = {
            name: chance.sample(self.names[:place], min(place, chance.randrange(3)))
            for place, name in enumerate(self.names)
        }
        self.sources = {name for name in self.names if chance.random() < 0.3}
        self.calls: dict[str, Key] = {}
        self.ages: dict[str, float] = {}
        self.policies: dict[str, str] = {}
        self.handed: list[str] = []

    def change(self) -> None:
        """Let time pass; change the world, arguments and settings; remove results."""
        chance = self.chance
        self.clock.now += chance.choice((0, 1, 5, 20))
        for name in self.names:
            if chance.random() < 0.2:
                WORLD[name] = chance.randrange(3)
            if chance.random() < 0.2:
                self.numbers[name] = chance.randrange(2)
            if chance.random() < 0.2:
                self.store.delete([key_of("w", name)])
        found = {name: chance.choice((5, 25, 100)) for name in self.names}
        self.ages = {
            name: age
            for name, age in found.items()
            if name in self.sources or chance.random() < 0.2
        }
        self.handed = chance.sample(self.names, chance.randrange(1, len(self.names) + 1))
        self.policies = {name: "always" for name in self.names if chance.random() < 0.1}
        self.policies |= {name: "never" for name in self.names if chance.random() < 0.05}

    def flow(self) -> LocalWorkflow:
        nodes: dict[str, Any] = {}
        for name in self.names:
            parents = [nodes[parent] for parent in self.parents[name]]
            nodes[name] = mixed(name, self.numbers[name], name in self.sources, *parents)
            nodes[name].set_name(name)
        flow = LocalWorkflow(*[nodes[name] for name in self.handed], workflow_name="w")
        flow.set_storage(self.storage)
        names = {node.name for node in flow.find_nodes()}
        for name in names & self.ages.keys():
            flow.query(name).set_expires(self.ages[name])
        for name in names & self.policies.keys():
            flow.query(name).set_reuse(self.policies[name])
        return flow

    def results(self, name: str) -> list[tuple[Key, float, int]]:
        """Return arguments, time and value of all results of a node, the latest first."""
        [latest] = self.storage.task_infos("w", [name])
        if latest is None:
            return []
        infos = [latest.info, *self.storage.earlier("w", name)]  # type: ignore[union-attr]
        return [
            (
                self.calls[info.call],
                datetime.fromisoformat(info.created).timestamp(),
                self.storage.read_task("w", name, call=info.call),
            )
            for info in infos
        ]

    def check(self, where: str, seen: Counter[str]) -> None:
        """Run once; check each node from the first to the last, by what is stored."""
        was = {name: self.results(name) for name in self.names}
        flow = self.flow()
        plan = flow.plan()
        returned = flow.run()
        assert flow.report is not None
        actions = {node.name: node.action for node in flow.report.nodes}
        got: dict[str, int | None] = {}
        for name, action in actions.items():
            about = f"{where}, {name}"
            assert action in MEANS[plan[name].action], about
            seen[action] += 1
            key = (name, self.numbers[name], *(got[parent] for parent in self.parents[name]))
            expected = None
            if None not in key and not (action == "not needed" and self.differs(name)):
                world = WORLD[name] if name in self.sources else 0
                expected = (sum(key[1:]) + world) % 5
            since = self.clock.now - self.ages.get(name, float("inf"))
            fitting = self.fitting(name, key, since, was[name])
            if action == "reused":
                assert fitting is not None, about
                expected = fitting
                seen["went back"] += "an earlier result" == flow.report[name].reason
            elif action == "computed":
                assert fitting is None, about
                info = self.storage.task_info("w", name)
                assert key == self.calls.setdefault(info.call, key), about
                seen["too old"] += "older than" in flow.report[name].reason
            else:
                users = [child for child in actions if name in self.parents[child]]
                assert users, about
                assert name not in self.handed, about
                assert "computed" not in map(actions.__getitem__, users), about
            if action != "not needed":
                assert expected == self.results(name)[0][2], about
            got[name] = expected
        values = [got[name] for name in self.handed]
        assert values == (returned if isinstance(returned, list) else [returned]), where

    def differs(self, name: str) -> bool:
        """Whether a node that isn't computed may have another value when it is."""
        return name in self.ages or self.policies.get(name) == "never"

    def fitting(self, name: str, key: Key, since: float, was: list[Any]) -> int | None:
        """Return the value that must be reused; None if none may be."""
        policy = self.policies.get(name)
        for place, (call, created, value) in enumerate(was):
            fits = place == 0 if policy == "always" else policy is None and call == key
            if fits and created >= since:
                return int(value)
        return None


# `world`: whether the node reads the world.
@workflow(version="1")
def mixed(name: str, number: int, world: bool, *numbers: int) -> int:
    return (number + sum(numbers) + (WORLD[name] if world else 0)) % 5
