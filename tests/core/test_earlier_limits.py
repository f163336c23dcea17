"""Earlier results: how long they stay, and how many."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kept_values import Kept

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import OptionsError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import earlier_key
from functionfuse.storage.pruning import Limits, Pruned, prune
from going_back import (
    aside,
    call_of,
    calls,
    chain,
    made,
    opened,
    save,
)

DAY = 86400


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., FileStorage]:
    """Return a function that opens one storage in files again, with options."""
    return partial(opened, tmp_path / "store")


# How long they stay.


def age(storage: FileStorage, key: str, days: float) -> None:
    """Make a blob as old as if it had been put so many days ago."""
    path = os.path.join(storage.path, key)
    os.utime(path, (time.time() - days * DAY,) * 2)


def test_days_count_from_the_setting_aside(files: Callable[..., FileStorage]) -> None:
    """A result that was computed long ago stays for as long as one of today."""
    options = {"earlier": {"days": 2}}
    chain(files(**options), 1, until=1).run()
    age(files(), "w/load", 100)
    chain(files(**options), 2, until=1).run()
    [one] = aside(files())
    chain(files(**options), 3, until=1).run()
    assert 2 == len(aside(files()))
    age(files(), one, 1.9)
    chain(files(**options), 4, until=1).run()
    assert 3 == len(aside(files()))
    age(files(), one, 2.1)
    chain(files(**options), 4, until=1).run()  # it sets nothing aside
    assert one in aside(files())
    chain(files(**options), 5, until=1).run()
    assert one not in aside(files())
    assert 3 == len(aside(files()))


def test_a_long_process_looks_at_the_days_again(
    files: Callable[..., FileStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the oldest result that it has seen is too old."""
    storage, clock = files(earlier={"days": 2}), [1000.0]
    monkeypatch.setattr("functionfuse.storage.inventory.time", lambda: clock[0])
    for number in range(3):
        chain(storage, number, until=1).run()
    for key in aside(storage):
        age(storage, key, 3)
    clock[0] += 1.9 * DAY
    chain(storage, 3, until=1).run()
    assert 3 == len(aside(storage))
    clock[0] += 0.2 * DAY
    chain(storage, 4, until=1).run()
    assert 2 == len(aside(storage))


@workflow(version="1")
def big(number: int) -> Kept:
    return Kept(bytes(100_000))


def test_bytes_are_with_side_data(files: Callable[..., FileStorage]) -> None:
    """After each run no more are left than the limit allows, whether or not it was looked at."""
    storage = files(earlier={"bytes": "350 kB"})
    counts = []
    for number in range(7):
        flow = LocalWorkflow(big(number).set_name("big"), workflow_name="w")
        flow.set_storage(storage)
        flow.run()
        counts.append(len(storage.earlier("w", "big")))
        assert 1 + counts[-1] == len(list(storage.store.list("w/.data/")))
    assert [0, 1, 2, 3, 3, 3, 3] == counts


def test_the_oldest_go_first(files: Callable[..., FileStorage]) -> None:
    """Of all tasks together, by the time when they were set aside."""
    storage, ages = files(), list(range(1, 9))
    for number in range(5):
        for task in ("a", "b"):
            save(storage, task, number)
    random.Random(1).shuffle(ages)
    by_age = dict(zip(ages, aside(storage), strict=True))
    for days, key in by_age.items():
        age(storage, key, days)
    sizes = {blob.key: blob.size for blob in storage.store.list("w/.earlier/")}
    for left in (5, 2, 0):
        limit = sum(sizes[by_age[days]] for days in sorted(by_age)[:left])
        removed = storage.prune("w", bytes=limit)
        assert {by_age.pop(days) for days in sorted(by_age)[left:]} == {old.key for old in removed}
        assert sorted(by_age.values()) == aside(storage)


def test_one_that_is_bigger_than_the_limit(storage: Storage) -> None:
    """It goes, and the others stay, whether they are older or newer."""
    for number, value in enumerate([0, 1, Kept(bytes(100_000)), 3, 4]):
        save(storage, "t", number, value)
    [removed] = storage.prune("w", bytes=10_000)
    assert removed.key == earlier_key("w", "t", call_of(2))
    assert removed.size > 100_000
    assert {0, 1, 3} == set(calls(storage, "t"))
    assert [] == list(storage.store.list("w/.data/"))


