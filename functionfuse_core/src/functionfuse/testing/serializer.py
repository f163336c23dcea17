"""`SerializerSuite`: the conformance kit of serializers."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..config.options import StorageOptions
from ..errors import DamagedResultError, SerializerMissingError, UnpicklableResultError
from ..serializers import FILE_PROTOCOL, Serializer
from ..serializers.installed import serializer_of
from ..storage import Storage
from ..storage.blobstore import BlobStore
from ..storage.filestore import FileStore
from .suite import Suite
from .workers import Workers, together

__all__ = ["SerializerSuite"]


class _Staged(FileStore):
    """A store whose files are staged, and put when they are closed, as in most stores."""

    protocols = BlobStore.protocols


class _Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("this can't be pickled")


class SerializerSuite(Suite):
    """Inherit it, with a fixture `serializer`, and a method `examples` that makes values.

    Attributes:
        reads_at_once: a value that was read needs the storage no more. Declare False if values are
            lazy, such as arrays that are read when they are computed.
        checks_files: reading a file that was cut or replaced raises an error, or returns an equal
            value. Declare False for a format that can't detect this (a storage with the option
            `key` still does).
        plain: `pickle` of the serializer returns only builtin types.

    Methods:
        examples: returns new values, equal each time, and as different as possible.
        equal: returns whether two values are equal; by default `==`.
    """

    reads_at_once = True
    checks_files = True
    plain = True

    @pytest.fixture
    def serializer(self) -> Serializer:
        """Return the serializer: a class or an instance."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `serializer`")

    def examples(self) -> list[Any]:
        """Return new values of the serializer's type."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `examples`")

    def equal(self, one: Any, two: Any) -> bool:
        """Return whether two values are equal in everything that the serializer must store."""
        return bool(one == two)

    @pytest.fixture(params=["files", "staged files"])
    def storage(
        self,
        request: pytest.FixtureRequest,
        serializer: Serializer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Storage]:
        """Return a storage with the serializer. Fails if a test leaves files elsewhere.

        Override it to test on other storages.
        """
        for name in ("temporary", "current"):
            (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        monkeypatch.chdir(tmp_path / "current")
        kind = FileStore if request.param == "files" else _Staged
        storage = Storage(kind(str(tmp_path / "store")))
        storage.register_persistent_serializers(serializer)
        yield storage
        assert [] == os.listdir(tmp_path / "temporary"), "temporary files were left"
        assert [] == os.listdir(tmp_path / "current"), "files were made in the current folder"

    def test_it_has_what_the_contract_asks_for(self, serializer: Serializer) -> None:
        """A serializer has a name, the class of the examples, and three methods."""
        assert isinstance(serializer.name, str)
        assert serializer.name
        assert isinstance(serializer.serializer_class, type)
        for example in self.examples():
            assert isinstance(example, serializer.serializer_class)
        for method in (serializer.pickle, serializer.unpickle, serializer.remove):
            assert callable(method)

    def test_it_keeps_its_name(self, serializer: Serializer) -> None:
        """A pickled copy of a serializer has the same name, which stored results refer to."""
        copy = pickle.loads(pickle.dumps(serializer))
        assert serializer.name == copy.name
        assert serializer.serializer_class is copy.serializer_class

    def test_the_examples_tell_what_is_equal(self) -> None:
        """Examples are equal to themselves, and all different; the other tests rely on that."""
        examples, again = self.examples(), self.examples()
        assert len(examples) > 1, "give two examples at least, that are not equal"
        for index, example in enumerate(examples):
            for other, made in enumerate(again):
                assert (index == other) == self.equal(example, made), f"examples {index}, {other}"

    def test_pickle_returns_name_and_pid(self, serializer: Serializer, storage: Storage) -> None:
        """`pickle` works with the file protocol alone; `unpickle` finds the value by its pid."""
        protocols = {FILE_PROTOCOL: storage.protocols[FILE_PROTOCOL]}
        for example, expected in zip(self.examples(), self.examples(), strict=True):
            name, pid = serializer.pickle(example, protocols)
            assert serializer.name == name
            found = serializer.unpickle(pickle.loads(pickle.dumps(pid)), protocols)
            assert self.equal(expected, found)
            del found
            gc.collect()
            serializer.remove(pid, protocols)
        assert [] == [blob.key for blob in storage.store.list("")], "remove has left something"

    def test_remove_can_be_done_again(self, serializer: Serializer, storage: Storage) -> None:
        """Removing a value again is no error."""
        protocols = {FILE_PROTOCOL: storage.protocols[FILE_PROTOCOL]}
        _, pid = serializer.pickle(self.examples()[0], protocols)
        for _ in range(2):
            serializer.remove(pid, protocols)

    def test_values_come_back(self, storage: Storage) -> None:
        """Each example comes back as a result, with the same type."""
        for number, example in enumerate(self.examples()):
            storage.save("w", f"t{number}", example)
        for number, expected in enumerate(self.examples()):
            found = storage.read_task("w", f"t{number}")
            assert self.equal(expected, found), f"example {number}"
            assert type(expected) is type(found)

    def test_values_come_back_from_any_depth(self, storage: Storage) -> None:
        """Values come back from any depth of containers, and so does the rest of the result."""
        value = {"a": [1, ("x", self.examples())], "b": {"c": self.examples()[0]}, "d": None}
        storage.save("w", "t", value)
        found = storage.read_task("w", "t")
        for expected, example in zip(self.examples(), found["a"][1][1], strict=True):
            assert self.equal(expected, example)
        assert self.equal(self.examples()[0], found["b"]["c"])
        assert (1, "x", None) == (found["a"][0], found["a"][1][0], found["d"])

    def test_one_object_stays_one(self, serializer: Serializer, storage: Storage) -> None:
        """An object used twice is written once, and comes back as one; an equal one is another."""
        one, equal = self.examples()[0], self.examples()[0]
        info = storage.save("w", "t", [one, {"again": one}, equal])
        assert [serializer.name] * 2 == [side.serializer for side in info.side_data]
        found = storage.read_task("w", "t")
        assert found[0] is found[1]["again"]
        assert found[2] is not found[0]

    def test_saving_changes_nothing(self, storage: Storage) -> None:
        """Saving doesn't change the value, which the workflow still uses."""
        examples = self.examples()
        storage.save("w", "t", examples)
        for expected, example in zip(self.examples(), examples, strict=True):
            assert self.equal(expected, example)

    def test_what_is_read_can_be_saved(self, storage: Storage) -> None:
        """A value that was read can be saved again, several times in a row."""
        storage.save("w", "0", self.examples())
        for number in range(2):
            storage.save("w", str(number + 1), storage.read_task("w", str(number)))
        for expected, found in zip(self.examples(), storage.read_task("w", "2"), strict=True):
            assert self.equal(expected, found)

    def test_results_share_no_file(self, storage: Storage) -> None:
        """Results share no file: removing one leaves all others whole."""
        example = self.examples()[0]
        for number in range(3):
            storage.save("w", f"t{number}", example)
        storage.remove_task("w", "t1")
        for number in (0, 2):
            assert self.equal(self.examples()[0], storage.read_task("w", f"t{number}"))
        assert ["", ""] == [record.problem for record in storage.verify()]

    def test_results_are_replaced(self, storage: Storage) -> None:
        """The files of a replaced result are removed, those of the new one stay."""
        storage.save("w", "t", self.examples()[0])
        before = set(_files(storage))
        storage.save("w", "t", self.examples()[-1])
        assert self.equal(self.examples()[-1], storage.read_task("w", "t"))
        assert before.isdisjoint(_files(storage))
        assert [] == storage.gc(-60.0)

    def test_nothing_is_left_of_removed_results(self, storage: Storage) -> None:
        """A removed result leaves no file; removing needs no serializer."""
        storage.save("w", "t", self.examples())
        Storage(storage.store).remove_task("w", "t")
        assert ["w/.functionfuse"] == [blob.key for blob in storage.store.list("")]

    def test_nothing_is_left_of_a_failed_save(self, storage: Storage) -> None:
        """If another value of the result can't be pickled, files written before are removed."""
        storage.save("w", "t", "before")
        with pytest.raises(UnpicklableResultError):
            storage.save("w", "t", [self.examples(), _Unpicklable()])
        assert "before" == storage.read_task("w", "t")
        assert [] == _files(storage)

    def test_gc_and_verify_know_the_files(self, storage: Storage) -> None:
        """`verify` finds the files whole, and `gc` finds them needed."""
        info = storage.save("w", "t", self.examples())
        assert [] == storage.gc(-60.0)
        (record,) = storage.verify()
        assert "" == record.problem
        beside = sum(size for side in info.side_data for _, size, _ in side.files)
        assert info.size + beside == record.size
        assert beside, "the serializer has written nothing into files of the file protocol"

    def test_a_result_names_who_can_read_it(self, serializer: Serializer, storage: Storage) -> None:
        """Without the serializer, reading raises an error that names it; the rest works."""
        if serializer_of(serializer.serializer_class) is not None:
            pytest.skip("an installed plugin brings a serializer of this type")
        storage.save("w", "t", self.examples()[0])
        other = Storage(storage.store)
        with pytest.raises(SerializerMissingError, match=r".+") as raised:
            other.read_task("w", "t")
        assert repr(serializer.name) in str(raised.value)
        assert ["t"] == other.list_tasks("w")
        assert [""] == [record.problem for record in other.verify()]

    def test_storages_find_it(self, serializer: Serializer, storage: Storage) -> None:
        """A storage finds the serializer of an installed plugin without registering it."""
        if serializer_of(serializer.serializer_class) is None:
            pytest.skip("no installed plugin brings a serializer of this type")
        other = Storage(storage.store)
        info = other.save("w", "t", [self.examples()[0]])
        assert [serializer.name] == [side.serializer for side in info.side_data]
        assert self.equal(self.examples()[0], other.read_task("w", "t")[0])

    def test_another_storage_reads_it(self, serializer: Serializer, storage: Storage) -> None:
        """Another storage reads the values: they need no state of the serializer or process."""
        storage.save("w", "t", self.examples())
        other = Storage(pickle.loads(pickle.dumps(storage.store)))
        other.register_persistent_serializers(pickle.loads(pickle.dumps(serializer)))
        for expected, found in zip(self.examples(), other.read_task("w", "t"), strict=True):
            assert self.equal(expected, found)

    def test_another_process_reads_and_writes_it(self, storage: Storage, workers: Workers) -> None:
        """A storage with the serializer works in a fresh process."""
        storage.save("w", "here", self.examples())
        workers.run("save_again", storage, ("w", "here"), ("w", "there"))
        for expected, found in zip(self.examples(), storage.read_task("w", "there"), strict=True):
            assert self.equal(expected, found)
        assert ["", ""] == [record.problem for record in storage.verify()]

    def test_threads_use_it_at_once(self, storage: Storage) -> None:
        """Each thread finds its own values."""

        def work(name: int) -> None:
            index = name % len(self.examples())
            for number in range(3):
                storage.save("w", f"{name} {number}", self.examples()[index])
                assert self.equal(
                    self.examples()[index], storage.read_task("w", f"{name} {number}")
                )

        together(*(lambda name=name: work(name) for name in range(4)))
        assert 12 == len(storage.verify())

    def test_the_pid_is_plain(self, serializer: Serializer, storage: Storage) -> None:
        """Readers that trust only builtin types can read the pid."""
        self.needs("plain")
        storage.save("w", "t", self.examples()[0])
        careful = Storage(storage.store, StorageOptions.model_validate({"trust": {"allow": []}}))
        careful.register_persistent_serializers(serializer)
        assert self.equal(self.examples()[0], careful.read_task("w", "t"))

    def test_signed_results(self, serializer: Serializer, storage: Storage) -> None:
        """With a key, the files are signed like the result: changed bytes are refused."""
        signed = Storage(storage.store, StorageOptions.model_validate({"key": "k"}))
        signed.register_persistent_serializers(serializer)
        signed.save("w", "t", self.examples()[0])
        assert self.equal(self.examples()[0], signed.read_task("w", "t"))
        signed.save("w", "t", self.examples()[0])  # checked copies of what was read may stay
        for key in _files(storage):
            storage.store.put(key, [bytes(each ^ 1 for each in bytes(storage.store.get(key)))])
        with pytest.raises(DamagedResultError):  # a lazy object is read when it is used
            self.equal(self.examples()[0], signed.read_task("w", "t"))

    def test_a_missing_file_is_damage(self, storage: Storage) -> None:
        """A missing file is reported as damage, as soon as the result is read."""
        storage.save("w", "t", self.examples()[0])
        storage.store.delete(_files(storage))
        with pytest.raises(DamagedResultError, match="missing"):
            storage.read_task("w", "t")
        assert "missing" in storage.verify()[0].problem

    @pytest.mark.parametrize("left", ["nothing", "half", "all but a byte"])
    def test_a_cut_file_is_damage(self, storage: Storage, left: str) -> None:
        """Reading a cut file raises, or returns an equal value, never a wrong one."""
        self.needs("checks_files")
        example = self.examples()[0]
        storage.save("w", "t", example)
        for key in _files(storage):
            whole = bytes(storage.store.get(key))
            size = {"nothing": 0, "half": len(whole) // 2, "all but a byte": len(whole) - 1}[left]
            storage.store.put(key, [whole[: max(0, size)]])
            try:
                found = storage.read_task("w", "t")
                same = self.equal(self.examples()[0], found)
            except Exception:  # noqa: BLE001  # any error is fine here
                same = True
            assert same, f"a value was made of {size} of {len(whole)} bytes of {key!r}"
            storage.store.put(key, [whole])
        assert self.equal(self.examples()[0], storage.read_task("w", "t"))

    def test_what_was_read_stays(self, storage: Storage) -> None:
        """A value that was read stays the same when the stored one is replaced or removed."""
        self.needs("reads_at_once")
        storage.save("w", "t", self.examples()[0])
        found = storage.read_task("w", "t")
        storage.save("w", "t", self.examples()[-1])
        storage.remove_workflow("w")
        assert self.equal(self.examples()[0], found)

    def test_no_file_stays_open(self, storage: Storage) -> None:
        """No file stays open after saving, nor after reading values that are read at once."""
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("this system doesn't tell which files are open")
        storage.save("w", "warm", self.examples()[0])
        storage.read_task("w", "warm")
        gc.collect()
        before = _open_files()
        for number in range(5):
            storage.save("w", f"t{number}", self.examples()[0])
        assert before >= _open_files()
        if self.reads_at_once:
            for number in range(5):
                storage.read_task("w", f"t{number}")
            gc.collect()
            assert before >= _open_files()


def _files(storage: Storage) -> list[str]:
    """Return the keys of the side data of workflow "w", also in folders."""
    return [blob.key for blob in storage.store.list("w/.data/")]


def _open_files() -> int:
    """Return the number of open files of this process, without sockets, which may be reused."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # listdir's own descriptor is closed by now
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("/")
    return count
