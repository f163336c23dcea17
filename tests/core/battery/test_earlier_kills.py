"""Runs that are killed while they set results aside or restore them: no result is lost or torn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Message = dict[str, Any]

NO_LINKS = ("-e", "inject=linkat:error=EPERM")


def runs(*numbers: int) -> list[Message]:
    return [{"do": "run", "number": number} for number in numbers]


# name: (what is done before, what is killed, the numbers that stay, others that may be there)
CASES: dict[str, tuple[list[Message], Message, set[int], set[int]]] = {
    "first run": ([], *runs(1), set(), {1}),
    "set aside": (runs(1), *runs(2), {1}, {2}),
    "set aside a copy": (runs(1, 2, 1), *runs(3), {1, 2}, {3}),
    "restore": (runs(1, 2), *runs(1), {1, 2}, set()),
    "restore once more": (runs(1, 2, 1), *runs(2), {1, 2}, set()),
    "compute again": (runs(1, 2, 1), *[runs(1)[0] | {"policy": "never"}], {2}, {1}),
    "compute over another": (runs(1, 2), *[runs(1)[0] | {"policy": "never"}], {2}, {1}),
    "limits": (runs(1, 2), *[runs(3)[0] | {"earlier": {"bytes": 0}}], set(), {1, 2, 3}),
    "prune": (runs(1, 2, 3), {"do": "prune"}, {3}, {1, 2}),
    "prune a copy": (runs(1, 2, 1), {"do": "prune"}, {1}, {2}),
}


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [(name, side, ()) for name in CASES for side in (False, True)]
    + [(name, True, NO_LINKS) for name in ("set aside", "restore")],
)
def test_kill_at_every_system_call(
    name: str,
    side: bool,
    options: tuple[str, ...],
    full: bool,
    workers: Any,
    strace: Any,
    tmp_path: Path,
    counts: Any,
) -> None:
    """Killed before any call: all is sound, `gc` removes nothing needed, the next run is right.

    Reduced, before those calls only that change what is stored; and of most runs, before some:
    with side data, a run has all the calls that it has without.
    """
    before, operation, stay, may = CASES[name]

    def prepared(folder: str) -> Message:
        place = {"root": str(tmp_path / folder / "store"), "side": side}
        Path(place["root"]).parent.mkdir()
        for op in before:
            workers.one(op | place)
        return place

    calls = strace.calls([operation | prepared("recorded")], tmp_path / "recorded", *options)
    every = full or (side and not options and name in ("set aside", "restore"))
    if not full:
        calls = [call for call in calls if call.changes]
        calls = calls if every else counts.random.sample(calls, min(2, len(calls)))
    assert calls
    seen = set()
    for number, call in enumerate(calls):
        place = prepared(str(number))
        inject = f"inject={call.name}:signal=KILL:when={call.number}"
        _, text, finished = strace.run([operation | place], *options, "-e", inject)
        assert not finished, f"{call} was not killed: {text}"
        counts.add("kills")
        found = workers.one({"do": "look", **place})
        where = f"killed before {call}: {found}"
        after = found.pop("after gc")
        assert [] == found.pop("side data"), where
        assert found == after, where
        assert [] == found["problems"], where
        for task in ("first", "second") if before else found["latest"]:
            there = {found["latest"][task], *found["earlier"][task]}
            assert stay <= there <= stay | may, where
            seen.add((task, found["latest"][task]))
        for setting in (1, 2):
            answer = workers.one({"do": "run", "number": setting, **place})
            assert [setting, setting + 1000] == answer["numbers"], where
            found = workers.one({"do": "look", **place})
            assert {setting} == set(found["latest"].values()), where
            assert [] == found["problems"], where
    counts.add("lost, wrong or unreadable", 0)
    if every and name in ("set aside", "restore"):
        assert 4 == len(seen)  # kills on both sides of each commit
