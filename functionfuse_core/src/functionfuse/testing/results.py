"""Tests of values under names: `save`, `read_task`, `list_tasks`, `remove_task` and others."""

from __future__ import annotations

import datetime as dt
import decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pytest

from ..errors import (
    DamagedResultError,
    InvalidNameError,
    OptionsError,
    ResultExistsError,
    ResultNotFoundError,
    SerializerMissingError,
    UnpicklableResultError,
)
from ..serializers import FILE_PROTOCOL
from ..storage import Storage
from .resultbase import Grid, Grids, Results, Trap, Unpicklable, sprung

__all__ = ["ResultsByName"]

VALUES: dict[str, Any] = {
    "None": None,
    "numbers": [0, -1, 1 << 200, 0.1, -0.0, 1e300, 2j, True],
    "text": "Grüße, \U0001f600 \ud800 \x00",
    "bytes": b"\x00\xff" * 5000,
    "empty": [[], {}, (), set(), "", b""],
    "nested": {"a": [(1, {"b": {2, 3}}), frozenset("xy")], 4: {None: ...}},
    "bytearray": bytearray(b"can be changed"),
    "2 MiB": bytes(range(256)) * (8 << 10),
    "dates": [dt.date(2020, 2, 29), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)],
    "decimals": [decimal.Decimal("1.10"), decimal.Decimal("Infinity")],
    "paths": PurePosixPath("a/b"),
    "a class": Grid,
    "ranges": [range(5), slice(1, 2)],
}
NAMES = [
    "plain",
    "a b, c=(d) [e]*?",
    "a/b/c",
    "..",
    "../../outside",
    ".hidden",
    "ünïcödé \U0001f600",
    "line\nbreak\ttab",
    "nul\x00byte",
    "%2F%00",
    "CON",
    "lone \udcff surrogate",
    "long " * 100,
    "ä" * 150,
    " ",
    "-rf",
]
each_name = pytest.mark.parametrize("name", NAMES, ids=[ascii(name[:20]) for name in NAMES])


