"""Random schedules of operations and faults, against a model: nothing lost, nothing wrong.

`FUNCTIONFUSE_BATTERY=full` runs 1,000 schedules; `FUNCTIONFUSE_SEED` repeats one.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from s3_proxy import FAULTS, Proxy, Request, faulty
from s3_servers import BUCKET, Server, weed

from functionfuse.errors import ResultNotFoundError, StorageError
from functionfuse_s3 import S3FileStorage

pytestmark = pytest.mark.battery

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
SEED = os.environ.get("FUNCTIONFUSE_SEED")
SCHEDULES = [int(SEED)] if SEED else range(1000 if FULL else 25)
STEPS = 15
TASKS = [f"t{number}" for number in range(4)]
LARGE_IN = 40  # steps, of which one saves a value in pieces
HANGING = ("hang", "hang after", "hang in body")
OFTEN = [fault for fault in FAULTS if fault not in HANGING]
MIB = 1 << 20
SIZES = {"multipart_threshold": 5 * MIB, "multipart_chunk": 5 * MIB}
ABSENT = "absent"


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("seaweedfs_server" if weed() else "moto_server")
    return found


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Proxy]:
    with faulty(server.url) as proxy:
        yield proxy


class Schedule:
    """One schedule: what was done, and for each task what may be stored now."""

    def __init__(self, seed: int, server: Server, proxy: Proxy, path: str) -> None:
        self.dice = random.Random(seed)
        self.proxy = proxy
        times = {"connect_timeout": 1, "read_timeout": 0.6, "max_attempts": 2, "concurrency": 4}
        through = server.behind(proxy.url)
        self.storage = S3FileStorage(**through.options(f"{path}/{seed}", **times, **SIZES))
        self.directly = S3FileStorage(**server.options(f"{path}/{seed}", **SIZES))
        self.possible: dict[str, set[Any]] = {task: {ABSENT} for task in TASKS}
        self.rate = self.dice.choice((0.05, 0.2, 0.5))
        self.done: Counter[str] = Counter()

    def fault(self, _: Request) -> str:
        if self.dice.random() > self.rate:
            return ""
        return self.dice.choice(HANGING if self.dice.random() < 0.02 else OFTEN)

    def run(self) -> None:
        self.storage.store.bucket.client  # noqa: B018  # made before the faults begin
        self.proxy.fault = self.fault
        try:
            for step in range(STEPS):
                self.step(step)
        finally:
            self.proxy.fault = lambda _: ""
        for task in TASKS:
            found = self.read(self.directly, task)
            assert found in self.possible[task], (task, found)
        assert [] == [found.problem for found in self.directly.verify() if found.problem]
        self.directly.gc(-60)
        prefix = self.directly.store.bucket.prefix
        client = self.directly.store.bucket.client
        assert not client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads")

    def step(self, step: int) -> None:
        task = self.dice.choice(TASKS)
        use = self.dice.choice(("save", "save", "absent", "read", "read", "remove", "list", "info"))
        value = (step, self.dice.randrange(1 << 30))
        before = self.possible[task]
        try:
            match use:
                case "save" | "absent":
                    self.possible[task] = before | {value}
                    data: Any = value
                    if use == "save" and not self.dice.randrange(LARGE_IN):
                        data = (value, np.full(6 * MIB // 8, value[1]))
                    try:
                        self.storage.save("w", task, data, if_absent=use == "absent")
                    except FileExistsError:
                        self.possible[task] = before
                        assert before != {ABSENT}
                        self.possible[task] = before - {ABSENT}
                    else:
                        assert use == "save" or ABSENT in before
                        self.possible[task] = {value}
                case "read":
                    found = self.read(self.storage, task)
                    assert found in before, (task, found)
                    self.possible[task] = {found}
                case "remove":
                    self.possible[task] = before | {ABSENT}
                    try:
                        self.storage.remove_task("w", task)
                    except ResultNotFoundError:
                        assert ABSENT in before
                    self.possible[task] = {ABSENT}
                case "list":
                    names = self.storage.list_tasks("w")
                    for name in TASKS:
                        assert (ABSENT in self.possible[name]) or name in names
                        assert name not in names or self.possible[name] != {ABSENT}
                case "info":
                    infos = self.storage.task_infos("w", TASKS)
                    for name, info in zip(TASKS, infos, strict=True):
                        assert not isinstance(info, Exception)
                        assert info is not None or ABSENT in self.possible[name]
        except StorageError as error:
            assert f"'{BUCKET}'" in str(error)  # noqa: PT017
            self.done[f"{use}: error"] += 1
        else:
            self.done[use] += 1

    def read(self, storage: S3FileStorage, task: str) -> Any:
        try:
            found = storage.read_task("w", task)
        except ResultNotFoundError:
            return ABSENT
        if isinstance(found[1], np.ndarray):
            assert (found[1] == found[0][1]).all()
            return found[0]
        return found


def test_schedules(
    server: Server, proxy: Proxy, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each, every task has one of the values that it may have, whole, and gc leaves nothing.

    What was acknowledged is there; what failed may be there or not, and was an error of ours.
    """
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    done: Counter[str] = Counter()
    for seed in SCHEDULES:
        schedule = Schedule(seed, server, proxy, path)
        try:
            schedule.run()
        except BaseException as error:
            error.add_note(f"FUNCTIONFUSE_SEED={seed}")
            raise
        done += schedule.done
    print(f"{len(SCHEDULES)} schedules, {done.total()} operations on {server.name}: {dict(done)}")
    if not SEED:
        assert all(done[f"{use}: error"] for use in ("save", "absent", "read", "list"))
        assert done.total() > 3 * sum(count for use, count in done.items() if "error" in use) / 2
