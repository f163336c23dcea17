"""The headers and values of many results, from a store where every read is a request."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from remote_store import AT_ONCE, LATE, MANY, NAMES, RemoteStore, fill, tokens, true_tokens

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.config.options import Earlier, StorageOptions
from functionfuse.errors import (
    DamagedResultError,
    ResultNotFoundError,
    StorageConnectionError,
)
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import Buffer


@pytest.fixture
def store() -> RemoteStore:
    """A store with MANY results, and its counters at zero."""
    store = RemoteStore()
    fill(store)
    return store


def test_a_plan_reads_headers_at_once(store: RemoteStore) -> None:
    """A read for each task, and nothing else."""
    expected = true_tokens(store, [*NAMES, "missing"])
    store.waits = True
    assert expected == tokens(store, [*NAMES, "missing"])
    assert {"head": MANY + 1} == store.asked
    assert AT_ONCE == store.most


def test_a_damaged_header_is_an_item(store: RemoteStore) -> None:
    """The other headers are told all the same."""
    store.blobs_held["w/t7"] = b"no result"
    infos = list(Storage(store).task_infos("w", NAMES))
    assert isinstance(infos[7], DamagedResultError)
    assert MANY - 1 == sum(not isinstance(info, Exception) for info in infos)
    assert {"head": MANY} == store.asked


def test_a_long_header_is_read_on(store: RemoteStore) -> None:
    """One that is longer than the first read takes two."""
    Storage(store).save("w", "t1", 0, fingerprint={"call": "0" * 32, "long": "x" * 9000})
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert {"head": MANY + 1} == store.asked


def test_a_save_reads_one_header_at_most(store: RemoteStore) -> None:
    """That of the result that it replaces, whatever else the workflow stores."""
    for number in range(20):
        store.blobs_held[f"w/.data/other-{number}"] = b"x"
    storage = Storage(store)
    storage.new_workflow("w")
    saves: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"head": 1, "put": 1}),
        ({"replaces": None}, {"put": 1}),
    ]
    for options, asked in saves:
        for name in ("t1", "new"):
            store.asked.clear()
            storage.save("w", name, 0, **options)
            assert asked == store.asked
    store.asked.clear()
    storage.save("w", "newer", 0, if_absent=True)
    assert {"put": 1} == store.asked


def test_a_removal_reads_the_headers(store: RemoteStore) -> None:
    """One each; earlier results are listed, and for a pattern the tasks."""
    storage = Storage(store)
    storage.remove_task("w", "t1")
    assert {"list": 1, "head": 1, "delete": 1} == +store.asked
    store.asked.clear()
    storage.remove_task("w", pattern="t2*")
    assert {"list": 2, "head": 11, "delete": 1} == +store.asked
    assert MANY - 12 == len(storage.list_tasks("w"))


def test_a_lost_connection_is_an_error(store: RemoteStore) -> None:
    """And not a result that isn't there."""

    def lost(*_: Any) -> Any:
        raise StorageConnectionError("the line is dead")

    store.head = lost  # type: ignore[method-assign]
    for names in (NAMES, NAMES[:2], NAMES[:1]):
        with pytest.raises(StorageConnectionError, match="dead"):
            tokens(store, names)
    with pytest.raises(StorageConnectionError, match="dead"):
        Storage(store).file_exists("w", "t1")
    store.list = lost  # type: ignore[method-assign]
    with pytest.raises(StorageConnectionError, match="dead"):
        tokens(store)


def test_read_tasks_returns_results_by_name(store: RemoteStore) -> None:
    """In the order of the names, each once; a missing one is an error that names it."""
    storage = Storage(store)
    assert {"t3": 3, "t1": 1, "t2": 2} == storage.read_tasks("w", ["t3", "t1", "t2", "t1"])
    assert ["t3", "t1"] == list(storage.read_tasks("w", ["t3", "t1"]))
    assert {} == storage.read_tasks("w", [])
    assert dict(zip(NAMES, range(MANY), strict=True)) == storage.read_tasks("w", NAMES)
    with pytest.raises(ResultNotFoundError, match="'missing'"):
        storage.read_tasks("w", [*NAMES, "missing"])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_reads_values_at_once(damaged: bool) -> None:
    """Those that it returns, and those that one node needs; also beside one that is damaged."""
    store = RemoteStore()
    nodes = [same(number).set_name(f"t{number}") for number in range(AT_ONCE)]

    def run(*more: Any) -> Any:
        flow = LocalWorkflow(*(more or nodes), workflow_name="w")
        flow.set_storage(Storage(store))
        return flow.run()

    run()
    if damaged:
        data = store.blobs_held["w/t1"]
        store.blobs_held["w/t1"] = data[:-1] + bytes([data[-1] ^ 1])
    meeting, get, met = threading.Barrier(AT_ONCE), store.get, []

    def together(key: str) -> Buffer:
        if not met and key.startswith("w/t"):
            meeting.wait(LATE)  # BrokenBarrierError, where one is read after the other
            met.append(key)
        return get(key)

    store.get = together  # type: ignore[method-assign]
    assert list(range(AT_ONCE)) == run()
    assert met
    met.clear()
    if damaged:
        data = store.blobs_held["w/t1"]
        store.blobs_held["w/t1"] = data[:-1] + bytes([data[-1] ^ 1])
    assert list(range(AT_ONCE)) == run(same(nodes).set_name("all"))
    assert met


@workflow
def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize("concurrency", [1, AT_ONCE])
def test_a_plan_goes_back_from_parents_to_children(concurrency: int) -> None:
    """A child that was made of another result of its parent is computed, on every store."""
    results = iter(range(4))

    @workflow(version="1")
    def parent(setting: int) -> int:
        return 10 * setting + next(results)

    @workflow(version="1")
    def child(number: int) -> int:
        return -number

    store = RemoteStore()
    store.concurrency = concurrency
    storage = Storage(store, StorageOptions(earlier=Earlier(days=None)))  # blobs have no age

    def run(setting: int, policy: str = "unchanged", *, both: bool = False) -> Any:
        made = parent(setting).set_name("parent")
        nodes = [made, child(made).set_name("child")] if both else [made]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        flow.set_reuse(policy)
        return flow.run()

    assert [10, -10] == run(1, both=True)
    assert [11, 22] == [run(1, "never"), run(2)]
    assert [11, -11] == run(1, both=True)
