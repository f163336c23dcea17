"""What serializers keep beside a result: written once, found again, removed with it.

Over files, and over a store that has the four methods of `BlobStore` and no more.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import json
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_bytes import MemoryStore, header_of, rest_of, sealed
from xxhash import xxh3_128_hexdigest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import (
    DamagedResultError,
    OptionsError,
    ResultExistsError,
    ResultNotFoundError,
    SerializerError,
    SerializerMissingError,
    StorageAccessError,
    UnpicklableResultError,
)
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.options import StorageOptions
from functionfuse.storage.pickling import dumps
from functionfuse.storage.sidedata import SideWriter

calls: list[str] = []


class Grid:
    """What the serializers below claim."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def __reduce__(self) -> Any:
        raise TypeError("only a serializer can keep this")


class FineGrid(Grid):
    pass


class Grids:
    """A serializer that is a class. Writes two files for each grid."""

    name = "grids"
    serializer_class = Grid

    @classmethod
    def pickle(cls, obj: Grid, protocols: dict[str, Any]) -> tuple[str, Any]:
        calls.append("pickle")
        name = generate_name()
        with protocols[FILE_PROTOCOL].open(f"{name}.rows", "wb") as file:
            file.write(repr(obj.rows).encode())
        with protocols[FILE_PROTOCOL].open(f"{name}.kind", "w") as file:
            file.write(type(obj).__name__)
        return cls.name, name

    @classmethod
    def unpickle(cls, pid: Any, protocols: dict[str, Any]) -> Grid:
        calls.append("unpickle")
        with protocols[FILE_PROTOCOL].open(f"{pid}.kind", "r") as file:
            kind = {"Grid": Grid, "FineGrid": FineGrid}[file.read()]
        with protocols[FILE_PROTOCOL].open(f"{pid}.rows") as file:
            return kind(eval(file.read()))

    @classmethod
    def remove(cls, pid: Any, protocols: dict[str, Any]) -> None:
        raise AssertionError("files are removed without the serializer")


class Failing(Grids):
    """Fails after it has written something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def pickle(self, obj: Grid, protocols: dict[str, Any]) -> tuple[str, Any]:  # type: ignore[override]
        Grids.pickle(obj, protocols)
        with protocols[FILE_PROTOCOL].open(generate_name(), "wb") as file:
            file.write(b"half")
            raise self.error


@pytest.fixture(params=["files", "four methods"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    calls.clear()
    memory = request.param == "four methods"
    storage = Storage(MemoryStore()) if memory else FileStorage(tmp_path / "store")
    storage.register_persistent_serializers(Grids)
    yield storage
    assert [] == [path.name for path in tmp_path.iterdir() if path.name != "store"]


def without_serializers(storage: Storage) -> Storage:
    return Storage(storage.store)


def keys(storage: Storage) -> list[str]:
    """Return the keys of all blobs, without the markers of workflows."""
    keys = [blob.key for blob in storage.store.list("")]
    return [key for key in keys if not key.endswith("/.functionfuse")]


def side_files(storage: Storage) -> list[str]:
    return [key for key in keys(storage) if "/.data/" in key]


class Meta(type):
    pass


class Named(metaclass=Meta):
    """Goes by name: an instance of a class of classes."""


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Registered:
    """Reduced by what `copyreg` knows."""

    def __reduce__(self) -> Any:
        raise TypeError("copyreg comes first")


class RegisteredGrid(Grid):
    pass


def test_what_no_serializer_claims_is_pickled_as_ever(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of pickle itself; a type is looked up once, and not for each object."""
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda _: (Registered, ()))
    monkeypatch.setitem(copyreg.dispatch_table, RegisteredGrid, lambda _: (RegisteredGrid, ()))
    value = [
        *[Slotted(number) for number in range(100)],
        *(Named, Named(), Meta, Registered(), print, Path("a"), re.compile("a"), 1 + 2j, keys),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        np.arange(3),
        slice(1, 2),
    ]
    keeper = SideWriter(storage.store, "w/", [Grids])
    asked = collections.Counter[type]()
    claims = keeper.claims

    def noted(kind: type) -> bool:
        asked[kind] += 1
        return claims(kind)

    monkeypatch.setattr(keeper, "claims", noted)
    assert pickle.dumps(value, 5) == b"".join(dumps(value, keeper).frames)
    assert 1 == asked[Slotted]
    assert not keeper.files
    storage.save("w", "t", [RegisteredGrid([[1]])])
    assert ["pickle"] == calls


