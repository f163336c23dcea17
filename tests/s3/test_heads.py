"""The headers that a store remembers, so that a plan need not read each."""

from __future__ import annotations

import json
import pickle
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b, md5
from typing import Any

import numpy as np
import pytest
from remote_store import AT_ONCE, MANY, NAMES, RemoteStore, fill, tokens, true_tokens
from s3_servers import Server

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.config.options import StorageOptions
from functionfuse.errors import DamagedResultError, StorageConnectionError, UntrustedResultError
from functionfuse.storage import BlobInfo, BlobStore, Storage
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.summary import Summary
from functionfuse_s3 import S3FileStorage, heads
from functionfuse_s3.heads import HEADERS, Heads

REMEMBERED = f"w/{HEADERS}"


class Remembering(RemoteStore):
    """A store in memory that remembers headers as `S3Store` does."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Heads(self, self.blobs)
        self.tells = True  # whether it learns the etag of what it puts

    def put(
        self, key: str, parts: Sequence[Buffer], *, if_absent: bool = False, durable: bool = False
    ) -> None:
        super().put(key, parts, if_absent=if_absent, durable=durable)
        self.kept.note(key, md5(self.blobs_held[key]).hexdigest() if self.tells else "", parts[0])

    def heads(self, folder: str, names: Sequence[str], size: int) -> Iterator[Buffer | None]:
        return self.kept.read(folder, names, size)

    def finish(self, folder: str) -> None:
        self.kept.finish(folder)

    def blobs(self, folder: str) -> Iterator[BlobInfo]:
        return (blob for blob in self.list(folder) if "/" not in blob.key[len(folder) :])


@pytest.fixture
def store() -> Remembering:
    """A store with MANY results, and its counters at zero."""
    store = Remembering()
    fill(store)
    return store


def test_a_plan_lists_and_reads_headers_at_once(store: Remembering) -> None:
    """One listing, a header for each result, many at once, and a second listing."""
    expected = true_tokens(store, [*NAMES, "missing"])
    store.waits = True
    assert expected == tokens(store, [*NAMES, "missing"])
    assert {"list": 2, "head": MANY, "get": 1, "put": 1} == store.asked
    assert AT_ONCE == store.most


def test_a_store_of_one_request_at_a_time_is_remote_all_the_same(
    store: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many requests are worth it says nothing about what one costs."""
    monkeypatch.setattr(Remembering, "concurrency", 1)
    expected = true_tokens(store)
    for asked in ({"list": 2, "head": MANY, "get": 1, "put": 1}, {"list": 1, "get": 1}):
        assert expected == tokens(store)
        assert asked == store.asked
        store.asked.clear()


def test_planned_again_it_costs_two_requests(store: Remembering) -> None:
    """A listing, and the one blob of headers."""
    expected = true_tokens(store)
    tokens(store)
    store.asked.clear()
    assert expected == tokens(store)
    assert {"list": 1, "get": 1} == store.asked


def test_what_values_refer_to_is_remembered(store: Remembering) -> None:
    """The last fields of a header, as all of it."""
    for number, name in enumerate(NAMES):
        told = [f"m:C{number}"], f"{number:032x}"
        Storage(store).save("w", name, 0, describe=lambda *_, told=told: told)
    store.asked.clear()
    for asked in ({"list": 2, "head": MANY, "get": 1, "put": 1}, {"list": 1, "get": 1}):
        stored = list(Storage(store).task_infos("w", NAMES))
        assert asked == store.asked
        assert [f"{number:032x}" for number in range(MANY)] == [each.value for each in stored]  # type: ignore[union-attr]
        assert MANY == len({each.key for each in stored})  # type: ignore[union-attr]
        store.asked.clear()


def test_what_is_remembered_is_believed_only_if_it_is_signed(store: Remembering) -> None:
    """Whoever can write there can write the memory, too. The check costs no request."""
    signed = Storage(store, StorageOptions(key="secret"))
    for name in NAMES[1:]:
        signed.save("w", name, 0)
    store.asked.clear()
    for asked in ({"list": 2, "head": MANY, "get": 1, "put": 1}, {"list": 1, "get": 1}):
        first, *others = signed.task_infos("w", NAMES)
        assert asked == store.asked
        assert UntrustedResultError is type(first)
        assert {Summary} == set(map(type, others))
        store.asked.clear()


def test_few_results_need_no_memory(store: Remembering) -> None:
    """What can be asked for at once is, and one result is asked for directly."""
    expected = true_tokens(store)
    assert expected[:AT_ONCE] == tokens(store, NAMES[:AT_ONCE])
    assert {"list": 1, "head": AT_ONCE} == store.asked
    store.asked.clear()
    assert expected[:1] == tokens(store, NAMES[:1])
    assert {"head": 1} == store.asked


