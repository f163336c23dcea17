"""`File` as a result: its content is stored, and comes back checked, under its own name."""

from __future__ import annotations

import errno
import gc
import io
import logging
import multiprocessing
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_nodes import indexed, text_of, upper
from result_bytes import MemoryStore

from functionfuse import File, LocalWorkflow, Storage, workflow
from functionfuse.errors import (
    DamagedResultError,
    FileError,
    NewerFormatError,
    SerializerError,
    UntrustedResultError,
)
from functionfuse.serializers import FILE_PROTOCOL, content, ownfolder
from functionfuse.serializers import file as module
from functionfuse.serializers.file import FileSerializer
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.options import StorageOptions
from functionfuse.storage.safefiles import SafeFiles


@pytest.fixture(params=["files", "files with a key", "memory", "memory with a key"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage of each kind: a link to the stored file, or a checked copy."""
    place, _, key = request.param.partition(" with a ")
    options = StorageOptions.model_validate({"key": key or None})
    return Storage(
        FileStore(str(tmp_path / "store")) if place == "files" else MemoryStore(), options
    )


@pytest.fixture
def plain(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files. In the end, there is at most the one of this process."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setattr(ownfolder, "_mine", None)
    yield path
    mine = ownfolder._mine
    assert {mine.folder if mine else ""} >= set(map(str, path.iterdir()))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    path = tmp_path / "calls.vcf"
    path.write_text("chr1 7 A T")
    return path


def beside(storage: Storage) -> list[str]:
    """Return the keys of all side data."""
    return [blob.key for blob in storage.store.list("") if "/.data/" in blob.key]


def ran(storage: Storage, *nodes: Any, **options: Any) -> tuple[Any, list[str]]:
    """Run nodes; return the last result, and what was done with each."""
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    found = flow.run(**options)
    return found, [node.action for node in flow.report.nodes]


def graph(reads: Path) -> Any:
    written = upper(File(reads), str(reads.parent)).set_name("written")
    return indexed(written).set_name("indexed")


def test_it_outlives_its_source(storage: Storage, calls: Path) -> None:
    """At any depth, with its name; the source isn't needed any more."""
    storage.save("w", "t", {"a": [(File(calls), 1)]})
    calls.unlink()
    found = storage.read_task("w", "t")["a"][0][0]
    assert (File, "calls.vcf") == (type(found), found.name)
    path = os.fspath(found)
    assert ("calls.vcf", "chr1 7 A T") == (os.path.basename(path), Path(path).read_text())
    assert "<stored File 'calls.vcf'>" == repr(found)
    assert not stat.S_IMODE(os.stat(path).st_mode) & 0o222


def test_what_programs_write_beside_it_stays_out_of_the_store(
    storage: Storage, calls: Path, temporary: Path
) -> None:
    """Each `File` has a folder of its own, which lives as long as the process."""
    storage.save("w", "t", File(calls))
    keys = [blob.key for blob in storage.store.list("")]
    one, other = storage.read_task("w", "t"), storage.read_task("w", "t")
    Path(f"{one}.tbi").write_text("index")
    assert ["calls.vcf"] == os.listdir(os.path.dirname(other))
    assert keys == [blob.key for blob in storage.store.list("")]
    assert os.fspath(one) == os.fspath(one)
    folder = Path(one).parent
    assert temporary == folder.parent.parent
    assert 0o700 == stat.S_IMODE(folder.parent.stat().st_mode)
    del one
    gc.collect()
    assert (folder / "calls.vcf.tbi").exists()


def test_nodes_get_the_stored_file(storage: Storage, calls: Path) -> None:
    """The next run reuses all, and an equal file stops a change: it is told by its content."""
    found, done = ran(storage, graph(calls))
    assert ("CHR1 7 A Tcalls.vcf.upper", ["computed"] * 2) == (found, done)
    assert ["reused"] * 2 == ran(storage, graph(calls))[1]
    calls.write_text("Chr1 7 A T")  # equal in upper case
    found, done = ran(storage, graph(calls))
    assert ("CHR1 7 A Tcalls.vcf.upper", ["computed", "reused"]) == (found, done)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_in_pools(storage: Storage, calls: Path, executors: Any, kind: str) -> None:
    """Results travel by the storage; a file that the driver has read does, too."""
    if kind == "processes" and isinstance(storage.store, MemoryStore):
        pytest.skip("memory is no storage for processes")
    executor: Executor = executors(kind)
    assert "CHR1 7 A Tcalls.vcf.upper" == ran(storage, graph(calls), executor=executor)[0]
    stored = storage.read_task("w", "written")["files"][0]
    again = text_of(stored).set_name("again")
    del stored
    assert ("CHR1 7 A T", ["computed"]) == ran(storage, again, executor=executor)


def test_without_a_storage(calls: Path) -> None:
    """The file stays where it is."""

    @workflow
    def same(file: File) -> File:
        return file

    @workflow
    def path_of(file: File) -> str:
        return os.fspath(file)

    assert str(calls) == LocalWorkflow(path_of(same(File(calls))), workflow_name="w").run()


def test_a_node_that_is_not_stored(plain: FileStorage, calls: Path) -> None:
    """Its file stays where it is, and counts for the next nodes by its content."""

    def run() -> tuple[str, list[str]]:
        flow = LocalWorkflow(graph(calls), workflow_name="w")
        flow.set_storage(plain)
        flow.log_nodes("written")
        found: str = flow.run()
        return found, [node.action for node in flow.report.nodes]

    assert ("CHR1 7 A Tcalls.vcf.upper", ["computed"] * 2) == run()
    (calls.parent / "calls.vcf.upper.index").unlink()
    assert ["computed", "reused"] == run()[1]


def test_an_argument_is_returned_and_an_object_twice(plain: FileStorage, calls: Path) -> None:
    """One object is one copy, and comes back as one; another object is another."""
    one = File(calls)
    plain.save("w", "t", [one, {"again": one}, File(calls)])
    assert 2 == len(beside(plain))
    found = plain.read_task("w", "t")
    assert found[0] is found[1]["again"]
    assert found[0] == pickle.loads(pickle.dumps(found[0])) != found[2]
    assert 2 == len({found[0], found[2]})


NAMES = ["a b", "-rf", "ü\n.bam", "x" * 255, ".hidden", "%2E", "a.tar.gz", "x.ß", "\udcff.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(storage: Storage, tmp_path: Path, name: str) -> None:
    """Each comes back as it was; an empty file, too."""
    path = tmp_path / name
    path.touch()
    storage.save("w", "t", File(path))
    found = storage.read_task("w", "t")
    assert (name, b"") == (os.path.basename(found), Path(found).read_bytes())


def test_the_suffix_stays_in_the_store(plain: FileStorage, calls: Path) -> None:
    """So that people can look at it there."""
    plain.save("w", "t", File(calls))
    assert [".vcf"] == [os.path.splitext(key)[1] for key in beside(plain)]


def test_a_link_as_a_source(storage: Storage, calls: Path) -> None:
    """The name is the link's, the content that of its target."""
    link = calls.with_name("link.vcf")
    link.symlink_to(calls)
    storage.save("w", "t", File(link))
    found = storage.read_task("w", "t")
    assert ("link.vcf", "chr1 7 A T") == (found.name, Path(found).read_text())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "there is no file"),
        (Path.mkdir, "is a folder, and no file"),
        (os.mkfifo, "is a pipe or a device, and no file"),
    ],
)
def test_what_is_no_file_is_refused(
    storage: Storage, tmp_path: Path, make: Callable[[Path], Any], problem: str
) -> None:
    """It is the node's error, and not the storage's; its place is named, and nothing is left."""
    path = tmp_path / "x"
    make(path)
    with pytest.raises(
        SerializerError, match=rf"result\['a'\]\[0\] is a functionfuse.File.*{problem}"
    ):
        storage.save("w", "t", {"a": [File(path)]})
    assert [] == beside(storage)


