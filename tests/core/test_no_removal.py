"""A user without the right to remove: all that needs no removal works, and one warning says it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import pytest
from originals import with_digest
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StorageAccessError
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.options import StorageOptions

WHY = "deleting is not allowed"


class Kept:
    """A value that a serializer keeps in a file."""

    def __init__(self, number: int) -> None:
        self.number = number


class KeptSerializer:
    """Writes a file beside the result."""

    name = "kept"
    serializer_class = Kept

    @classmethod
    def pickle(cls, obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
        name = generate_name()
        with protocols[FILE_PROTOCOL].open(name, "wb") as file:
            file.write(b"%d" % obj.number)
        return cls.name, name

    @classmethod
    def unpickle(cls, pid: str, protocols: dict[str, Any]) -> Kept:
        with protocols[FILE_PROTOCOL].open(pid, "rb") as file:
            return Kept(int(file.read()))

    @classmethod
    def remove(cls, pid: Any, protocols: dict[str, Any]) -> None:
        raise AssertionError("files are removed without the serializer")


class KeepingStore(MemoryStore):
    """Blobs in memory that can't be removed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __repr__(self) -> str:
        return f"KeepingStore({self.name!r})"

    def delete(self, keys: Iterable[str]) -> None:
        if list(keys):
            raise StorageAccessError(WHY)


RAN: list[int] = []


@workflow(version="1")
def kept(number: int) -> Kept:
    RAN.append(number)
    return Kept(number)


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Storage:
    storage = Storage(KeepingStore(request.node.name))
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def run(storage: Storage, number: int) -> tuple[int, list[int]]:
    """Run two nodes; return the value of one, and the numbers that were computed."""
    RAN.clear()
    nodes = [kept(number).set_name("a"), kept(number + 1).set_name("b")]
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    value = flow.run()[0].number
    return value, sorted(RAN)


def test_runs_go_back_and_forth(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """Results are stored, reused, set aside and made the latest again, with no removal at all."""
    found = [run(storage, number) for number in (1, 1, 5, 1, 5)]
    assert [(1, [1, 2]), (1, []), (5, [5, 6]), (1, []), (5, [])] == found
    assert 5 == storage.read_task("w", "a").number
    assert {""} == {entry.problem for entry in storage.verify()}
    assert [] == caplog.messages


def test_what_is_replaced_stays(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """Side data of replaced results is left; one warning for all of them names the reason."""
    for number in range(3):
        for name in "ab":
            storage.save("w", name, Kept(number))
    assert 2 == storage.read_task("w", "a").number
    [line] = caplog.messages
    assert line.startswith("side data that is replaced is left for gc: task 'a' of workflow 'w'")
    assert line.endswith(WHY)


def test_results_of_the_original_are_kept(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """They are in their place, and a copy that was checked stays, too."""
    old = with_digest(pickle.dumps({"old": 1}))
    for name in "ab":
        storage.store.put(f"w/{name}", [old])
        storage.save("w", name, 1)
        assert old == bytes(storage.store.get(f"w/.original/{name}"))
        assert 1 == storage.read_task("w", name)
    [line] = caplog.messages
    assert line.startswith("a copy in '.damaged' is left for gc: task 'a' of workflow 'w'")
    assert line.endswith(WHY)


def test_records_and_earlier_results_beyond_their_limits(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They stay; the record of the run is there, and the warnings don't say otherwise."""
    monkeypatch.setattr("functionfuse.storage.runs._MOST", 2)
    monkeypatch.setattr("functionfuse.storage.storage._PRUNED_EVERY", 1)
    options = StorageOptions(earlier={"bytes": 1})
    storage = Storage(KeepingStore(request.node.name), options)
    storage.register_persistent_serializers(KeptSerializer)
    for number in (1, 5, 9):
        assert number == run(storage, number)[0]
    assert 3 == len(storage.runs("w"))
    lines = [line.partition(" of workflow")[0] for line in caplog.messages]
    assert {"old records of runs", "the earlier results"} == set(lines)
    assert all(WHY in line for line in caplog.messages)


def test_what_is_asked_for_is_an_error(storage: Storage) -> None:
    """Whoever calls for a removal is told that it is not allowed, and nothing is lost."""
    run(storage, 1)
    for use in (
        lambda: storage.remove_task("w", "a"),
        lambda: storage.remove_workflow("w"),
    ):
        with pytest.raises(StorageAccessError, match=WHY):
            use()
    assert (1, []) == run(storage, 1)
