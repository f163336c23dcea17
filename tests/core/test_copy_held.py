"""`Storage.copy`: what the target has is never damaged, whatever the source holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from copies import KINDS, Tree, actions, again, keys, storage_of
from kept_values import Kept
from result_bytes import header_of, rest_of, sealed
from xxhash import xxh3_128_hexdigest

from functionfuse.errors import OptionsError, ResultNotFoundError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.keys import earlier_key
from going_back import call_of, chain, opened, problems, save

GOOD = b"good" * 10


@pytest.fixture
def source(tmp_path: Path) -> FileStorage:
    """A storage in files with one result, of two files and a folder of two."""
    storage = opened(tmp_path / "source")
    save(again(storage), "x", 1, [Kept(GOOD), Kept(b""), Tree({"a": GOOD, "b/c": b"x"})])
    return storage


def data_of(storage: Storage) -> list[bytes]:
    """Return the bytes of the files beside the result of the first call."""
    found = [storage.task_info("w", "x"), *storage.earlier("w", "x")]
    [info] = [info for info in found if info.call == call_of(1)]
    names = [entry[0] for side in info.side_data for entry in side.files]
    blobs = [blob for name in names for blob in storage.store.list(f"w/.data/{name}")]
    return [bytes(storage.store.get(blob.key)) for blob in blobs]


DATA = [GOOD, b"", GOOD, b"x"]


def files_of(storage: Storage, task: str = "x") -> list[str]:
    """Return the keys of all files beside a result."""
    names = [entry[0] for side in storage.task_info("w", task).side_data for entry in side.files]
    return [
        blob.key
        for blob in storage.store.list("w/.data/")
        if blob.key.removeprefix("w/.data/").startswith(tuple(names))
    ]


def rotten(storage: Storage, key: str) -> None:
    """Put other bytes of the same size, or of another one if it was empty."""
    storage.store.put(key, [bytes(len(storage.store.get(key)) or 1)])


def held(storage: Storage, how: str) -> Storage:
    """Return the target, with the result as an earlier one, or as one without its new key."""
    if how == "unsigned":
        return again(storage, key="since")
    save(storage, "x", 2, 2)
    return storage


HELD = ("earlier", "unsigned")


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("how", HELD)
@pytest.mark.parametrize("kind", KINDS)
def test_side_data_that_rots_in_the_source(
    kind: str, how: str, number: int, source: FileStorage, tmp_path: Path
) -> None:
    """The sound bytes in the target stay, and the result is copied with them, but not signed."""
    unsigned = storage_of(kind, tmp_path / "target")
    source.copy("w", unsigned)
    target = held(unsigned, how)
    rotten(source, files_of(source)[number])
    expected = "replaced" if how == "earlier" else "not copied"
    assert [expected] == actions(source.copy("w", target))
    target = again(target)  # without the key
    assert DATA == data_of(target)
    assert [] == problems(target)
    assert [] == target.gc(-60.0)


@pytest.mark.parametrize("how", HELD)
def test_a_file_that_only_the_target_lacks(
    how: str, source: FileStorage, target: FileStorage
) -> None:
    """It is put from the source if that is sound; else it is still missing, and the others stay."""
    source.copy("w", target)
    storage = held(target, how)
    keys_there = files_of(source)
    lacking = [key for key in keys_there if key.endswith("/a")]
    storage.store.delete(lacking)
    rotten(source, lacking[0])
    [report] = source.copy("w", storage)
    assert "files of it that the target has already stay as they are" in report.problem
    left = [key for key in keys(storage) if ".data/" in key]
    assert sorted({*keys_there} - {*lacking}) == left
    source.store.put(lacking[0], [GOOD])
    assert ["replaced"] == actions(source.copy("w", storage))
    assert DATA == data_of(storage)


def test_rotten_bytes_of_the_target_are_not_replaced(
    source: FileStorage, target: FileStorage
) -> None:
    """What a result there refers to stays as it is; nothing is copied, and the report says it."""
    source.copy("w", target)
    key = files_of(target)[0]
    rotten(target, key)
    signed = again(target, key="k")
    [report] = source.copy("w", signed)
    assert "not copied" == report.action
    assert "is not what was written; files of it that the target has already" in report.problem
    assert not any(bytes(target.store.get(key)))
    assert 1 == len(target.list_tasks("w"))


def listing(source: Storage, name: str, digest: str, size: int) -> None:
    """Plant a result that lists one file, whatever it is."""
    save(source, "evil", 1, Kept(b"evil"))
    data = bytes(source.store.get("w/evil"))
    header = header_of(data)
    [entry] = header["side_data"][0][2]
    source.store.delete([f"w/.data/{entry[0]}"])
    entry[:] = name, size, digest
    source.store.put("w/evil", [sealed(header, rest_of(data))])


@pytest.mark.parametrize("digest", ["of other bytes", "wrong", "right"])
def test_a_header_that_lists_a_file_of_another_result(
    digest: str, source: FileStorage, target: FileStorage
) -> None:
    """It is not copied, and the other result keeps its file."""
    save(target, "good", 1, Kept(b"precious"))
    [key] = files_of(target, "good")
    planted = b"precious" if digest == "right" else b"EVIL 666"
    source.store.put(key, [planted])
    told = "0" * 32 if digest == "wrong" else xxh3_128_hexdigest(planted)
    listing(source, key.removeprefix("w/.data/"), told, len(planted))
    reports = {report.task: report for report in again(source).copy("w", target)}
    assert "is of another result in" in reports["evil"].problem
    assert "copied" == reports["x"].action
    assert b"precious" == target.read_task("w", "good").data
    assert ["good", "x"] == target.list_tasks("w")
    assert [] == problems(target)


def test_a_folder_with_other_files_in_the_target(source: FileStorage, target: FileStorage) -> None:
    """It would have another digest there, so it is not copied."""
    folder = next(key for key in files_of(source) if key.endswith("/a")).removesuffix("a")
    target.store.put(f"{folder}other", [b"x"])
    [report] = source.copy("w", target)
    assert "has other files in the folder" in report.problem
    assert [f"{folder}other"] == keys(target)


@pytest.mark.parametrize("left", [b"torn", GOOD])
def test_leftovers_of_a_killed_copy(source: FileStorage, target: FileStorage, left: bytes) -> None:
    """They are put again, so that they are young."""
    for key in files_of(source):
        target.store.put(key, [left])
        os.utime(Path(target.store.root, key), (1, 1))
    target.new_workflow("w")
    assert 4 == len(target.gc(dry_run=True))
    source.copy("w", target)
    ages = [target.store.now() - blob.modified for blob in target.store.list("w/.data/")]
    assert max(ages) < 3600
    assert DATA == data_of(target)


@pytest.mark.parametrize("is_held", [False, True])
def test_a_file_that_is_removed_before_the_commit(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    """By a `gc` that saw an old leftover, or a `prune` of the result: it is put once more."""
    key = files_of(source)[0]
    if is_held:
        source.copy("w", target)
        save(target, "x", 2, 2)
    else:
        target.store.put(key, [b"left"])
    put = target.store.put

    def removing(name: str, *arguments: Any, **options: Any) -> None:
        if name == "w/x":
            monkeypatch.undo()
            target.store.delete([key])
        put(name, *arguments, **options)

    monkeypatch.setattr(target.store, "put", removing)
    [report] = source.copy("w", target)
    assert "" == report.problem
    assert DATA == data_of(target)


def test_another_copy_commits_meanwhile(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that fails after that removes nothing."""
    sound = opened(Path(source.store.root).with_name("sound"))
    source.copy("w", sound)
    [name, *_] = [entry[0] for entry in source.task_info("w", "x").side_data[0].files]
    rotten(source, f"w/.data/{name}")
    blocks = source.store.blocks

    def watched(key: str, size: int) -> Any:
        if key.endswith(name):
            sound.copy("w", target)
        return blocks(key, size)

    monkeypatch.setattr(source.store, "blocks", watched)
    [report] = source.copy("w", target)
    assert "not copied" == report.action
    assert DATA == data_of(target)
    assert [] == problems(target)


