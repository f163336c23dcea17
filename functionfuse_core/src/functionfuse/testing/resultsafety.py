"""Tests of hard cases: damage, several users, killed processes, untrusted pickles."""

from __future__ import annotations

import filecmp
import os
import pickle
import random
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from ..errors import (
    DamagedResultError,
    FunctionFuseError,
    ResultExistsError,
    UntrustedResultError,
)
from ..serializers.file import File
from ..storage import Storage
from ..storage.filestore import FileStore
from ..storage.header import MAGIC
from ..storage.keys import key_of
from .jobs import read_results, save_results
from .resultbase import Grid, Grids, Results, Trap, grids_and_bytes, sprung
from .workers import Workers, together

__all__ = ["ResultSafety"]

SOON = 0.25  # seconds
VALUES = [[number, bytes([number]) * size] for number, size in enumerate((10, 400_000, 5000))]


def _flip(offset: float) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        data[min(len(data) - 1, int(len(data) * offset))] ^= 0x10
        return data

    return change


DAMAGES: dict[str, Callable[[bytearray], bytearray]] = {
    "first byte": _flip(0.0),
    "header": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "middle": _flip(0.5),
    "last byte": _flip(1.0),
    "cut to nothing": lambda data: data[:0],
    "cut in the header": lambda data: data[:70],
    "cut in the value": lambda data: data[:-1],
    "longer": lambda data: data + b"\x00",
    "zeros": lambda data: bytearray(len(data)),
    "a page of zeros": lambda data: data[:4096] + bytearray(4096) + data[8192:],
    "twice": lambda data: data + data,
}
each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))


