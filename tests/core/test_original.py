"""Results of the original Function Fuse: recognised, reused on request, never lost."""

from __future__ import annotations

import collections
import io
import json
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from originals import OLD, model, total, with_digest, write_old

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.cli.main import run
from functionfuse.errors import (
    DamagedResultError,
    OriginalResultError,
    ResultNotFoundError,
    SerializerMissingError,
    UntrustedResultError,
)
from functionfuse.serializers import FILE_PROTOCOL
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.blobstore import Buffer
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.upkeep import Verified


def flow_of(storage: Any, name: str, value: Any = "new", reuse: str = "") -> LocalWorkflow:
    flow = LocalWorkflow(workflow(lambda: value)().set_name(name), workflow_name="w")
    flow.set_storage(storage)
    if reuse:
        flow.set_reuse(reuse)
    return flow


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [{}, None, OLD, "ü", bytes(1 << 20)], ids=lambda v: str(v)[:9])
def test_one_is_read_whatever_its_protocol_and_value(
    tmp_path: Path, protocol: int, value: Any
) -> None:
    """The name can have blanks; lists, headers, `verify` and `gc` know it, too."""
    storage, path = FileStorage(tmp_path), write_old(tmp_path, "a model", value, protocol)
    before = path.read_bytes()
    assert ["w"] == storage.list_workflows()
    assert ["a model"] == storage.list_tasks("w")
    assert storage.file_exists("w", "a model")
    assert value == storage.read_task("w", "a model")
    info = storage.task_info("w", "a model")
    assert ("a model", "", len(before)) == (info.task, info.python, info.size)
    assert "the original Function Fuse" in str(info)
    size, note = len(before), "computed by the original Function Fuse"
    assert [Verified("w", "a model", size, "", note=note)] == storage.verify()
    assert [] == storage.gc(older_than=-1)
    assert not storage.keep_damaged("w", "a model")
    assert before == path.read_bytes()


def test_a_plan_reads_its_beginning_only_and_says_who_computed_it(tmp_path: Path) -> None:
    write_old(tmp_path, "m", OLD)
    storage = FileStorage(tmp_path)
    [found] = storage.task_infos("w", ["m"])
    assert isinstance(found, OriginalResultError)
    plan = str(flow_of(storage, "m").plan())
    assert "  it is a result of the original Function Fuse; set_reuse('always')" in plan


def test_a_run_that_computes_keeps_it_in_a_folder_that_gc_leaves(tmp_path: Path) -> None:
    path = write_old(tmp_path, "a b:c".replace(":", ","), OLD)
    before, storage = path.read_bytes(), FileStorage(tmp_path)
    assert "new" == flow_of(storage, path.name).run()
    assert "new" == storage.read_task("w", path.name)
    assert "new" == flow_of(storage, path.name).run()
    assert [] == storage.gc(older_than=-1)
    assert before == (tmp_path / "w" / ".original" / path.name).read_bytes()
    assert [path.name] == storage.list_tasks("w")
    assert [""] == [found.problem for found in storage.verify()]