# Planted keys.


NAMES = ("a\0b", "n" * 300, "\udc80x", "\ud800", "\n\x1b[31m", "é")
PLANTED = [(where, name) for where in ("", ".earlier/", ".runs/") for name in NAMES]
PLANTED += [("", name) for name in ("%FF", "%61", "%2e%2e")]  # no task has these keys


@pytest.mark.parametrize("to", ["files", "memory"])
@pytest.mark.parametrize(("where", "name"), PLANTED)
def test_planted_keys(where: str, name: str, to: str, tmp_path: Path) -> None:
    """They are reported, hide no result of the same name, and all others are copied."""
    source, target = storage_of("memory", tmp_path), storage_of(to, tmp_path / "target")
    for task in "abc":
        save(source, task, 1, task)
        save(source, task, 2, task * 2)
    start = earlier_key("w", "b", "").rstrip("-")
    planted = f"{start}-{name}" if where == ".earlier/" else f"w/{where}{name}"
    source.store.copy("w/b", planted)
    for dry_run in (True, False):
        reports = source.copy("w", target, earlier=True, runs=True, dry_run=dry_run)
        [report] = [report for report in reports if report.problem]
        assert f"the key {planted!r} is not as specified" == report.problem
        assert ["copied"] * 6 == [r.action for r in reports if r is not report]
    assert ["aa", "bb", "cc"] == [target.read_task("w", task) for task in "abc"]
    assert 6 == len(keys(target))


