"""Lineages of planted headers: odd and damaged ones, what is read of them, and what is shown."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from lineages import CountingStore, names, parent, plant, stored_in
from remote_store import RemoteStore
from result_bytes import header_of, sealed

from functionfuse.errors import DamagedResultError
from functionfuse.storage import Storage
from going_back import TASKS, call_of, chain, made

DIGEST = "0" * 32


@pytest.fixture(params=["files", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return made(request.param, tmp_path)


# What anybody can have written.


def test_circles(storage: Storage) -> None:
    """Results that name each other, or themselves, are listed once."""
    plant(storage, "a", parent("b"), parent("a"))
    plant(storage, "b", parent("a"), before=parent("a"))
    assert ["a", "b"] == names(storage.lineage("w", "a"))
    assert ["b", "a"] == names(storage.lineage("w", "b", down=True))
    assert 4 == len(str(storage.lineage("w", "a")).splitlines())


ODD_NAMES = [
    "../../t",
    "/",
    ".earlier/x",
    "a\nb\x1b[31m",
    "\ud800",
    "x" * 3000,
    "%2F",
    "A",
    "",
    "é",
]


def test_odd_names(storage: Storage) -> None:
    """Any text can be the name of a parent, or its call, and is drawn on one line."""
    plant(storage, "t", *map(parent, ODD_NAMES), *([name, DIGEST, ""] for name in ODD_NAMES))
    lineage = storage.lineage("w", "t")
    assert 1 + 2 * (len(ODD_NAMES) - 1) == len(lineage)
    assert {False} == {node.stored for node in lineage[1:]}
    assert len(lineage) == len(str(lineage).splitlines())
    str(lineage).encode()
    plant(storage, "t", *(["u", DIGEST, name or "x"] for name in ODD_NAMES))
    lineage = storage.lineage("w", "t")
    assert len(lineage) == len(str(lineage).splitlines()) == 1 + len(ODD_NAMES)
    str(lineage).encode()


ODD: list[Any] = [None, 1, "", "abcdef", [], {}, [[]], [1, 2, 3], ["a"], [["a", 1, 2, 3]], {"a": 1}]
ODD += [[["a", {}, "c", ""]], [[[], "b", "c", ""]], [["", "b", "c", ""]], [["a", "", "", ""]], True]


@pytest.mark.parametrize("field", ["call", "parents", "before", "arguments", "code", "why not"])
def test_odd_records(storage: Storage, field: str) -> None:
    """A record of any shape ends the lineage there, and raises nothing."""
    sound = {"call": call_of(1), "parents": [], "before": None, "arguments": {}, "code": ""}
    for value in ODD:
        for record in (sound, {}):
            storage.save("w", "t", 1, fingerprint={**record, field: value})
            for down in (False, True):
                [node, *_] = lineage = storage.lineage("w", "t", down=down)
                assert "t" == node.task
                assert {str} == {type(text) for text in (*node.key, node.code, node.note)}
                assert node.key in {found.key for found in lineage}
                assert str(lineage)
            storage.store.delete([blob.key for blob in storage.store.list("")])


def test_odd_numbers() -> None:
    """A run time of any size is drawn as nothing, or as a time."""
    storage = made("memory", Path())
    storage.save("w", "t", 1)
    data = storage.store.get("w/t")
    for seconds, text in [
        (10**400, "t"),
        (-1, "t"),
        (0.0123, "t  12 ms"),
        (0.00123, "t  1.2 ms"),
        (2, "t  2.0 s"),
        (7200.0, "t  7,200 s"),
    ]:
        header = header_of(bytes(data)) | {"seconds": seconds, "fingerprint": {"call": "c"}}
        storage.store.put("w/t", [sealed(header)])
        assert text == str(storage.lineage("w", "t"))
        assert 1 == len(storage.to_frame("w"))


def test_damaged_headers(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged parent is not stored; downwards it is left out, and logged; itself it raises."""
    chain(storage, 1).run()
    data = bytes(storage.store.get("w/total"))
    header = json.dumps(header_of(data) | {"type": 5}, separators=(",", ":")).encode() + b"\n"
    for damaged in (data[:70] + b"#" + data[71:], data[:80], b"", sealed(header)):
        storage.store.put("w/total", [damaged])
        with pytest.raises(DamagedResultError, match=r"header|cut|not a result") as raised:
            storage.lineage("w", "total")
        assert "while reading task 'total'" in raised.value.__notes__[0]
        lineage = storage.lineage("w", "size")
        assert [("size", True), ("kept", True), ("total", False)] == stored_in(lineage)
        assert lineage[2].note.startswith("not stored: the ")
        caplog.clear()
        assert ["load"] == names(storage.lineage("w", "load", down=True))
        assert "1 result(s) can't be used: w/total" in caplog.text
        caplog.clear()
        assert ["kept", "load", "size"] == list(storage.to_frame("w").index)
        assert "'total' is not in the table: the " in caplog.text


