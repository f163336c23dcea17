"""With a key: no digest is signed of bytes that were read back from the store."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from copies import Tree, TreeSerializer
from kept_values import Kept, KeptSerializer

from functionfuse.config.options import StorageOptions
from functionfuse.errors import DamagedResultError, SerializerError
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.keys import SIDE_DATA

KEY = "signs all"
GENUINE, PLANTED = b"genuine" * 9, b"planted" * 9


class Swapped(FileStore):
    """Files that somebody replaces right after they are put, or read for the first time."""

    after = "put"

    def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
        super().put(key, parts, **options)
        if self.after == "put":
            self._swap(key)

    def blocks(self, key: str, size: int) -> Iterator[Buffer]:
        yield from super().blocks(key, size)
        if self.after == "read":
            self._swap(key)

    def _swap(self, key: str) -> None:
        if SIDE_DATA in key:
            super().put(key, [PLANTED])


class Side:
    """Keeps bytes in a folder of any storage."""

    name = "side"
    serializer_class: type = Kept
    elsewhere = False

    @classmethod
    def pickle(cls, obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
        folder = protocols[FILE_PROTOCOL].side_folder(name := generate_name(), "w")
        folder.write("other", b"1")
        folder.clear()
        if cls.elsewhere:
            folder = pickle.loads(pickle.dumps(folder))
        folder.write("deep/b", obj.data)
        return cls.name, name

    @staticmethod
    def unpickle(pid: str, protocols: dict[str, Any]) -> Kept:
        return Kept(bytes(protocols[FILE_PROTOCOL].side_folder(pid).read("deep/b")))

    @staticmethod
    def remove(pid: str, protocols: dict[str, Any]) -> None:
        raise NotImplementedError


def opened(store: FileStore, key: str | None = KEY, kept: Any = KeptSerializer) -> Storage:
    storage = Storage(store, StorageOptions.model_validate({"key": key}))
    storage.register_persistent_serializers(kept, TreeSerializer)
    return storage


def swapped(path: Path, after: str) -> Swapped:
    store = Swapped(str(path))
    store.after = after
    return store


def check_signed(storage: Storage, value: Any) -> None:
    """Check that the planted bytes are refused, and that the genuine ones are signed."""
    with pytest.raises(DamagedResultError, match="not what was written"):
        storage.read_task("w", "t")
    sound = FileStore(storage.store.root)
    for blob in list(sound.list(f"w/{SIDE_DATA}")):
        sound.put(blob.key, [GENUINE])
    kept = next(iter(storage._serializers.values()))
    assert vars(value) == vars(opened(sound, kept=kept).read_task("w", "t"))


VALUES = [Kept(GENUINE), Tree({"a": GENUINE, "deep/b": GENUINE})]


@pytest.mark.parametrize("value", VALUES)
def test_what_is_saved(tmp_path: Path, value: Any) -> None:
    """The bytes that a serializer writes are signed, in files and in a folder."""
    storage = opened(swapped(tmp_path, "put"))
    storage.save("w", "t", value)
    check_signed(storage, value)


def test_what_is_saved_in_a_side_folder(tmp_path: Path) -> None:
    """So are bytes that are given to a `SideFolder`."""
    storage = opened(swapped(tmp_path, "put"), kept=Side)
    storage.save("w", "t", VALUES[0])
    check_signed(storage, VALUES[0])


def test_a_side_folder_of_another_process(tmp_path: Path) -> None:
    """What another process writes isn't signed, unless its digests are given."""
    storage = opened(FileStore(str(tmp_path)), kept=type("Side", (Side,), {"elsewhere": True}))
    with pytest.raises(SerializerError, match="not written here"):
        storage.save("w", "t", VALUES[0])
    assert [] == list((tmp_path / "w" / ".data").rglob("*"))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("after", ["put", "read"])
def test_what_is_copied(tmp_path: Path, value: Any, after: str) -> None:
    """The bytes that pass from the source are signed, and not those that are in the target."""
    source = opened(FileStore(str(tmp_path / "source")), key=None)
    source.save("w", "t", value)
    target = opened(swapped(tmp_path / "target", after))
    assert ["copied"] == [each.action for each in source.copy("w", target)]
    if after == "put":
        check_signed(target, value)
    assert vars(value) == vars(source.read_task("w", "t"))


@pytest.mark.parametrize("value", VALUES)
def test_what_is_there_already(tmp_path: Path, value: Any) -> None:
    """A file that the target has, unsigned, is compared with the source, whose bytes are signed."""
    source = opened(FileStore(str(tmp_path / "source")), key=None)
    source.save("w", "t", value)
    store = swapped(tmp_path / "target", "never")
    source.copy("w", opened(store, key=None))
    store.after = "read"
    target = opened(store)
    assert ["replaced"] == [each.action for each in source.copy("w", target)]
    check_signed(target, value)


@pytest.mark.parametrize("value", VALUES)
def test_what_is_signed_in_its_place(tmp_path: Path, value: Any) -> None:
    """The bytes that `sign` has checked are signed: they are read once."""
    store = swapped(tmp_path, "never")
    opened(store, key=None).save("w", "t", value)
    store.after = "read"
    storage = opened(store)
    assert ["signed"] == [each.action for each in storage.sign("w")]
    check_signed(storage, value)


def test_a_folder_of_the_user_alone(tmp_path: Path) -> None:
    """While a serializer writes to it, it is not in the store; and afterwards it is removed."""
    seen = []

    class Looks(TreeSerializer):
        @classmethod
        def pickle(cls, obj: Tree, protocols: dict[str, Any]) -> tuple[str, str]:
            files = protocols[FILE_PROTOCOL]
            path = Path(files.folder(name := generate_name(), "w"))
            assert path == Path(files.folder(name, "w")) == Path(files.folder(name))
            assert 0o700 == path.stat().st_mode & 0o777
            assert not path.is_relative_to(tmp_path)
            (path / "a").write_bytes(b"1")
            if seen:
                os.symlink("a", path / "link")
            seen.append(path)
            return "tree", name

    storage = opened(FileStore(str(tmp_path)))
    storage.register_persistent_serializers(Looks)
    storage.save("w", "t", Tree({}))
    assert [False] == [path.exists() for path in seen]
    with pytest.raises(SerializerError, match="neither file nor folder"):
        storage.save("w", "t", Tree({}))
    assert [False, False] == [path.exists() for path in seen]


def test_two_values_of_one_serializer(tmp_path: Path) -> None:
    """The files of both are in the header, and both are read."""
    storage = opened(FileStore(str(tmp_path)))
    storage.save("w", "t", [Kept(b"first"), Kept(b"second")])
    assert [b"first", b"second"] == [kept.data for kept in storage.read_task("w", "t")]