def test_the_log_says_where_another_pickle_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run reads only its beginning, so the warning says both places."""
    storage = FileStorage(tmp_path)
    storage.new_workflow("w")
    (tmp_path / "w" / "m").write_bytes(pickle.dumps([1]))
    flow_of(storage, "m").run()
    assert "moves to '.original' then, or to '.damaged' if its SHA-1 is wrong" in caplog.text
    [kept] = (tmp_path / "w" / ".damaged" / "m").iterdir()
    assert pickle.dumps([1]) == kept.read_bytes()


@pytest.mark.parametrize("kind", ["", "threads", "processes"])
def test_the_policy_always_takes_it_and_computes_nothing(
    tmp_path: Path, executors: Callable[[str], Executor], kind: str
) -> None:
    """Nodes below are computed from it once, and again when it changes."""
    path = write_old(tmp_path, "m", OLD)

    def result() -> tuple[Any, list[str]]:
        flow = LocalWorkflow(total(model().set_name("m"), 2).set_name("t"), workflow_name="w")
        flow.set_storage(FileStorage(tmp_path))
        flow.query("m").set_reuse("always")
        value = flow.run(*([executors(kind)] if kind else []))
        return value, flow.report.names("computed")

    before = path.read_bytes()
    assert (12, ["t"]) == result()
    assert (12, []) == result()
    lineage = FileStorage(tmp_path).lineage("w", "t")
    assert [("t", True), ("m", True)] == [(node.task, node.stored) for node in lineage]
    assert before == path.read_bytes()
    write_old(tmp_path, "m", {"weights": [4]})
    assert (8, ["t"]) == result()
    assert not (tmp_path / "w" / ".original").exists()


@pytest.mark.parametrize("cut", [-1, -20, 3])
def test_one_whose_sha_1_is_wrong_is_damaged(tmp_path: Path, cut: int) -> None:
    """A run computes it, and keeps a copy of the bytes."""
    path = write_old(tmp_path, "m", OLD)
    path.write_bytes(path.read_bytes()[:cut])
    storage, before = FileStorage(tmp_path), path.read_bytes()
    for call in (storage.read_task, storage.task_info):
        with pytest.raises(DamagedResultError, match="SHA-1 is wrong"):
            call("w", "m")
    assert ["SHA-1 is wrong"] == [found.problem[-14:] for found in storage.verify("w")]
    assert "new" == flow_of(storage, "m", reuse="always").run()
    [kept] = (tmp_path / "w" / ".damaged" / "m").iterdir()
    assert before == kept.read_bytes()
    kept.unlink()
    path.write_bytes(before)
    assert "new" == flow_of(storage, "m").run()
    [kept] = (tmp_path / "w" / ".damaged" / "m").iterdir()
    assert before == kept.read_bytes()
    assert not (tmp_path / "w" / ".original").exists()


def saved(folder: Path) -> None:
    FileStorage(folder).save("w", "m", "new")


def restored(folder: Path) -> None:
    """Go back to an earlier result, over a result of the original."""
    storage, path = FileStorage(folder), folder / "w" / "m"
    old = path.read_bytes()
    path.unlink()
    flow_of(storage, "m", "new").run()
    flow_of(storage, "m", "other").run()
    path.unlink()
    path.write_bytes(old)
    flow = flow_of(storage, "m", "new")
    flow.run()
    assert [] == flow.report.names("computed")


def copied(folder: Path) -> None:
    other = FileStorage(folder / "other")
    other.save("w", "m", "new")
    other.copy("w", FileStorage(folder))


@pytest.mark.parametrize("replace", [saved, restored, copied])
def test_whatever_replaces_it_keeps_it(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    before = write_old(tmp_path, "m", OLD).read_bytes()
    replace(tmp_path)
    assert "new" == FileStorage(tmp_path).read_task("w", "m")
    assert before == (tmp_path / "w" / ".original" / "m").read_bytes()


class Stops(FileStore):
    """A store that is stopped at a call: before it, like a process that is killed there."""

    def __init__(self, root: str, call: str) -> None:
        super().__init__(root)
        self.call = call

    def copy(self, key: str, to: str) -> None:
        if self.call == "copy":
            raise OSError("stopped")
        super().copy(key, to)

    def put(self, key: str, parts: Sequence[Buffer], **options: Any) -> None:
        if self.call == "put":
            raise OSError("stopped")
        super().put(key, parts, **options)


class Overtaken(FileStore):
    """A store in which another save is quicker, after the header of the old result was read."""

    def copy(self, key: str, to: str) -> None:
        if key == "w/m" and not (Path(self.root) / "w" / ".original").exists():
            FileStorage(self.root).save("w", "m", "quicker")
        super().copy(key, to)


def test_two_saves_at_once_keep_it(tmp_path: Path) -> None:
    """The second one doesn't take the result of the first for the old one."""
    before = write_old(tmp_path, "m").read_bytes()
    Storage(Overtaken(str(tmp_path))).save("w", "m", "slower")
    assert "slower" == FileStorage(tmp_path).read_task("w", "m")
    assert before == (tmp_path / "w" / ".original" / "m").read_bytes()
    assert not (tmp_path / "w" / ".damaged").exists()


@pytest.mark.parametrize("call", ["copy", "put"])
def test_a_save_that_stops_halfway_leaves_it_readable(tmp_path: Path, call: str) -> None:
    """The new result is not committed before the old one has its second name."""
    write_old(tmp_path, "m", OLD)
    with pytest.raises(OSError, match="stopped"):
        Storage(Stops(str(tmp_path), call)).save("w", "m", "new")
    assert OLD == FileStorage(tmp_path).read_task("w", "m")
    saved(tmp_path)
    assert (tmp_path / "w" / ".original" / "m").exists()


def test_trust_and_key_hold_for_it(tmp_path: Path) -> None:
    write_old(tmp_path, "m", collections.Counter("a"))
    options = {"path": str(tmp_path), "trust": {"allow": ["numpy"]}}
    with pytest.raises(UntrustedResultError, match=r"collections\.Counter"):
        storage_factory({"kind": "file", "options": options}).read_task("w", "m")
    options = {"path": str(tmp_path), "key": "k" * 32}
    signed = storage_factory({"kind": "file", "options": options})
    with pytest.raises(UntrustedResultError, match="not signed"):
        signed.read_task("w", "m")
    with pytest.raises(UntrustedResultError, match="not signed"):
        signed.task_info("w", "m")
    [info] = signed.task_infos("w", ["m"], originals=["m"])  # as for the policy "always"
    assert UntrustedResultError is type(info)
    assert ["not signed" in found.problem for found in signed.verify()] == [True]


