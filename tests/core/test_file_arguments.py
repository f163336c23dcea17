"""`File` as an argument: its name and its content count, and it must not change meanwhile."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Executor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from file_nodes import edits, text_of
from report_data import read as read_page

from functionfuse import File, LocalWorkflow, Storage, workflow
from functionfuse.errors import FileError, OptionsError
from functionfuse.reuse.values import digest_of
from functionfuse.serializers import content
from functionfuse.storage.filestorage import FileStorage


@dataclass
class Sample:
    reads: Any


REFERENCE = File("/nowhere")


@workflow
def length(found: Any) -> int:
    return len(found if isinstance(found, str) else repr(type(found)))


def ran(storage: Storage, *nodes: Any, **options: Any) -> str:
    """Run nodes, and return what the run did with the last one, and why."""
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    flow.run(**options)
    last = flow.report.nodes[-1]
    return f"{last.action}: {last.reason}".removesuffix(": ")


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture
def reads(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "A.fastq"
    path.parent.mkdir()
    path.write_text("ACGT")
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each file that is digested."""
    sizes: list[int] = []
    blocks_of = content.blocks_of

    def noted(file: int, size: int) -> Any:
        sizes.append(size)
        return blocks_of(file, size)

    monkeypatch.setattr(content, "blocks_of", noted)
    monkeypatch.setattr(content, "_digests", {})
    return sizes


WRAPPED: dict[str, Callable[[File], Any]] = {
    "itself": lambda file: file,
    "list": lambda file: [1, (file,)],
    "dict": lambda file: {"a": {"b": file}},
    "set": lambda file: {file},
    "dataclass": Sample,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=list(WRAPPED))
def test_the_content_counts(storage: FileStorage, reads: Path, wrap: Callable[..., Any]) -> None:
    """At any depth. Times and rights, and the folder, don't count."""

    def run(path: Path = reads) -> str:
        return ran(storage, length(wrap(File(path))).set_name("n"))

    assert "computed: nothing stored" == run()
    os.utime(reads, (1, 1))
    reads.chmod(0o400)
    assert "reused" == run()
    other = reads.parent / "elsewhere" / reads.name
    other.parent.mkdir()
    reads.rename(other)
    assert "reused" == run(other)
    other.chmod(0o600)
    other.write_text("ACGA")
    direct = wrap(other) is other
    what = ": the content of File('A.fastq')" if direct else ""
    assert f"computed: argument 'found' changed{what}" == run(other)


def test_the_name_counts(storage: FileStorage, reads: Path) -> None:
    """A program can look at the suffix."""
    ran(storage, text_of(File(reads)).set_name("n"))
    path = reads.rename(reads.with_suffix(".fasta"))
    reason = "argument 'file' changed (File('A.fastq') → File('A.fasta'))"
    assert f"computed: {reason}" == ran(storage, text_of(File(path)).set_name("n"))


def test_by_stat(storage: FileStorage, reads: Path) -> None:
    """Only size and time of change count, and the content isn't read."""
    os.utime(reads, (1000, 1000))

    def run() -> str:
        return ran(storage, text_of(File(reads, by="stat")).set_name("n"))

    assert "computed: nothing stored" == run()
    reads.write_text("TTTT")
    os.utime(reads, (1000, 1000))
    assert "reused" == run()
    os.utime(reads, (1001, 1001))
    what = "the size or time of File('A.fastq', by='stat')"
    assert f"computed: argument 'file' changed: {what}" == run()
    with pytest.raises(OptionsError, match="'content' or 'stat'"):
        File(reads, by="size")  # type: ignore[arg-type]


def test_a_pickle_has_the_same_digest(reads: Path) -> None:
    """So a worker agrees with the driver."""
    assert digest_of(File(reads)) == digest_of(pickle.loads(pickle.dumps(File(reads))))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "there is no file"),
        (Path.mkdir, "is a folder, and no file"),
        (os.mkfifo, "is a pipe or a device, and no file"),
    ],
)
def test_no_file_is_an_error_at_the_plan(
    storage: FileStorage, tmp_path: Path, make: Callable[[Path], Any], problem: str
) -> None:
    """It names the argument; nothing runs before."""
    ran_first = []

    @workflow
    def first() -> int:
        ran_first.append(1)
        return 1

    path = tmp_path / "x.fastq"
    make(path)
    with pytest.raises(FileError, match=f"argument 'file' of 'text_of'.*{problem}"):
        ran(storage, first(), text_of(File(path)))
    assert [] == ran_first


