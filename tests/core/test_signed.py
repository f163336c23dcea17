"""With a key: what a signature covers can't be forged, and what was checked is what is used."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from forger import forged
from kept_values import Kept, KeptSerializer
from result_bytes import MemoryStore, header_of, of_pickle, rest_of, sealed, section_digest
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from functionfuse.config.options import StorageOptions
from functionfuse.errors import (
    DamagedResultError,
    OptionsError,
    ResultNotFoundError,
    UntrustedResultError,
)
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.disk import own_memory, owned
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.signing import Pieces, section_hexdigest

KEY: Any = "signs all"
MIB = 1 << 20
ran: list[str] = []


class Tree:
    """Some files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files


class Trees:
    """Keeps each tree in a folder."""

    name = "trees"
    serializer_class: type = Tree

    @staticmethod
    def pickle(obj: Tree, protocols: dict[str, Any]) -> tuple[str, str]:
        name = generate_name()
        folder = Path(protocols[FILE_PROTOCOL].folder(name, "w"))
        for file, data in obj.files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(data)
        return Trees.name, name

    @staticmethod
    def unpickle(pid: str, protocols: dict[str, Any]) -> Tree:
        folder = Path(protocols[FILE_PROTOCOL].folder(pid))
        paths = (path for path in folder.rglob("*") if path.is_file())
        return Tree({str(path.relative_to(folder)): path.read_bytes() for path in paths})

    @staticmethod
    def remove(pid: str, protocols: dict[str, Any]) -> None:
        raise NotImplementedError


def opened(path: Path, key: str | None = KEY) -> FileStorage:
    storage = FileStorage(path, **({"key": key} if key else {}))
    teach(storage, KeptSerializer(), Trees())
    return storage


def teach(storage: FileStorage, *serializers: Any) -> None:
    storage.register_persistent_serializers(*serializers)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return opened(tmp_path / "store")


@pytest.fixture
def hostile() -> bytes:
    """A pickle that calls a function."""
    ran.clear()
    return b"cfunctionfuse_test_signed_hook\nrun\n(tR."


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("functionfuse_test_signed_hook")
    module.run = lambda: ran.append("code")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def side_file(storage: FileStorage, task: str = "t") -> Path:
    [side] = storage.task_info("w", task).side_data
    return Path(storage.path, "w", ".data", side.files[0][0])


# digests


def test_another_text_with_the_same_digest() -> None:
    """XXH3-128 is no protection: anybody can compute such a text."""
    genuine = pickle.dumps(list(range(1000)))
    other = forged(genuine, b"a text of somebody else")
    assert (len(genuine), xxh3_128_digest(genuine)) == (len(other), xxh3_128_digest(other))
    assert genuine != other


def test_a_forged_pickle_is_refused(storage: FileStorage, hostile: bytes) -> None:
    """It has the length and the XXH3-128 of the signed one, and nothing of it is unpickled."""
    storage.save("w", "t", list(range(1000)))
    path = Path(storage.path, "w", "t")
    data = path.read_bytes()
    rest = forged(rest_of(data), hostile)
    assert xxh3_128_hexdigest(rest) == header_of(data)["digest"]
    path.write_bytes(data[: -len(rest)] + rest)
    for reader in (storage, opened(Path(storage.path), key=None)):
        with pytest.raises(DamagedResultError, match="the pickle"):
            reader.read_task("w", "t")
    [found] = storage.verify()
    assert "the pickle" in found.problem
    assert [] == ran


def test_what_sign_protects(tmp_path: Path, hostile: bytes) -> None:
    """A plain result that an older release signed is read, and can be forged until `sign`."""
    storage = opened(tmp_path)
    genuine = pickle.dumps(list(range(1000)))
    path = tmp_path / "w" / "t"
    path.parent.mkdir()
    older = of_pickle(genuine, key=KEY.encode())
    path.write_bytes(older)
    assert list(range(1000)) == storage.read_task("w", "t")
    path.write_bytes(older[: -len(genuine)] + forged(genuine, hostile))
    storage.read_task("w", "t")
    assert ["code"] == ran
    path.write_bytes(older)
    assert ["signed"] == [each.action for each in storage.sign()]
    data = path.read_bytes()
    assert list(range(1000)) == storage.read_task("w", "t")
    path.write_bytes(data[: -len(genuine)] + forged(genuine, hostile))
    with pytest.raises(DamagedResultError):
        storage.read_task("w", "t")
    assert ["code"] == ran


