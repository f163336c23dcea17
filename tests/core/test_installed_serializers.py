"""Serializers of installed plugins: found by a value's type, without importing anything before."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore, header_of, rest_of, sealed

from functionfuse.errors import (
    DamagedResultError,
    PluginError,
    SerializerMissingError,
    UnpicklableResultError,
    UntrustedResultError,
)
from functionfuse.plugins import entrypoints
from functionfuse.serializers import content, installed
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage import results as saving
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.options import Allow, StorageOptions

Install = Callable[..., None]

FRAMES = """
    class Frame:
        def __init__(self, rows):
            self.rows = rows

        def __reduce__(self):
            raise TypeError("only a serializer can keep this")

        class Part:
            rows = 0

    class SubFrame(Frame):
        pass
"""
PLUGIN = """
    from functionfuse.hookspecs import SerializerKind, hookimpl

    def build():
        import their_frames
        from functionfuse.serializers import FILE_PROTOCOL, generate_name

        class Frames:
            name = "frames"
            serializer_class = their_frames.Frame

            def pickle(self, obj, protocols):
                file = generate_name()
                with protocols[FILE_PROTOCOL].open(file, "w") as stream:
                    stream.write(f"{type(obj).__name__} {obj.rows}")
                return self.name, {"version": 1, "file": file}

            def unpickle(self, pid, protocols):
                with protocols[FILE_PROTOCOL].open(pid["file"], "r") as stream:
                    kind, rows = stream.read().split()
                return getattr(their_frames, kind)(int(rows))

            def remove(self, pid, protocols):
                protocols[FILE_PROTOCOL].remove(pid["file"])

        return Frames()

    @hookimpl
    def functionfuse_serializers():
        return [SerializerKind("their_frames.Frame", build, api_version=1)]
"""
KIND = "their_frames.Frame"
GROUP = "functionfuse.serializers"


@pytest.fixture
def add(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs a serializer for the types of `their_frames`."""
    monkeypatch.setattr(installed, "_built", {})
    monkeypatch.setattr(installed, "_claims", None)

    def add(
        distribution: str = "their-plugin",
        kind: str = KIND,
        module: str = "their_plugin",
        code: str = PLUGIN,
        **options: Any,
    ) -> None:
        install(distribution, kind, module, code, group=GROUP, **options)
        install("their-frames", "x", "their_frames", FRAMES, group="other")

    return add


@pytest.fixture(params=["files", "four methods"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    memory = request.param == "four methods"
    return Storage(MemoryStore()) if memory else FileStorage(tmp_path / "store")


def frames() -> Any:
    return importlib.import_module("their_frames")


def keys(storage: Storage) -> list[str]:
    """Return the keys of all blobs, without the markers of workflows."""
    keys = [blob.key for blob in storage.store.list("")]
    return [key for key in keys if not key.endswith("/.functionfuse")]


def saved_by(storage: Storage, value: Any) -> list[str]:
    return [side.serializer for side in storage.save("w", "t", value).side_data]


def test_a_value_of_a_claimed_type_is_kept_by_the_plugin(
    add: Callable[..., None], storage: Storage
) -> None:
    """At any depth, once for each object; the plugin is imported for it, and not before."""
    add()
    storage.save("w", "plain", [1])
    frame = frames().Frame(3)
    storage.save("w", "plain", {"module": sys.modules["their_frames"].__name__})
    assert "their_plugin" not in sys.modules
    info = storage.save("w", "t", {"a": [frame], "b": (frame, 1)})
    assert "their_plugin" in sys.modules
    (side,) = info.side_data
    assert ("frames", "their-plugin 1.2", KIND) == (side.serializer, side.distribution, side.type)
    assert info == storage.task_info("w", "t")
    read = storage.read_task("w", "t")
    assert (3, True) == (read["a"][0].rows, read["a"][0] is read["b"][0])
    storage.remove_task("w", "t")
    assert ["w/plain"] == keys(storage)


def test_a_reader_finds_the_plugin_by_the_header(add: Callable[..., None], tmp_path: Path) -> None:
    """In another process, in which neither the plugin nor the type was imported."""
    add()
    config = {"kind": "file", "options": {"path": str(tmp_path / "store")}}
    storage_factory(config).save("w", "t", frames().Frame(3))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from functionfuse.storage.filestorage import FileStorage\n"
        "storage = FileStorage(sys.argv[2])\n"
        "storage.task_info('w', 't'), storage.list_tasks('w'), storage.verify()\n"
        "assert not {'their_frames', 'their_plugin'} & set(sys.modules)\n"
        "print(storage.read_task('w', 't').rows)"
    )
    paths = [str(tmp_path / "site"), str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], check=True, capture_output=True, text=True
    )
    assert "3\n" == done.stdout