def test_a_source_that_changes_while_it_is_saved(
    storage: Storage, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied could be of no content that it ever had."""
    blocks_of = content.blocks_of

    def edited(file: int, size: int) -> Any:
        yield from blocks_of(file, size)
        calls.write_text("longer than before")

    monkeypatch.setattr(module, "blocks_of", edited)
    with pytest.raises(SerializerError, match="changed while it was read"):
        storage.save("w", "t", File(calls))
    assert [] == beside(storage)


def test_a_full_disk_is_an_error_of_the_storage(
    storage: Storage, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of the file. If it is copied to a temporary file first, the folder is named."""

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(SafeFiles, "open", lambda *_: Full())
    with pytest.raises(OSError, match="no space") as error:
        storage.save("w", "t", File(calls))
    told = f"it is copied to {tempfile.gettempdir()!r} first: see TMPDIR"
    plain = "folder" in dir(storage.store.protocols("w/")[FILE_PROTOCOL]) and not storage._key
    assert plain == (told not in error.value.__notes__)
    assert [] == beside(storage)


# Reading.


def test_a_damaged_file_is_found_when_it_is_read(storage: Storage, calls: Path) -> None:
    """And a missing one."""
    storage.save("w", "t", File(calls))
    [key] = beside(storage)
    storage.store.put(key, [b"chr1 7 A G"])
    with pytest.raises(DamagedResultError, match="is not what was written"):
        storage.read_task("w", "t")
    storage.store.delete([key])
    with pytest.raises(DamagedResultError, match="missing"):
        storage.read_task("w", "t")


def test_a_run_computes_a_damaged_file_again(
    plain: FileStorage, calls: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example after a loss of power, because quick results aren't flushed."""
    ran(plain, graph(calls))
    [key] = beside(plain)
    path = Path(plain.store.root) / key  # type: ignore[attr-defined]
    path.unlink()
    path.write_bytes(bytes(10))
    plain.remove_task("w", "indexed")
    with caplog.at_level(logging.WARNING):
        found, done = ran(plain, graph(calls))
    assert ("CHR1 7 A Tcalls.vcf.upper", ["computed"] * 2) == (found, done)
    assert "is not what was written" in caplog.text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_that_cant_be_read_is_not_damaged(
    plain: FileStorage, calls: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """So a run doesn't compute it again: the fault can be over in a second."""
    ran(plain, graph(calls))
    before, opened = plain.task_info("w", "written").token, os.open
    file = plain.read_task("w", "written")["files"][0]
    plain.remove_task("w", "indexed")

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".upper") and "/.data/" in str(path):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    monkeypatch.setattr(content, "_digests", {})
    file._stored.seen = None
    for use in (lambda: ran(plain, graph(calls)), lambda: os.fspath(file)):
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            use()
        assert (number, True) == (error.value.errno, "/.data/" in str(error.value.filename))
    assert before == plain.task_info("w", "written").token


def test_a_source_that_cant_be_read(storage: Storage) -> None:
    """It is the node's error, and not the storage's."""
    with pytest.raises(SerializerError, match="'/proc/self/mem' can't be read: Input/output error"):
        storage.save("w", "t", File("/proc/self/mem"))
    assert [] == beside(storage)


def test_a_folder_that_is_gone_too_early(plain: FileStorage) -> None:
    """The message says when the file is copied."""

    @workflow
    def early() -> File:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x"
            path.touch()
            return File(path)

    with pytest.raises(SerializerError, match="copied after the function has returned: keep"):
        ran(plain, early().set_name("early"))


def test_a_file_that_was_replaced_says_so(plain: FileStorage, calls: Path) -> None:
    """At its next use: the link would lead to nothing."""
    plain.save("w", "t", File(calls))
    first, used = plain.read_task("w", "t"), plain.read_task("w", "t")
    path = os.fspath(used)
    calls.write_text("other")
    plain.save("w", "t", File(calls))
    for file in (first, used):
        with pytest.raises(
            FileError, match=r"'calls.vcf' was replaced or removed after it was read"
        ):
            os.fspath(file)
    assert not os.path.exists(path)
    assert "other" == Path(plain.read_task("w", "t")).read_text()


def test_a_copy_outlives_its_result(calls: Path) -> None:
    """Where there are no plain local files, or there is a key."""
    storage = Storage(MemoryStore())
    storage.save("w", "t", File(calls))
    file = storage.read_task("w", "t")
    storage.remove_task("w", "t")
    assert "chr1 7 A T" == Path(file).read_text()


def test_a_second_look_costs_a_stat(plain: FileStorage, calls: Path) -> None:
    """The stored file is read once, by whatever number of objects and processes on a machine."""
    plain.save("w", "t", File(calls))
    file = plain.read_task("w", "t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "content_of", lambda _: pytest.fail("it was read again"))
        for each in (file, pickle.loads(pickle.dumps(file))):
            assert "chr1 7 A T" == Path(each).read_text()
    path = Path(os.path.realpath(file))
    path.chmod(0o600)
    path.write_text("chr1 7 A G")
    with pytest.raises(DamagedResultError, match=r"'calls.vcf' is not what was written"):
        os.fspath(file)


def test_a_copy_is_made_once_a_process(calls: Path, temporary: Path) -> None:
    """Of many reads of one result; threads wait for it."""
    storage = Storage(MemoryStore())
    storage.save("w", "t", File(calls))
    read = []
    blocks = storage.store.blocks

    def noted(key: str, size: int) -> Any:
        read.append(key)
        return blocks(key, size)

    storage.store.blocks = noted  # type: ignore[method-assign]
    files = [storage.read_task("w", "t") for _ in range(3)]
    assert {"chr1 7 A T"} == {Path(file).read_text() for file in files}
    assert beside(storage) == read
    [private] = temporary.iterdir()
    assert 1 == sum(path.is_file() for path in private.iterdir() if path.name != ".lock")


def test_a_copy_has_no_name_from_the_store(
    storage: Storage, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to the storage could choose it."""
    monkeypatch.setattr(module, "generate_name", lambda: "/../../x")
    storage.save("w", "t", File(calls))
    path = Path(storage.read_task("w", "t")).resolve()
    own, root = Path(ownfolder.own_folder().folder), getattr(storage.store, "root", "/nowhere")
    assert path.parent in (own, Path(root) / "w" / ".data")
    assert [] == [path for path in own.parent.iterdir() if path != own]


@pytest.mark.parametrize("times", ["put back", "new"])
def test_a_copy_that_a_program_wrote_to(
    tmp_path: Path, calls: Path, caplog: pytest.LogCaptureFixture, times: str
) -> None:
    """As root does: the next use finds the stored content, under each path that was given."""
    storage = FileStorage(tmp_path / "store", key="k")
    storage.save("w", "t", File(calls))
    one, other = (os.fspath(storage.read_task("w", "t")) for _ in range(2))
    before = os.stat(one)
    Path(one).resolve().chmod(0o600)
    Path(one).write_text("chr1 7 A G")
    if times == "put back":
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "chr1 7 A T" == Path(storage.read_task("w", "t")).read_text()
    assert {"chr1 7 A T"} == {Path(path).read_text() for path in (one, other)}
    assert ["a program wrote to the file 'calls.vcf': it is copied again"] == caplog.messages
    Path(one).resolve().unlink()
    assert "chr1 7 A T" == Path(storage.read_task("w", "t")).read_text()


def test_a_write_at_once_shows_in_the_time_of_a_copy(calls: Path) -> None:
    """The clock of a file system can stand still for some milliseconds."""
    storage = Storage(MemoryStore())
    storage.save("w", "t", File(calls))
    copy = os.stat(storage.read_task("w", "t"))
    assert copy.st_mtime_ns < copy.st_ctime_ns - 1_000_000_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_for_a_copy(calls: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The message says where it is missing, and nothing is left."""
    storage = Storage(MemoryStore())
    storage.save("w", "t", File(calls))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(
        OSError, match=r"no space to copy the file 'calls.vcf': set TMPDIR"
    ) as error:
        storage.read_task("w", "t")
    assert number == error.value.errno
    assert [".lock"] == os.listdir(ownfolder.own_folder().folder)


class Remote(MemoryStore):
    remote = True


def test_a_remote_file_is_downloaded_at_its_first_use(calls: Path, temporary: Path) -> None:
    """And checked then; a read only looks whether it is there."""
    storage = Storage(Remote())
    storage.save("w", "t", File(calls))
    file = storage.read_task("w", "t")
    assert [] == os.listdir(temporary)
    [key] = beside(storage)
    sound = storage.store.get(key)
    storage.store.put(key, [b"chr1 7 A G"])
    problem = (
        r"'calls.vcf' is not what was written: remove task 't' of workflow 'w' \(`remove_task`"
    )
    with pytest.raises(DamagedResultError, match=problem):
        os.fspath(file)
    assert [".lock"] == os.listdir(ownfolder.own_folder().folder)
    storage.store.put(key, [sound])
    assert "chr1 7 A T" == Path(file).read_text()
    storage.store.delete([key])
    with pytest.raises(DamagedResultError, match=r"'calls.vcf' is missing"):
        storage.read_task("w", "t")


def test_a_remote_file_whose_result_is_removed_before_its_first_use(calls: Path) -> None:
    """It is no damage."""
    storage = Storage(Remote())
    storage.save("w", "t", File(calls))
    file = storage.read_task("w", "t")
    storage.remove_task("w", "t")
    problem = "'calls.vcf' was replaced or removed after it was read: read task 't' of workflow 'w'"
    with pytest.raises(FileError, match=problem):
        os.fspath(file)


def used_in_a_fork(file: File, answers: Any) -> None:
    path = os.fspath(file)
    answers.put((path, Path(path).read_text()))


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_its_own(tmp_path: Path, calls: Path, key: str | None) -> None:
    """It removes nothing of the other process, and leaves nothing."""
    storage = FileStorage(tmp_path / "store", key=key)
    storage.save("w", "t", File(calls))
    file = storage.read_task("w", "t")
    mine = os.fspath(file)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=used_in_a_fork, args=(file, answers))
    process.start()
    path, text = answers.get()
    process.join()
    assert (0, "chr1 7 A T") == (process.exitcode, text)
    assert path != mine
    assert not os.path.lexists(os.path.dirname(os.path.dirname(path)))
    assert "chr1 7 A T" == Path(mine).read_text()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_a_thread_makes_the_folder(
    plain: FileStorage, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forked process doesn't wait for a thread that it doesn't have."""
    plain.save("w", "t", File(calls))
    file = plain.read_task("w", "t")
    inside, go, make = threading.Event(), threading.Event(), tempfile.mkdtemp

    def slow(*arguments: Any, **options: Any) -> str:
        if threading.current_thread().name == "slow":
            inside.set()
            go.wait(300)
        return make(*arguments, **options)

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    thread = threading.Thread(target=os.fspath, args=(file,), name="slow")
    thread.start()
    inside.wait(300)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=used_in_a_fork, args=(plain.read_task("w", "t"), answers))
    process.start()
    process.join(100)
    process.kill()
    go.set()
    thread.join()
    assert 0 == process.exitcode


def test_what_killed_processes_leave(plain: FileStorage, calls: Path, temporary: Path) -> None:
    """The next process removes it, and nothing of a process that is alive."""
    plain.save("w", "t", File(calls))
    code = (
        "import os, sys, tempfile\n"
        "from functionfuse import storage_factory\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "options = {'path': sys.argv[2]}\n"
        "file = storage_factory({'kind': 'file', 'options': options}).read_task('w', 't')\n"
        "print(file, flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", code, str(temporary), str(calls.parent / "store")]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        path = Path(process.stdout.readline().strip())  # type: ignore[union-attr]
        assert path.is_symlink()
        mine = os.fspath(plain.read_task("w", "t"))
        assert path.is_symlink()
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
    assert path.is_symlink()
    ownfolder._mine = None
    again = os.fspath(plain.read_task("w", "t"))
    assert not path.parent.parent.exists()
    assert os.path.lexists(mine)
    assert os.path.dirname(os.path.dirname(again)) != os.path.dirname(os.path.dirname(mine))
    shutil.rmtree(os.path.dirname(os.path.dirname(mine)))


def test_a_cleaned_temporary_folder(plain: FileStorage, calls: Path) -> None:
    """Some systems remove old files there, and some programs: the link is made again."""
    plain.save("w", "t", File(calls))
    file = plain.read_task("w", "t")
    path = os.fspath(file)
    os.unlink(path)
    assert (path, "chr1 7 A T") == (os.fspath(file), Path(file).read_text())
    shutil.rmtree(os.path.dirname(path))
    assert (path, "chr1 7 A T") == (os.fspath(file), Path(file).read_text())


def test_a_program_that_replaces_the_link(plain: FileStorage, calls: Path) -> None:
    """As `sed -i` does: its file stays where it is, and a second attempt gets the stored one."""
    plain.save("w", "t", File(calls))
    file = plain.read_task("w", "t")
    path = Path(file)
    path.unlink()
    path.write_text("edited")
    again = Path(file)
    assert "chr1 7 A T" == again.read_text()
    assert "edited" == path.read_text()
    again.unlink()
    again.symlink_to(path)
    assert "chr1 7 A T" == Path(file).read_text()


# The storage's methods.


def test_all_methods_of_a_storage(storage: Storage, calls: Path) -> None:
    """Copying, checking, collecting, replacing and removing know the file."""
    info = storage.save("w", "t", File(calls))
    [side] = info.side_data
    assert ("functionfuse.File", "functionfuse.File") == (side.serializer, side.type)
    assert side.distribution.startswith("functionfuse-core ")
    assert [] == storage.gc(-60.0)
    assert [("", info.size + 10)] == [(each.problem, each.size) for each in storage.verify()]
    other = Storage(MemoryStore(), StorageOptions.model_validate({"key": "another"}))
    assert ["copied"] == [each.action for each in storage.copy("w", other)]
    assert "chr1 7 A T" == Path(other.read_task("w", "t")).read_text()
    storage.save("w", "t", storage.read_task("w", "t"))
    assert 1 == len(beside(storage))
    storage.remove_task("w", "t")
    assert [] == beside(storage)


@pytest.mark.parametrize("key", [None, "k"])
def test_nobody_may_write_to_a_stored_file(tmp_path: Path, calls: Path, key: str | None) -> None:
    """Whether it was saved there, or copied; with `private` only the user may read it."""
    one = FileStorage(tmp_path / "one", key=key)
    two = FileStorage(tmp_path / "two", key=key, private=True)
    one.save("w", "t", File(calls))
    list(one.copy("w", two))
    modes = [os.stat(tmp_path / at / beside(one)[0]).st_mode & 0o777 for at in ("one", "two")]
    assert [0o444, 0o400] == modes


def test_signing_what_is_there(tmp_path: Path, calls: Path) -> None:
    """The digests of the file become SHA-256."""
    FileStorage(tmp_path / "store").save("w", "t", File(calls))
    signed = FileStorage(tmp_path / "store", key="k")
    with pytest.raises(UntrustedResultError):
        signed.read_task("w", "t")
    assert ["signed"] == [each.action for each in signed.sign("w")]
    assert "chr1 7 A T" == Path(signed.read_task("w", "t")).read_text()


def test_a_signed_result_is_read_without_its_key(tmp_path: Path, calls: Path) -> None:
    """In its store, after signing, and where it is copied to: the digest stays a strong one."""
    signed = FileStorage(tmp_path / "signed", key="k")
    signed.save("w", "t", File(calls))
    one, two = FileStorage(tmp_path / "one"), FileStorage(tmp_path / "two")
    two.save("w", "t", File(calls))
    list(FileStorage(tmp_path / "two", key="k").sign("w"))
    copies = [one, Storage(MemoryStore())]
    for copy in copies:
        assert ["copied"] == [each.action for each in signed.copy("w", copy)]
    for storage in (FileStorage(tmp_path / "signed"), two, *copies):
        [key] = beside(storage)
        storage.store.put(key, [b"chr1 7 A G"])
        with pytest.raises(DamagedResultError, match="is not what was written"):
            storage.read_task("w", "t")
        storage.store.put(key, [b"chr1 7 A T"])
        assert "chr1 7 A T" == Path(storage.read_task("w", "t")).read_text()
        assert [""] == [each.problem for each in storage.verify()]


def test_a_strong_digest_is_remembered(tmp_path: Path, calls: Path) -> None:
    """Beside the other one of the same file."""
    FileStorage(tmp_path / "store", key="k").save("w", "t", File(calls))
    storage = FileStorage(tmp_path / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "_RECENT", -1 << 62)
        patch.setattr(content, "_digests", {})
        path = os.path.realpath(storage.read_task("w", "t"))
        digests = [content.content_of(path)[1], content.content_of(path, strong=True)[1]]
        patch.setattr(content, "blocks_of", lambda *_: pytest.fail("it was read again"))
        assert "chr1 7 A T" == Path(storage.read_task("w", "t")).read_text()
        assert digests == [content.content_of(path)[1], content.content_of(path, strong=True)[1]]


def test_earlier_results_keep_theirs(plain: FileStorage, calls: Path) -> None:
    """Going back needs no computation, and finds the earlier file."""
    texts = []
    for text in ("a", "b", "a"):
        calls.write_text(text)
        found, done = ran(plain, graph(calls))
        texts.append((found, done))
    assert texts[0][0] == texts[2][0]
    assert ["reused"] * 2 == texts[2][1]
    file = plain.read_task("w", "written")["files"][0]
    assert "A" == Path(file).read_text()
    plain.prune("w", bytes=0)
    assert "A" == Path(file).read_text()


def test_an_allow_list_needs_no_entry(tmp_path: Path, calls: Path) -> None:
    """A `File` can do nothing."""
    storage = FileStorage(tmp_path / "store", trust={"allow": []})
    storage.save("w", "t", [File(calls)])
    assert "chr1 7 A T" == Path(storage.read_task("w", "t")[0]).read_text()


NO_NAMES = ["../x", "..", "", "/etc/passwd", "a\0", "x" * 256, "ü" * 128, "\ud800"]
NO_TEXTS = [np.array("../x"), ["../x"], ("../x",), {"../x": 1}, b"../x", 1, None]


@pytest.mark.parametrize("name", [*NO_NAMES, *NO_TEXTS])
def test_a_name_that_leads_elsewhere_is_refused(plain: FileStorage, calls: Path, name: Any) -> None:
    """Whoever can write to the storage can write any, also of types that have no "/" in them."""
    protocols = {FILE_PROTOCOL: plain.protocols[FILE_PROTOCOL]}
    _, pid = FileSerializer().pickle(File(calls), protocols)
    assert "calls.vcf" == FileSerializer().unpickle(pid, protocols).name
    with pytest.raises(DamagedResultError, match="is no name of a file"):
        FileSerializer().unpickle({**pid, "name": name}, protocols)
    with pytest.raises(DamagedResultError, match="is no name of a file"):
        FileSerializer().unpickle({**pid, "file": [pid["file"]]}, protocols)
    with pytest.raises(DamagedResultError, match="doesn't list"):
        FileSerializer().unpickle({**pid, "file": "another"}, protocols)
    with pytest.raises(NewerFormatError):
        FileSerializer().unpickle({**pid, "version": 2}, protocols)


@pytest.mark.parametrize(
    ("durability", "seconds", "expected"),
    [
        ("auto", 0.001, 0),
        ("auto", None, 0),
        ("rename", 10.0, 0),
        ("auto", 10.0, 1),
        ("fsync", 0.001, 1),
    ],
)
def test_what_is_flushed(
    tmp_path: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    seconds: float | None,
    expected: int,
) -> None:
    """The file, if its result is: each read compares its digest, so damage shows."""
    flushed = []

    def fsync(file: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{file}"))

    monkeypatch.setattr(os, "fsync", fsync)
    storage = FileStorage(tmp_path / "store", durability=durability)
    storage.save("w", "t", [File(calls)], seconds=seconds)
    assert expected == len([path for path in flushed if path.endswith(".vcf")])
    assert bool(expected) == bool(flushed)


def test_a_big_file_is_never_in_memory(plain: FileStorage, tmp_path: Path) -> None:
    """It passes in blocks, for the digest, to be saved, and to be read."""
    import tracemalloc

    path = tmp_path / "big"
    with path.open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * (1 << 20))
    signed = FileStorage(tmp_path / "signed", key="k")
    tracemalloc.start()
    try:
        for storage in (plain, signed):
            storage.save("w", "t", File(path))
            os.fspath(storage.read_task("w", "t"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
