"""Big files are mapped and can't be written in place; small values have memory of their own."""

from __future__ import annotations

import gc
import mmap
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_users import NOBODY, as_user, needs_root, open_folder

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import disk
from functionfuse.storage.blobstore import Streamed
from functionfuse.storage.disk import BIG
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore

SMALL, LARGE = np.full(1 << 20, 1.0), np.full(1 << 21, 1.0)  # 8 and 16 MiB


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class Words:
    """What a serializer keeps in a file beside the result."""

    def __init__(self, size: int) -> None:
        self.size = size


class WordsSerializer:
    """Writes a file in two goes."""

    name, serializer_class = "words", Words

    def pickle(self, obj: Words, protocols: dict[str, Any]) -> tuple[str, Any]:
        name = f"{generate_name()}.words"
        for mode in ("wb", "r+b"):
            with protocols[FILE_PROTOCOL].open(name, mode) as file:
                file.write(b"x" * obj.size)
        return self.name, name

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Words:
        with protocols[FILE_PROTOCOL].open(pid) as file:
            return Words(len(file.read()))

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)


# How a value is read.


def test_a_small_value_stays_what_it_was(storage: FileStorage) -> None:
    """Whatever happens to the file: its bytes are read, and taken over without a copy."""
    storage.save("w", "t", SMALL)
    file = Path(storage.path, "w", "t")
    before = len(disk._maps)
    tracemalloc.start()
    try:
        read = storage.read_task("w", "t")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * SMALL.nbytes
    finally:
        tracemalloc.stop()
    assert before == len(disk._maps)
    with file.open("r+b") as other:
        other.write(bytes(file.stat().st_size))
    os.truncate(file, 0)
    assert np.array_equal(SMALL, read)
    read[0] = 2.0