def test_subclasses_are_caught_and_the_nearest_base_wins(
    add: Callable[..., None], storage: Storage
) -> None:
    """In the order of the method resolution."""
    add()

    class Mine(frames().SubFrame):  # type: ignore[misc]
        pass

    assert ["frames"] == saved_by(storage, frames().SubFrame(1))
    assert ["frames"] == saved_by(storage, Mine(1))
    sub = PLUGIN.replace("their_frames.Frame", "their_frames.SubFrame").replace(
        'name = "frames"', 'name = "sub"'
    )
    add("sub-plugin", "their_frames.SubFrame", "sub_plugin", sub)
    assert ["frames"] == saved_by(storage, frames().Frame(1))
    assert ["sub"] == saved_by(storage, frames().SubFrame(1))
    assert ["sub"] == saved_by(storage, [Mine(1)])


def test_a_class_within_a_class_is_claimed(add: Callable[..., None], storage: Storage) -> None:
    """By its qualified name; other types are pickled as ever."""
    add(
        kind="their_frames.Frame.Part",
        code=PLUGIN.replace("their_frames.Frame", "their_frames.Frame.Part"),
    )
    assert ["frames"] == saved_by(storage, frames().Frame.Part())


def mine(name: str, claimed: type) -> Any:
    """Return a serializer that someone registers."""

    class Mine:
        serializer_class = claimed

        def pickle(self, obj: Any, protocols: Any) -> tuple[str, Any]:
            return name, obj.rows

        def unpickle(self, pid: Any, protocols: Any) -> Any:
            return f"{name} {pid}"

        def remove(self, pid: Any, protocols: Any) -> None:
            pass

    serializer = Mine()
    serializer.name = name  # type: ignore[attr-defined]
    return serializer


def test_what_the_plugin_wants_read_back_is_read_back(
    add: Callable[..., None], storage: Storage
) -> None:
    """Within a run, what follows is given what was stored; also without registering anything."""
    add(code=PLUGIN.replace('name = "frames"', 'name = "frames"; always_read = True'))
    assert storage.reads_back(storage.save("w", "t", [frames().Frame(3)]))
    assert not storage.reads_back(storage.save("w", "t", [3]))
    add("sub-plugin", "their_frames.SubFrame", "sub_plugin", "1 / 0")
    info = storage.save("w", "t", [frames().Frame(3)])
    side = info.side_data[0]._replace(type="their_frames.SubFrame")
    assert not storage.reads_back(info._replace(side_data=(side,)))


def test_what_is_registered_wins(add: Callable[..., None], storage: Storage) -> None:
    """Also for a subclass, and when reading, under the plugin's very name."""
    add()
    storage.register_persistent_serializers(mine("mine", frames().Frame))
    sub = PLUGIN.replace("their_frames.Frame", "their_frames.SubFrame")
    add("sub-plugin", "their_frames.SubFrame", "sub_plugin", sub)
    assert ["mine"] == saved_by(storage, frames().SubFrame(1))
    assert "mine 1" == storage.read_task("w", "t")
    assert not {"their_plugin", "sub_plugin"} & set(sys.modules)
    other = Storage(storage.store)
    other.register_persistent_serializers(mine("frames", frames().Frame))
    assert ["frames"] == saved_by(other, frames().Frame(2))
    assert "frames 2" == other.read_task("w", "t")
    assert not {"their_plugin", "sub_plugin"} & set(sys.modules)


