"""A run with a wrong key, or before results are signed, destroys nothing; and how keys change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forger import forged
from kept_values import Kept
from result_bytes import header_of, rest_of, sealed
from xxhash import xxh3_128_hexdigest

from functionfuse.errors import DamagedResultError, UntrustedResultError
from functionfuse.storage import Storage
from functionfuse.storage.filestore import FileStore
from going_back import call_of, calls, opened, save

ran: list[str] = []


def stored(storage: Storage, folder: str) -> list[str]:
    return [blob.key for blob in storage.store.list(f"w/{folder}")]


def keyed(path: Path, key: str | None, **options: Any) -> Storage:
    return opened(path / "store", **options, **({"key": key} if key else {}))


@pytest.mark.parametrize("limits", [{"keep": 5}, {"keep": 0}, {"days": 0}, {"bytes": 0}])
def test_prune_with_a_wrong_key(
    limits: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It removes none of the earlier results, and says how many; without a key, all count."""
    for number in (1, 2, 3):
        save(keyed(tmp_path, "right"), "t", number, Kept(b"%d" % number))
    before = stored(keyed(tmp_path, None), "")
    caplog.clear()
    assert [] == keyed(tmp_path, "wrong").prune("w", **limits)
    assert before == stored(keyed(tmp_path, None), "")
    [said, *_] = caplog.messages
    assert said.startswith("2 earlier result(s) of workflow 'w'")
    assert [2, 1] == calls(keyed(tmp_path, "right"), "t")
    keyed(tmp_path, None).prune("w", keep=0)
    assert [] == stored(keyed(tmp_path, None), ".earlier/")


def test_limits_of_a_wrong_key(tmp_path: Path) -> None:
    """The limits that a run enforces remove nothing either."""
    save(keyed(tmp_path, "right"), "t", 1)
    save(keyed(tmp_path, "right"), "t", 2)
    wrong = keyed(tmp_path, "wrong", earlier={"bytes": "1 B", "days": 1})
    wrong.remember("w", set_aside=9)
    assert [1] == calls(keyed(tmp_path, "right"), "t")


