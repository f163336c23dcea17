"""Folders and pieces beside a result, serializers of many objects, and lazy results.

Over files, and over a store that has the four methods of `BlobStore` and no more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore
from xxhash import xxh3_128_hexdigest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, OptionsError, UnpicklableResultError
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.sidecheck import BLOCK

PIECES = [b"a" * (BLOCK + 7), b"", b"bc", b"d" * (2 * BLOCK)]


class Text:
    """What the serializers below claim."""

    def __init__(self, text: str) -> None:
        self.text = text


class Written:
    """Keeps a text in a way of its own: see `write`."""

    name = "written"
    serializer_class = Text

    def pickle(self, obj: Text, protocols: dict[str, Any]) -> tuple[str, Any]:
        name = generate_name()
        self.write(name, obj, protocols[FILE_PROTOCOL])
        return self.name, (name, obj.text)

    def write(self, name: str, obj: Text, files: Any) -> None:
        raise NotImplementedError

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Text:
        return Text(pid[1])

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        raise AssertionError("files are removed without the serializer")


class InPieces(Written):
    def write(self, name: str, obj: Text, files: Any) -> None:
        pieces, position = [], 0
        with files.open(name, "wb") as file:
            for data in PIECES:
                file.write(data)
                pieces.append((position, len(data), xxh3_128_hexdigest(data)))
                position += len(data)
        files.digested(name, reversed(pieces))


class InFolder(Written):
    def write(self, name: str, obj: Text, files: Any) -> None:
        folder = Path(files.folder(name, "w"))
        (folder / "c" / "0").mkdir(parents=True)
        (folder / "meta").write_text(obj.text)
        (folder / "c" / "0" / "1").write_bytes(b"12")


class DigestedFolder(InFolder):
    def write(self, name: str, obj: Text, files: Any) -> None:
        super().write(name, obj, files)
        data = {"meta": obj.text.encode(), "c/0/1": b"12"}
        digests = {key: (len(value), xxh3_128_hexdigest(value)) for key, value in data.items()}
        files.digested_folder(name, digests)


class Claimed(Written):
    """Writes past the file protocol, as what goes to S3 natively does."""

    store: Any = None

    def write(self, name: str, obj: Text, files: Any) -> None:
        files.claim(name)
        self.store.put(f"w/.data/{name}/c/0", [b"12"])
        if obj.text == "fail":
            raise OSError("no")


@pytest.fixture(params=["files", "four methods"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "files":
        return FileStorage(tmp_path / "store")
    return Storage(MemoryStore())


def keys(storage: Storage) -> list[str]:
    """Return the keys of all blobs, without the markers of workflows."""
    keys = [blob.key for blob in storage.store.list("")]
    return [key for key in keys if not key.endswith("/.functionfuse")]


def altered(storage: Storage, key: str, data: bytes) -> str:
    """Return what `verify` says of a result while a blob is another."""
    before = bytes(storage.store.get(key))
    storage.store.put(key, [data])
    (record,) = storage.verify()
    storage.store.put(key, [before])
    assert "" == storage.verify()[0].problem
    return record.problem


def test_a_file_is_checked_by_its_pieces(storage: Storage) -> None:
    """Digests that the serializer made are taken over, beside the file; `verify` compares all."""
    storage.register_persistent_serializers(InPieces)
    info = storage.save("w", "t", Text("x"))
    (side,) = info.side_data
    (name, size, digest), (pieces, _, _) = side.files
    whole = b"".join(PIECES)
    assert (len(whole), "pieces", f"{name}.pieces") == (size, digest, pieces)
    lines = bytes(storage.store.get(f"w/.data/{pieces}")).splitlines()
    assert b"%d 2 %s" % (BLOCK + 7, xxh3_128_hexdigest(b"bc").encode()) == lines[1]
    (record,) = storage.verify()
    assert ("", info.size + size + side.files[1][1]) == (record.problem, record.size)
    for position in (0, BLOCK + 6, BLOCK + 7, BLOCK + 8, len(whole) - 1):
        data = bytearray(whole)
        data[position] ^= 1
        assert "is not what was written" in altered(storage, f"w/.data/{name}", bytes(data))
    for data in (whole[:-1], whole + b"x", b"", whole[:BLOCK]):
        assert "is not what was written" in altered(storage, f"w/.data/{name}", bytes(data))
    for data in (b"", b"0 x\n", b"\xff", b"".join(lines[:1])):
        assert "is not what was written" in altered(storage, f"w/.data/{pieces}", data)
    storage.remove_task("w", "t")
    assert [] == keys(storage)


def test_pieces_with_a_gap_are_refused(storage: Storage) -> None:
    """They would leave bytes unchecked."""

    class Gap(Written):
        def write(self, name: str, obj: Text, files: Any) -> None:
            with files.open(name, "wb") as file:
                file.write(b"123")
            files.digested(name, [(0, 1, "x"), (2, 1, "x")])

    storage.register_persistent_serializers(Gap)
    with pytest.raises(UnpicklableResultError, match="begins at byte 1"):
        storage.save("w", "t", Text("x"))
    assert [] == keys(storage)


@pytest.mark.parametrize("serializer", [InFolder, DigestedFolder])
def test_a_folder_belongs_to_its_result(tmp_path: Path, serializer: type[Written]) -> None:
    """It is in the header, checked, flushed, kept by `gc`, replaced and removed as one."""
    storage = FileStorage(tmp_path, durability="fsync")
    storage.register_persistent_serializers(serializer)
    info = storage.save("w", "t", Text("xyz"))
    ((name, size, digest),) = info.side_data[0].files
    lines = f"c/0/1 2 {xxh3_128_hexdigest(b'12')}\nmeta 3 {xxh3_128_hexdigest(b'xyz')}\n"
    assert (True, 5, xxh3_128_hexdigest(lines.encode())) == (name.endswith("/"), size, digest)
    assert [] == storage.gc(-60.0)
    assert (["", info.size + 5]) == [storage.verify()[0].problem, storage.verify()[0].size]
    for key in (f"w/.data/{name}meta", f"w/.data/{name}c/0/1"):
        assert "is not what was written" in altered(storage, key, b"other")
    storage.store.put(f"w/.data/{name}c/more", [b""])
    assert "is not what was written" in storage.verify()[0].problem
    other = storage.save("w", "t", Text("other"))
    assert [f"w/.data/{other.side_data[0].files[0][0]}"] == sorted(
        {f"{key[: key.index('/', 8)]}/" for key in keys(storage) if "/.data/" in key}
    )
    Storage(storage.store).remove_task("w", "t")
    left = {path.name for path in (tmp_path / "w").rglob("*")}
    assert set() == left - {".data", ".functionfuse"}


def test_a_missing_folder_is_damage(tmp_path: Path) -> None:
    """As a missing file is."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(InFolder)
    storage.save("w", "t", Text("x"))
    storage.store.delete([key for key in keys(storage) if "/.data/" in key])
    assert "is missing" in storage.verify()[0].problem