def test_a_serializer_s_object_comes_back(storage: Storage) -> None:
    """At any depth, through a class of which its type is a subclass, as one object."""
    grid, fine = Grid([[1, 2]]), FineGrid([[3]])
    value = {"a": [grid, ({"b": grid},)], "c": (fine, grid), "d": {"e": np.arange(500)}}
    storage.save("w", "t", value)
    assert ["pickle", "pickle"] == calls
    assert 4 == len(side_files(storage))
    read = storage.read_task("w", "t")
    assert ["unpickle", "unpickle"] == calls[2:]
    assert read["a"][0] is read["a"][1][0]["b"] is read["c"][1]
    assert ([[1, 2]], Grid) == (read["a"][0].rows, type(read["a"][0]))
    assert ([[3]], FineGrid) == (read["c"][0].rows, type(read["c"][0]))
    assert 499 == read["d"]["e"][-1]


def test_the_most_special_serializer_is_taken(storage: Storage) -> None:
    """That of the nearest class in the method resolution order; an instance is one, too."""

    class Fine(Grids):
        name = "fine"
        serializer_class = FineGrid

    storage.register_persistent_serializers(Fine())
    info = storage.save("w", "t", [Grid([]), FineGrid([[1]])])
    assert ["grids", "fine"] == [side.serializer for side in info.side_data]
    assert [Grid, FineGrid] == [type(grid) for grid in storage.read_task("w", "t")]


def test_falling_back_to_cloudpickle_writes_nothing_twice(storage: Storage) -> None:
    """An object that pickle has handed to a serializer already is not handed to it again."""
    grid = Grid([[1]])
    step = 2
    storage.save("w", "t", [grid, grid, lambda x: x + step])
    assert ["pickle"] == calls
    assert 2 == len(side_files(storage))
    read = storage.read_task("w", "t")
    assert (read[0] is read[1], 3) == (True, read[2](1))
    assert storage.task_info("w", "t").by_value


def test_equal_values_have_equal_digests(storage: Storage) -> None:
    """Though their files have fresh names: what is made from them is not computed again."""

    def digest(*grids: list[list[int]], more: object = None) -> str:
        value = [*map(Grid, grids), np.ones(2000), more]
        return storage.save("w", generate_name(), value).digest

    expected = digest([[1, 2]], [[3]])
    assert expected == digest([[1, 2]], [[3]])
    assert expected != digest([[1, 2]], [[4]])
    assert expected != digest([[3]], [[1, 2]])
    assert digest(more=generate_name()) != digest(more=generate_name())

    big = np.ones(3 << 20)
    assert digest([[1]], more=big) == digest([[1]], more=big) != digest([[2]], more=big)


def test_the_header_lists_the_files(storage: Storage) -> None:
    """Serializer, what provides it, names, sizes, digests; `verify` counts their bytes."""

    class Provided(Grids):
        __module__ = "numpy.grids"

    storage.register_persistent_serializers(Provided)
    info = storage.save("w", "t", Grid([[1, 2, 3]]))
    (side,) = info.side_data
    assert ("grids", f"numpy {np.__version__}") == (side.serializer, side.distribution)
    assert info == storage.task_info("w", "t")
    assert sorted(side_files(storage)) == sorted(f"w/.data/{name}" for name, *_ in side.files)
    for name, size, digest in side.files:
        data = storage.store.get(f"w/.data/{name}")
        assert (size, digest) == (len(data), xxh3_128_hexdigest(data))
    (record,) = storage.verify()
    assert ("", info.size + sum(size for _, size, _ in side.files)) == (record.problem, record.size)
    other = storage.save("w", "t", Grid([[1, 2, 4]]))
    assert info.digest != other.digest


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), OSError),
        (MemoryError(), MemoryError),
        (ValueError("no"), SerializerError),
    ],
)
def test_a_serializer_that_fails_leaves_nothing(
    storage: Storage, error: Exception, raised: type[Exception]
) -> None:
    """What it wrote is removed; an earlier result stays whole."""
    storage.save("w", "t", Grid([[1]]))
    before = keys(storage)
    storage.register_persistent_serializers(Failing(error))
    with pytest.raises(raised) as caught:
        storage.save("w", "t", [1, {"a": Grid([[2]])}])
    assert raised is type(caught.value)
    if raised is SerializerError:
        assert str(caught.value).startswith("result[1]['a'] is a ")
    assert "task 't'" in caught.value.__notes__[-1]
    assert 2 == calls.count("pickle")  # it is not tried again by other means
    del caught, error
    assert before == keys(storage)
    storage.register_persistent_serializers(Grids)
    assert [[1]] == storage.read_task("w", "t").rows