@pytest.mark.parametrize("key", ["right", None])
def test_prune_reads_no_header_if_all_stay(
    key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each header is a request to some stores, and a signature decides only what is removed."""
    for number in (1, 2, 3):
        save(keyed(tmp_path, key), "t", number)
    read: list[str] = []
    heads = FileStore.heads

    def noted(store: FileStore, folder: str, names: Sequence[str], size: int) -> Any:
        read.extend(names)
        return heads(store, folder, names, size)

    monkeypatch.setattr(FileStore, "heads", noted)
    storage = keyed(tmp_path, key)
    assert [] == storage.prune("w", bytes="1 GB", days=1)
    assert [] == read
    assert 2 == len(storage.prune("w", bytes=0))


@pytest.mark.parametrize("key", ["right", None])
@pytest.mark.parametrize("earlier", [{"bytes": "1 GB", "days": 9}, False])
def test_a_result_that_is_not_signed_is_kept(key: str | None, earlier: Any, tmp_path: Path) -> None:
    """A save with another key copies it to `.damaged`, and gc keeps its side data as long."""
    genuine = keyed(tmp_path, key)
    save(genuine, "t", 1, Kept(b"genuine"))
    data = bytes(genuine.store.get("w/t"))
    wrong = keyed(tmp_path, "wrong", earlier=earlier)
    save(wrong, "t", 1, Kept(b"other"))
    [copy] = stored(wrong, ".damaged/")
    assert data == bytes(wrong.store.get(copy))
    for path in (tmp_path / "store" / "w" / ".data").iterdir():
        os.utime(path, (0, 0))
    assert [] == wrong.gc()
    assert [] == stored(wrong, ".earlier/")
    genuine.store.copy(copy, "w/t")
    assert b"genuine" == genuine.read_task("w", "t").data
    assert [copy] == [left.key for left in genuine.gc(-60.0) if left.kind == "damaged"]
    assert b"genuine" == genuine.read_task("w", "t").data


def test_a_restored_result_keeps_what_it_replaces(tmp_path: Path) -> None:
    """So does a run that makes an earlier result the latest again."""
    right = keyed(tmp_path, "right")
    for number in (1, 2):
        save(right, "t", number, number)
    save(keyed(tmp_path, "wrong"), "t", 3, 3)
    data = bytes(right.store.get("w/t"))
    [latest] = right.task_infos("w", ["t"])
    assert {} == right.restore("w", {"t": (call_of(1), latest)})
    assert 1 == right.read_task("w", "t")
    assert data in [bytes(right.store.get(key)) for key in stored(right, ".damaged/")]


@pytest.mark.parametrize("state", ["unsigned", "damaged"])
def test_an_earlier_result_is_read_instead(state: str, tmp_path: Path) -> None:
    """If a run needs the value of a call, and the latest result is of no use."""
    storage = keyed(tmp_path, "right")
    for number in (1, 2):
        save(storage, "t", number, number)
    data = bytes(storage.store.get("w/t"))
    other = sealed(data[64 : len(data) - len(rest_of(data))], rest_of(data), version=2)
    storage.store.put("w/t", [other if state == "unsigned" else data[:-1]])
    error = UntrustedResultError if state == "unsigned" else DamagedResultError
    with pytest.raises(error):
        storage.read_task("w", "t")
    assert 1 == storage.read_task("w", "t", call=call_of(1))


def hook() -> str:
    ran.append("ran")
    return "forged"


def test_old_headers_after_a_new_key(tmp_path: Path) -> None:
    """A kept header of the first format counts with its old key, and never with a new one."""
    storage = keyed(tmp_path, "old")
    storage.save("w", "t", {"text": "x" * 3000})
    data = bytes(storage.store.get("w/t"))
    header, pickled = header_of(data), rest_of(data)
    header["pickle"] = [len(pickled), xxh3_128_hexdigest(pickled)]
    kept = sealed(header, pickled, key=b"old")
    storage.store.put("w/t", [kept])
    assert {"text": "x" * 3000} == storage.read_task("w", "t")
    new = keyed(tmp_path, "new")
    assert ["signed"] == [each.action for each in new.sign("w")]
    call = f"c{__name__}\nhook\n(tR.".encode()
    planted = kept[: len(kept) - len(pickled)] + forged(pickled, call)
    storage.store.put("w/t", [planted])
    with pytest.raises(UntrustedResultError):
        new.read_task("w", "t")
    assert [] == ran
    assert "forged" == storage.read_task("w", "t")
    assert ["ran"] == ran


@pytest.mark.parametrize("which", ["result", "file"])
def test_files_with_holes(which: str, tmp_path: Path) -> None:
    """A file that is longer than any memory is damaged, and read no further than its size."""
    storage = keyed(tmp_path, "right")
    storage.save("w", "t", Kept(b"x" * 100))
    [side] = (tmp_path / "store" / "w" / ".data").iterdir()
    os.truncate(tmp_path / "store" / "w" / "t" if which == "result" else side, 1 << 42)
    with pytest.raises(DamagedResultError):
        storage.read_task("w", "t")
    if which != "result":
        [found] = storage.verify()
        assert "not what was written" in found.problem


def test_a_link_in_the_place_of_side_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The result is removed, and a warning says what is left."""
    storage = keyed(tmp_path, "right")
    storage.save("w", "t", Kept(b"1"))
    data = tmp_path / "store" / "w" / ".data"
    data.rename(tmp_path / "away")
    data.symlink_to(tmp_path / "away")
    storage.remove_task("w", "t")
    assert [] == storage.list_tasks("w")
    assert "some of their side data is left" in caplog.text
    assert 1 == len(list((tmp_path / "away").iterdir()))