def test_what_is_not_stored_costs_nothing(store: Remembering) -> None:
    """Only the headers that are there are asked for."""
    assert [None] * 30 == tokens(store, [f"new{number}" for number in range(30)])
    assert {"list": 1} == store.asked


def test_what_was_replaced_is_read_again(store: Remembering) -> None:
    """A header counts only for the very blob that it was read from; removed results are gone."""
    tokens(store)
    Storage(store).save("w", "t7", "new")
    Storage(store).remove_task("w", "t9")
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert None is expected[9]
    assert ["w/t7"] == store.read


def test_many_replaced_are_remembered_anew(store: Remembering) -> None:
    """After one plan more, it costs two requests again."""
    tokens(store)
    for name in NAMES[:10]:
        Storage(store).save("w", name, "new")
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert {"list": 2, "head": 10, "get": 1, "put": 1} == store.asked
    store.asked.clear()
    assert expected == tokens(store)
    assert {"list": 1, "get": 1} == store.asked


@pytest.mark.parametrize("place", [0, 40, -1])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_memory_is_only_slower(store: Remembering, damage: str, place: int) -> None:
    """Whatever is wrong with it, the headers are read from the results."""
    expected = true_tokens(store)
    tokens(store)
    store.asked.clear()
    data = bytearray(store.blobs_held[REMEMBERED])
    if damage == "flipped":
        data[place] ^= 1
    store.blobs_held[REMEMBERED] = {"flipped": data, "cut": data[:place], "empty": b""}[damage]
    assert expected == tokens(store)
    assert MANY == store.asked["head"]


def test_what_is_replaced_while_it_is_read_is_not_remembered(store: Remembering) -> None:
    """The listing showed one blob and the read another: that pair must never be believed."""
    before, listing = store.blobs_held["w/t7"], store.list
    Storage(store).save("w", "t7", "new")
    after, store.blobs_held["w/t7"] = store.blobs_held["w/t7"], before

    def replacing(prefix: str) -> Iterator[BlobInfo]:
        yield from listing(prefix)
        store.blobs_held["w/t7"] = after

    store.list = replacing  # type: ignore[method-assign]
    tokens(store)
    store.list = listing  # type: ignore[method-assign]
    store.blobs_held["w/t7"] = before  # as somebody does who restores an earlier version
    assert true_tokens(store) == tokens(store)


def test_a_damaged_result_is_told_each_time(store: Remembering) -> None:
    """An error is nothing to be remembered, and the other headers are."""
    store.blobs_held["w/t7"] = b"no result"
    for read in (MANY, 1):
        store.asked.clear()
        infos = list(Storage(store).task_infos("w", NAMES))
        assert isinstance(infos[7], DamagedResultError)
        assert MANY - 1 == sum(not isinstance(info, Exception) for info in infos)
        assert read == store.asked["head"]


def test_a_long_header_is_remembered_whole(store: Remembering) -> None:
    """Headers longer than the first read are asked for twice, once."""
    for name in NAMES:
        Storage(store).save("w", name, 0, fingerprint={"call": "0" * 32, "long": "x" * 9000})
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert 2 * MANY == store.asked["head"]
    store.asked.clear()
    assert expected == tokens(store)
    assert {"list": 1, "get": 1} == store.asked


def test_who_can_only_read_plans_as_well(store: Remembering) -> None:
    """That nothing can be remembered is no error."""
    expected = true_tokens(store)
    store.readable_only = True
    assert expected == tokens(store)
    assert REMEMBERED not in store.blobs_held


def test_a_lost_connection_is_an_error(store: Remembering) -> None:
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


def test_a_run_reuses_what_is_remembered() -> None:
    """A workflow computes nothing again, and what changed alone; as with any storage."""
    computed = []

    @workflow(version="1")  # it notes its calls
    def double(number: int) -> int:
        computed.append(number)
        return 2 * number

    @workflow
    def total(*numbers: int) -> int:
        return sum(numbers)

    def run(numbers: Sequence[int]) -> Any:
        computed.clear()
        nodes = [double(number).set_name(f"n{at}") for at, number in enumerate(numbers)]
        flow = LocalWorkflow(total(*nodes).set_name("total"), workflow_name="w")
        flow.set_storage(Storage(store))
        return flow.run()

    store = Remembering()
    numbers = list(range(20))
    assert 380 == run(numbers)
    for _ in range(3):
        assert 380 == run(numbers)
        assert [] == computed
    numbers[5] = 100
    assert 570 == run(numbers)
    assert [100] == computed
    assert 570 == run(numbers)
    assert [] == computed


@workflow
def same(value: Any) -> Any:
    return value


def failing(value: Any) -> Any:
    raise ZeroDivisionError(value)