def test_the_digest_of_a_value_does_not_depend_on_the_key(tmp_path: Path) -> None:
    """So runs in another storage reuse a result; its sections have SHA-256 digests with a key."""
    value = {"a": np.arange(1 << 16), "big": np.zeros(3 * MIB), "text": "x"}
    plain, signed = opened(tmp_path / "a", None), opened(tmp_path / "b")
    one, two = plain.save("w", "t", value), signed.save("w", "t", value)
    assert (one.digest, one.value) == (two.digest, two.value)
    data = Path(signed.path, "w", "t").read_bytes()
    header = header_of(data)
    assert (1, 2) == (Path(plain.path, "w", "t").read_bytes()[8], data[8])
    position, rest = len(data) - len(rest_of(data)), 0
    for size, digest in [header["pickle"], *header["buffers"]]:
        position += -position % 64 if rest else 0
        assert section_digest(data[position : position + size]) == digest
        position, rest = position + size, rest + 1
    assert rest == 3
    assert two == signed.task_info("w", "t")


@pytest.mark.parametrize("size", [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB])
def test_the_digest_of_a_section(size: int) -> None:
    """That of the digests of pieces: at once, in blocks of any size, and as documented."""
    data = os.urandom(MIB) * (size // MIB) + bytes(size % MIB)
    expected = section_digest(data)
    assert expected == section_hexdigest(data, strong=True)
    for block in (1000, MIB, 5 * MIB):
        pieces = Pieces()
        for start in range(0, max(size, 1), block if size < 10**6 or block > 1000 else MIB):
            pieces.update(data[start : start + (block if size < 10**6 or block > 1000 else MIB)])
        assert expected == pieces.hexdigest()


@pytest.mark.parametrize("side_data", [False, True])
def test_which_older_signatures_count(tmp_path: Path, side_data: bool) -> None:
    """Those of plain results; not of results with side data, which anybody could exchange."""
    plain = opened(tmp_path, None)
    plain.save("w", "t", Kept(b"x") if side_data else 7)
    path = tmp_path / "w" / "t"
    data = path.read_bytes()
    path.write_bytes(sealed(data[64 : -len(rest_of(data))], rest_of(data), key=KEY.encode()))
    signed = opened(tmp_path)
    if not side_data:
        assert 7 == signed.read_task("w", "t")
        return
    for call in (signed.read_task, signed.task_info):
        with pytest.raises(UntrustedResultError, match=r"older release.*storage\.sign"):
            call("w", "t")
    [found] = signed.verify()
    assert "storage.sign" in found.problem
    assert ["signed"] == [each.action for each in signed.sign("w")]
    assert b"x" == signed.read_task("w", "t").data


def test_a_header_of_version_2_with_other_digests(storage: FileStorage) -> None:
    """It is damaged, whoever signed it."""
    storage.save("w", "t", 7)
    path = Path(storage.path, "w", "t")
    data = path.read_bytes()
    header = header_of(data)
    header["pickle"][1] = xxh3_128_hexdigest(rest_of(data))
    path.write_bytes(sealed(header, rest_of(data), key=KEY.encode(), version=2))
    with pytest.raises(DamagedResultError, match="not of SHA-256"):
        storage.read_task("w", "t")


# memory


class Shared(MemoryStore):
    """Returns memory that others can write, although a store must not."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[mmap.mmap] = []

    def get(self, key: str) -> Buffer:
        data = super().get(key)
        self.maps.append(mmap.mmap(-1, len(data)))
        self.maps[-1][:] = bytes(data)
        return memoryview(self.maps[-1])


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_what_is_checked_is_what_is_used(size: int) -> None:
    """Bytes are copied before the check, whatever a store returns; arrays are in the copy."""
    storage = Storage(Shared(), StorageOptions(key=KEY))
    storage.save("w", "t", np.zeros(size, "u1"))
    value = storage.read_task("w", "t")
    store: Any = storage.store
    store.maps[-1][:] = b"x" * len(store.maps[-1])
    assert not value.any()
    value[0] = 1
    with pytest.raises(Exception, match="can't be read again"):
        storage.read_again("w", "t", storage.task_info("w", "t"))


def test_a_file_store_that_maps(tmp_path: Path) -> None:
    """A key makes copies of it, too."""
    store = FileStore(str(tmp_path))
    storage = Storage(store, StorageOptions(key=KEY))
    storage.save("w", "t", np.zeros(20 * MIB, "u1"))
    value = storage.read_task("w", "t")
    os.chmod(tmp_path / "w" / "t", 0o600)
    with open(tmp_path / "w" / "t", "r+b") as file:
        file.seek(10 * MIB)
        file.write(b"x" * 100)
    assert not value.any()


def test_bytes_that_change_while_they_are_read(storage: FileStorage, hostile: bytes) -> None:
    """Somebody writes another pickle into the file, and the old one, again and again."""
    value = [f"x{number}" * 20 for number in range(20_000)]
    storage.save("w", "t", value)
    path = Path(storage.path, "w", "t")
    good = path.read_bytes()
    start = len(good) - len(rest_of(good))
    ended = threading.Event()

    def toggle() -> None:
        with open(path, "r+b", buffering=0) as file:
            while not ended.is_set():
                for data in (hostile, good[start : start + len(hostile)]):
                    file.seek(start)
                    file.write(data)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        for _ in range(50):
            try:
                assert value == storage.read_task("w", "t")
            except DamagedResultError:
                continue
    finally:
        ended.set()
        thread.join()
    assert [] == ran


def test_own_memory() -> None:
    """It is writable, of this process alone, without a file, and freed with the last view."""
    view = own_memory(20 * MIB)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    more = [own_memory(MIB) for _ in range(3)]
    if before:
        assert before == len(os.listdir("/proc/self/fd"))
    assert view[0] == 0
    view[0] = 1
    assert owned(view) is view
    array = np.frombuffer(view, "u1")
    assert array.flags.writeable
    assert 1 == pickle.loads(pickle.dumps(array))[0]
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            view[0] = 7
            os._exit(0)
        assert 0 == os.waitpid(child, 0)[1]
        assert 1 == view[0]
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    assert address % mmap.PAGESIZE == 0
    del more


# side data


def test_a_serializer_gets_a_copy(storage: FileStorage) -> None:
    """Of a file: in memory, without a path; and not one that the header doesn't list."""
    seen: list[Any] = []

    class Looks(KeptSerializer):
        @staticmethod
        def unpickle(pid: str, protocols: dict[str, Any]) -> Any:
            files = protocols[FILE_PROTOCOL]
            with files.open(pid) as file:
                side_file(storage).write_bytes(b"later")
                seen.append(hasattr(file, "name"))
                found = file.read()
            with pytest.raises(DamagedResultError, match="not what was written"):
                files.open(pid)
            with files.unchecked.open(pid) as file:
                seen.append(file.read())
            for name in ("other", f"{pid}/", "../t"):
                with pytest.raises(UntrustedResultError, match="doesn't list"):
                    files.open(name)
            with pytest.raises(ValueError, match="only read"):
                files.open(pid, "wb")
            with pytest.raises(UntrustedResultError, match="doesn't list"):
                files.folder(pid)
            return Kept(found)

    storage.save("w", "t", Kept(b"first"))
    Path(storage.path, "w", ".data", "other").write_bytes(b"planted")
    teach(storage, Looks())
    assert b"first" == storage.read_task("w", "t").data
    assert [False, b"later"] == seen


def test_a_folder_is_copied(storage: FileStorage) -> None:
    """Into a folder of the user alone, which is checked as a whole, and removed afterwards."""
    tree = {"a": b"1", "deep/b": b"22"}
    storage.save("w", "t", Tree(tree))
    folders: list[Path] = []

    class Looks(Trees):
        @staticmethod
        def unpickle(pid: str, protocols: dict[str, Any]) -> Tree:
            files = protocols[FILE_PROTOCOL]
            folders.append(Path(files.folder(pid)))
            assert files.folder(pid) == str(folders[-1])
            assert not folders[-1].is_relative_to(storage.path)
            assert 0o700 == folders[-1].stat().st_mode & 0o777
            assert b"22" == bytes(files.side_folder(pid).read("deep/b"))
            return Trees.unpickle(pid, protocols)

    teach(storage, Looks())
    assert tree == storage.read_task("w", "t").files
    assert [False] == [folder.exists() for folder in folders]
    inside = Path(storage.path, "w", ".data", storage.task_info("w", "t").side_data[0].files[0][0])
    (inside / "c").write_bytes(b"planted")
    with pytest.raises(DamagedResultError, match="not what was written"):
        storage.read_task("w", "t")
    (inside / "c").unlink()
    (inside / "a").write_bytes(b"2")
    with pytest.raises(DamagedResultError, match="not what was written"):
        storage.read_task("w", "t")


def test_pieces_are_read_by_their_own_digests(storage: FileStorage) -> None:
    """The list of pieces is signed through its digest; digests of another kind are not taken."""

    class InPieces(KeptSerializer):
        strong = True

        @classmethod
        def pickle(cls, obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
            files = protocols[FILE_PROTOCOL]
            with files.open(name := generate_name(), "wb") as file:
                file.write(obj.data)
            digest = files.digest if cls.strong else xxh3_128_digest
            cut = [(0, 3), (3, len(obj.data) - 3)]
            parts = [(at, size, digest(obj.data[at : at + size]).hex()) for at, size in cut]
            files.digested(name, parts)
            return cls.name, name

    teach(storage, InPieces())
    storage.save("w", "t", Kept(b"123456"))
    [side] = storage.task_info("w", "t").side_data
    assert "pieces" == side.files[0][2]
    assert b"123456" == storage.read_task("w", "t").data
    assert [""] == [each.problem for each in storage.verify()]
    beside = Path(storage.path, "w", ".data", side.files[1][0])
    table = beside.read_text()
    other = b"12345X"
    side_file(storage).write_bytes(other)
    digest = storage.protocols[FILE_PROTOCOL].digest
    lines = [f"{at} 3 {digest(other[at : at + 3]).hex()}\n" for at in (0, 3)]
    beside.write_text("".join(lines))
    assert len(table) == len(beside.read_text())  # so that the size doesn't tell
    with pytest.raises(DamagedResultError, match="not what was written"):
        storage.read_task("w", "t")
    beside.write_text(table)
    with pytest.raises(DamagedResultError, match="not what was written"):
        storage.read_task("w", "t")
    InPieces.strong = False
    storage.save("w", "t", Kept(b"123456"))
    [side] = storage.task_info("w", "t").side_data
    assert [64] == [len(digest) for *_, digest in side.files]


# sign


def contents(storage: FileStorage) -> dict[str, bytes]:
    root = Path(storage.path)
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def actions(reports: Any) -> list[str]:
    return [each.action for each in reports]


@pytest.fixture
def unsigned(tmp_path: Path) -> FileStorage:
    """Results of every kind, one of them set aside; big ones, and side data."""
    storage = opened(tmp_path / "store", None)
    storage.save("w", "plain", {"a": [1, 2]})
    storage.save("w", "big", {"x": np.arange(3 * MIB), "y": np.zeros((5, 1000))})
    storage.save("w", "kept", [Kept(b"x" * 10)])
    storage.save("w", "tree", Tree({"a": b"1", "b/c": b"2"}))
    for number in (1, 2):
        storage.save("w", "t", number, fingerprint={"call": f"{number:032}"})
    storage.save("v", "t", 7)
    return storage


def test_sign(unsigned: FileStorage) -> None:
    """Everything is signed; all fields and values stay, and a second call changes nothing."""
    before = {name: unsigned.task_info("w", name) for name in unsigned.list_tasks("w")}
    first = contents(unsigned)
    storage = opened(Path(unsigned.path))
    for name in before:
        with pytest.raises(UntrustedResultError, match=r"not signed.*`storage\.sign\(\)`"):
            storage.read_task("w", name)
    dry = storage.sign(dry_run=True)
    assert first == contents(unsigned)
    reports = storage.sign()
    assert [(each.workflow, each.task, each.call, "signed") for each in dry] == [
        (each.workflow, each.task, each.call, each.action) for each in reports
    ]
    assert {"v": 1, "w": 6} == {
        name: sum(each.workflow == name for each in reports) for name in ("v", "w")
    }
    for name, info in before.items():
        now = storage.task_info("w", name)
        same: dict[str, Any] = {
            "pickle": now.pickle,
            "buffers": now.buffers,
            "side_data": now.side_data,
        }
        assert now == info._replace(**same, size=now.size, signed=True)
        assert now.strong
        files = [size for side in now.side_data for _, size, _ in side.files]
        assert files == [size for side in info.side_data for _, size, _ in side.files]
    assert {"a": [1, 2]} == storage.read_task("w", "plain")
    np.testing.assert_array_equal(np.arange(3 * MIB), storage.read_task("w", "big")["x"])
    assert b"x" * 10 == storage.read_task("w", "kept")[0].data
    assert {"a": b"1", "b/c": b"2"} == storage.read_task("w", "tree").files
    assert [1, 2] == [storage.read_task("w", "t", call=f"{number:032}") for number in (1, 2)]
    assert {""} == {each.problem for each in storage.verify()}
    after = contents(storage)
    assert {"signed already"} == set(actions(storage.sign()))
    assert after == contents(storage)
    assert {"signed"} == set(actions(opened(Path(storage.path), "another").sign("w")))
    assert {"a": [1, 2]} == opened(Path(storage.path), "another").read_task("w", "plain")


def test_sign_what_is_damaged(unsigned: FileStorage) -> None:
    """It is not signed, and stays; the others are signed, and begun again it goes on."""
    storage = opened(Path(unsigned.path))
    path = Path(unsigned.path, "w", "plain")
    good = path.read_bytes()
    path.write_bytes(good[:-3] + b"xyz")
    side_file(unsigned, "kept").write_bytes(b"y" * 10)
    reports = {each.task: each for each in storage.sign("w")}
    assert "the pickle" in reports["plain"].problem
    assert "not what was written" in reports["kept"].problem
    assert ["not signed"] * 2 == [reports[name].action for name in ("plain", "kept")]
    assert good[:-3] + b"xyz" == path.read_bytes()
    path.write_bytes(good)
    again = {each.task: each.action for each in storage.sign("w")}
    assert ("signed", "signed already") == (again["plain"], again["big"])


def test_sign_without_a_serializer(unsigned: FileStorage) -> None:
    """It might have to write its part again, so the result is left, with a reason."""
    storage = FileStorage(unsigned.path, key=KEY)
    problems = {each.task: each.problem for each in storage.sign("w") if each.problem}
    assert {"kept", "tree"} == problems.keys()
    assert "neither installed nor registered" in problems["kept"]


def test_sign_with_a_serializer_that_checks_itself(unsigned: FileStorage) -> None:
    """Its objects are read and written again; the digest of the value stays."""
    offered: list[bool] = []

    class Own(KeptSerializer):
        checks_itself = True

        @staticmethod
        def pickle(obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
            offered.append(protocols[FILE_PROTOCOL].signed)
            return KeptSerializer.pickle(obj, protocols)

    before = unsigned.task_info("w", "kept")
    storage = opened(Path(unsigned.path))
    teach(storage, Own())
    elsewhere = opened(Path(unsigned.path).parent / "elsewhere")
    teach(elsewhere, Own())
    (copied,) = unsigned.copy("w", elsewhere, "kept")
    assert "not copied" == copied.action
    assert "call `sign` of the storage that it is in" in copied.problem
    assert {"signed"} == set(actions(storage.sign("w")))
    assert [True] == offered
    now = storage.task_info("w", "kept")
    assert (before.digest, before.created, before.token) == (now.digest, now.created, now.token)
    assert before.side_data[0].files[0][0] != now.side_data[0].files[0][0]
    assert b"x" * 10 == storage.read_task("w", "kept")[0].data
    assert 1 == len([each for each in storage.gc(-60) if each.kind == "side data"])


def test_sign_leaves_workflows_without_results(unsigned: FileStorage) -> None:
    """They are no reason to stop, by name neither; a name that nobody used is."""
    unsigned.save("a", "t", 1)
    unsigned.new_workflow("b")
    unsigned.save("c", "t", 1)
    signed = FileStorage(unsigned.path, key=KEY)
    assert {"a", "c"} <= {each.workflow for each in signed.sign()}
    assert [] == signed.sign("b")
    assert 1 == signed.read_task("c", "t")
    with pytest.raises(ResultNotFoundError, match="no workflow 'd' has results"):
        signed.sign("d")


def test_sign_needs_a_key(unsigned: FileStorage) -> None:
    """Without one there is an error, and nothing changes."""
    with pytest.raises(OptionsError, match="no key to sign with"):
        unsigned.sign()
    with pytest.raises(FileNotFoundError, match="no workflow"):
        opened(Path(unsigned.path)).sign("zzz")


def test_a_result_that_is_replaced_while_it_is_signed(
    unsigned: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one stays, and is signed."""
    storage = opened(Path(unsigned.path))
    blocks: Callable[..., Any] = FileStore.blocks
    done: list[str] = []

    def slow(self: FileStore, key: str, size: int) -> Any:
        yield from blocks(self, key, size)
        if key == "w/plain" and not done:
            done.append(key)
            unsigned.save("w", "plain", "another")

    monkeypatch.setattr(FileStore, "blocks", slow)
    assert {"signed"} == set(actions(storage.sign("w")))
    assert "another" == storage.read_task("w", "plain")