class ResultSafety(Results):
    """A result is whole or missing: never partial, silently old, or silently wrong."""

    @each_damage
    def test_damage_is_detected(
        self, storage: Storage, damage: Callable[[bytearray], bytearray]
    ) -> None:
        """Damage is detected before unpickling; the result can still be listed and removed.

        A blob that doesn't begin as a result is not removed: it may be of somebody else.
        """
        sprung.clear()
        for task in ("t", "sound"):
            storage.save("w", task, [Trap(), bytes(range(256)) * 100])
        self.overwrite(storage, "t", damage(self.bytes_of(storage, "t")))
        with pytest.raises(DamagedResultError):
            storage.read_task("w", "t")
        assert [] == sprung
        problems = {record.task: bool(record.problem) for record in storage.verify()}
        assert {"t": True, "sound": False} == problems
        assert ["sound", "t"] == storage.list_tasks("w")
        assert storage.file_exists("w", "t")
        if MAGIC.startswith(self.bytes_of(storage, "t")[: len(MAGIC)]):
            storage.remove_task("w", "t")
            assert ["sound"] == storage.list_tasks("w")
        else:
            with pytest.raises(DamagedResultError):
                storage.remove_task("w", "t")
        storage.save("w", "t", "again")
        assert "again" == storage.read_task("w", "t")

    def test_results_that_were_exchanged(self, storage: Storage) -> None:
        """A whole result under the key of another counts as damage."""
        for task in ("one", "two"):
            storage.save("w", task, task)
        self.overwrite(storage, "one", self.bytes_of(storage, "two"))
        with pytest.raises(DamagedResultError):
            storage.read_task("w", "one")
        assert "two" == storage.read_task("w", "two")

    def test_damaged_results_in_a_plan(self, storage: Storage) -> None:
        """`task_infos` yields headers, None and errors in order, and goes on after each."""
        for task in ("a", "b", "c"):
            storage.save("w", task, task)
        self.overwrite(storage, "b", b"no result")
        kinds = [type(info) for info in storage.task_infos("w", ["a", "none", "b", "c"])]
        assert issubclass(kinds[2], FunctionFuseError)
        assert [type(None), kinds[0]] == [kinds[1], kinds[3]]

    def test_damaged_bytes_are_kept_for_a_look(self, storage: Storage) -> None:
        """`keep_damaged` copies damaged bytes; `gc` removes the copy when it is old enough."""
        storage.save("w", "t", "x")
        assert not storage.keep_damaged("w", "t")
        assert not storage.keep_damaged("w", "none")
        self.overwrite(storage, "t", self.bytes_of(storage, "t")[:20])
        assert storage.keep_damaged("w", "t")
        assert ["damaged"] == [leftover.kind for leftover in storage.gc(-60.0, dry_run=True)]
        assert [] == storage.gc(3600.0)
        assert ["damaged"] == [leftover.kind for leftover in storage.gc(-60.0)]
        assert ["w/t"] == self.keys(storage)

    def test_a_result_of_the_original_function_fuse(self, storage: Storage) -> None:
        """It is sound and can be read; `save` keeps it, and `gc` leaves it."""
        data = pickle.dumps([1, "two"], 4)
        data += sha1(data, usedforsecurity=False).digest()
        self.overwrite(storage, "t", data)
        assert [1, "two"] == storage.read_task("w", "t")
        assert [""] == [record.problem for record in storage.verify()]
        assert not storage.keep_damaged("w", "t")
        storage.save("w", "t", "new")
        assert "new" == storage.read_task("w", "t")
        assert [] == storage.gc(-60.0)
        assert data == bytes(storage.store.get("w/.original/t"))

    @pytest.mark.parametrize("change", ["missing", "changed", "cut"])
    def test_damaged_side_data(self, storage: Storage, change: str) -> None:
        """`verify` reports damaged side data; reading raises if a file is missing."""
        storage.register_persistent_serializers(Grids())
        storage.save("w", "t", Grid(1, 2))
        for key in self.side_data(storage):
            if change == "missing":
                storage.store.delete([key])
            else:
                storage.store.put(key, [b"(9, 9)" if change == "changed" else b""])
        assert storage.verify()[0].problem
        if change == "missing":
            with pytest.raises(DamagedResultError):
                storage.read_task("w", "t")
        storage.remove_task("w", "t")
        assert [] == self.keys(storage)

    def test_side_data_that_nothing_needs(self, storage: Storage) -> None:
        """`gc` removes files that killed writers left, but no young ones, and no needed ones."""
        storage.register_persistent_serializers(Grids())
        storage.save("w", "t", Grid(1))
        storage.store.put("w/.data/orphan", [b"left"])
        assert [] == storage.gc(3600.0)
        for dry_run in (True, False):
            found = storage.gc(-60.0, dry_run=dry_run)
            assert [("side data", "w/.data/orphan", 4)] == [(f.kind, f.key, f.size) for f in found]
        assert [] == storage.gc(-60.0)
        assert Grid(1) == storage.read_task("w", "t")

    def test_signed_results(self, storage: Storage) -> None:
        """With a key, a result that is not signed with it is refused before it is unpickled."""
        sprung.clear()
        signed = self.with_options(storage, key="secret of mine")
        other = self.with_options(storage, key="another secret")
        signed.save("w", "signed", ["value"])
        storage.save("w", "unsigned", Trap())
        other.save("w", "other", Trap())
        assert ["value"] == signed.read_task("w", "signed")
        for task in ("unsigned", "other"):
            with pytest.raises(UntrustedResultError):
                signed.read_task("w", task)
        assert [] == sprung
        assert ["signed"] == [record.task for record in signed.verify() if not record.problem]

    def test_a_key_is_nowhere_to_be_seen(self, storage: Storage) -> None:
        """A key is in no stored byte, repr or error."""
        signed = self.with_options(storage, key="canary-4711")
        signed.save("w", "t", 1)
        storage.save("w", "u", 1)
        with pytest.raises(UntrustedResultError) as raised:
            signed.read_task("w", "u")
        seen = [repr(signed), str(raised.value), repr(raised.value), str(vars(raised.value))]
        assert not any("canary" in text for text in seen)
        assert b"canary" not in self.bytes_of(storage, "t")
        assert not any("canary" in key for key in self.keys(storage))

    def test_an_allow_list(self, storage: Storage) -> None:
        """A result that names a type or function outside the list is refused, and calls nothing."""
        sprung.clear()
        storage.save("w", "plain", {"rows": [1, 2.5, "x", None, b"y", (1,), {2}]})
        storage.save("w", "trap", Trap())
        careful = self.with_options(storage, trust={"allow": []})
        assert storage.read_task("w", "plain") == careful.read_task("w", "plain")
        with pytest.raises(UntrustedResultError):
            careful.read_task("w", "trap")
        assert [] == sprung
        trap = self.with_options(storage, trust={"allow": [Trap.__module__]})
        assert "trap" == trap.read_task("w", "trap")

    def test_a_lease(self, storage: Storage) -> None:
        """A lease has one holder at a time; after a release, another gets it; no file is left."""
        one, two = storage.lease("w", "t"), self.reopen(storage).lease("w", "t")
        assert [True, False, False] == [one.acquire(), two.acquire(), two.acquire()]
        two.release()
        assert not two.acquire()
        one.release()
        assert two.acquire()
        assert [] == storage.list_tasks("w")
        two.release()
        assert [] == self.keys(storage)

    def test_bytes_are_the_same_everywhere(self, storage: Storage, tmp_path: Any) -> None:
        """A result copied to another kind of storage can be read there, and the other way round."""
        files = Storage(FileStore(str(tmp_path / "elsewhere")))
        storage.save("w", "there", [1, "x" * 10_000])
        files.store.put(key_of("w", "there"), [storage.store.get(key_of("w", "there"))])
        assert [1, "x" * 10_000] == files.read_task("w", "there")
        files.save("w", "back", [2])
        storage.store.put(key_of("w", "back"), [files.store.get(key_of("w", "back"))])
        assert [2] == storage.read_task("w", "back")

    def test_threads_use_it_at_once(self, storage: Storage) -> None:
        """Each thread finds its own results; at the end all are stored."""
        storage.register_persistent_serializers(Grids())

        def work(name: int) -> None:
            for number in range(10):
                task = f"{name} {number}"
                storage.save("w", task, [task, Grid(name, number)])
                assert [task, Grid(name, number)] == storage.read_task("w", task)
                assert task in storage.list_tasks("w", f"{name} *")

        together(*(lambda name=name: work(name) for name in range(4)))
        assert 40 == len(storage.list_tasks("w"))
        assert not any(record.problem for record in storage.verify())

    def test_threads_read_while_others_save(self, storage: Storage) -> None:
        """Each read returns one of the values, whole."""
        storage.save("w", "t", VALUES[0])
        together(
            lambda: save_results(storage, ("w", "t"), VALUES, SOON),
            lambda: read_results(storage, ("w", "t"), VALUES, SOON),
            lambda: read_results(storage, ("w", "t"), VALUES, SOON),
        )

    def test_side_data_is_read_while_it_is_replaced(self, storage: Storage) -> None:
        """A reader gets the side data of the result that it reads, while it is being removed."""
        storage.register_persistent_serializers(Grids())
        values = [[Grid(number), "x" * number] for number in range(3)]
        storage.save("w", "t", values[0])
        together(
            lambda: save_results(storage, ("w", "t"), values, SOON),
            lambda: read_results(storage, ("w", "t"), values, SOON),
        )
        assert 2 == len(self.side_data(storage))

    def test_files(self, storage: Storage, tmp_path: Path) -> None:
        """A `File` keeps name and content, and what a program writes beside it stays elsewhere.

        A file that was altered or removed is found: when it is read, or else at its first use.
        """
        source = tmp_path / "a b.txt"
        source.write_bytes(b"acgt" * 1_000_000)
        storage.save("w", "t", {"deep": [File(source)]})
        (key,) = self.side_data(storage)
        for each in (storage, self.reopen(storage)):
            file = each.read_task("w", "t")["deep"][0]
            Path(f"{file}.index").touch()
            assert ("a b.txt", True) == (
                os.path.basename(file),
                filecmp.cmp(source, file, shallow=False),
            )
        assert [key] == self.side_data(storage)
        storage.save("w", "again", {"deep": [file]})
        assert [""] * 2 == [record.problem for record in storage.verify()]
        (other,) = {*self.side_data(storage)} - {key}
        storage.store.put(other, [b"acga" * 1_000_000])
        with pytest.raises(DamagedResultError):
            os.fspath(storage.read_task("w", "again")["deep"][0])
        storage.store.delete([other])
        with pytest.raises(DamagedResultError, match="missing"):
            storage.read_task("w", "again")
        storage.remove_workflow("w")
        assert [] == self.side_data(storage)

    def test_files_go_to_another_process(
        self, storage: Storage, workers: Workers, tmp_path: Path
    ) -> None:
        """A `File` that another process has read has a path here, too."""
        self.needs("processes")
        source = tmp_path / "a.txt"
        source.write_bytes(b"acgt")
        storage.save("w", "t", File(source))
        file = workers.run("call", storage, "read_task", "w", "t")
        assert b"acgt" == Path(file).read_bytes()

    def test_threads_race_for_an_absent_result(self, storage: Storage) -> None:
        """Exactly one of four threads saves each result, and its value is stored."""
        self.needs("conditional_put")

        def save(name: int) -> set[int]:
            won = set()
            for number in range(25):
                try:
                    storage.save("w", f"t{number}", name, if_absent=True)
                except ResultExistsError:
                    continue
                won.add(number)
            return won

        won = together(*(lambda name=name: save(name) for name in range(4)))
        assert list(range(25)) == sorted(number for mine in won for number in mine)
        for name, mine in enumerate(won):
            assert {name} >= {storage.read_task("w", f"t{number}") for number in mine}

    def test_it_goes_to_another_process(self, storage: Storage, workers: Workers) -> None:
        """A storage works in another process, with its serializers; both share all results."""
        self.needs("processes")
        storage.register_persistent_serializers(Grids())
        storage.save("w", "here", [1, Grid(1)])
        workers.run("save_again", storage, ("w", "here"), ("w", "there"))
        assert [1, Grid(1)] == storage.read_task("w", "there")
        assert ["here", "there"] == workers.run("call", storage, "list_tasks", "w")
        workers.run("call", storage, "remove_workflow", "w")
        assert [] == storage.list_workflows()

    def test_a_pickle_is_small(self, storage: Storage) -> None:
        """A pickled storage holds the location of results, and no results."""
        self.needs("processes")
        storage.save("w", "t", b"found " * 50_000)
        pickled = pickle.dumps(storage)
        assert len(pickled) < 20_000
        assert b"found " * 50_000 == pickle.loads(pickled).read_task("w", "t")

    def test_processes_read_while_others_save(self, storage: Storage, workers: Workers) -> None:
        """While two processes save and two read one task, each read returns a whole value."""
        self.needs("processes")
        storage.save("w", "t", VALUES[0])
        asked = [("save_results", storage, ("w", "t"), VALUES, SOON)]
        asked += [("read_results", storage, ("w", "t"), VALUES, SOON)]
        workers.warm(4, storage)
        workers.run_all(asked * 2)
        assert storage.read_task("w", "t") in VALUES

    def test_killed_in_saving(self, storage: Storage, workers: Workers) -> None:
        """A killed process leaves an earlier or a later result, whole; `gc` removes the rest."""
        self.needs("processes")
        self.needs("forks")
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")
        storage.register_persistent_serializers(Grids())
        values = grids_and_bytes()
        storage.save("w", "t", values[0])
        dice = random.Random(6)
        delays = [dice.uniform(0.001, 0.02) for _ in range(8)]
        workers.run("killed_saves", storage, ("w", "t"), grids_and_bytes, delays)
        assert storage.read_task("w", "t") in values
        storage.gc(-60.0)
        assert 3 == len(self.keys(storage))
        assert storage.read_task("w", "t") in values
        assert [""] == [record.problem for record in storage.verify()]

    def test_a_repr_is_one_line(self, storage: Storage) -> None:
        """The repr, which messages show, is one line."""
        assert 1 == len(repr(storage).splitlines())
