"""Copies of blobs in files: by a second link, or by reading and writing where that can't be."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse.errors import ResultNotFoundError, StoragePathError
from functionfuse.storage.filestore import FileStore

REFUSALS = [
    *(("link", code) for code in ("EPERM", "EACCES", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EMLINK")),
    ("utime", "EPERM"),
    ("utime", "EACCES"),
]
DATA = os.urandom(2 << 20)
OLD = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an old blob "w/a" and another blob in a folder beside it."""
    store = FileStore(str(tmp_path / "store"))
    store.put("w/a", [DATA])
    store.put("w/.earlier/x", [b"before"])
    os.utime(tmp_path / "store" / "w" / "a", (OLD, OLD))
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(str(root))


def left(root: Path) -> list[Path]:
    """Return the temporary files in a store."""
    return list(root.rglob(".tmp-*"))


def raising(code: str) -> Callable[..., Any]:
    """Return a function that raises an error of the system."""
    number = getattr(errno, code)

    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def before(action: Callable[[Any], object], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does something before its first call, given the first argument."""
    left = [action]

    def first_then(name: Any, *arguments: Any, **named: Any) -> Any:
        if left:
            left.pop()(name)
        return call(name, *arguments, **named)

    return first_then


def test_a_copy_is_a_link(store: FileStore, root: Path) -> None:
    """It takes no room; its file is another name of the first one's, in whatever folder."""
    for key, to in (
        ("w/a", "w/b"),
        ("w/b", "w/.earlier/x"),
        ("w/.earlier/x", "w/c"),
        ("w/c", "v/a"),
    ):
        store.copy(key, to)
        assert (root / "w" / "a").samefile(root / to)
    store.copy("w/a", "w/.earlier/x")  # a rename between two links of one file does nothing
    assert [] == left(root)
    store.put("w/a", [b"after"])
    assert DATA == store.get("w/.earlier/x")


@pytest.mark.parametrize(("call", "code"), REFUSALS)
def test_without_links(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: str
) -> None:
    """A system that refuses a link, or its new time, gets a file of its own."""
    monkeypatch.setattr(os, call, raising(code))
    store.copy("w/a", "w/.earlier/x")
    first, second = root / "w" / "a", root / "w" / ".earlier" / "x"
    assert DATA == second.read_bytes()
    assert not first.samefile(second)
    assert OLD <= first.stat().st_mtime <= second.stat().st_mtime
    assert OLD < second.stat().st_mtime
    assert [] == left(root)
    with pytest.raises(ResultNotFoundError, match="w/missing"):
        store.copy("w/missing", "w/.earlier/x")


@pytest.mark.parametrize("call", ["link", "utime", "rename", "write", "stat"])
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EROFS"])
def test_a_copy_that_fails(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: str, call: str
) -> None:
    """The error is the system's, and both blobs stay as they are."""
    store.put("w/other", [b"from here on, the ways of the file system are known"])
    if call == "write":
        monkeypatch.setattr(os, "link", raising("EPERM"))
    monkeypatch.setattr(os, call, raising(code))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, code))) as caught:
        store.copy("w/a", "w/.earlier/x")
    assert getattr(errno, code) == caught.value.errno
    monkeypatch.undo()
    assert [DATA, b"before"] == [store.get(key) for key in ("w/a", "w/.earlier/x")]
    assert [] == left(root)


