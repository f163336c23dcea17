"""Copies of blobs in files that are killed, or whose calls fail: both blobs stay whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from functionfuse.storage.filestore import FileStore

Message = dict[str, Any]

BLOB, BEFORE, OTHER = b"blob" * 5000, b"before" * 1000, b"other"
SET_ASIDE, BROUGHT_BACK = ("w/a", "w/.earlier/x"), ("w/.earlier/x", "w/a")
NO_LINKS = ("-e", "inject=linkat:error=EPERM")

# name: (the blob and its copy, what is replaced, options of strace)
COPIES: dict[str, tuple[tuple[str, str], bytes | None, tuple[str, ...]]] = {
    "set aside": (SET_ASIDE, None, ()),
    "set aside, once more": (SET_ASIDE, BEFORE, ()),
    "brought back": (BROUGHT_BACK, BEFORE, ()),
    "without links": (SET_ASIDE, BEFORE, NO_LINKS),
}
COMMITS = ("renameat", "renameat2", "linkat")
MUST_RAISE = ("linkat", "renameat", "renameat2", "utimensat", "write")


def made(folder: Path, name: str) -> Message:
    """Make a store with what is there before a copy; return the copy's operation."""
    (key, to), before, _ = COPIES[name]
    store = FileStore(str(folder / "store"))
    for other, blob in ((key, BLOB), ("w/other", OTHER), *([(to, before)] if before else [])):
        store.put(other, [blob])
    return {"do": "copy", "root": store.root, "key": key, "to": to}


def found(root: str, name: str) -> tuple[bool, int]:
    """Assert that all blobs are whole; return whether the copy is made, and how much is left."""
    (key, to), before, _ = COPIES[name]
    blobs = {path.relative_to(root).as_posix(): path for path in Path(root).rglob("*")}
    copied = blobs[to].read_bytes() if to in blobs else None
    assert BLOB == blobs[key].read_bytes()
    assert OTHER == blobs["w/other"].read_bytes()
    assert copied in (before, BLOB)
    return copied == BLOB, len([path for path in blobs.values() if path.name.startswith(".tmp-")])


@pytest.mark.parametrize("name", COPIES)
def test_kill_at_every_system_call(
    name: str, full: bool, workers: Any, strace: Any, tmp_path: Path, counts: Any
) -> None:
    """Killed before any call: the earlier blob or the copy, and a leftover that a sweep removes."""
    options = COPIES[name][2]
    calls = strace.calls([made(tmp_path / "recorded", name)], tmp_path / "recorded", *options)
    if not full:
        calls = [call for call in calls[:-1] if call.changes] + calls[-1:]
    seen = set()
    for number, call in enumerate(calls):
        operation = made(tmp_path / str(number), name)
        root = operation["root"]
        inject = f"inject={call.name}:signal=KILL:when={call.number}"
        _, text, finished = strace.run([operation], *options, "-e", inject)
        assert not finished, f"{call} was not killed: {text}"
        counts.add("kills")
        copied, left = found(root, name)
        seen.add(copied)
        assert left <= 1, call
        store = FileStore(root)
        store.put("w/.functionfuse", [b""])
        assert left == len(list(store.sweep(-60)))
        counts.add("left for a sweep", left)
        workers.one(operation)
        assert (True, 0) == found(root, name)
    assert {True, False} == seen  # kills on both sides of the commit


@pytest.mark.parametrize("name", COPIES)
def test_every_call_fails(
    name: str, full: bool, workers: Any, strace: Any, tmp_path: Path, counts: Any
) -> None:
    """ENOSPC and EIO at every call, once and from then on: an error and no copy, or a copy."""
    options = COPIES[name][2]
    operation = made(tmp_path / "recorded", name)
    calls = strace.calls([operation], tmp_path / "recorded", *options, harmless=True)
    commit = max(place for place, call in enumerate(calls) if call.name in COMMITS)
    cases = [
        (place, error, lasting)
        for place, call in enumerate(calls)
        for error in ("ENOSPC", "EIO")
        for lasting in ("", "+")
        if not (options and call.name == "linkat")  # it fails anyway
    ]
    if not full:
        cases = counts.random.sample(cases, min(len(cases), 5))
    for number, (place, error, lasting) in enumerate(cases):
        call, operation = calls[place], made(tmp_path / str(number), name)
        inject = f"inject={call.name}:error={error}:when={call.number}{lasting}"
        answers, text, finished = strace.run([operation], *options, "-e", inject)
        assert finished, text
        assert "(INJECTED)" in text, text
        copied, left = found(operation["root"], name)
        where = f"{error}{lasting} at {call}: {answers}"
        counts.add("faults")
        if "error" in answers[0]:
            counts.add("raised")
            assert answers[0]["os_error"], where
            assert answers[0]["error"] != "ResultNotFoundError", where
            assert not copied or place > commit or lasting, where
        else:
            assert copied, where
            assert call.name not in MUST_RAISE, where
        assert not left or call.name.startswith("unlink"), where
        workers.one(operation)
        assert found(operation["root"], name)[0]


@pytest.mark.parametrize("name", ["set aside", "brought back"])
def test_a_copy_that_is_there_is_seven_calls(name: str, strace: Any, tmp_path: Path) -> None:
    """Of which none reads or writes: two folders are opened, one in the other, and closed."""
    once, twice = (
        strace.calls([made(tmp_path / str(n), name) | {"times": n}], tmp_path, harmless=True)
        for n in (1, 2)
    )
    calls = ["openat", "openat", "newfstatat", "utimensat", "newfstatat", "close", "close"]
    assert [call.name for call in once] + calls == [call.name for call in twice]
