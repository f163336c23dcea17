"""The fields of records of runs, where a careless change would put a wrong value, or a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore, header_of, rest_of, sealed

from functionfuse import workflow
from functionfuse.backends.plugins import InitializerPlugin
from functionfuse.errors import DamagedResultError, ResultNotFoundError
from functionfuse.storage import Storage, runrecord, runs
from functionfuse.storage.options import StorageOptions
from run_records import id_of, last, made, raw, record


@workflow
def scaled(data: Any, factor: float = 1.0) -> float:
    if factor < 0:
        raise ValueError(f"{factor} is below 0")
    return sum(data) * factor


@workflow
def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def storage() -> Storage:
    return Storage(MemoryStore())


def test_the_node_of_the_error_is_the_one_that_raised_it(storage: Storage) -> None:
    """It is not another one that failed before."""
    flow = made(storage, scaled([1], -1.0).set_name("bad"), interrupted().set_name("stop"))
    with pytest.raises(KeyboardInterrupt):
        flow.run(keep_going=True)
    record = last(storage)
    assert ["failed", "failed"] == [node.action for node in record.nodes]
    assert {"type": "KeyboardInterrupt", "text": "", "node": "stop"} == record.error
    bad = [scaled([number], -1.0).set_name(f"bad {number}") for number in range(3)]
    with pytest.raises(ValueError, match="below"):
        made(storage, *bad).run(keep_going=True)
    record = last(storage)
    assert record.error is not None
    assert "bad 0" == record.error["node"]


def test_an_older_result_is_none_of_the_run(storage: Storage) -> None:
    """Where a node failed or did not run, the record has no digest of what was stored before."""
    for factor in (1.0, -1.0):
        first = scaled([1, 2], factor).set_name("first")
        flow = made(storage, scaled([first, 1], 2.0).set_name("after"))
        if factor > 0:
            flow.run()
            continue
        with pytest.raises(ValueError, match="below"):
            flow.run()
    for node in last(storage).nodes:
        assert (0, "", "") == (node.bytes, node.digest, node.value)
        with pytest.raises(ResultNotFoundError):
            last(storage).read(node.name)


def test_a_result_that_is_always_reused_has_its_own_call(storage: Storage) -> None:
    """It is that of the stored result, although the arguments of the run are others."""
    made(storage, scaled([1], 2.0).set_name("s")).run()
    flow = made(storage, scaled([1], 3.0).set_name("s"))
    flow.set_reuse("always")
    assert 2.0 == flow.run()
    node, info = last(storage)["s"], storage.task_info("w", "s")
    assert ("reused", info.call, 3.0) == (node.action, node.call, node.arguments["factor"])
    assert 2.0 == last(storage).read("s")


def test_the_value_of_a_logged_node(storage: Storage) -> None:
    """A digest of it is known if a node takes it, though it isn't stored; equal for equal ones."""
    found = []
    for factor in (1.0, 1.0, 2.0):
        first = scaled([1], factor).set_name("first")
        flow = made(storage, scaled([first]).set_name("after"))
        flow.log_nodes("first")
        flow.run()
        found.append(last(storage)["first"])
    assert [("computed", "", 0)] * 3 == [(node.action, node.digest, node.bytes) for node in found]
    assert found[0].value
    assert found[0].value == found[1].value != found[2].value


def test_an_argument_of_an_earlier_part(storage: Storage) -> None:
    """The record has its digest from when the node ran, though the list has changed since."""
    flow, data = made(storage), [1, 2]
    first = scaled(data).set_name("first")
    flow.value(first)
    early = last(storage)["first"]
    data.append(3)
    flow.value(scaled([first]).set_name("after"))
    assert early == last(storage)["first"]
    assert early.arguments["data"]["digest"]


def test_value_that_reads_leaves_no_record(storage: Storage) -> None:
    """Only a run does, and `value` that computes."""
    made(storage, scaled([1]).set_name("s")).run()
    flow, node = made(storage), scaled([1]).set_name("s")
    assert 1.0 == flow.value(node)
    assert 1 == len(storage.runs("w"))
    flow.run()
    assert 2 == len(storage.runs("w"))


# Code without a digest, arguments by position.


def test_ignored_arguments_of_code_without_a_digest(storage: Storage) -> None:
    """They are left out all the same; the function has its full name."""
    stream = (number for number in range(9))

    @workflow(ignore=["token"])
    def next_of(token: str, data: list[int]) -> int:
        return len(token) + sum(data) + next(stream) * 0

    made(storage, next_of("canary-1", [1]).set_name("s")).run()
    node = last(storage)["s"]
    assert ("", ["data"]) == (node.code, list(node.arguments))
    assert storage.task_info("w", "s").function == node.function
    assert b"canary" not in raw(storage)


@workflow(ignore=["token"])
def with_token(token: str, data: Any) -> int:
    return len(data)


def test_an_argument_behind_an_ignored_one(storage: Storage) -> None:
    """It has its own digest."""
    made(storage, with_token("canary-1", [1, 2]).set_name("s")).run()
    [_, digest] = storage.task_info("w", "s").fingerprint["arguments"]["data"]
    assert {"data": {"type": "list", "digest": digest}} == last(storage)["s"].arguments


# Secrets in the texts of errors.


@workflow(ignore=["token", "url"])
def refuses(
    token: Any = "canary-by-default", *, url: Any = "canary-by-keyword", text: str = ""
) -> None:
    raise ValueError(f"refused: {text or token}")