def test_a_folder_that_is_removed_meanwhile(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made again, as for a put; the blob that is there doesn't count as missing."""
    store.copy("w/a", "w/.earlier/y")
    remove = before(lambda _: shutil.rmtree(root / "w" / ".earlier"), os.link)
    monkeypatch.setattr(os, "link", remove)
    store.copy("w/a", "w/.earlier/x")
    assert DATA == store.get("w/.earlier/x")


def test_a_link_that_is_swept(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a sweep whose clock is ahead: the blob is copied as a file."""
    store.put("w/.functionfuse", [b""])
    store.copy("w/a", "w/.earlier/y")
    os.utime(root / "w" / "a", (OLD, OLD))
    sweeper = FileStore(str(root))

    def sweep(name: object) -> None:
        found = [blob.key for blob in sweeper.sweep(86_400)]
        assert [f"w/.earlier/{name}"] == found

    monkeypatch.setattr(os, "rename", before(sweep, os.rename))
    monkeypatch.setattr(os, "utime", lambda *_, **__: None)
    with monkeypatch.context() as patch:
        patch.setattr(sweeper, "now", lambda: OLD + 90_000.0)
        store.copy("w/a", "w/.earlier/x")
    assert DATA == store.get("w/.earlier/x")
    assert [] == left(root)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_folder_stays_open(store: FileStore, root: Path, tmp_path: Path) -> None:
    """Whether a blob is copied, or isn't there, or a folder can't be had."""
    (root / "v").symlink_to(tmp_path)
    store.copy("w/a", "w/.earlier/x")
    store.copy("w/.earlier/x", "w/.new/x")
    for key, to, error in (
        ("w/missing", "w/b", ResultNotFoundError),
        ("missing/a", "w/b", ResultNotFoundError),
        ("w/a", "v/b", StoragePathError),
        ("w/.missing/a", "w/b", ResultNotFoundError),
    ):
        with pytest.raises(error):
            store.copy(key, to)
    descriptors = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    places = [os.readlink(path) for path in descriptors if os.path.islink(path)]
    assert [] == [place for place in places if place.startswith(str(tmp_path))]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder outside of the store, in which nothing may change."""
    folder = tmp_path / "outside"
    for name in ("a", "x", "below/a", ".earlier/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"theirs")
        os.utime(folder / name, (OLD, OLD))
    status = {path: path.stat() for path in folder.rglob("*")}
    yield folder
    for path, was in status.items():
        now = path.stat()
        assert (was.st_nlink, was.st_mtime, was.st_ctime) == (
            now.st_nlink,
            now.st_mtime,
            now.st_ctime,
        )
        assert path.is_dir() or b"theirs" == path.read_bytes()
    assert set(status) == set(folder.rglob("*"))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("key", "place", "target"),
    [
        ("w/a", "w/a", "a"),
        ("w/a", "w/a", "missing"),
        ("w/a", "w/a", "below"),
        ("w/a", "w", "."),
        ("w/.earlier/a", "w", "."),
        ("w/.earlier/a", "w/.earlier", "."),
        ("w/.earlier/a", "w/.earlier", "below"),
    ],
)
def test_a_symbolic_link_is_no_blob(
    store: FileStore,
    root: Path,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    place: str,
    target: str,
    links: bool,
) -> None:
    """Where the first blob should be, or its folder: there is nothing to copy."""
    store.put("v/to", [b"before"])
    (root / place).rename(root / "elsewhere")
    (root / place).symlink_to(outside / target)
    if not links:
        monkeypatch.setattr(os, "link", raising("EPERM"))
    for to in ("v/to", "w/to", "w/.earlier/to"):
        with pytest.raises((ResultNotFoundError, StoragePathError)) as caught:
            store.copy(key, to)
        assert caught.type is ResultNotFoundError or place == "w"
    assert b"before" == store.get("v/to")
    assert [] == left(root)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("target", ["x", "missing", "below"])
def test_a_symbolic_link_is_replaced(
    store: FileStore,
    root: Path,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    links: bool,
) -> None:
    """In the place of the copy it is not followed."""
    (root / "w" / ".earlier" / "x").unlink()
    (root / "w" / ".earlier" / "x").symlink_to(outside / target)
    if not links:
        monkeypatch.setattr(os, "link", raising("EPERM"))
    store.copy("w/a", "w/.earlier/x")
    assert not (root / "w" / ".earlier" / "x").is_symlink()
    assert DATA == store.get("w/.earlier/x")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("place", ["w/.earlier", "v"])
def test_a_folder_that_is_a_symbolic_link(
    store: FileStore,
    root: Path,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    links: bool,
) -> None:
    """No copy is made behind it: that is an error, as for a put."""
    shutil.rmtree(root / place, ignore_errors=True)
    (root / place).symlink_to(outside)
    if not links:
        monkeypatch.setattr(os, "link", raising("EPERM"))
    with pytest.raises(StoragePathError, match="is a symbolic link"):
        store.copy("w/a", f"{place}/x")
    assert DATA == store.get("w/a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_file_of_another_user() -> None:
    """One who may not change its time gets a file of their own, and the other's stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = FileStore(f"{folder}/store")
        store.put("w/a", [DATA])
        first, second = Path(folder, "store", "w", "a"), Path(folder, "store", "w", ".earlier", "x")
        os.utime(first, (OLD, OLD))
        for place in (first.parent, first.parent.parent):
            place.chmod(0o777)
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                FileStore(store.root).copy("w/a", "w/.earlier/x")
                os._exit(0)
            finally:
                os._exit(1)
        assert (child, 0) == os.waitpid(child, 0)
        assert DATA == second.read_bytes()
        assert (65534, 0) == (second.stat().st_uid, first.stat().st_uid)
        assert (1, OLD) == (first.stat().st_nlink, first.stat().st_mtime)
        assert second.stat().st_mtime > OLD
        assert [] == left(Path(folder))
