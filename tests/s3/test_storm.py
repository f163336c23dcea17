"""Random schedules of operations and faults, against a model: nothing lost, nothing wrong.

`FUNCTIONFUSE_BATTERY=full` runs 1,000 schedules; `FUNCTIONFUSE_SEED` repeats one.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from s3_servers import Server, weed
from s3_storm import STEPS, Done, run_schedules

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
SEED = os.environ.get("FUNCTIONFUSE_SEED")
SCHEDULES = [int(SEED)] if SEED else range(1000 if FULL else 8)
# The real server over https, and in the battery over http as well.
SERVERS = ["seaweedfs_https", *(["seaweedfs"] if FULL else [])] if weed() else ["moto"]
WORKERS = 1 + (os.cpu_count() or 1)  # most of a schedule waits for the server

pytestmark = [
    pytest.mark.battery,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="what is killed is a fork"),
]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


def test_schedules(server: Server, path: str) -> None:
    """After each, every task has one of the values that it may have, whole, and gc leaves nothing.

    What was acknowledged is there; what failed may be there or not, and was an error of ours.
    """
    if FULL and not SEED:
        done = in_processes(replace(server), path)
    else:
        done = run_schedules(SCHEDULES, server, path)
    count = done.well.total() + done.errors.total()
    print(
        f"{len(SCHEDULES)} schedules on {server.name} at {server.url}, "
        f" {count} operations: {dict(done.well)};"
        f" {done.faults.total()} faults: {dict(done.faults)};"
        f" {done.errors.total()} errors, all named: {dict(done.errors)}"
    )
    if not SEED:
        assert STEPS * len(SCHEDULES) <= count
        failed = {error.partition(":")[0] for error in done.errors}
        assert {"save", "absent", "read", "remove", "list", "info"} == failed
        assert done.faults["killed"]
        assert done.well.total() > done.errors.total()


def in_processes(server: Server, path: str) -> Done:
    """Share the schedules out to processes."""
    done = Done()
    shares = [SCHEDULES[first :: 4 * WORKERS] for first in range(4 * WORKERS)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        for share in pool.map(run_schedules, shares, [server] * len(shares), [path] * len(shares)):
            done += share
    return done