def test_two_claims_for_one_type_name_both(
    add: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored; registering one, or blocking one, settles it."""
    add()
    add("other-plugin", module="other_plugin")
    with pytest.raises(
        PluginError, match=r"serializer 'their_frames\.Frame' is brought by"
    ) as error:
        storage.save("w", "t", [frames().Frame(1)])
    for owner in ("'their_plugin' from their-plugin 1.2", "'other_plugin' from other-plugin 1.2"):
        assert owner in str(error.value)
    assert [] == keys(storage)
    storage.save("w", "t", "other values are stored")
    registered = Storage(storage.store)
    registered.register_persistent_serializers(mine("mine", frames().Frame))
    assert ["mine"] == saved_by(registered, frames().Frame(1))
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "other-plugin")
    assert ["frames"] == saved_by(storage, frames().Frame(1))
    assert 1 == storage.read_task("w", "t").rows


def test_a_blocked_plugin_is_as_if_it_claimed_nothing(
    add: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it kept before can't be read; the error says that it is blocked."""
    add()
    storage.save("w", "t", frames().Frame(1))
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", KIND)
    entrypoints.forget()
    with pytest.raises(UnpicklableResultError, match="only a serializer can keep this"):
        Storage(MemoryStore()).save("w", "t", frames().Frame(1))
    with pytest.raises(PluginError, match="is blocked"):
        storage.read_task("w", "t")


def test_results_without_such_types_take_the_plain_path(
    add: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as no claimed module is imported; the metadata is looked through once."""
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "functionfuse-dask")  # other tests import dask
    monkeypatch.setattr(content, "files_exist", False)
    add()
    scan, calls = entrypoints._scan, []
    dumps, keepers = saving.dumps, []

    def scanned() -> Any:
        calls.append("scan")
        return scan()

    def noted(value: Any, keeper: Any = None) -> Any:
        keepers.append(keeper is not None)
        return dumps(value, keeper)

    monkeypatch.setattr(entrypoints, "_scan", scanned)
    monkeypatch.setattr(saving, "dumps", noted)
    for number in range(5):
        storage.save("w", str(number), number)
    assert (["scan"], [False] * 5) == (calls, keepers)
    storage.save("w", "frame", [frames().Frame(1)])
    assert (["scan"], True) == (calls, keepers[-1])


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("import their_frames", "import gone", r"can't be made: ModuleNotFoundError: .*'gone'"),
        ("return Frames()", "return 1 / 0", "can't be made: ZeroDivisionError"),
        ("return Frames()", "return 3", "gives what can't be used: 3 is no serializer"),
        ("frames.Frame\n", "frames.SubFrame\n", "claims another type .*: their_frames.SubFrame"),
        ("api_version=1", "api_version=2", "was made for version 2 of the plugin API"),
        ("@hookimpl", "1 / 0", "can't be imported: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(
    add: Callable[..., None], storage: Storage, old: str, new: str, match: str
) -> None:
    """A value of its type is not stored in another way behind one's back."""
    assert old in PLUGIN
    add(code=PLUGIN.replace(old, new))
    for _ in range(2):
        with pytest.raises(PluginError, match=match) as caught:
            storage.save("w", "t", [frames().Frame(1)])
        assert "(module 'their_plugin' from their-plugin 1.2)" in str(caught.value)
        assert "while saving task 't'" in caught.value.__notes__[-1]
    assert [] == keys(storage)
    storage.save("w", "t", 1)


def test_a_missing_plugin_says_what_to_install(
    add: Callable[..., None], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distribution that kept the value; another serializer for the type does not do."""
    add()
    storage.save("w", "t", frames().Frame(1))
    found = entrypoints._scan()
    found[GROUP] = []
    monkeypatch.setattr(entrypoints, "_scan", lambda: found)
    entrypoints.forget()
    expected = r"'frames' from their-plugin 1\.2 \(pip install their-plugin\); register it with"
    with pytest.raises(SerializerMissingError, match=expected):
        storage.read_task("w", "t")
    monkeypatch.undo()
    monkeypatch.setattr(installed, "_built", {})
    other = PLUGIN.replace('name = "frames"', 'name = "other frames"')
    monkeypatch.syspath_prepend(str(Path(frames().__file__).parent))
    header = storage.task_info("w", "t")
    assert KIND == header.side_data[0].type
    add(module="other_plugin", distribution="other-plugin", code=other)
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "their-plugin")
    with pytest.raises(
        SerializerMissingError, match=r"another one, 'other frames' from other-plugin"
    ):
        storage.read_task("w", "t")


def test_an_allow_list_holds_for_plugins(add: Callable[..., None], storage: Storage) -> None:
    """The data can't make a plugin be loaded that the reader doesn't allow to restore its type."""
    add()
    storage.save("w", "t", frames().Frame(1))
    sys.modules.pop("their_plugin")
    installed._built.clear()
    for allow in ((), ("their",), ("their_frames.Fr",), ("numpy",)):
        strict = Storage(storage.store, StorageOptions(trust=Allow(allow=allow)))
        with pytest.raises(
            UntrustedResultError, match=r"of type 'their_frames\.Frame', is kept by"
        ):
            strict.read_task("w", "t")
    assert "their_plugin" not in sys.modules
    for allow in (("their_frames",), (KIND,)):
        strict = Storage(storage.store, StorageOptions(trust=Allow(allow=allow)))
        assert 1 == strict.read_task("w", "t").rows


def test_a_planted_type_reaches_no_serializer(add: Callable[..., None], storage: Storage) -> None:
    """Who writes the header can't have an allowed type stand for the serializer of another."""
    add()
    storage.save("w", "t", frames().Frame(1))
    data = bytes(storage.store.get("w/t"))
    header = header_of(data)
    text = json.dumps(header["side_data"]).replace(KIND, "numpy.ndarray")
    header["side_data"] = json.loads(text)
    assert KIND not in text
    storage.store.put("w/t", [sealed(header, rest_of(data))])
    sys.modules.pop("their_plugin")
    installed._built.clear()
    strict = Storage(storage.store, StorageOptions(trust=Allow(allow=["numpy"])))
    with pytest.raises(SerializerMissingError, match="register it"):
        strict.read_task("w", "t")
    assert "their_plugin" not in sys.modules


def test_headers_before_the_type_was_recorded_are_read(
    add: Callable[..., None], storage: Storage
) -> None:
    """They have one field less; the serializer has to be registered, as it had to be then."""
    add()
    storage.save("w", "t", frames().Frame(1))
    data = bytes(storage.store.get("w/t"))
    header = header_of(data)
    (side,) = header["side_data"]
    header["side_data"] = [side[:3]]
    storage.store.put("w/t", [sealed(header, rest_of(data))])
    assert "" == storage.task_info("w", "t").side_data[0].type
    with pytest.raises(SerializerMissingError, match="register it with"):
        storage.read_task("w", "t")
    storage.register_persistent_serializers(installed.serializer_for(KIND))
    assert 1 == storage.read_task("w", "t").rows
    header["side_data"] = [[*side[:3], 7]]
    storage.store.put("w/t", [sealed(header, rest_of(data))])
    with pytest.raises(DamagedResultError, match="side data of serializer 'frames'"):
        storage.task_info("w", "t")