@pytest.mark.parametrize("given", [{}, {"token": None}, {"url": None}])
def test_a_default_that_is_ignored(storage: Storage, given: dict[str, Any]) -> None:
    """It hides the text of an error as an argument does, also that of a keyword."""
    with pytest.raises(ValueError, match="refused"):
        made(storage, refuses(**given).set_name("s")).run()
    record = last(storage)
    assert record.error is not None
    assert ("", "ValueError") == (record.error["text"], record["s"].reason)


def test_a_long_text_is_cut(storage: Storage) -> None:
    """To 2,000 characters."""
    with pytest.raises(ValueError, match="refused"):
        made(storage, refuses(None, url=None, text="x" * 3000).set_name("s")).run()
    record = last(storage)
    assert record.error is not None
    text = "refused: " + "x" * 3000
    assert text[:2000] == record.error["text"]
    assert f"ValueError: {text}"[:2000] == record["s"].reason


# Times and errors.


def test_the_table_of_results_has_the_run(storage: Storage) -> None:
    """It is the run that saved the result."""
    made(storage, scaled([1]).set_name("s")).run()
    assert [last(storage).id] == list(storage.to_frame("w")["run"])


def test_any_text_is_the_id_of_a_run(storage: Storage) -> None:
    """In the header of a result that was saved by hand."""
    run = '"\\\n\u00e4\ud800'
    storage.save("w", "t", 1, run=run)
    assert run == storage.task_info("w", "t").run
    data = bytes(storage.store.get("w/t"))
    storage.store.put("w/t", [sealed({**header_of(data), "run": 5}, rest_of(data))])
    with pytest.raises(DamagedResultError):
        storage.task_info("w", "t")


def test_a_node_that_was_not_prepared(storage: Storage) -> None:
    """Its function did not begin, so it has no time and no worker."""

    def fails() -> None:
        raise ValueError("not prepared")

    flow = made(storage, scaled([1]).set_name("s"))
    flow.set_plugin("s", InitializerPlugin(fails))
    with pytest.raises(ValueError, match="not prepared"):
        flow.run()
    node = last(storage)["s"]
    assert ("failed", 0.0, 0.0, "") == (node.action, node.begun, node.seconds, node.worker)


@workflow(retries=1, retry_on=OSError, retry_delay=0)
def sometimes(folder: str) -> int:
    path = Path(folder, "attempts")
    if not path.exists():
        path.touch()
        raise OSError("not yet")
    return 1


def test_events_of_attempts(storage: Storage, tmp_path: Path) -> None:
    """`retrying` has the begin of its attempt; the start of the next attempt has none."""
    events: list[Any] = []
    flow = made(storage, sometimes(str(tmp_path)).set_name("s"))
    flow.listeners.append(events.append)
    flow.run()
    found = [(event.kind, bool(event.begun)) for event in events if event.attempt]
    begun = {"started": False, "retrying": True, "finished": True}
    assert [(kind, begun[kind]) for kind, _ in found] == found
    assert ["started", "retrying", "started", "finished"] == [kind for kind, _ in found]


def test_any_error_of_the_record_leaves_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; also where the run has only reused, as it's no error of writing."""

    class Broken(Storage):
        def record_run(self, *given: Any) -> None:
            raise TypeError("broken")

    storage = Broken(MemoryStore())
    for _ in range(2):
        assert 1.0 == made(storage, scaled([1]).set_name("s")).run()
    assert [True, True] == ["TypeError('broken')" in line for line in caplog.messages]


# With a key, few and short ones.


def test_a_run_signs_its_record() -> None:
    """A storage with the key reads it; one with another key does not."""
    store = MemoryStore()
    signed = Storage(store, StorageOptions(key="key"))
    made(signed, scaled([1]).set_name("s")).run()
    assert 1 == len(signed.runs("w"))
    assert 0 == len(Storage(store, StorageOptions(key="another")).runs("w"))


def test_processes_with_one_run_each(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in fifty removes the records that are too many: the token of its run decides which."""
    monkeypatch.setattr(runs, "_MOST", 3)
    monkeypatch.setattr("functionfuse.storage.storage._PRUNED_EVERY", 50)
    for number in range(50):
        once = Storage(storage.store)
        once.record_run("w", {"id": id_of(number)}, {"name": ()})
        assert (3 if number == 49 else number + 1) == len(list(storage.store.list("w/.runs/")))


def test_a_record_that_unpacks_to_too_much(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't unpacked as a whole, whatever a file of few bytes claims."""
    monkeypatch.setattr(runrecord, "_LARGEST", 10_000)
    record(storage, 1, runrecord.RecordedNode("s" * 100_000, "computed"))
    [run] = storage.runs("w")
    with pytest.raises(DamagedResultError):
        _ = run.nodes


def test_records_are_compressed(storage: Storage) -> None:
    """But small ones are not: that would take longer than it saves."""
    made(storage, *(scaled([number]).set_name(f"n{number}") for number in range(100))).run()
    [blob] = storage.store.list("w/.runs/")
    assert 64 + len(raw(storage)) > 3 * blob.size
    storage.remove_workflow("w")
    made(storage, scaled([1]).set_name("s")).run()
    [blob] = storage.store.list("w/.runs/")
    assert 64 + len(raw(storage)) == blob.size