def test_a_planted_key_of_a_long_name(target: FileStorage, tmp_path: Path) -> None:
    """It has its own text for a name, not that in the header, which is of another result."""
    source = storage_of("memory", tmp_path)
    save(source, "a", 1)
    name = "n" * 166 + "%-" + "0" * 32
    source.store.copy("w/a", f"w/{name}")
    assert {"a": "copied", name: "not copied"} == {
        report.task: report.action for report in source.copy("w", target)
    }


@pytest.mark.parametrize("name", ["n" * 300, "\ud800", "a/b/c", "d/" * 3000 + "x"])
def test_planted_names_of_side_data(name: str, tmp_path: Path) -> None:
    """In a folder whose digest fits: the result is not copied, and the others are."""
    files = again(opened(tmp_path / "files"))
    save(files, "tree", 1, Tree({"a": b"x"}))
    save(files, "z", 1, 1)
    source, target = storage_of("memory", tmp_path), opened(tmp_path / "target")
    files.copy("w", source)
    [(folder, _, _)] = source.task_info("w", "tree").side_data[0].files
    source.store.put(f"w/.data/{folder}{name}", [b"x"])
    reports = source.copy("w", target)
    assert ["not copied", "copied"] == actions(reports)
    assert "is not what was written" in reports[0].problem
    assert ["w/z"] == keys(target)


@pytest.mark.parametrize("planted", ["a file", "a folder"])
def test_a_file_in_the_place_of_a_folder(
    planted: str, source: FileStorage, target: FileStorage, tmp_path: Path
) -> None:
    """Of another result in the target, or the other way round: only this one is not copied."""
    memory = storage_of("memory", tmp_path)
    source.copy("w", target)
    evil = again(opened(tmp_path / "evil"))
    save(evil, "evil", 1, Kept(b"x") if planted == "a file" else Tree({"a": b"x", "b": b"y"}))
    save(evil, "z", 1, 1)
    evil.copy("w", memory)
    names = [entry[0] for side in source.task_info("w", "x").side_data for entry in side.files]
    name = next(name for name in names if name.endswith("/") == (planted == "a file"))
    start = name.removesuffix("/") if planted == "a file" else f"{name}/"
    data = bytes(memory.store.get("w/evil"))
    header = header_of(data)
    [entry] = header["side_data"][0][2]
    for blob in list(memory.store.list("w/.data/")):
        rest = blob.key.removeprefix(f"w/.data/{entry[0]}")
        memory.store.copy(blob.key, f"w/.data/{start}{rest}")
    entry[0] = start
    memory.store.put("w/evil", [sealed(header, rest_of(data))])
    reports = {report.task: report.action for report in memory.copy("w", target)}
    assert "copied" == reports["z"]
    assert "not copied" == reports["evil"]
    assert DATA == data_of(target)
    assert [] == problems(target)


# Run records, errors of the target, and options.


def test_run_records_are_signed_again(tmp_path: Path) -> None:
    """If the target got a key since; those that are damaged there are replaced, too."""
    source, target = opened(tmp_path / "source"), opened(tmp_path / "target")
    chain(source, 1).run()
    chain(source, 2).run()
    source.copy("w", target, runs=True)
    signed = opened(tmp_path / "target", key="since")
    for dry_run in (True, False):
        reports = source.copy("w", signed, runs=True, dry_run=dry_run)
        assert ["replaced"] * 6 == actions(reports)
    assert 2 == len(signed.runs("w"))
    assert ["there already"] * 6 == actions(source.copy("w", signed, runs=True))
    target.store.put(f"w/.runs/{source.runs('w')[0].id}", [b"nothing"])
    assert 1 == actions(source.copy("w", signed, runs=True)).count("replaced")
    assert 2 == len(signed.runs("w"))


@pytest.mark.parametrize("method", ["flush", "put"])
def test_a_target_that_loses_its_files(
    source: FileStorage, target: FileStorage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It is an error of the target, and the result in the source is not called gone."""

    def lost(*_: Any, **__: Any) -> None:
        raise ResultNotFoundError("no such file")

    target.new_workflow("w")
    monkeypatch.setattr(target.store, method, lost)
    with pytest.raises(OSError, match="no such file") as raised:
        source.copy("w", target)
    assert "task 'x' of workflow 'w'" in raised.value.__notes__[-1]


def test_a_target_without_earlier_results(source: FileStorage, tmp_path: Path) -> None:
    """It gets none: a request for them is an error, before anything is written."""
    save(source, "x", 2, 2)
    target = opened(tmp_path / "target", earlier=False)
    with pytest.raises(OptionsError, match="option 'earlier' is False"):
        source.copy("w", target, earlier=True)
    assert not (tmp_path / "target").exists()
    assert ["copied"] == actions(source.copy("w", target))