def test_a_short_read_is_continued(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call that gives fewer bytes than were asked for is followed by more."""
    storage.save("w", "t", SMALL)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 777_777)))
    assert np.array_equal(SMALL, storage.read_task("w", "t"))


def test_so_many_maps_are_alive(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map counts as long as an array uses it, also in a child; then values are read."""
    storage.save("w", "t", LARGE)
    before = len(disk._maps)  # what other tests have left, until it is collected
    monkeypatch.setattr(disk, "_MOST_MAPS", before + 2)

    def read() -> tuple[Any, bool]:
        count = len(disk._maps)
        found = storage.read_task("w", "t")
        assert np.array_equal(LARGE, found)
        found[0] = 2.0
        return found[1:], len(disk._maps) > count

    first, second, third = read(), read(), read()
    assert [True, True, False] == [mapped for _, mapped in (first, second, third)]
    child = os.fork()
    if not child:
        try:
            os._exit(read()[1])
        finally:
            os._exit(2)
    assert (child, 0) == os.waitpid(child, 0)
    del second
    assert read()[1]


READ_MANY = """
import os, resource, sys
import numpy as np
from functionfuse.storage.filestorage import FileStorage
most, count = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
storage = FileStorage(sys.argv[1])
values = [storage.read_task("w", "t") for _ in range(count)]
assert len(os.listdir("/proc/self/fd")) > 60
storage.save("w", "sum", float(sum(value[number] for number, value in enumerate(values))))
print(storage.read_task("w", "sum"))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_maps_use_up_no_file_descriptors(storage: FileStorage) -> None:
    """More big values than descriptors are read, computed on, and the result is saved."""
    storage.save("w", "t", LARGE)
    command = [sys.executable, "-c", READ_MANY, storage.path, "80", "90"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ("90.0\n", "") == (done.stdout, done.stderr)


def test_a_file_that_was_cut_is_not_mapped(tmp_path: Path) -> None:
    """Between the look at its size and the map; nor one of a system without maps."""
    (tmp_path / "file").write_bytes(b"x")
    with open(tmp_path / "file", "rb") as file:
        assert disk.map_file(file.fileno(), 5000, mmap.ACCESS_COPY) is None
        assert 1 == len(disk.read_all(file.fileno(), 5000))


def test_with_a_key_nothing_is_mapped(tmp_path: Path) -> None:
    """The bytes that are used are those whose signature was checked."""
    storage = FileStorage(tmp_path, key="secret")
    storage.save("w", "t", LARGE)
    before = len(disk._maps)
    read = storage.read_task("w", "t")
    assert before == len(disk._maps)
    assert np.array_equal(LARGE, read)


def test_takers_get_copies_without_maps(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call owns its big array, when no more maps may be alive, too."""

    @workflow(version="1")
    def big() -> Any:
        return np.zeros(1 << 21)

    @workflow(version="1")
    def changed(array: Any, number: int) -> float:
        array[0] += number
        return float(array[0])

    for most in (disk._MOST_MAPS, 0):
        monkeypatch.setattr(disk, "_MOST_MAPS", most)
        source = big().set_name("big")
        takers = [changed(source, number).set_name(f"t{number}") for number in (1, 2, 3)]
        flow = LocalWorkflow(*takers, source, workflow_name=f"w{most}")
        flow.set_storage(storage)
        *numbers, array = flow.run()
        assert ([1.0, 2.0, 3.0], 0.0) == (numbers, array[0])


# Who can write a file in place.


@pytest.mark.parametrize(("private", "rights"), [(False, 0o644), (True, 0o600)])
def test_big_files_are_read_only(tmp_path: Path, private: bool, rights: int) -> None:
    """However they come to be; small ones keep the right to write, for their folder's others."""
    before = os.umask(0o022)
    try:
        storage = FileStorage(tmp_path / "store", private=private)
        storage.register_persistent_serializers(WordsSerializer())
        storage.save("w", "small", SMALL)
        storage.save("w", "array", LARGE)
        storage.save("w", "bytes", bytes(BIG))
        storage.store.put("w/streamed", Streamed(BIG, iter([b"1" * 5, bytes(BIG - 5)])))
        storage.save("w", "words", Words(BIG))
        storage.store.copy("w/array", "v/array")
    finally:
        os.umask(before)
    files = [path for path in Path(storage.path).rglob("*") if path.is_file()]
    found = {path.suffix or path.name: mode(path) for path in files}
    small = {name for name, rights_of in found.items() if rights_of == rights}
    assert {".functionfuse", "small", "words"} == small
    assert {rights & ~0o222} == {found[name] for name in found.keys() - small}
    assert {"array", "bytes", "streamed", ".words"} == found.keys() - small
    assert BIG == storage.read_task("w", "words").size


@needs_root
@pytest.mark.parametrize("size", [BIG, BIG + 5000])
def test_nobody_else_writes_a_big_result_in_place(size: int) -> None:
    """In a folder that everybody can write; a new file may take the place of a result."""
    with open_folder() as folder:
        storage = FileStorage(folder)
        storage.register_persistent_serializers(WordsSerializer())
        storage.save("w", "t", [np.zeros(size, "u1"), Words(size)])
        other = folder.parent / "other"
        other.write_bytes(b"x" * size)
        files = [folder / "w" / "t", *(folder / "w" / ".data").iterdir()]
        assert 2 == len(files)
        read = storage.read_task("w", "t")

        def write() -> None:
            for file in files:
                for command in (
                    ["cp", str(other), str(file)],
                    ["dd", f"if={other}", f"of={file}", "conv=notrunc"],
                    ["truncate", "-s", "0", str(file)],
                ):
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    assert done.returncode
                    assert "Permission denied" in done.stderr
                for how in ("r+b", "wb", "ab"):
                    with pytest.raises(PermissionError):
                        file.open(how)

        as_user(NOBODY, write)
        assert not read[0].any()
        assert [""] == [checked.problem for checked in storage.verify()]
        command = ["cp", "--remove-destination", str(other), str(files[0])]
        as_user(NOBODY, lambda: subprocess.run(command, check=True))
        assert other.read_bytes() == files[0].read_bytes()
        assert not read[0].any()


@needs_root
def test_the_owner_does_with_big_results_what_he_did() -> None:
    """They are replaced, set aside, restored, copied, checked and removed without root."""

    @workflow(version="1")
    def made(number: int) -> Any:
        return np.full(1 << 21, float(number))

    def numbers(folder: Path) -> list[tuple[float, str]]:
        found = []
        for number in (1, 2, 1, 2):
            flow = LocalWorkflow(made(number).set_name("t"), workflow_name="w")
            flow.set_storage(FileStorage(folder, durability="fsync"))
            found.append((float(flow.run()[-1]), flow.report["t"].action))
        return found

    def use(folder: Path) -> None:
        storage = FileStorage(folder / "a", durability="fsync")
        first, second = [(1.0, "computed"), (2.0, "computed")], [(1.0, "reused"), (2.0, "reused")]
        assert [*first, *second] == numbers(folder / "a")
        assert 0o400 == mode(folder / "a" / "w" / "t") & 0o600
        [copied] = storage.copy("w", FileStorage(folder / "b"))
        assert "copied" == copied.action
        assert 0o400 == mode(folder / "b" / "w" / "t") & 0o600
        temporary = f".tmp-{bytes(8).hex()}-0"
        (folder / "a" / "w" / temporary).write_bytes(b"x")
        os.chmod(folder / "a" / "w" / temporary, 0o444)
        assert [f"w/{temporary}"] == [left.key for left in storage.gc(-60)]
        assert {""} == {checked.problem for checked in storage.verify()}
        storage.prune("w", days=0)
        storage.remove_workflow("w")
        assert [] == list(storage.store.list(""))

    with open_folder() as folder:
        numbers(folder.parent / "root")  # imports all that is needed
        as_user(NOBODY, lambda: use(folder))


# A store of a group.

GROUP, ANN, BOB = 54_321, 54_322, 54_323


@needs_root
def test_a_group_shares_a_store() -> None:
    """Results of others that one may not write are copied when they are set aside or restored.

    The system links no file of another user who gives no right to write (fs.protected_hardlinks),
    and sets no time of it. Small ones are linked if the umask of the group is 002.
    """

    @workflow(version="1")
    def made(number: int, size: int) -> Any:
        return np.full(size // 8, float(number))

    def run(folder: Path, number: int, size: int, action: str, umask: int) -> Callable[[], None]:
        def go() -> None:
            os.umask(umask)
            flow = LocalWorkflow(made(number, size).set_name("t"), workflow_name="w")
            flow.set_storage(FileStorage(folder))
            assert number == flow.run()[-1]
            assert action == flow.report["t"].action

        return go

    for size, linked in ((8000, True), (BIG, False)):
        with open_folder(0o2770, group=GROUP) as folder:
            run(folder.parent / "root", 1, size, "computed", 0o022)()
            as_user(ANN, run(folder, 1, size, "computed", 0o002), group=GROUP)
            first = os.stat(folder / "w" / "t")
            as_user(BOB, run(folder, 2, size, "computed", 0o002), group=GROUP)
            [aside] = (folder / "w" / ".earlier").iterdir()
            assert linked == os.path.samestat(first, aside.stat())
            assert (ANN if linked else BOB) == aside.stat().st_uid
            as_user(ANN, run(folder, 1, size, "reused", 0o002), group=GROUP)
            again = os.stat(folder / "w" / "t")
            assert linked == os.path.samestat(aside.stat(), again)
            assert (ANN, GROUP) == (again.st_uid, again.st_gid)
            as_user(BOB, run(folder, 2, size, "reused", 0o002), group=GROUP)
            storage = FileStorage(folder)
            assert {""} == {checked.problem for checked in storage.verify()}
            as_user(BOB, lambda: FileStorage(folder).remove_workflow("w"), group=GROUP)
            assert [] == list(FileStore(str(folder)).list(""))


def test_values_in_cycles_are_collected(tmp_path: Path) -> None:
    """Their memory is no buffer of a `BytesIO`, at which Python 3.12 crashes."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", np.zeros(10_000))
    for _ in range(20):
        cycle: list[Any] = [storage.read_task("w", "t")]
        cycle.append(cycle)
        del cycle
    gc.collect()  # an error here would be raised: warnings are errors