class Bomb:
    """A value that no code may unpickle."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise AssertionError("a value was unpickled")


def test_no_value_is_read(storage: Storage) -> None:
    """Headers are all that is read: nothing is unpickled."""
    for name, above in [("a", []), ("b", [parent("a")])]:
        record = {"call": parent(name)[2], "parents": above}
        storage.save("w", name, Bomb(), fingerprint=record)
    assert ["b", "a"] == names(storage.lineage("w", "b"))
    assert ["a", "b"] == names(storage.lineage("w", "a", down=True))
    assert 2 == len(storage.to_frame("w"))
    with pytest.raises(AssertionError):
        pickle.loads(pickle.dumps(Bomb()))


# What it costs.


def test_a_long_chain_reads_each_header_once() -> None:
    """2,000 levels are 2,000 headers, each read once; no limit of recursion; drawn short."""
    store = CountingStore()
    storage = Storage(store)
    for number in range(2000):
        above = [parent(f"n{number - 1}")] if number else []
        plant(storage, f"n{number}", *above)
    store.read.clear()
    lineage = storage.lineage("w", "n1999")
    assert [f"w/n{number}" for number in reversed(range(2000))] == store.read
    assert 2000 == len(lineage)
    lines = str(lineage).splitlines()
    assert "… and 1,959 more" == lines[-1]
    assert 42 == len(lines)
    assert str(lineage) == repr(lineage)
    store.read.clear()
    assert 2000 == len(storage.lineage("w", "n0", down=True))
    assert 2001 == len(store.read)


def test_a_big_workflow_is_not_read() -> None:
    """Only the headers of the ancestors are, however many other results there are."""
    store = CountingStore()
    storage = Storage(store)
    for number in range(500):
        plant(storage, f"other {number}")
    for name in "cba":
        plant(storage, name, *([parent(chr(ord(name) + 1))] if name < "c" else []))
    store.read.clear()
    assert ["a", "b", "c"] == names(storage.lineage("w", "a"))
    assert ["w/a", "w/b", "w/c"] == store.read


@pytest.mark.parametrize(("levels", "read"), [(8, 8), (100, 26 + 101)])
def test_where_a_read_is_a_request(levels: int, read: int) -> None:
    """A long chain is read many at once, as soon as that takes no longer than the steps so far.

    Four headers are read at once, so all 101 take as long as 26 steps.
    """
    store = RemoteStore()
    storage = Storage(store)
    for number in range(levels):
        above = [parent(f"n{number - 1}")] if number else []
        storage.save(
            "w", f"n{number}", 1, fingerprint={"call": parent(f"n{number}")[2], "parents": above}
        )
    storage.save("w", "other", 1)
    store.asked.clear()
    lineage = storage.lineage("w", f"n{levels - 1}")
    assert [f"n{number}" for number in reversed(range(levels))] == names(lineage)
    assert read == store.asked["head"]
    assert (levels > 8) == store.asked["list"]


# As text and as a table.


def test_the_drawing(storage: Storage) -> None:
    """A tree, each result once; an earlier result of a task that occurs twice has its call."""
    plant(storage, "load")
    plant(storage, "split", parent("load"))
    plant(storage, "fit", parent("split"), parent("gone"))
    plant(storage, "score", parent("fit"), parent("split"), parent("split", "f" * 32))
    call = parent("split")[2][:8]
    assert (
        str(storage.lineage("w", "score"))
        == f"""\
score
├─ fit
│  ├─ split [{call}]
│  │  └─ load
│  └─ gone              (not stored)
├─ split [{call}]     (above)
└─ split [ffffffff]     (not stored)"""
    )
    down = storage.lineage("w", "load", down=True)
    assert (
        str(down)
        == """\
load
└─ split
   ├─ fit
   │  └─ score
   └─ score     (above)"""
    )
    assert str(down) == repr(down)


def test_a_wide_drawing_is_cut(storage: Storage) -> None:
    """It has at most 200 lines, and tells how many results are left out."""
    plant(storage, "t", *(parent(f"n{number}") for number in range(1000)))
    lines = str(storage.lineage("w", "t")).splitlines()
    assert (201, "… and 801 more") == (len(lines), lines[-1])


def test_the_table(storage: Storage) -> None:
    """A row for each task, with the fields of its header; times are in UTC."""
    chain(storage, 1).run()
    frame = storage.to_frame("w")
    assert sorted(TASKS) == list(frame.index)
    assert "task" == frame.index.name
    for task, row in frame.iterrows():
        info = storage.task_info("w", str(task))
        size = info.size + info.side_size
        known = info.function, info.seconds, size, info.type, info.digest, info.call
        assert known == tuple(row[["function", "seconds", "bytes", "type", "digest", "call"]])
        assert info.created == row["created"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert "UTC" == str(frame["created"].dt.tz)
    empty = storage.to_frame("none")
    assert (0, list(frame.columns)) == (len(empty), list(empty.columns))


def test_a_table_without_pandas(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    imported = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install pandas"):
        storage.to_frame("w")