def flow_over(store: BlobStore, values: Iterable[Any]) -> LocalWorkflow:
    """Return a workflow with a node for each value, and a storage of its own."""
    nodes = [same(value).set_name(f"t{at}") for at, value in enumerate(values)]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(Storage(store))
    return flow


@pytest.mark.parametrize("tells", [True, False])
def test_what_a_run_has_saved_is_remembered(tells: bool) -> None:
    """The first plan after it costs two requests, where `put` returns etags; headers elsewhere."""
    store = Remembering()
    store.tells = tells
    flow_over(store, range(MANY)).run()
    record = marker = 1
    assert (MANY + record + marker + tells, tells) == (store.asked["put"], store.asked["get"])
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert ({"list": 1, "get": 1} if tells else {"list": 2, "head": MANY, "get": 1, "put": 1}) == (
        store.asked
    )


def test_a_later_run_adds_to_what_is_remembered() -> None:
    """Also where another has replaced a result since: that one is asked for."""
    store = Remembering()
    flow_over(store, range(MANY)).run()
    flow_over(store, [f"new {at}" for at in range(10)]).run()
    Storage(store).save("w", "t30", "theirs")
    expected = true_tokens(store)
    assert expected == tokens(store)
    assert {"list": 1, "get": 1, "head": 1} == store.asked
    assert ["w/t30"] == store.read


def test_a_run_that_fails_remembers_what_it_has_saved() -> None:
    """As do big results, whose headers are written last."""
    store = Remembering()
    flow = flow_over(store, [np.zeros(1 << 20), *range(AT_ONCE), "a node that fails"])
    flow.replace_func(flow.graph().nodes[-1], failing)
    with pytest.raises(ZeroDivisionError):
        flow.run()
    names = NAMES[: AT_ONCE + 1]
    expected = true_tokens(store, names)
    assert None not in expected
    assert expected == tokens(store, names)
    assert {"list": 1, "get": 1} == store.asked


def test_that_nothing_is_remembered_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """What a run returns is stored already; and few results are not worth the requests."""
    store = Remembering()

    def lost(key: str) -> Any:
        raise StorageConnectionError("the line is dead")

    store.get = lost  # type: ignore[method-assign]
    with caplog.at_level("INFO"):
        assert list(range(MANY)) == flow_over(store, range(MANY)).run()
    assert "the line is dead" in caplog.text
    assert REMEMBERED not in store.blobs_held
    few = Remembering()
    flow_over(few, range(AT_ONCE)).run()
    assert REMEMBERED not in few.blobs_held


def test_what_was_written_stays_in_its_process(moto_server: Server, path: str) -> None:
    """A storage is pickled for each node that a worker computes; headers would add up."""
    storage = S3FileStorage(**moto_server.options(path))
    storage.save("w", "t", 0)
    assert ["t"] == list(storage.store._heads.written["w/"])
    assert {} == pickle.loads(pickle.dumps(storage)).store._heads.written


@pytest.mark.parametrize("key", ["t", "w/.data/t", "w/.damaged/t/0", ".lease/t"])
def test_only_results_are_remembered(store: Remembering, key: str) -> None:
    """Not the blobs beside them, and no bytes that are no result."""
    before = {folder: dict(written) for folder, written in store.kept.written.items()}
    store.put(key, [store.blobs_held["w/t1"]])
    for data in (b"", b"x" * 99, store.blobs_held["w/t1"][:99]):
        store.put("w/other", [data])
    written = {folder: names for folder, names in store.kept.written.items() if folder}
    assert before == written


def test_a_process_that_saves_for_ever_holds_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is beyond that is asked for by the first plan."""
    monkeypatch.setattr(heads, "_MOST_WRITTEN", 10)
    store = Remembering()
    fill(store)
    assert NAMES[:10] == list(store.kept.written["w/"])


@pytest.mark.parametrize("kind", ["nested", "bomb", "text", "empty", "short", "long", "forms"])
def test_damage_of_what_is_remembered(store: Remembering, kind: str) -> None:
    """Whatever somebody has written there, headers are read again."""
    expected = true_tokens(store)
    etags = {blob.key[2:]: blob.etag for blob in store.blobs("w/")}
    head = bytes(store.get(f"w/{NAMES[0]}")).decode("latin-1")
    heads_of = {"text": "garbage", "empty": "", "short": head[:70], "long": head + "more"}
    packed = {
        "nested": zlib.compress(b"[" * 200_000),
        "bomb": zlib.compress(b"[" + b" " * (64 << 20)),
        "forms": zlib.compress(b'{"a":1}'),
    }
    if kind in heads_of:
        entries = {name: (etag, heads_of[kind]) for name, etag in etags.items()}
        packed[kind] = zlib.compress(json.dumps(entries).encode())
    data = packed[kind]
    store.put(REMEMBERED, [blake2b(data, digest_size=16).digest(), data])
    tracemalloc.start()
    assert expected == tokens(store)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
