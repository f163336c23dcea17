"""A killed process: what is stored is whole, the old or the new, at whatever moment it died."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

Message = dict[str, Any]

OLD, NEW = 1, 2
_old: Message = {"do": "save", "seed": OLD}
_new: Message = {"do": "save", "seed": NEW}
_other: Message = {"do": "save", "seed": 9, "task": "other"}
_FSYNC: Message = {"durability": "fsync"}
_SIDE: Message = {"side": True}
_FILE: Message = {"side": "file"}

# name: (what is there, what is killed, the states of task t that may be found then)
OPERATIONS: dict[str, tuple[list[Message], Message, set[int | None]]] = {
    "save in a new store": ([], _new, {None, NEW}),
    "save": ([_other], _new, {None, NEW}),
    "save, fsync": ([_other], _new | _FSYNC, {None, NEW}),
    "save in a new store, fsync": ([], _new | _FSYNC, {None, NEW}),
    "save, if absent": ([_other], _new | {"if_absent": True}, {None, NEW}),
    "save with side data": ([_other], _new | _SIDE, {None, NEW}),
    "save with side data, if absent": ([_other], _new | _SIDE | {"if_absent": True}, {None, NEW}),
    "overwrite": ([_old, _other], _new, {OLD, NEW}),
    "overwrite, fsync": ([_old, _other], _new | _FSYNC, {OLD, NEW}),
    "overwrite, 200 kB": ([_old, _other], _new | {"size": 200_000}, {OLD, NEW}),
    "overwrite with side data": ([_old | _SIDE, _other | _SIDE], _new | _SIDE, {OLD, NEW}),
    "overwrite with side data, fsync": ([_old | _SIDE, _other], _new | _SIDE | _FSYNC, {OLD, NEW}),
    "overwrite side data by none": ([_old | _SIDE, _other], _new, {OLD, NEW}),
    "overwrite a file": ([_old | _FILE, _other], _new | _FILE, {OLD, NEW}),
    "overwrite a file, fsync": ([_old | _FILE, _other], _new | _FILE | _FSYNC, {OLD, NEW}),
    "remove_task": ([_old, _other], {"do": "remove_task"}, {OLD, None}),
    "remove_task with side data": (
        [_old | _SIDE, _other | _SIDE],
        {"do": "remove_task"},
        {OLD, None},
    ),
    "remove_workflow": (
        [_old | _SIDE, _other | _SIDE],
        {"do": "remove_workflow"},
        {OLD, None},
    ),
    "gc": ([{"do": "prepare_gc"}], {"do": "collect"}, {None}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_kill_at_every_system_call(
    name: str, full: bool, workers: Any, strace: Any, tmp_path: Path, counts: Any
) -> None:
    """Killed before any call on the store: old or new, sound, nothing left after gc.

    Reduced, before those calls only that change what is stored.
    """
    setup, operation, allowed = OPERATIONS[name]
    place = {"root": str(tmp_path / "recorded" / "store")}
    Path(place["root"]).parent.mkdir()
    for op in setup:
        workers.one(op | place)
    calls = strace.calls([operation | place], tmp_path / "recorded")
    assert calls
    if not full:
        calls = [call for call in calls if call.changes]
    seen = set()
    for number, call in enumerate(calls):
        place = {"root": str(tmp_path / f"{number}" / "store")}
        Path(place["root"]).parent.mkdir()
        for op in setup:
            workers.one(op | place)
        inject = f"inject={call.name}:signal=KILL:when={call.number}"
        _, text, finished = strace.run(
            [operation | place], "-e", inject, "-e", f"trace={call.name}"
        )
        assert not finished, f"{call} was not killed: {text}"
        counts.add("kills")
        found = workers.one({"do": "check", "gc": True, **place})
        where = f"killed before {call}: {found}"
        assert found["problems"] == [], where
        states = found["states"]
        if name == "gc":
            assert {"w/a": 1, "w/b": 2} == states, where
        else:
            assert states.get("w/t") in allowed, where
            seen.add(states.get("w/t"))
            if name == "remove_workflow":
                assert states.get("w/other") in (9, None), where
            elif len(setup):
                assert 9 == states["w/other"], where
            temporaries = [path for path in found["orphans"] if "/.tmp-" in f"/{path}"]
            lost = [path for path in found["orphans"] if "/.data/" in path]
            assert len(temporaries) <= 1, where
            assert len(lost) <= (2 if name == "remove_workflow" else 1), where
            assert len(found["orphans"]) == len(temporaries) + len(lost), where
            counts.add("orphans", len(found["orphans"]))
        assert found["left"] == [], where
        counts.add("left after gc", len(found["left"]))
        # Nothing is in the way of doing it again.
        again = [] if operation["do"].startswith("remove") else [operation | place]
        for answer in workers.run(*again):
            assert "error" not in answer or answer["error"] == "ResultExistsError", answer
    counts.add("lost, wrong or unreadable", 0)
    if name.startswith("overwrite with side data"):
        assert {OLD, NEW} == seen  # kills on both sides of the commit


@pytest.mark.parametrize("durability", ["auto", "fsync"])
def test_kill_at_random_moments(
    durability: str, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """What was acknowledged is there, byte for byte, whenever the writer is killed."""
    root = {"root": str(tmp_path / "store"), "durability": durability}
    known: dict[str, int | None] = {}  # task to the seed that was acknowledged last
    first, largest_orphans = 1, 0
    for _ in range(250 if full else 15):
        job = {"do": "storm", "seed": counts.random.randrange(1 << 30), "first": first, **root}
        worker = workers.start(job)
        time.sleep(0.15 * counts.random.random() ** 2)
        pending: Message = {}
        for message in worker.kill():
            if "begins" in message:
                pending = {message["begins"]: message["seed"]}
                first = max(first, (message["seed"] or 0) + 1)
            elif "done" in message:
                known |= pending
                pending = {}
                counts.add("acknowledged")
            else:
                pytest.fail(f"a save failed: {message}")
        counts.add("kills")
        found = workers.one({"do": "check", "gc": counts.random.random() < 0.1, **root})
        assert found["problems"] == []
        largest_orphans = max(largest_orphans, len(found["orphans"]))
        for task in known.keys() | pending.keys():
            stored = found["states"].get(f"w/{task}")
            allowed = {known.get(task), pending.get(task, known.get(task))}
            assert stored in allowed, f"{task}: {stored!r} is stored, and not one of {allowed}"
            known[task] = stored
        counts.add("results checked", len(known))
    assert [] == workers.one({"do": "check", "gc": True, **root})["left"]
    counts.add("lost or wrong", 0)
    counts.add("left after gc", 0)