def test_its_calls_are_unknown(tmp_path: Path) -> None:
    write_old(tmp_path, "m", OLD)
    storage = FileStorage(tmp_path)
    with pytest.raises(ResultNotFoundError, match="of call"):
        storage.read_task("w", "m", call="0" * 32)
    digest = storage.task_info("w", "m").digest
    assert OLD == storage.read_unchanged("w", "m", digest)
    with pytest.raises(ResultNotFoundError, match="replaced"):
        storage.read_unchanged("w", "m", "0" * 32)
    [node] = storage.lineage("w", "m")
    assert (digest, True) == (node.digest, node.stored)
    assert "the original Function Fuse" in node.note


class Frame:
    def __init__(self, text: str) -> None:
        self.text = text


class FrameSerializer:
    """A serializer as the original has it: its files are beside the results."""

    name = "frames"
    serializer_class = Frame

    def pickle(self, obj: Frame, protocols: dict[str, Any]) -> tuple[str, Any]:
        with protocols[FILE_PROTOCOL].open("one", "wb") as file:
            file.write(obj.text.encode())
        return self.name, "one"

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Frame:
        with protocols[FILE_PROTOCOL].open(pid, "rb") as file:
            return Frame(file.read().decode())

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)


def write_frame(folder: Path, pid: Any) -> Path:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return pid if obj is ... else None

    stream = io.BytesIO()
    Pickler(stream).dump([...])
    path = folder / "w" / "m"
    (folder / "w" / "bigdata").mkdir(parents=True)
    (folder / "w" / "bigdata" / "one").write_text("text")
    path.write_bytes(with_digest(stream.getvalue()))
    return path


def test_serializers_read_their_files_beside_it(tmp_path: Path) -> None:
    """A save and `gc` leave the files, and so does `remove_task`."""
    write_frame(tmp_path, ("frames", "one"))
    storage = FileStorage(tmp_path)
    with pytest.raises(SerializerMissingError, match="'frames'"):
        storage.read_task("w", "m")
    storage.register_persistent_serializers(FrameSerializer())
    [found] = storage.read_task("w", "m")
    assert "text" == found.text
    storage.save("w", "m", Frame("another"))
    assert [] == storage.gc(older_than=-1)
    storage.remove_task("w", "m")
    storage.save("w", "m", 1)
    storage.remove_workflow("w")
    assert "text" == (tmp_path / "w" / "bigdata" / "one").read_text()
    assert (tmp_path / "w" / ".original" / "m").exists()


def test_it_is_not_removed(tmp_path: Path) -> None:
    """It is not ours: neither a folder that has only such results, nor one of our workflow."""
    path = write_old(tmp_path, "m", [1, 2])
    storage = FileStorage(tmp_path)
    assert ["w"] == storage.list_workflows()
    for pattern in None, "*":
        with pytest.raises(OriginalResultError, match="is left"):
            storage.remove_task("w", "m", pattern)
    storage.save("w", "other", 1)
    storage.remove_task("w", pattern="*")
    storage.remove_workflow("w")
    assert ["m"] == storage.list_tasks("w")
    assert [1, 2] == storage.read_task("w", "m")
    assert path.exists()


def test_plain_pickles_are_no_workflow(tmp_path: Path) -> None:
    """A folder of them is nobody's: their last bytes are no SHA-1."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(pickle.dumps([1, 2]))
    assert [] == FileStorage(tmp_path).list_workflows()
    assert [] == FileStorage(tmp_path).list_tasks("photos")


def test_a_name_in_it_leads_out_of_no_folder(tmp_path: Path) -> None:
    write_frame(tmp_path, ("frames", "../../secret"))
    (tmp_path / "secret").write_text("secret")
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(FrameSerializer())
    with pytest.raises(DamagedResultError, match="missing"):
        storage.read_task("w", "m")


def test_gc_collects_side_data_beside_it(tmp_path: Path) -> None:
    """Our side data that no result refers to, although a result has no header."""
    write_old(tmp_path, "m", OLD)
    FileStorage(tmp_path).new_workflow("w")
    (tmp_path / "w" / ".data").mkdir()
    (tmp_path / "w" / ".data" / "left").write_text("")
    assert ["w/.data/left"] == [left.key for left in FileStorage(tmp_path).gc(older_than=-1)]


def test_commands_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list`, `show` and `verify` end without an error."""
    write_old(tmp_path, "m", OLD)
    where = ["--storage", str(tmp_path)]
    for command, text in (
        (["list", "w"], "(of the original Function Fuse)"),
        (["show", "w", "m", "--value"], "computed by the original Function Fuse"),
        (["verify"], "no problem found. 1 of them computed by the original Function Fuse."),
    ):
        assert 0 == run([*command, *where])
        assert text in capsys.readouterr().out
    assert 0 == run(["list", "w", "--json", *where])
    assert {"task": "m", "original": True} in json.loads(capsys.readouterr().out)["tasks"]