def test_a_failure_after_the_serializer_leaves_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the pickle, of the commit, or because there is a result already."""
    storage.save("w", "t", Grid([[1]]))
    before = keys(storage)
    with pytest.raises(UnpicklableResultError):
        storage.save("w", "t", [Grid([[2]]), (number for number in ())])
    assert before == keys(storage)
    with pytest.raises(ResultExistsError):
        storage.save("w", "t", Grid([[2]]), if_absent=True)
    assert before == keys(storage)
    put = storage.store.put

    def fail(key: str, *args: Any, **kwargs: Any) -> None:
        if key == "w/t":
            raise OSError("no connection")
        put(key, *args, **kwargs)

    monkeypatch.setattr(storage.store, "put", fail)
    with pytest.raises(OSError, match="no connection"):
        storage.save("w", "t", Grid([[2]]))
    assert before == keys(storage)
    assert [[1]] == storage.read_task("w", "t").rows


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_failure_after_the_commit_leaves_the_new_result_whole(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Also where it can't be told whether the commit took place; `gc` removes what is too much."""
    storage.save("w", "t", Grid([[1]]))
    put, store = storage.store.put, storage.store

    def lose(*_: Any, **__: Any) -> Any:
        raise OSError("no connection")

    def answer_gets_lost(key: str, *args: Any, **kwargs: Any) -> None:
        put(key, *args, **kwargs)
        if key == "w/t":
            if not told:
                monkeypatch.setattr(store, "head", lose)
            lose()

    monkeypatch.setattr(store, "put", answer_gets_lost)
    with pytest.raises(OSError, match="no connection"):
        storage.save("w", "t", Grid([[2]]))
    monkeypatch.undo()
    assert [[2]] == storage.read_task("w", "t").rows
    assert 4 == len(side_files(storage))
    storage.gc(-1)
    assert [[2]] == storage.read_task("w", "t").rows
    assert 2 == len(side_files(storage))