class ResultsByName(Results):
    """A saved value can be read, listed and removed, under any name."""

    @pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
    def test_values_come_back(self, storage: Storage, value: Any) -> None:
        """A value comes back equal and of the same type, also from a second storage."""
        storage.save("w", "t", value)
        for reader in (storage, self.reopen(storage)):
            found = reader.read_task("w", "t")
            assert type(value) is type(found)
            assert value == found

    @each_name
    def test_any_text_is_a_name(self, storage: Storage, name: str) -> None:
        """Any text can name a workflow or a task, in every method."""
        storage.new_workflow(name)
        storage.save(name, name, ["value of", name])
        storage.save("other", "t", 1)
        assert sorted([name, "other"]) == storage.list_workflows()
        assert [name] == storage.list_tasks(name)
        assert [name] == storage.list_tasks(name, name)
        info = storage.task_info(name, name)
        assert (name, name) == (info.workflow, info.task)
        assert ["value of", name] == self.reopen(storage).read_task(name, name)
        assert storage.file_exists(name, name)
        storage.remove_task(name, name)
        assert not storage.file_exists(name, name)
        assert [] == storage.list_tasks(name)
        storage.remove_workflow(name)
        assert ["other"] == storage.list_workflows()

    def test_all_names_stand_side_by_side(self, storage: Storage) -> None:
        """No two names share a result."""
        for name in NAMES:
            storage.save("w", name, name)
        assert sorted(NAMES) == storage.list_tasks("w")
        assert NAMES == [storage.read_task("w", name) for name in NAMES]

    @pytest.mark.parametrize("name", ["", 7, None, b"bytes"], ids=repr)
    def test_what_is_no_name(self, storage: Storage, name: Any) -> None:
        """A wrong name is refused before anything is stored, read or removed."""
        storage.save("w", "t", 1)
        for workflow, task in ((name, "t"), ("w", name)):
            with pytest.raises(InvalidNameError):
                storage.save(workflow, task, 1)
            with pytest.raises(InvalidNameError):
                storage.read_task(workflow, task)
        with pytest.raises(InvalidNameError):
            storage.remove_workflow(name)
        assert 1 == storage.read_task("w", "t")

    @pytest.mark.parametrize("method", ["read_task", "task_info", "remove_task"])
    @pytest.mark.parametrize("names", [("w", "none"), ("none", "t"), ("w", "t/t"), ("W2", "t")])
    def test_a_missing_result(self, storage: Storage, method: str, names: Any) -> None:
        """A missing result raises a FileNotFoundError that names task and workflow."""
        storage.save("w", "t", 1)
        with pytest.raises(ResultNotFoundError) as raised:
            getattr(storage, method)(*names)
        assert isinstance(raised.value, FileNotFoundError)
        assert all(repr(name) in str(raised.value) for name in names)
        assert not storage.file_exists(*names)

    def test_a_result_is_replaced(self, storage: Storage) -> None:
        """A value of any size replaces another; only the last one is stored at the end."""
        for value in ("first", "second" * 100_000, "third"):
            storage.save("w", "t", value)
            assert value == self.reopen(storage).read_task("w", "t")
        assert ["t"] == storage.list_tasks("w")
        assert 1 == len(self.keys(storage))

    def test_what_is_read_belongs_to_the_caller(self, storage: Storage) -> None:
        """Changing a value that was read doesn't change the stored one."""
        storage.save("w", "t", {"rows": [1], "data": bytearray(100_000)})
        found = storage.read_task("w", "t")
        found["rows"].append(2)
        found["data"][:5] = b"other"
        assert {"rows": [1], "data": bytearray(100_000)} == storage.read_task("w", "t")

    def test_what_can_t_be_pickled(self, storage: Storage) -> None:
        """An unpicklable value is an error that leaves no data; an earlier result stays."""
        storage.save("w", "t", "before")
        stored = self.keys(storage)
        for value in (Unpicklable(), [1, {"deep": Unpicklable()}], Grid(1)):
            with pytest.raises(UnpicklableResultError):
                storage.save("w", "t", value)
            with pytest.raises(UnpicklableResultError):
                storage.save("w", "new", value)
        assert "before" == storage.read_task("w", "t")
        assert stored == self.keys(storage)

    def test_functions_and_local_classes(self, storage: Storage) -> None:
        """Functions and classes that can't be imported are stored by value."""

        class Local:
            size = 3

        storage.save("w", "t", [lambda number: number + 1, Local])
        add, local = self.reopen(storage).read_task("w", "t")
        assert (5, 3) == (add(4), local.size)
        assert storage.task_info("w", "t").by_value

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*", ["a", "a 1", "a 2", "b/1", "c[1]", "c1"]),
            ("a*", ["a", "a 1", "a 2"]),
            ("a ?", ["a 1", "a 2"]),
            ("a", ["a"]),
            ("b/*", ["b/1"]),
            ("c[1]", ["c1", "c[1]"]),
            ("A*", []),
            ("none", []),
        ],
    )
    def test_tasks_by_pattern(self, storage: Storage, pattern: str, expected: list[str]) -> None:
        """Glob patterns match whole names; every name matches itself."""
        for name in ("c1", "b/1", "a 2", "a", "c[1]", "a 1"):
            storage.save("w", name, name)
        assert sorted(expected) == storage.list_tasks("w", pattern)
        if expected:
            storage.remove_task("w", pattern=pattern)
            left = {"c1", "b/1", "a 2", "a", "c[1]", "a 1"} - set(expected)
            assert sorted(left) == storage.list_tasks("w")
        else:
            with pytest.raises(ResultNotFoundError):
                storage.remove_task("w", pattern=pattern)

    def test_thousands_of_tasks(self, storage: Storage) -> None:
        """Thousands of tasks are listed in order, have headers, and are removed with one call."""
        names = sorted(f"task {number}" for number in range(self.many))
        for name in names:
            storage.save("w", name, name)
        assert names == storage.list_tasks("w")
        infos = list(storage.task_infos("w", [*names, "none"]))
        assert infos.pop() is None
        assert self.many == len({getattr(info, "digest", None) for info in infos})
        storage.remove_workflow("w")
        assert [] == self.keys(storage)

    def test_a_workflow_is_removed(self, storage: Storage) -> None:
        """All results of a workflow are removed, and none of others whose names begin alike."""
        storage.register_persistent_serializers(Grids())
        for workflow in ("w", "w2", "w/t", "."):
            storage.save(workflow, "t", [workflow, Grid(1)])
        storage.remove_workflow("w")
        assert [".", "w/t", "w2"] == storage.list_workflows()
        assert [["w2", Grid(1)], []] == [storage.read_task("w2", "t"), storage.list_tasks("w")]
        assert 9 == len(self.keys(storage))
        with pytest.raises(ResultNotFoundError):
            storage.remove_workflow("w")
        storage.save("w", "t", "again")
        assert "again" == storage.read_task("w", "t")

    def test_remove_needs_to_know_what(self, storage: Storage) -> None:
        """`remove_task` without a name or a pattern is an error, and removes nothing."""
        storage.save("w", "t", 1)
        with pytest.raises(ValueError, match="pattern"):
            storage.remove_task("w")
        assert ["t"] == storage.list_tasks("w")

    def test_a_new_workflow(self, storage: Storage) -> None:
        """A new workflow is listed, without tasks; making it again removes no results."""
        storage.new_workflow("w")
        assert [[], ["w"]] == [storage.list_tasks("w"), self.reopen(storage).list_workflows()]
        storage.save("w", "t", 1)
        storage.new_workflow("w")
        assert 1 == storage.read_task("w", "t")

    def test_what_is_not_ours_is_left(
        self, storage: Storage, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Blobs of others survive every removal; a folder that has only such is no workflow."""
        storage.save("w", "t", 1)
        others = ["photos/.data/c", "photos/2020/b.jpg", "photos/a.jpg", "w/notes.txt", "w/sub/d"]
        for key in others:
            storage.store.put(key, [b"of somebody else"])
        assert ["w"] == storage.list_workflows() == [usage.workflow for usage in storage.du()]
        assert [[], ["notes.txt", "t"]] == [storage.list_tasks(name) for name in ("photos", "w")]
        assert {"notes.txt", "t"} == {record.task for record in storage.verify()}
        assert [] == storage.gc(-60.0)
        for workflow, task in (("photos", "a.jpg"), ("w", "notes.txt")):
            with pytest.raises(DamagedResultError, match="is not a result of Function Fuse"):
                storage.remove_task(workflow, task)
        for remove in (storage.remove_workflow, partial(storage.remove_task, pattern="*")):
            with pytest.raises(ResultNotFoundError):
                remove("photos")
        storage.remove_task("w", pattern="*")
        assert "1 file(s) or folder(s)" in caplog.text
        storage.remove_workflow("w")
        assert "2 file(s) or folder(s)" in caplog.text
        assert [[], others] == [storage.list_workflows(), self.keys(storage)]

    def test_a_store_of_an_earlier_release(self, storage: Storage) -> None:
        """A workflow without a marker is listed if it has a result; the next save marks it."""
        storage.save("w", "t", 1)
        storage.store.delete(["w/.functionfuse"])
        other = Storage(storage.store)  # it doesn't know that the workflow had a marker
        assert [["w"], ["t"]] == [other.list_workflows(), other.list_tasks("w")]
        other.save("w", "u", 2)
        other.remove_task("w", pattern="*")
        assert ["w"] == other.list_workflows()
        assert ["w/.functionfuse"] == [blob.key for blob in other.store.list("")]

    def test_what_a_header_tells(self, storage: Storage) -> None:
        """`task_info` and `save` return the same header, without the value."""
        saved = storage.save(
            "w", "t", [1, 2], function="m.f", seconds=1.5, fingerprint={"call": "00"}
        )
        info = self.reopen(storage).task_info("w", "t")
        assert saved._replace(packages=dict(saved.packages)) == info
        assert ("w", "t", "m.f", 1.5) == (info.workflow, info.task, info.function, info.seconds)
        assert ("builtins.list", {"call": "00"}) == (info.type, info.fingerprint)
        assert len(self.bytes_of(storage, "t")) == info.size

    def test_digests_and_tokens(self, storage: Storage) -> None:
        """Equal values have equal digests; no two saves have the same token."""
        infos = [storage.save("w", f"t{n}", value) for n, value in enumerate(["a", "a", "b"])]
        assert infos[0].digest == infos[1].digest != infos[2].digest
        assert 3 == len({info.token for info in infos})

    def test_nothing_is_unpickled_without_need(self, storage: Storage) -> None:
        """Only reading the value unpickles it."""
        sprung.clear()
        storage.save("w", "t", Trap())
        storage.task_info("w", "t")
        list(storage.task_infos("w", ["t"]))
        storage.list_tasks("w")
        storage.list_workflows()
        assert [""] == [record.problem for record in storage.verify()]
        storage.du()
        storage.gc(-60.0)
        storage.keep_damaged("w", "t")
        storage.save("w", "t", Trap())
        assert [] == sprung
        assert "trap" == storage.read_task("w", "t")
        assert ["trap"] == sprung
        storage.remove_task("w", "t")
        assert ["trap"] == sprung

    def test_if_absent(self, storage: Storage) -> None:
        """`if_absent` leaves an existing result as it is, with its side data."""
        storage.register_persistent_serializers(Grids())
        storage.save("w", "t", Grid(1), if_absent=True)
        stored = self.keys(storage)
        with pytest.raises(ResultExistsError):
            storage.save("w", "t", Grid(2), if_absent=True)
        assert Grid(1) == storage.read_task("w", "t")
        assert stored == self.keys(storage)

    @pytest.mark.parametrize("durability", ["auto", "fsync", "rename"])
    @pytest.mark.parametrize("durable", [False, True])
    def test_every_durability(self, storage: Storage, durability: str, durable: bool) -> None:
        """Every durability stores the same result."""
        chosen = self.with_options(storage, durability=durability)
        chosen.register_persistent_serializers(Grids())
        chosen.save("w", "t", [Grid(1), "x"], durable=durable, seconds=1.0)
        assert [Grid(1), "x"] == chosen.read_task("w", "t")

    def test_side_data(self, storage: Storage) -> None:
        """Objects of a serializer come back for any reader; one object stays one object."""
        storage.register_persistent_serializers(Grids())
        grid = Grid(1, 2)
        storage.save("w", "t", {"a": grid, "b": [grid, Grid()]})
        assert 4 == len(self.side_data(storage))
        found = self.reopen(storage).read_task("w", "t")
        assert {"a": Grid(1, 2), "b": [Grid(1, 2), Grid()]} == found
        assert found["a"] is found["b"][0]

    def test_side_data_goes_with_its_result(self, storage: Storage) -> None:
        """Side data is removed when its result is replaced, removed, or can't be saved."""
        storage.register_persistent_serializers(Grids())
        for number in range(3):
            storage.save("w", "t", Grid(number))
            assert 2 == len(self.side_data(storage))
        with pytest.raises(UnpicklableResultError):
            storage.save("w", "t", [Grid(5), Unpicklable()])
        assert Grid(2) == storage.read_task("w", "t")
        assert 2 == len(self.side_data(storage))
        storage.remove_task("w", "t")
        assert [] == self.keys(storage)

    def test_side_data_without_its_serializer(self, storage: Storage) -> None:
        """Only reading needs the serializer; without it, the error names it."""
        storage.register_persistent_serializers(Grids())
        storage.save("w", "t", Grid(1))
        bare = self.with_options(storage)
        with pytest.raises(SerializerMissingError, match="grids of the conformance kit"):
            bare.read_task("w", "t")
        assert [""] == [record.problem for record in bare.verify()]
        bare.remove_task("w", "t")
        assert [] == self.keys(storage)

    def test_what_is_no_serializer(self, storage: Storage) -> None:
        """An object that is no serializer is refused when it is registered."""
        for wrong in (object(), Grid, None):
            with pytest.raises(OptionsError):
                storage.register_persistent_serializers(wrong)  # type: ignore[arg-type]

    def test_protocols(self, storage: Storage) -> None:
        """Every storage has the file protocol, which accepts any text as a file name."""
        files = storage.protocols[FILE_PROTOCOL]
        for name in ("../f", "a/b", "ü"):
            with files.open(name, "wb") as file:
                file.write(name.encode())
            with files.open(name, "rb") as file:
                assert name.encode() == file.read()
            files.remove(name)
        assert [] == self.keys(storage)

    def test_always_read(self, storage: Storage) -> None:
        """`always_read` is off by default, can be set, and is pickled with the storage."""
        assert storage.always_read is False
        storage.always_read = True
        assert self.reopen(storage).always_read is True

    def test_usage(self, storage: Storage) -> None:
        """`du` counts results, and the bytes of all blobs."""
        storage.register_persistent_serializers(Grids())
        storage.save("w", "t", "x" * 1000)
        storage.save("w", "grid", Grid(1))
        storage.save("v", "t", 1)
        sizes = {"v": 0, "w": 0}
        for blob in storage.store.list(""):
            sizes[blob.key[0]] += blob.size
        found = [(usage.workflow, usage.tasks, usage.size) for usage in storage.du()]
        assert [("v", 1, sizes["v"]), ("w", 2, sizes["w"])] == found
        assert [2] == [usage.tasks for usage in storage.du("w")]
