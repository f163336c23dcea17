"""A model of a storage: four processes use it at random and are killed, and a checker judges.

With `FUNCTIONFUSE_SEED`, the operations of each worker are the same again, but not the moments at
which they meet.
"""

from __future__ import annotations

import select
import time
from pathlib import Path
from typing import Any

import pytest
from histories import impossible

Message = dict[str, Any]
WORKERS, TASKS = 4, ["t0", "t1", "t2"]
BROKEN = [
    "writes in place",
    "replaces by two steps",
    "looks before it puts, if absent",
    "removes side data before the commit",
    "collects what is young",
    "restores by moving",
]


class Recorder:
    """The operations of all workers, as they report them."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, Message]] = []
        self.running: dict[int, tuple[int, Message]] = {}
        self.wrong: list[str] = []
        self.killed = 0

    def take(self, messages: list[Message], pid: int) -> None:
        for message in messages:
            if "begin" in message:
                self.running[pid] = message["begin"], message["op"]
            elif "end" in message:
                begin, op = self.running.pop(pid)
                self.told.append((begin, message["end"], op | {"answer": message["answer"]}))
            elif "wrong" in message:
                del self.running[pid]
                self.wrong.append(message["wrong"])

    def die(self, pid: int) -> None:
        """End what a killed worker had begun; it is dead by now."""
        if pid in self.running:
            begin, op = self.running.pop(pid)
            self.told.append((begin, time.monotonic_ns(), op | {"answer": None}))
            self.killed += 1


def record(job: Message, seconds: float, kills: float, workers: Any, counts: Any) -> Recorder:
    """Let workers act for some seconds, kill some of them, and return what they told."""
    recorder, number = Recorder(), 0
    alive: list[Any] = []

    def start() -> None:
        nonlocal number
        number += 1
        own = {"do": "act", "seed": counts.random.randrange(1 << 30), "first": number << 32}
        alive.append(workers.start(job | own))

    def kill(victim: Any) -> None:
        recorder.take(victim.kill(), victim.pid)
        recorder.die(victim.pid)
        alive.remove(victim)

    for _ in range(WORKERS):
        start()
    now = time.monotonic()
    end, next_kill = now + seconds, now + counts.random.uniform(0, 2 * kills)
    while now < end and not recorder.wrong:
        ready, _, _ = select.select(
            [worker.connection for worker in alive], [], [], max(0, min(next_kill, end) - now)
        )
        for worker in alive:
            if worker.connection in ready:
                recorder.take(worker.waiting(), worker.pid)
        now = time.monotonic()
        if now > next_kill:
            kill(counts.random.choice(alive))
            start()
            next_kill = now + counts.random.uniform(0, 2 * kills)
    for worker in alive[:]:
        kill(worker)
    return recorder


def judged(job: Message, recorder: Recorder, counts: Any, workers: Any) -> list[str]:
    """Return what is wrong with a history, or with what is left in the store."""
    closing = workers.start(job | {"do": "close"})
    messages = list(closing.messages())
    recorder.take(messages, closing.pid)
    wrong = recorder.wrong[:]
    for message in messages:
        answer = message.get("answer")
        if isinstance(answer, dict):
            wrong += [answer["text"]] if "error" in answer else answer["left"]
    counts.add("operations", len(recorder.told))
    counts.add("killed operations", recorder.killed)
    problem = impossible(recorder.told, TASKS)
    return [*wrong, *([problem] if problem else [])]


@pytest.mark.parametrize("key", ["", "a-key-of-sixteen-characters"], ids=["", "signed"])
@pytest.mark.parametrize("store", ["files", "sqlite"])
def test_histories_are_possible(
    store: str, key: str, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """Every answer is one that a storage can give whose operations happen one after the other."""
    if store == "sqlite":
        pytest.importorskip("functionfuse_sqlite")
    job = {"store": store, "root": str(tmp_path / "store"), "key": key}
    job |= {"older_than": 2.0, "big": 0.002}  # seconds; on a busy machine a save can take one
    recorder = record(job, 150 if full else 1, 0.05, workers, counts)
    assert [] == judged(job, recorder, counts, workers)


@pytest.mark.parametrize("store", ["files", "sqlite"])
def test_a_restore_may_find_its_result_in_place(
    store: str, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """After a killed save, the checker doesn't know which result is the latest.

    Here it is that of the save. So the restore replaces nothing, and nothing is set aside.
    """
    if store == "sqlite":
        pytest.importorskip("functionfuse_sqlite")
    here = {"workflow": "a", "task": "t0"}
    save = here | {"kind": "save", "side": False, "if_absent": False, "durable": False}
    save |= {"size": 10, "patience": 1 << 62}
    dying = [save | {"seed": 1, "call": 2}, save | {"seed": 2, "call": 1, "dies": True}]
    later = [{"kind": "prune", "workflow": "a", "keep": 0}]
    later += [here | {"kind": "restore", "call": call} for call in (1, 2)]
    job = {"do": "steps", "store": store, "root": str(tmp_path / "store"), "key": ""}
    recorder = Recorder()
    for steps in dying, later:
        worker = workers.start(job | {"steps": steps})
        recorder.take(list(worker.messages()), worker.pid)
        recorder.die(worker.pid)
    assert ["ok", None, "ok", "ok", "absent"] == [op["answer"] for *_, op in recorder.told]
    assert [] == judged(job, recorder, counts, workers)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_storage_is_found_out(
    broken: str, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """The checker finds each fault, in a second or two."""
    job = {"store": "files", "key": "", "broken": broken, "older_than": 100.0, "big": 0}
    job |= {"workflows": ["a"], "tasks": ["t0"], "if_absent": 0.4}
    for number in range(60):
        here = job | {"root": str(tmp_path / str(number))}
        if judged(here, record(here, 0.3, 0.05, workers, counts), counts, workers):
            return
    pytest.fail("not found")
