"""Errors of serializers, and file names that are taken: over files, and over staged files."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse.errors import SerializerError, UnreadableResultError
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage


class Text:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file


class Texts:
    """Keeps a text in a file of the name that the text asks for."""

    name = "texts"
    serializer_class = Text

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None

    def pickle(self, obj: Text, protocols: dict[str, Any]) -> tuple[str, Any]:
        self.calls += 1
        with protocols[FILE_PROTOCOL].open(obj.file, "wb") as file:
            file.write(obj.text.encode())
        if self.fails:
            raise self.fails
        return self.name, obj.file

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Text:
        if self.fails:
            raise self.fails
        with protocols[FILE_PROTOCOL].open(pid, "rb") as file:
            return Text(file.read().decode(), pid)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        raise AssertionError("files are removed without the serializer")


class Acting(Texts):
    """Does anything with the file protocol."""

    def __init__(self, act: Callable[[Any], Any]) -> None:
        super().__init__()
        self.act = act

    def pickle(self, obj: Text, protocols: dict[str, Any]) -> tuple[str, Any]:
        self.act(protocols[FILE_PROTOCOL])
        return self.name, obj.file


@pytest.fixture
def texts() -> Texts:
    return Texts()


@pytest.fixture(params=["files", "staged"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, texts: Texts) -> Storage:
    found = FileStorage(tmp_path) if request.param == "files" else Storage(MemoryStore())
    found.register_persistent_serializers(texts)
    return found


def keys(storage: Storage) -> list[str]:
    return [blob.key for blob in storage.store.list("")]


def test_one_call_and_the_error_by_name(storage: Storage, texts: Texts) -> None:
    """What it raises is the cause; nothing is left."""
    texts.fails = ValueError("no room for vertices")
    with pytest.raises(
        SerializerError, match=r"^result\['a'\] is .*'texts' raised ValueError"
    ) as raised:
        storage.save("w", "t", {"a": Text("x", generate_name())})
    assert texts.fails is raised.value.__cause__
    assert 1 == texts.calls
    assert [] == keys(storage)


def test_an_error_of_the_system_stays_what_it_is(storage: Storage, texts: Texts) -> None:
    """A full disk is no fault of the serializer; a note names it."""
    texts.fails = OSError(5, "I/O error")
    with pytest.raises(OSError, match="I/O error") as raised:
        storage.save("w", "t", Text("x", generate_name()))
    assert "raised by the serializer 'texts'" in raised.value.__notes__
    assert 1 == texts.calls


def test_a_full_disk_of_a_serializer_costs_no_earlier_result(
    storage: Storage, texts: Texts
) -> None:
    """It can be another disk; the serializer is called once."""
    for number in range(3):
        storage.save("w", "t", number, fingerprint={"call": str(number) * 32})
    before = keys(storage)
    texts.fails = OSError(errno.ENOSPC, "No space left on device", "/scratch/file")
    with pytest.raises(OSError, match="scratch") as raised:
        storage.save("w", "t", Text("x", generate_name()))
    assert texts.fails is raised.value
    assert 1 == texts.calls
    assert before == keys(storage)


def test_an_error_of_reading_names_the_serializer(storage: Storage, texts: Texts) -> None:
    """Its error is the cause."""
    storage.save("w", "t", Text("x", generate_name()))
    texts.fails = ValueError("no such table")
    with pytest.raises(UnreadableResultError, match=r"'texts' .* ValueError: no such table"):
        storage.read_task("w", "t")


def test_a_name_that_is_taken_is_refused(storage: Storage) -> None:
    """By another object of the same result, or by another result, whose files stay."""
    with pytest.raises(
        SerializerError, match=r"^result\[1\] .*'texts' .*'x.txt' is taken: use gen"
    ):
        storage.save("w", "t", [Text("left", "x.txt"), Text("right", "x.txt")])
    assert [] == keys(storage)
    storage.save("w", "first", Text("first", "x.txt"))
    before = keys(storage)
    for values in ([Text("a", "x.txt")], [Text("b", "y.txt"), Text("c", "x.txt")]):
        for task in ("first", "second"):
            with pytest.raises(SerializerError, match="is taken"):
                storage.save("w", task, values)
            assert before == keys(storage)
    assert "first" == storage.read_task("w", "first").text
    assert [""] == [record.problem for record in storage.verify()]


def acts(storage: Storage, act: Callable[[Any], Any]) -> None:
    """Have a serializer do something while a result "w", "other" is saved."""
    storage.register_persistent_serializers(Acting(act))
    storage.save("w", "other", Text("yours", "x.txt"))


def refused(storage: Storage, act: Callable[[Any], Any], error: str, file: str = "x.txt") -> None:
    """Check that a save fails with an error, and leaves the file of another result."""
    storage.save("w", "t", Text("mine", file))
    before = keys(storage)
    with pytest.raises(SerializerError, match=error):
        acts(storage, act)
    storage.register_persistent_serializers(Texts())
    assert before == keys(storage)
    assert "mine" == storage.read_task("w", "t").text
    assert [""] == [record.problem for record in storage.verify()]
    storage.remove_task("w", "t")


def put(files: Any, name: str, mode: str) -> None:
    """Write a file, which can end in an error only when it is closed."""
    with files.open(name, mode) as file:
        file.write(b"yours" if "b" in mode else "yours")


def test_no_mode_writes_into_the_file_of_another(storage: Storage) -> None:
    """The name is refused. A mode for appending makes a file; one for updating needs an own one."""
    for mode in ("w", "wb", "wt", "x", "xb", "w+b", "wb+", "a", "at", "ab", "a+b", "r+", "rb+"):

        def write(files: Any, mode: str = mode) -> None:
            put(files, "x.txt", mode)

        refused(storage, write, "not written yet" if "r" in mode else "is taken")
        if "r" not in mode:
            acts(storage, write)
            storage.register_persistent_serializers(Texts())
            assert "yours" == storage.read_task("w", "other").text
            storage.remove_task("w", "other")


def test_a_save_that_fails_leaves_what_it_did_not_write(storage: Storage) -> None:
    """Also if it fails while a file of that name is open, or after it tries again."""

    def fail(files: Any) -> None:
        with files.open("x.txt", "wb"):
            raise ValueError("no")

    def try_again(files: Any) -> None:
        with contextlib.suppress(FileExistsError):
            put(files, "x.txt", "wb")
        put(files, "x.txt", "wb")

    refused(storage, fail, "is taken|ValueError: no")
    refused(storage, try_again, "is taken")


def test_a_serializer_removes_only_what_it_wrote(storage: Storage) -> None:
    """Not the file of another result, whether it removes first, or after it was refused."""

    def remove_first(files: Any) -> None:
        files.remove("x.txt")
        put(files, "x.txt", "wb")

    def remove_after(files: Any) -> None:
        try:
            put(files, "x.txt", "wb")
        finally:
            files.remove("x.txt")

    def remove_while_open(files: Any) -> None:
        with files.open("x.txt", "wb"):
            files.remove("x.txt")

    def write_again(files: Any) -> None:
        put(files, "x.txt", "wb")
        files.remove("x.txt")
        put(files, "x.txt", "w")

    for act in (remove_first, remove_after, remove_while_open):
        refused(storage, act, "is taken")
    acts(storage, write_again)
    storage.register_persistent_serializers(Texts())
    assert "yours" == storage.read_task("w", "other").text


def test_digests_don_t_replace_the_file_of_another(storage: Storage) -> None:
    """They are kept in a file; and a file that was not written here gets none."""

    def digest(files: Any) -> None:
        put(files, "x", "wb")
        files.digested("x", [(0, 5, "0" * 32)])

    def digest_of_another(files: Any) -> None:
        files.digested("x.pieces", [(0, 5, "0" * 32)])

    def digest_own_pieces(files: Any) -> None:
        put(files, "x.pieces", "wb")
        digest(files)

    refused(storage, digest, "'x.pieces' is taken", file="x.pieces")
    refused(storage, digest_of_another, "not written here", file="x.pieces")
    with pytest.raises(SerializerError, match=r"'x.pieces' is taken"):
        acts(storage, digest_own_pieces)


def test_a_folder_of_another_is_not_claimed(storage: Storage) -> None:
    """It is refused, by a claim and with digests, and stays when the save fails."""

    def claim(files: Any) -> None:
        files.claim("dir")
        storage.store.put("w/.data/dir/x", [b"mine"])

    storage.register_persistent_serializers(Acting(claim))
    storage.save("w", "t", Text("mine", "x.txt"))
    before = keys(storage)
    for act, error in (
        (claim, "'dir/' is taken"),
        (lambda files: files.digested_folder("dir", {"x": (4, "0" * 32)}), "not written here"),
    ):
        with pytest.raises(SerializerError, match=error):
            acts(storage, act)
        assert before == keys(storage)
    assert [""] == [record.problem for record in storage.verify()]


def test_a_file_that_is_left_open_is_refused(storage: Storage) -> None:
    """A part of it may not be written yet: the read would give another value."""
    left: list[Any] = []

    def leave(files: Any) -> None:
        left.append(files.open("other", "wb"))
        left[0].write(b"text")

    storage.register_persistent_serializers(Acting(leave))  # type: ignore[arg-type]
    with pytest.raises(SerializerError, match="'texts' raised ValueError: a file that it wrote is"):
        storage.save("w", "t", Text("text", generate_name()))
    left[0].close()
    assert not storage.file_exists("w", "t")