def test_a_folder_that_nothing_refers_to_is_collected(tmp_path: Path) -> None:
    """With all that is in it; that of a result stays."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(InFolder)
    storage.save("w", "t", Text("x"))
    for key in ("w/.data/left/c/0", "w/.data/left2/c", "w/.data/file"):
        storage.store.put(key, [b"1"])
    found = [left.key for left in storage.gc(-60.0)]
    assert ["w/.data/file", "w/.data/left/c/0", "w/.data/left2/c"] == found
    assert "" == storage.verify()[0].problem
    assert 1 == len(list((tmp_path / "w" / ".data").iterdir()))


def test_what_is_written_by_other_means_is_claimed(storage: Storage) -> None:
    """It is digested, and removed: with the result, and when the save fails."""
    Claimed.store = storage.store
    storage.register_persistent_serializers(Claimed)
    info = storage.save("w", "t", Text("x"))
    ((name, size, _),) = info.side_data[0].files
    assert (True, 2, "") == (name.endswith("/"), size, storage.verify()[0].problem)
    with pytest.raises(OSError, match="no"):
        storage.save("w", "t", [Text("y"), Text("fail")])
    assert ["w/.data/" + name + "c/0", "w/t"] == keys(storage)
    storage.remove_workflow("w")
    assert [] == keys(storage)


def test_folders_need_plain_files() -> None:
    """The error says so; nothing is left."""
    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(InFolder)
    with pytest.raises(OptionsError, match="no plain local files"):
        storage.save("w", "t", Text("x"))
    with pytest.raises(OptionsError):
        storage.protocols[FILE_PROTOCOL].folder("x")


def test_a_folder_of_files(storage: Storage, tmp_path: Path) -> None:
    """Written whole, read, listed and cleared; no name and no link leads out of it."""
    files = storage.protocols[FILE_PROTOCOL]
    folder = files.side_folder("x", "w")
    for name in ("a", "b/c/0", "b/c/1"):
        folder.write(name, b"old")
        folder.write(name, name.encode())
    assert {"a": 1, "b/c/0": 5, "b/c/1": 5} == folder.sizes()
    assert b"b/c/1" == bytes(files.side_folder("x").read("b/c/1"))
    assert (True, False, False) == (folder.has("a"), folder.has("b"), folder.has("../x/a"))
    folder.write("../../y", b"inside")
    assert {"%2E./%2E./y"} == folder.sizes().keys() - {"a", "b/c/0", "b/c/1"}
    if isinstance(storage.store, FileStore):
        there = Path(storage.store.root, "x")
        (there / "b").rename(tmp_path / "elsewhere")
        (there / "b").symlink_to(tmp_path / "elsewhere")
        assert (False, 2) == (folder.has("b/c/0"), len(folder.sizes()))
        for use in (folder.read, lambda name: folder.write(name, b"")):
            with pytest.raises(OSError, match=r"b/c"):
                use("b/c/0")
        (there / "b").unlink()
    folder.clear()
    folder.clear()
    assert [] == keys(storage)
    assert {} == folder.sizes()


def test_a_header_s_folder_does_not_lead_out(storage: Storage) -> None:
    """Names of folders are segments, as those of files are."""
    from result_bytes import header_of, rest_of, sealed

    storage.save("w", "t", 1)
    data = bytes(storage.store.get("w/t"))
    for name in ("../", "/", "a//", "a/b/", 7):
        header = {**header_of(data), "side_data": [["s", "", [[name, 1, "0" * 32]]]]}
        storage.store.put("w/t", [sealed(header, rest_of(data))])
        with pytest.raises(DamagedResultError, match="not as specified"):
            storage.task_info("w", "t")


def test_staged_files_are_not_read_for_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put has a digest already: one request less for each file."""

    class Plain(Written):
        def write(self, name: str, obj: Text, files: Any) -> None:
            with files.open(name, "wb") as file:
                file.write(obj.text.encode())

    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(Plain)
    got: list[str] = []
    get = storage.store.get
    monkeypatch.setattr(storage.store, "get", lambda key: got.append(key) or get(key))
    info = storage.save("w", "t", Text("xyz"))
    assert [] == [key for key in got if "/.data/" in key]
    ((_, size, digest),) = info.side_data[0].files
    assert (3, xxh3_128_hexdigest(b"xyz")) == (size, digest)
    assert "" == storage.verify()[0].problem


