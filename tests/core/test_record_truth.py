"""The record of a run tells what the storage holds and what happened, also after an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128_digest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.reuse import literals
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.runs import RunRecord


@workflow
def tenfold(number: int) -> int:
    return 10 * number


@workflow
def following(number: int) -> int:
    return number + 1


@workflow
def takes_two(one: int, two: int) -> int:
    return one + two


@workflow
def text(content: str) -> str:
    return content


@workflow
class Tally:
    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        if "TALLY_FAILS" in os.environ:
            raise ValueError("it fails now")
        self.total += number
        return self.total


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def made(storage: Any, *nodes: Any) -> LocalWorkflow:
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    return flow


def pair(storage: Any, number: int) -> LocalWorkflow:
    return made(storage, following(tenfold(number).set_name("t")).set_name("f"))


def last(storage: Storage) -> RunRecord:
    return storage.runs("w")[-1]


@pytest.mark.parametrize("kind", ["finished", "saved"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_listener_that_raises(
    storage: FileStorage, kind: str, error: type[BaseException]
) -> None:
    """The record has the result that was saved just before, not the one that this replaced."""

    def listen(event: Any) -> None:
        if (event.kind, event.node) == (kind, "t"):
            raise error

    pair(storage, 1).run()
    flow = pair(storage, 2)
    flow.listeners.append(listen)
    with pytest.raises(error):
        flow.run()
    record, info = last(storage), storage.task_info("w", "t")
    assert "computed" == record["t"].action
    assert 20 == record.read("t")
    assert (info.call, info.digest) == (record["t"].call, record["t"].digest)


def test_a_call_that_is_replayed(storage: FileStorage) -> None:
    """It has the size of its stored result, as it has the digest; so have those not needed."""

    def flow(count: int) -> LocalWorkflow:
        tally = Tally()
        return made(storage, *(tally.add(number).set_name(f"a{number}") for number in range(count)))

    assert [0, 1] == flow(2).run()
    assert [0, 1, 3] == flow(3).run()
    infos = [storage.task_info("w", f"a{number}") for number in range(3)]
    nodes = [last(storage)[f"a{number}"] for number in range(3)]
    assert [(i.size, i.digest) for i in infos] == [(n.bytes, n.digest) for n in nodes]


def test_results_with_and_without_a_stored_copy(storage: FileStorage) -> None:
    """They can't be compared: one digest is of the value, the other one of the stored bytes."""
    for logs in (False, True, True, False):
        flow = pair(storage, 1)
        if logs:
            flow.log_nodes("t")
        flow.run()
    first, second, third, fourth = storage.runs("w")
    assert second["t"].value
    for before, after in ((first, second), (second, third), (third, fourth), (first, fourth)):
        assert "result" not in {change.what for change in before.compare(after)}


def test_a_graph_that_grows_after_an_error(storage: FileStorage) -> None:
    """The next run has a record of its own, in which the nodes of the first are reused."""
    flow = made(storage)
    first, bad = tenfold(1).set_name("first"), following(text("x")).set_name("bad")
    flow.add(first, bad)
    with pytest.raises(TypeError):
        flow.value(bad)
    assert 10 == flow.value(first)
    bad_run, run = storage.task_info("w", "text_0000").run, storage.task_info("w", "first").run
    assert bad_run != run
    flow.add(following(first).set_name("second"))
    with pytest.raises(TypeError):
        flow.run()
    one, two = storage.runs("w")
    assert [bad_run, run] == [one.id, two.id]
    assert "computed" == one["text_0000"].action
    assert ["reused", "computed", "not run"] == [
        two[name].action for name in ("text_0000", "first", "second")
    ]
    before, after = one["text_0000"], two["text_0000"]
    assert (before.call, before.digest, before.bytes) == (after.call, after.digest, after.bytes)
    assert (0, 0, "", 0) == (after.seconds, after.begun, after.worker, after.attempts)
    assert "x" == two.read("text_0000")


@pytest.mark.parametrize("long", ["x" * 5000, b"x" * 5000])
def test_a_long_argument_is_digested_once(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, long: Any
) -> None:
    """The record has the digest that the plan has made: the argument may have gigabytes."""
    lengths: list[int] = []

    def digest_of(data: bytes) -> bytes:
        lengths.append(len(data))
        return xxh3_128_digest(data)

    monkeypatch.setattr(literals, "xxh3_128_digest", digest_of)
    for action in ("computed", "reused"):
        lengths.clear()
        made(storage, text(long).set_name("t")).run()
        assert action == last(storage)["t"].action
        assert 1 == lengths.count(5000)
    shown = storage.task_info("w", "t").fingerprint["arguments"]["content"]
    assert shown[1] == last(storage)["t"].arguments["content"]["digest"]


def tally(storage: Any, number: int) -> LocalWorkflow:
    """Return a workflow in which the result of another node decides if a second call is made."""
    counter = Tally()
    first = counter.add(1).set_name("first")
    return made(storage, first, counter.add(tenfold(number).set_name("t")).set_name("second"))


def test_a_call_that_is_replayed_after_all(storage: FileStorage) -> None:
    """The record says why, although the plan did not foresee it."""
    assert [1, 11] == tally(storage, 1).run()
    assert [1, 21] == tally(storage, 2).run()
    node = last(storage)["first"]
    expected = ("computed", "replayed for a later call on its object", 1)
    assert expected == (node.action, node.reason, node.attempts)


def test_a_call_that_is_made_twice(storage: FileStorage, tmp_path: Path) -> None:
    """It counts twice: the object was gone when a damaged result had to be computed again."""

    def flow(number: int) -> LocalWorkflow:
        counter = Tally()
        first, second = (counter.add(n).set_name(f"a{n}") for n in range(2))
        flow = made(storage, first, takes_two(second, number).set_name("last"))
        flow.query("a0").set_reuse("never")
        return flow

    flow(1).run()
    file = tmp_path / "store" / "w" / "a1"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    flow(2).run()
    assert [2, 1] == [last(storage)[name].attempts for name in ("a0", "a1")]


def test_a_call_that_fails_when_it_is_replayed(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no result in this run, although that of an earlier run is still stored."""
    tally(storage, 1).run()
    monkeypatch.setenv("TALLY_FAILS", "")
    with pytest.raises(ValueError, match="fails now"):
        tally(storage, 2).run()
    node = last(storage)["first"]
    assert ("failed", "", "", 0) == (node.action, node.digest, node.value, node.bytes)
    assert [1, None] == [row["first"] for row in storage.runs("w").rows("first")]