def test_side_data_is_flushed_before_the_commit(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power must not leave a result with torn files, which reading doesn't check."""
    flushed: set[str] = set()
    store, put, flush = storage.store, storage.store.put, storage.store.flush

    def noted(keys: Any) -> None:
        keys = list(keys)
        flush(keys)
        flushed.update(keys)

    def commit(key: str, *args: Any, **kwargs: Any) -> None:
        if key == "w/t":
            assert flushed == set(side_files(storage))
        put(key, *args, **kwargs)

    monkeypatch.setattr(store, "flush", noted)
    monkeypatch.setattr(store, "put", commit)
    storage.save("w", "t", Grid([[1]]))
    assert 2 == len(flushed)


def test_the_first_side_data_of_a_workflow_is_removed_when_it_is_replaced(
    storage: Storage,
) -> None:
    """Though the storage has seen before that nothing lay beside its results."""
    storage.save("w", "other", 1)
    storage.save("w", "t", Grid([[1]]))
    storage.save("w", "t", 1)
    assert ["w/other", "w/t"] == keys(storage)


def test_what_is_known_to_be_missing_is_not_looked_for(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that replaces nothing lists and reads nothing, and removes no side data."""
    storage.save("w", "t", Grid([[1]]))
    own = side_files(storage)
    storage.new_workflow("w")

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("nothing is looked at")

    for name in ("names", "list", "get", "head", "heads"):
        monkeypatch.setattr(storage.store, name, refuse)
    storage.save("w", "t", 1, replaces=None)
    monkeypatch.undo()
    assert own
    assert own == side_files(storage)


def test_who_may_only_write_can_save(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A header that can't be read is no error of the save; its side data is left for gc."""
    storage.save("w", "t", Grid([[1]]))
    left = side_files(storage)

    def refuse(*_: object) -> Any:
        raise StorageAccessError("you may not read here")

    with monkeypatch.context() as patch:
        patch.setattr(storage.store, "heads", refuse)
        storage.save("w", "t", 1)
    assert "left for gc: task 't' of workflow 'w'" in caplog.text
    assert 1 == storage.read_task("w", "t")
    assert left == side_files(storage)
    assert left == [leftover.key for leftover in storage.gc(older_than=0)]


def test_a_value_that_looks_like_a_header(storage: Storage) -> None:
    """Only the header says whether there is side data; also if it is longer than a first read."""
    looks = ',"side_data":[],'
    for fingerprint in ({}, {"long": "x" * 9000}):
        storage.save("w", "t", [looks, Grid([[1]])], fingerprint=fingerprint)
        assert 2 == len(side_files(storage))
        storage.save("w", "t", 1)
        assert ["w/t"] == keys(storage)
    storage.save("w", "t", [looks, Grid([[1]])])
    storage.remove_task("w", "t")
    assert [] == keys(storage)


@pytest.mark.parametrize("damage", [b"\x93FUS", b"", b"\x93FUSE\r\n\x1a\1\0\0\0\xff\xff\0\0"])
def test_a_damaged_header_is_replaced_and_removed(storage: Storage, damage: bytes) -> None:
    """What it listed is unknown, and left for `gc`."""
    for act in (lambda: storage.save("w", "t", 1), lambda: storage.remove_task("w", "t")):
        storage.save("w", "t", Grid([[1]]))
        storage.store.put("w/t", [damage])
        act()
        assert 2 == len(side_files(storage))
        storage.gc(-1)
        assert [] == side_files(storage)


def test_a_copy_under_another_name_does_not_own_the_side_data(storage: Storage) -> None:
    """A copied file is no result of that task, so nothing beside it is removed."""
    storage.save("w", "t", Grid([[1]]))
    for act in (lambda: storage.save("w", "copy", 1), lambda: storage.remove_task("w", "copy")):
        storage.store.put("w/copy", [storage.store.get("w/t")])
        act()
        assert [[1]] == storage.read_task("w", "t").rows
    header = storage.save("w", "t", Grid([[1]]), fingerprint={"call": "1" * 32})
    storage.store.put("w/copy", [storage.store.get("w/t")])
    storage.save("w", "t", 2, fingerprint={"call": "2" * 32})
    storage.remove_task("w", "copy")
    assert [[1]] == storage.read_task("w", "t", call=header.call).rows


def test_another_value_in_the_place_of_a_planned_one_is_not_found(storage: Storage) -> None:
    """Also when it is put there, and the old files are removed, while the planned one is read."""

    class Replaced(Grids):
        @classmethod
        def unpickle(cls, pid: Any, protocols: dict[str, Any]) -> Grid:
            others = Storage(storage.store)
            others.register_persistent_serializers(Grids)
            others.save("w", "t", Grid([[2]]))
            return Grids.unpickle(pid, protocols)

    planned = storage.save("w", "t", Grid([[1]])).digest
    storage.register_persistent_serializers(Replaced)
    with pytest.raises(ResultNotFoundError):
        storage.read_unchanged("w", "t", planned)


def test_overwriting_removes_the_old_files_after_the_commit(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new result is there, the old one is whole."""
    storage.save("w", "t", Grid([[1]]))
    old = side_files(storage)
    put, delete, events = storage.store.put, storage.store.delete, []

    def noted(key: str, *args: Any, **kwargs: Any) -> None:
        if key == "w/t":
            assert set(old) < set(side_files(storage))
            assert [[1]] == storage.read_task("w", "t").rows
            events.append("commit")
        put(key, *args, **kwargs)

    def removed(found: Any) -> None:
        found = list(found)
        events.append(sorted(found))
        delete(found)

    monkeypatch.setattr(storage.store, "put", noted)
    monkeypatch.setattr(storage.store, "delete", removed)
    storage.save("w", "t", Grid([[2]]))
    assert ["commit", sorted(old)] == events
    monkeypatch.undo()
    assert [[2]] == storage.read_task("w", "t").rows
    storage.save("w", "t", "no side data")
    assert ["w/t"] == keys(storage)


@pytest.mark.parametrize(
    "remove",
    [
        lambda storage: storage.remove_task("w", "t"),
        lambda storage: storage.remove_task("w", pattern="t*"),
        lambda storage: storage.remove_workflow("w"),
        lambda storage: storage.save("w", "t", 1),
    ],
    ids=["task", "pattern", "workflow", "overwritten"],
)
def test_files_are_removed_without_the_serializer(
    storage: Storage, remove: Callable[[Storage], Any]
) -> None:
    """By who doesn't know it; nothing is unpickled. Those of others stay."""
    storage.save("w", "t", [Grid([[1]]), Grid([[2]])])
    storage.save("v", "t", Grid([[3]]))
    others = [key for key in keys(storage) if key.startswith("v/")]
    remove(without_serializers(storage))
    assert others == [key for key in keys(storage) if key != "w/t"]
    assert "unpickle" not in calls
    assert [[3]] == storage.read_task("v", "t").rows


def test_reading_without_the_serializer(storage: Storage) -> None:
    """The error tells which is missing, and what to install and to call."""

    class Provided(Grids):
        __module__ = "numpy.grids"

    storage.save("w", "unknown", Grid([[1]]))
    storage.register_persistent_serializers(Provided)
    storage.save("w", "known", Grid([[1]]))
    other = without_serializers(storage)
    with pytest.raises(SerializerMissingError, match=r"serializer 'grids'; register it"):
        other.read_task("w", "unknown")
    expected = rf"'grids' from numpy {np.__version__} \(pip install numpy\); register"
    with pytest.raises(SerializerMissingError, match=expected) as caught:
        other.read_task("w", "known")
    assert isinstance(caught.value, ImportError)
    assert ["known", "unknown"] == other.list_tasks("w")
    assert ["", ""] == [record.problem for record in other.verify()]


def test_a_missing_file_is_damage(storage: Storage) -> None:
    """The result is there, so it is not "not found"."""
    storage.save("w", "t", Grid([[1]]))
    storage.store.delete([key for key in side_files(storage) if key.endswith(".kind")])
    with pytest.raises(
        DamagedResultError, match=r"serializer 'grids' is missing: .*\.kind"
    ) as caught:
        storage.read_task("w", "t")
    assert not isinstance(caught.value, FileNotFoundError)
    storage.remove_task("w", "t")
    assert [] == keys(storage)


def test_reading_beside_a_writer(storage: Storage) -> None:
    """A result that is replaced while it is read is read again: its old files may be gone."""
    storage.save("w", "t", [Grid([[0]]), Grid([[0]])])
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            storage.save("w", "t", [Grid([[number]]), Grid([[number]])])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(150):
            first, second = storage.read_task("w", "t")
            assert first.rows == second.rows
    finally:
        stop.set()
        writer.join()


def test_a_result_of_a_newer_format_can_be_replaced_and_removed(storage: Storage) -> None:
    """Although it can't be told what side data it has; `gc` keeps that, and removes it later."""
    storage.save("w", "other", Grid([[1]]))
    replace = partial(storage.save, "w", "t", 1)
    for change, copies in ((replace, 1), (partial(storage.remove_task, "w", "t"), 0)):
        storage.save("w", "t", Grid([[2]]))
        data = bytes(storage.store.get("w/t"))
        storage.store.put("w/t", [sealed(header_of(data), rest_of(data), version=9)])
        before = side_files(storage)
        assert [] == storage.gc(-1)
        change()
        assert before == side_files(storage)
        assert 2 + copies == len(storage.gc(-1))
    assert [[1]] == storage.read_task("w", "other").rows


def test_a_key_covers_side_data(storage: Storage) -> None:
    """Where there is a key, no serializer sees a file that is not what was signed."""
    signed = Storage(storage.store, StorageOptions(key="key"))
    signed.register_persistent_serializers(Grids)
    signed.save("w", "t", Grid([[1]]))
    assert [[1]] == signed.read_task("w", "t").rows
    storage.store.put(next(key for key in side_files(storage) if "rows" in key), [b"[[9]]"])
    with pytest.raises(DamagedResultError, match="serializer 'grids' is not what was written"):
        signed.read_task("w", "t")
    assert [[9]] == storage.read_task("w", "t").rows


HOSTILE = ["../../x", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\0b", "ü" * 200, "\udcff", " "]


@pytest.mark.parametrize("name", HOSTILE)
def test_file_names_of_any_text_stay_in_the_store(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    """Of the storage's own protocols, and of what serializers are handed."""
    files = storage.protocols[FILE_PROTOCOL]
    with files.open(name, "wb") as file:
        file.write(b"1")
    with files.open(name) as file:
        assert b"1" == file.read()
    files.remove(name)
    files.remove(name)
    with pytest.raises(FileNotFoundError):
        files.open(name)

    class Named(Grids):
        @staticmethod
        def pickle(obj: Grid, protocols: dict[str, Any]) -> tuple[str, Any]:  # type: ignore[override]
            with protocols[FILE_PROTOCOL].open(name, "wb") as file:
                file.write(b"2")
            return "grids", name

        @staticmethod
        def unpickle(pid: Any, protocols: dict[str, Any]) -> Any:  # type: ignore[override]
            with protocols[FILE_PROTOCOL].open(pid) as file:
                return file.read()

    storage.register_persistent_serializers(Named)
    storage.save(name, name, Grid([]))
    assert b"2" == storage.read_task(name, name)
    assert [""] == [record.problem for record in storage.verify()]
    assert all(key.count("/") <= 2 and "/.." not in key for key in keys(storage))
    storage.remove_workflow(name)
    assert [] == keys(storage)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_modes_of_files(storage: Storage) -> None:
    """Bytes and text, for reading, and for writing anew; text is UTF-8."""
    files = storage.protocols[FILE_PROTOCOL]
    for mode, data in (("w", "ü1"), ("wt", "ü2"), ("wb", b"3"), ("w+b", b"4"), ("xb", b"5")):
        if mode == "xb":
            files.remove("f")
        with files.open("f", mode) as file:
            file.write(data)
        with files.open("f", "r" if isinstance(data, str) else "rb") as file:
            assert data == file.read()
    with files.open("f", "w+b") as file:
        file.write(b"abcdef")
        file.seek(2)
        file.write(b"XY")
        file.seek(0)
        assert b"abXYef" == file.read()
    with files.open("f") as file:
        assert (b"abXY", 4) == (file.read(4), file.tell())
    with files.open("empty", "wb"):
        pass
    with files.open("empty") as file:
        assert b"" == file.read()
    with pytest.raises(ResultNotFoundError):
        files.open("none")


def test_a_staged_file_counts_when_it_is_closed() -> None:
    """Not before, and not if an error ended the writing; there is no adding to what is there."""
    store = MemoryStore()
    files = Storage(store).protocols[FILE_PROTOCOL]
    file = files.open("f", "wb")
    file.write(b"1")
    assert {} == store.blobs
    file.close()
    file.close()
    assert ["f"] == list(store.blobs)
    with contextlib.suppress(ZeroDivisionError), files.open("g", "wb") as file:
        file.write(b"1")
        raise ZeroDivisionError
    assert ["f"] == list(store.blobs)
    for mode in ("a", "r+", "ab", "r+b", "nonsense"):
        with pytest.raises(ValueError, match="read, or written anew"):
            files.open("f", mode)


def test_durable_results_flush_their_files_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side data survives a loss of power before the result that names it may."""
    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(Grids)
    storage.new_workflow("w")
    put, events = storage.store.put, []

    def noted(key: str, *args: Any, durable: bool = False, **kwargs: Any) -> None:
        if ".data" not in key:
            events.append((key, durable))
        put(key, *args, durable=durable, **kwargs)

    monkeypatch.setattr(storage.store, "put", noted)
    monkeypatch.setattr(storage.store, "flush", lambda keys: events.append(sorted(keys)))
    storage.save("w", "t", Grid([]), durable=True)
    assert [sorted(side_files(storage)), ("w/t", True)] == events
    events.clear()
    replaced = side_files(storage)
    storage.save("w", "t", Grid([]))
    assert [sorted(set(side_files(storage)) - set(replaced)), ("w/t", False)] == events


@pytest.mark.parametrize(
    ("serializer", "match"),
    [
        (1, "has no name, serializer_class, pickle, unpickle, remove"),
        (
            type("S", (), {"name": "s", "serializer_class": Grid, "pickle": 1}),
            "no unpickle, remove",
        ),
        (type("S", (Grids,), {"serializer_class": dict}), "which pickle always writes itself"),
        (type("S", (Grids,), {"serializer_class": list[int]}), "is no class"),
        (type("S", (Grids,), {"serializer_class": "Grid"}), "is no class"),
        (type("S", (Grids,), {"serializer_class": {}}), "is no class"),
    ],
)
def test_what_is_no_serializer_is_refused(serializer: Any, match: str) -> None:
    """When it is registered, and not when something is saved."""
    with pytest.raises(OptionsError, match=match):
        Storage(MemoryStore()).register_persistent_serializers(serializer)


def test_everything_works_over_four_methods() -> None:
    """List, names and head have defaults, and the verbs of a storage need no more."""
    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(Grids)
    names = ["a", "b", "a/b", "[1]", "x" * 300, ".hidden", ".."]
    for flow in ("w", "w2", "../w", "y" * 300):
        storage.new_workflow(flow)
        for name in names:
            storage.save(flow, name, [name, Grid([[1]]), np.arange(200)])
    assert sorted(["w", "w2", "../w", "y" * 300]) == storage.list_workflows()
    assert sorted(names) == storage.list_tasks("w")
    assert ["a", "a/b"] == storage.list_tasks("w", "a*")
    assert ["[1]"] == storage.list_tasks("w", "[1]")
    assert "a" == storage.read_task("../w", "a")[0]
    long = storage.save("w", "many", [np.full(130, number) for number in range(300)])
    assert long == storage.task_info("w", "many")
    assert 29 == len(storage.verify())
    assert {""} == {record.problem for record in storage.verify()}
    usage = {record.workflow: record for record in storage.du()}
    assert 8 == usage["w"].tasks
    assert sum(blob.size for blob in storage.store.list("w/")) == usage["w"].size
    with storage.store.protocols("w/.data/")[FILE_PROTOCOL].open("orphan", "wb") as file:
        file.write(b"123")
    assert [] == storage.gc()
    (leftover,) = storage.gc(-1, dry_run=True)
    assert ("w/.data/orphan", "side data", 3) == (leftover.key, leftover.kind, leftover.size)
    assert [leftover] == storage.gc(-1)
    assert [] == storage.gc(-1)
    with pytest.raises(ResultExistsError):
        storage.save("w", "a", 1, if_absent=True)
    storage.remove_task("w", "a/b")
    storage.remove_task("w", pattern="*")
    storage.remove_workflow("../w")
    assert sorted(["w", "w2", "y" * 300]) == storage.list_workflows()
    storage.remove_workflow("w")
    assert sorted(["w2", "y" * 300]) == storage.list_workflows()
    with pytest.raises(ResultNotFoundError):
        storage.remove_workflow("w")
    assert not any(key.startswith(("w/", "%2E")) for key in keys(storage))


def test_a_header_that_is_damaged_where_no_plan_looks(storage: Storage) -> None:
    """The node is computed, and the result replaced."""

    def run(number: int) -> Any:
        local = LocalWorkflow(workflow(abs)(number).set_name("t"), workflow_name="w")
        local.set_storage(storage)
        return local.run()

    run(1)
    data = bytes(storage.store.get("w/t"))
    header = {**header_of(data), "side_data": [["s", "d", [["../x", 3, "0" * 32]]]]}
    storage.store.put("w/t", [sealed(header, rest_of(data))])
    assert 2 == run(2)
    assert 2 == storage.read_task("w", "t")
    written = json.dumps({**header, "fingerprint": {}}, separators=(",", ":")) + "\n"
    storage.store.put("w/t", [sealed(written.encode(), rest_of(data))])
    storage.save("w", "t", 3)
    assert 3 == storage.read_task("w", "t")


def test_a_save_of_a_subclass_may_not_know_of_headers(storage: Storage) -> None:
    """It is given what it takes."""

    class Older(Storage):
        def save(  # type: ignore[override]
            self,
            workflow_name: str,
            task_name: str,
            obj: Any,
            *,
            function: str = "",
            seconds: float | None = None,
            fingerprint: Any = None,
            describe: Any = None,
        ) -> Any:
            details: dict[str, Any] = {"fingerprint": fingerprint, "describe": describe}
            return super().save(
                workflow_name, task_name, obj, function=function, seconds=seconds, **details
            )

    older = Older(storage.store)
    for number in (1, 2):
        local = LocalWorkflow(workflow(abs)(number).set_name("t"), workflow_name="w")
        local.set_storage(older)
        assert number == local.run()