class Together(Written):
    """Notes what it is asked; keeps nothing."""

    name = "together"
    always_read = True

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def check(self, obj: Text) -> None:
        self.asked.append("check")
        if obj.text == "bad":
            raise TypeError("it is bad")

    def pickle_many(self, objs: list[Text], protocols: list[Any]) -> list[tuple[str, Any]]:
        self.asked.append([obj.text for obj in objs])
        assert len({id(offered[FILE_PROTOCOL]) for offered in protocols}) == len(objs)
        for obj, offered in zip(objs, protocols, strict=True):
            with offered[FILE_PROTOCOL].open(obj.text, "w") as file:
                file.write(obj.text)
        return [(self.name, (None, f"read {obj.text}")) for obj in objs]


def test_all_objects_of_a_result_are_written_at_once(storage: Storage) -> None:
    """After each has been checked; each has its own entry in the header."""
    serializer = Together()
    storage.register_persistent_serializers(serializer)
    one, step = Text("1"), 2
    value = [one, {"a": (Text("2"), one)}, lambda x: x + step]
    info = storage.save("w", "t", value)
    assert ["check", "check", ["1", "2"]] == serializer.asked
    assert [["1"], ["2"]] == [[name for name, *_ in side.files] for side in info.side_data]
    read = storage.read_task("w", "t")
    assert read[0] is read[1]["a"][1]
    assert ("read 1", "read 2", 3) == (read[0].text, read[1]["a"][0].text, read[2](1))


def test_what_can_t_be_kept_is_refused_before_anything_is_written(storage: Storage) -> None:
    """The error names its place."""
    serializer = Together()
    storage.register_persistent_serializers(serializer)
    with pytest.raises(UnpicklableResultError, match=r"result\['b'\] is a .*Text .* it is bad"):
        storage.save("w", "t", {"a": Text("1"), "b": Text("bad")})
    assert {"check"} == set(serializer.asked)
    assert [] == keys(storage)


@workflow(version="1")
def make() -> Any:
    return [Text("1")]


@workflow(version="1")
def look(found: Any) -> str:
    return str(found[0].text)


def test_what_is_lazy_is_read_back_within_a_run(storage: Storage) -> None:
    """If its serializer says so, whatever the storage does with other results."""
    for serializer, expected in ((Together(), "read 1"), (InPieces(), "1")):
        plain = Storage(storage.store)
        plain.register_persistent_serializers(serializer)
        flow = LocalWorkflow(look(make().set_name("make")), workflow_name=expected)
        flow.set_storage(plain)
        assert expected == flow.run()


def test_an_instance_is_made_of_a_class_that_needs_one(storage: Storage) -> None:
    """A class whose methods are class methods is taken as it is."""
    storage.register_persistent_serializers(Together)
    assert ["together"] == list(storage._serializers)
    assert isinstance(storage._serializers["together"], Together)