@pytest.mark.parametrize(
    ("option", "days", "size"),
    [
        ({"bytes": "10 GiB"}, 30, 10 << 30),
        ({"bytes": 5, "days": 1.5}, 1.5, 5),
        ({"bytes": None}, 30, None),
        ({"days": None}, None, 10 << 30),
        ({"bytes": None, "days": None}, None, None),
        ({"bytes": 0, "days": 0}, 0, 0),
    ],
)
def test_the_option(
    files: Callable[..., FileStorage],
    monkeypatch: pytest.MonkeyPatch,
    option: Any,
    days: Any,
    size: Any,
) -> None:
    """Sizes are numbers or texts; None is no limit. `prune` without limits takes those."""
    given = []
    monkeypatch.setattr(
        "functionfuse.storage.upkeep.prune",
        lambda store, name, limits, **more: given.append(limits) or Pruned([]),
    )
    files(earlier=option).prune("w")
    assert [(days, size, None)] == given


@pytest.mark.parametrize(
    "option",
    [
        *(True, None, "10 GiB", 30, []),
        *({"bytes": "many"}, {"bytes": -1}, {"days": -1}, {"days": "x"}, {"size": 1}),
    ],
    ids=repr,
)
def test_a_wrong_option(files: Callable[..., FileStorage], option: Any) -> None:
    """It is an error that names the option."""
    with pytest.raises(OptionsError, match="option 'earlier"):
        files(earlier=option)


def test_prune_without_a_limit_where_none_are_kept(files: Callable[..., FileStorage]) -> None:
    """It removes those that another storage has set aside."""
    for number in (1, 2, 3):
        save(files(), "t", number)
    storage = files(earlier=False)
    assert 2 == len(storage.prune("w"))
    assert [] == aside(storage)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"bytes": -1}, "bytes is a number from 0 on"),
        ({"bytes": 1.5}, "bytes"),
        ({"bytes": "10 Go"}, "bytes is a size as '10 GiB', not '10 Go'"),
        ({"keep": -1}, "keep is a number from 0 on, or None, not -1"),
        ({"keep": True}, "keep"),
        ({"keep": 1.5}, "keep"),
    ],
)
def test_limits_that_are_no_limits(storage: Storage, wrong: dict[str, Any], match: str) -> None:
    """They are refused, and nothing is removed."""
    for number in (1, 2):
        save(storage, "t", number)
    with pytest.raises(ValueError, match=match):
        storage.prune("w", **wrong)
    assert [1] == calls(storage, "t")


def test_pruning_by_number_keeps_the_first_of_the_list(storage: Storage) -> None:
    """Those that were computed last, whenever they were set aside."""
    for number in (1, 2, 3, 1, 2):
        chain(storage, number, until=1).run()
    assert [3, 1] == [
        storage.read_task("w", "load", call=info.call)[0] for info in storage.earlier("w", "load")
    ]
    [first, _] = storage.earlier("w", "load")
    removed = storage.prune("w", keep=1, dry_run=True)
    assert removed == storage.prune("w", keep=1)
    assert [first] == storage.earlier("w", "load")
    assert ["load"] == [blob.task for blob in removed]


@pytest.mark.parametrize("side_data", [False, True])
def test_a_full_disk_loses_no_result(
    files: Callable[..., FileStorage],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    side_data: bool,
) -> None:
    """Earlier results give way to it: first the half of them that was set aside first."""
    storage = files()
    for number in range(5):
        save(storage, "t", number, Kept(b"x" * 1000) if side_data else None)
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(aside(storage)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    save(storage, "t", 5)
    assert 5 == storage.read_task("w", "t")
    left = calls(storage, "t")
    assert left == [4, 3][: len(left)]
    assert left
    assert "earlier result(s) of workflow 'w' are removed" in caplog.text


def test_the_room_that_is_left(storage: Storage) -> None:
    """It is that beside the results that stay, not beside those that were removed."""
    for number in range(5):
        save(storage, "t", number)
    sizes = [blob.size for blob in storage.store.list("w/.earlier/")]
    pruned = prune(
        storage.store, "w", Limits(size=sizes[0] * 5 // 2), dry_run=False, signed_by=None
    )
    assert 2 == len(pruned.blobs)
    assert sizes[0] // 2 == pruned.room
