"""Random schedules of operations and faults, each against a model of what may be stored."""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
from s3_proxy import FAULTS, TLS_FAULTS, Proxy, Request, faulty, no_waiting
from s3_servers import BUCKET, PIECES, Server

from functionfuse.errors import DamagedResultError, ResultNotFoundError, StorageError
from functionfuse_s3 import S3FileStorage

__all__ = ["Done", "Schedule", "run_schedules"]

STEPS = 20
TASKS = [f"t{number}" for number in range(4)]
LARGE_IN = 40  # steps, of which one saves a value in pieces
KILLED_IN = 25  # saves, of which one is by a process that is killed in the middle
HANGING = ("hang", "hang after", "hang in body")
OFTEN = [fault for fault in FAULTS if fault not in HANGING]
TIMES = {"connect_timeout": 60, "read_timeout": 2, "max_attempts": 2, "concurrency": 4}
MIB = 1 << 20
ABSENT = "absent"
_differs = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|uploadId=[^&]*|\.tmp-[^&?]*")


@dataclass
class Done:
    """What schedules did: operations that went well, errors by operation and class, faults."""

    well: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Done) -> Self:
        self.well += other.well
        self.errors += other.errors
        self.faults += other.faults
        return self


class Schedule:
    """One schedule: what was done, and for each task what may be stored now."""

    def __init__(self, seed: int, server: Server, proxy: Proxy, path: str) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.proxy = proxy
        through = server.behind(proxy.url)
        self.faults = [*OFTEN, *(TLS_FAULTS if server.verify else ())]
        self.storage = S3FileStorage(**through.options(f"{path}/{seed}", **TIMES, **PIECES))
        self.directly = S3FileStorage(**server.options(f"{path}/{seed}", **PIECES))
        self.possible: dict[str, set[Any]] = {task: {ABSENT} for task in TASKS}
        self.rate = self.dice.choice((0.05, 0.3, 0.6))
        self.compares = server.name != "moto"  # what it is sent with its checksum
        self.asked: Counter[str] = Counter()
        self.done = Done()

    def fault(self, request: Request) -> str:
        """Return what happens to a request; the same for each run, whatever is sent at once."""
        what = f"{request.method} {_differs.sub('', request.path)}"
        self.asked[what] += 1
        dice = random.Random(f"{self.seed} {what} {self.asked[what]}")
        if dice.random() > self.rate:
            return ""
        kind, fault = dice.random(), dice.choice(self.faults)
        if kind < 0.02:
            fault = dice.choice(HANGING)
        elif kind < 0.1 and request.method == "GET" and "?" not in request.path:
            fault = "corrupt"  # in what has no digest of ours, nobody could find it
        elif kind < 0.1 and self.compares and _has_checksum(request):
            fault = "corrupt request"
        self.done.faults[fault] += 1
        return fault

    def run(self) -> Done:
        """Take all steps, and compare what is stored with the model."""
        self.storage.store.bucket.client  # noqa: B018  # made before the faults begin
        self.proxy.fault = self.fault
        try:
            for step in range(STEPS):
                self.step(step)
                self.proxy.settle()  # nothing that a client gave up arrives later
        finally:
            self.proxy.fault = lambda _: ""
        for task in TASKS:
            found = self.read(self.directly, task)
            assert found in self.possible[task], (task, found, self.possible[task])
        assert [] == [found.problem for found in self.directly.verify() if found.problem]
        self.directly.new_workflow("w")  # gc gives up uploads only in a folder with a marker
        self.directly.gc(-60)
        bucket = self.directly.store.bucket
        left = bucket.client.list_multipart_uploads(Bucket=BUCKET, Prefix=bucket.prefix)
        assert not left.get("Uploads")
        return self.done

    def step(self, step: int) -> None:
        """Do one operation: it does what it should, or raises an error that says where."""
        task = self.dice.choice(TASKS)
        use = self.dice.choice(("save", "save", "absent", "read", "read", "remove", "list", "info"))
        value = (step, self.dice.randrange(1 << 30))
        altered = self.done.faults["corrupt"]
        try:
            match use:
                case "save" | "absent":
                    self.save(task, value, if_absent=use == "absent")
                case "read":
                    found = self.read(self.storage, task)
                    assert found in self.possible[task], (task, found, self.possible[task])
                    self.possible[task] = {found}
                case "remove":
                    self.remove(task)
                case "list":
                    names = self.storage.list_tasks("w")
                    # Without a marker, a folder is ours by the first bytes of its results.
                    unsure = self.done.faults["corrupt"] > altered
                    for name in TASKS:
                        assert unsure or ABSENT in self.possible[name] or name in names
                        assert name not in names or self.possible[name] != {ABSENT}
                case "info":
                    self.infos()
        except StorageError as error:
            for part in (f"'{BUCKET}'", self.proxy.url):
                assert part in str(error)  # noqa: PT017
            self.done.errors[f"{use}: {type(error).__name__}"] += 1
        except DamagedResultError:
            assert self.done.faults["corrupt"] > altered
            self.done.errors[f"{use}: DamagedResultError"] += 1
        else:
            self.done.well[use] += 1

    def save(self, task: str, value: tuple[int, int], *, if_absent: bool) -> None:
        """Save a value, sometimes a large one, sometimes by a process that is killed."""
        before = self.possible[task]
        self.possible[task] = before | {value}
        data: Any = value
        killed = not self.dice.randrange(KILLED_IN)
        if not if_absent and not self.dice.randrange(2 if killed else LARGE_IN):
            data = (value, np.full(6 * MIB // 8, value[1]))
        if killed:
            self.save_and_die(task, data, if_absent=if_absent)
            return
        try:
            self.storage.save("w", task, data, if_absent=if_absent)
        except FileExistsError:
            assert before != {ABSENT}
            self.possible[task] = before - {ABSENT}
        else:
            assert not if_absent or ABSENT in before
            self.possible[task] = {value}

    def save_and_die(self, task: str, data: Any, *, if_absent: bool) -> None:
        """Save in another process, which is killed when it is to send one of its requests."""
        left = self.dice.randrange(5)
        pid = os.fork()
        if pid:
            assert signal.SIGKILL == os.waitpid(pid, 0)[1]
            self.done.faults["killed"] += 1
            return

        def die(**_: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            self.storage.store.bucket.client.meta.events.register("before-send.s3", die)
            self.storage.save("w", task, data, if_absent=if_absent)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def remove(self, task: str) -> None:
        """Remove a task; that it isn't there is an error only where it may not be."""
        before = self.possible[task]
        self.possible[task] = before | {ABSENT}
        try:
            self.storage.remove_task("w", task)
        except ResultNotFoundError:
            assert ABSENT in before
        self.possible[task] = {ABSENT}

    def infos(self) -> None:
        """Ask for all headers, as a plan does."""
        infos = self.storage.task_infos("w", TASKS)
        altered = self.done.faults["corrupt"]
        for name, info in zip(TASKS, infos, strict=True):
            if isinstance(info, Exception):
                assert isinstance(info, DamagedResultError)
                assert self.done.faults["corrupt"] > altered
                self.done.errors["info: DamagedResultError"] += 1
            else:
                assert info is not None or ABSENT in self.possible[name]
                assert info is None or self.possible[name] != {ABSENT}

    def read(self, storage: S3FileStorage, task: str) -> Any:
        """Return the value of a task, or ABSENT."""
        try:
            found = storage.read_task("w", task)
        except ResultNotFoundError:
            return ABSENT
        if isinstance(found[1], np.ndarray):
            assert (found[1] == found[0][1]).all()
            return found[0]
        return found


def _has_checksum(request: Request) -> bool:
    """Tell whether SeaweedFS compares the body: not that of a request to remove several blobs."""
    return request.method == "PUT" or (request.method == "POST" and "uploadId=" in request.path)


def run_schedules(seeds: Iterable[int], server: Server, path: str) -> Done:
    """Run schedules through a proxy of their own; an error's note has the seed."""
    done = Done()
    with faulty(server.url, server.verify) as proxy, pytest.MonkeyPatch.context() as patch:
        no_waiting(patch)
        for seed in seeds:
            try:
                done += Schedule(seed, server, proxy, path).run()
            except BaseException as error:
                error.add_note(f"FUNCTIONFUSE_SEED={seed}")
                raise
    return done