def test_a_plan_shows_a_missing_file(storage: FileStorage, tmp_path: Path) -> None:
    """It is the reason of its node, and no error."""
    nodes = length("a").set_name("first"), text_of(File(tmp_path / "x.fastq")).set_name("n")
    flow = LocalWorkflow(*nodes, workflow_name="w")
    flow.set_storage(storage)
    first, missing = flow.plan().nodes
    assert ("nothing stored", "n") == (first.reason, missing.name)
    assert f"argument 'file' of 'text_of': there is no file '{tmp_path}/x.fastq'" == missing.reason


def test_a_file_that_no_node_needs_may_be_missing(storage: FileStorage, reads: Path) -> None:
    """As that of a result which is reused always, or which nothing has to be computed from."""

    def run(policy: str, *nodes: Any) -> str:
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        flow.set_reuse(policy)
        flow.run()
        return flow.report.nodes[-1].action

    def graph() -> Any:
        return length(text_of(File(reads)).set_name("text")).set_name("length")

    run("unchanged", graph())
    reads.unlink()
    assert "reused" == run("always", graph())
    storage.remove_task("w", "text")
    assert "reused" == run("always", graph())
    with pytest.raises(FileError):
        run("unchanged", graph())


def test_a_digest_is_remembered(reads: Path, read: list[int]) -> None:
    """A second look costs a stat; a change of content shows, also if size and time are put back."""
    os.utime(reads, (1000, 1000))
    later = time.time_ns() + 3_000_000_000
    for text in ("ACGT", "TTTT"):
        reads.write_text(text)
        os.utime(reads, (1000, 1000))
        read.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: later)
            found = {digest_of(File(reads)) for _ in range(3)}
        assert ([4], 1) == (read, len(found))


def test_a_file_with_a_time_in_the_future_is_remembered(reads: Path, read: list[int]) -> None:
    """As copied from a machine whose clock is wrong: no program can set the time of its status."""
    os.utime(reads, (1 << 32, 1 << 32))
    later = time.time_ns() + 3_000_000_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: later)
        for _ in range(2):
            digest_of(File(reads))
        assert [4] == read
        os.utime(reads, ns=(later - 1_000_000_000, later - 1_000_000_000))
        for _ in range(2):
            digest_of(File(reads))
    assert [4, 4, 4] == read


def test_the_oldest_digest_is_forgotten(
    tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not all, if there are too many."""
    monkeypatch.setattr(content, "_MOST", 2)
    files = [File(tmp_path / str(number)) for number in range(3)]
    for size, file in enumerate(files):
        Path(file).write_text("x" * size)
    later = time.time_ns() + 3_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    for file in (*files, *reversed(files)):
        digest_of(file)
    assert [0, 1, 2, 0] == read
    assert 2 == len(content._digests)


def test_a_path_that_is_none(storage: FileStorage) -> None:
    """The message says what to do."""
    with pytest.raises(OptionsError, match="the path is empty"):
        File("")
    with pytest.raises(FileError, match="~ is not expanded, so give Path"):
        ran(storage, text_of(File("~/x")))
    with pytest.raises(FileError, match=r"there is no file '.*': .*download what has a URL"):
        ran(storage, text_of(File("s3://bucket/x")))


def test_no_class_inherits_it() -> None:
    """Its own attributes wouldn't count, so a stale result would be reused."""
    with pytest.raises(TypeError, match="Reads can't inherit File"):

        class Reads(File):  # type: ignore[misc]
            pass


def test_a_source_that_cant_be_read(storage: FileStorage) -> None:
    """The argument and the file are named."""
    problem = "argument 'file' of 'text_of'.*'/proc/self/mem' can't be read: Input/output error"
    with pytest.raises(FileError, match=problem):
        ran(storage, text_of(File("/proc/self/mem")))


def test_a_file_that_has_just_changed_is_read_again(reads: Path, read: list[int]) -> None:
    """Its next change may not show in its times."""
    for _ in range(2):
        digest_of(File(reads))
    assert [4, 4] == read


def test_many_digests_are_remembered_and_not_more(
    reads: Path, monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    """Memory is bounded."""
    del read
    monkeypatch.setattr(content, "_MOST", 3)
    monkeypatch.setattr(content, "_RECENT", -1 << 62)
    for number in range(10):
        reads.write_text("x" * number)
        digest_of(File(reads))
    assert len(content._digests) <= 3


def test_a_file_that_changes_while_it_is_digested(
    reads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest would be of no content that it ever had."""
    blocks_of = content.blocks_of

    def edited(file: int, size: int) -> Any:
        yield from blocks_of(file, size)
        reads.write_text("longer than before")

    monkeypatch.setattr(content, "blocks_of", edited)
    with pytest.raises(TypeError, match="changed while it was read"):
        digest_of(File(reads))


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_an_argument_that_changes_while_its_node_runs(
    storage: FileStorage, reads: Path, executors: Callable[[str], Executor], kind: str
) -> None:
    """The node fails, so its result is not stored; it names the argument, at any depth."""
    options = {} if kind == "here" else {"executor": executors(kind)}
    node = edits([{"deep": File(reads)}], str(reads), "longer than before").set_name("n")
    with pytest.raises(FileError, match=r"argument 'files' of 'edits'.*A.fastq' changed during"):
        ran(storage, node, **options)
    assert [] == storage.list_tasks("w")


def test_a_file_that_is_gone_when_its_node_runs(storage: FileStorage, reads: Path) -> None:
    """As on a worker that doesn't see it."""

    @workflow
    def removes(path: str) -> int:
        os.unlink(path)
        return 1

    first = removes(str(reads)).set_name("first")

    @workflow
    def late(before: int, file: File) -> str:
        del before
        return Path(file).read_text()

    with pytest.raises(FileError, match=r"argument 'file' of .*no file.*node has removed it"):
        ran(storage, late(first, File(reads)).set_name("n"))


def test_nodes_without_files_have_none(storage: FileStorage) -> None:
    """Their jobs have no list of files, and nothing is compared."""
    flow = LocalWorkflow(length("a").set_name("n"), workflow_name="w")
    flow.set_storage(storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("functionfuse.run.job.refuse_changed", lambda _: pytest.fail("compared"))
        flow.run()


def test_a_file_as_a_global_counts(
    storage: FileStorage, reads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an argument does."""

    @workflow
    def of_global() -> str:
        return Path(REFERENCE).read_text()

    monkeypatch.setitem(globals(), "REFERENCE", File(reads))
    ran(storage, of_global().set_name("n"))
    assert "reused" == ran(storage, of_global().set_name("n"))
    reads.write_text("TTTT")
    assert ran(storage, of_global().set_name("n")).startswith("computed: global 'REFERENCE'")


def test_what_a_file_is(reads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path, fixed when it is made; equal by path; nothing of it changes."""
    monkeypatch.chdir(reads.parent)
    file = File("A.fastq")
    monkeypatch.chdir("/")
    assert (str(reads), str(reads), "A.fastq") == (os.fspath(file), f"{file}", file.name)
    assert f"File({str(reads)!r})" == repr(file)
    assert f"File({str(reads)!r}, by='stat')" == repr(File(reads, by="stat"))
    for mode, found in (("r", "ACGT"), ("rb", b"ACGT")):
        with file.open(mode) as opened:
            assert found == opened.read()
    assert {file} == {File(reads), deepcopy(file), pickle.loads(pickle.dumps(file))}
    assert file not in (File(reads, by="stat"), File("/A.fastq"), str(reads))
    with pytest.raises(ValueError, match="only read"):
        file.open("w")


def test_the_record_of_a_run_shows_the_name(storage: FileStorage, reads: Path) -> None:
    """And the digest, by which two runs are compared; not the folder."""
    ran(storage, text_of(File(reads)).set_name("n"))
    [run] = storage.runs("w")
    argument = run.nodes[0].arguments["file"]
    assert "File('A.fastq')" == argument["type"]
    assert argument["digest"]
    text, digest = storage.task_info("w", "n").fingerprint["arguments"]["file"]
    assert ("File('A.fastq')", 16) == (text, len(digest))
    [result] = storage.lineage("w", "n")
    assert {"file": f"{text} {digest}"} == result.arguments
    without = FileStorage(reads.parent / "without", run_records=False)
    ran(without, text_of(File(reads)).set_name("n"))
    for number, each in enumerate((storage, without)):
        page = each.report("w").save(reads.parent / f"{number}.html")
        assert f"{text} {digest}" in str(read_page(page))
    assert str(reads.parent) not in repr(argument)
