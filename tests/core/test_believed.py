"""With a key, a storage believes only headers that are signed with it, and what they tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kept_values import Kept, KeptSerializer
from result_bytes import MemoryStore, header_of, rest_of, sealed

from functionfuse.config.options import StorageOptions
from functionfuse.errors import DamagedResultError, UntrustedResultError
from functionfuse.storage import Storage
from functionfuse.storage.keys import earlier_key
from going_back import (
    TASKS,
    call_of,
    calls,
    chain,
    computed,
    made,
    on,
    opened,
    problems,
    results,
    save,
    stored,
)

KEY = "secret of the owner"
STATES = {"not signed": None, "signed with another key": b"another"}
each_state = pytest.mark.parametrize("state", STATES)
each_kind = pytest.mark.parametrize("kind", ["files", "memory"])


def keyed(kind: str, path: Path) -> Storage:
    """Return a storage with the key."""
    if kind == "files":
        return opened(path / "store", key=KEY)
    storage = Storage(MemoryStore(), StorageOptions(key=KEY))  # type: ignore[arg-type]
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def forge(storage: Storage, key: str, state: str, **fields: Any) -> None:
    """Change the header of a blob, and sign it as somebody does who doesn't know the key."""
    data = bytes(storage.store.get(key))
    header = json.dumps(header_of(data) | fields, separators=(",", ":"))  # as it is written
    blob = sealed(f"{header}\n".encode(), rest_of(data), key=STATES[state], version=data[8])
    storage.store.put(key, [blob])


def fingerprints(number: int) -> dict[str, Any]:
    """Return the fingerprints of the results of `chain`, as anybody can have them."""
    storage = on(MemoryStore())
    chain(storage, number).run()
    return {task: storage.task_info("w", task).fingerprint for task in TASKS}


@each_state
@each_kind
def test_a_forged_header_never_makes_a_run_reuse(kind: str, state: str, tmp_path: Path) -> None:
    """The parent's header has the call that is sought, and the value that the child was made of."""
    storage = keyed(kind, tmp_path)
    chain(storage, 1).run()
    forge(storage, "w/load", state, fingerprint=fingerprints(2)["load"])
    flow = chain(storage, 2)
    plan = flow.plan()
    assert state in plan["load"].reason
    assert "compute" == plan["load"].action
    assert results(2)[-1] == flow.run()
    assert flow.report is not None
    assert list(TASKS) == computed(flow)
    assert state in flow.report["load"].reason
    assert ([], results(2)) == (problems(storage), stored(storage))
    again = chain(storage, 2)
    again.run()
    assert [] == computed(again)


@each_state
def test_the_policy_always_demands_the_signature(state: str, tmp_path: Path) -> None:
    storage = keyed("files", tmp_path)
    chain(storage, 1).run()
    forge(storage, "w/size", state)
    flow = chain(storage, 1)
    flow.set_reuse("always")
    flow.run()
    assert ["size"] == computed(flow)


@each_state
def test_a_forged_header_is_never_young(state: str, tmp_path: Path) -> None:
    """A result expires by its signed time."""
    storage = keyed("files", tmp_path)
    chain(storage, 1).run()
    forge(storage, "w/size", state, created="2999-01-01T00:00:00.000000Z")
    flow = chain(storage, 1)
    flow.query("size").set_expires(timedelta(days=1))
    flow.run()
    assert ["size"] == computed(flow)


@pytest.mark.parametrize("names", [("w", "b"), ("v", "a")])
def test_a_signed_result_of_another_name_is_of_no_use(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """The signature covers the names of workflow and task."""
    storage = keyed("files", tmp_path)
    save(storage, "a", 1)
    storage.save(*names, 2, fingerprint={"call": call_of(1)})
    storage.store.copy("/".join(names), "w/a")
    storage.store.copy("/".join(names), earlier_key("w", "a", call_of(1)))
    [info] = storage.task_infos("w", ["a"])
    assert DamagedResultError is type(info)
    assert [] == storage.earlier("w", "a")
    with pytest.raises(DamagedResultError):
        storage.task_info("w", "a")


@each_state
@each_kind
def test_a_forged_earlier_result_is_none(kind: str, state: str, tmp_path: Path) -> None:
    """It is in no list, no run goes back to it, and the latest one isn't compared with it."""
    storage = keyed(kind, tmp_path)
    for number in (1, 2):
        chain(storage, number).run()
    [info] = storage.earlier("w", "load")
    forge(storage, earlier_key("w", "load", info.call), state)
    assert [] == storage.earlier("w", "load")
    assert 3 == len(storage.earlier("w"))
    flow = chain(storage, 1)
    flow.run()
    assert ["load"] == computed(flow)
    assert results(1) == stored(storage)
    [problem] = problems(storage)  # it stays until the limits of `earlier` remove it
    assert state in problem


@each_state
@each_kind
def test_a_forged_latest_result_is_not_set_aside(kind: str, state: str, tmp_path: Path) -> None:
    """It takes the place of no sound earlier result, and keeps none from being restored."""
    storage = keyed(kind, tmp_path)
    for number in (1, 2):
        chain(storage, number).run()
    [info] = storage.earlier("w", "load")
    forge(storage, "w/load", state, fingerprint=info.fingerprint)
    flow = chain(storage, 1)
    flow.run()
    assert [] == computed(flow)
    assert (results(1), []) == (stored(storage), problems(storage))
    forge(storage, "w/load", state, fingerprint=info.fingerprint)
    save(storage, "load", 3)
    assert [info] == storage.earlier("w", "load")


REMOVALS: dict[str, Callable[[Storage], object]] = {
    "save": lambda storage: storage.save("w", "forged", 1, fingerprint={"call": call_of(3)}),
    "remove_task": lambda storage: storage.remove_task("w", "forged"),
    "prune": lambda storage: storage.prune("w", bytes=0),
    "prune unused": lambda storage: storage.prune("w", unused_by=_Nodes()),
    "copy": lambda storage: _source().copy("w", storage, "forged"),
}


class _Nodes:
    workflow_name = "w"

    def graph_traversal(self) -> Any:
        return iter([("sound", None)])


def _source() -> Storage:
    storage = on(MemoryStore())
    storage.save("w", "forged", 1, fingerprint={"call": call_of(3)})
    return storage


@each_state
@pytest.mark.parametrize("removal", REMOVALS)
def test_a_forged_header_removes_no_side_data(removal: str, state: str, tmp_path: Path) -> None:
    """It lists the file of a sound result, and is itself replaced or removed."""
    storage = keyed("files", tmp_path)
    storage.save("w", "sound", Kept(b"kept"))
    side_data = header_of(bytes(storage.store.get("w/sound")))["side_data"]
    for number in (1, 2):
        save(storage, "forged", number)
    keys = [earlier_key("w", "forged", call_of(1)), "w/forged"]
    for key in keys[: 1 if removal == "prune" else 2]:
        forge(storage, key, state, side_data=side_data)
    REMOVALS[removal](storage)
    assert b"kept" == storage.read_task("w", "sound").data
    storage.gc(-60.0)
    assert b"kept" == storage.read_task("w", "sound").data


@each_state
def test_gc_keeps_the_files_of_signed_and_of_other_results(state: str, tmp_path: Path) -> None:
    """A header can keep files from `gc`, but takes none from another result."""
    storage = keyed("files", tmp_path)
    for name in ("sound", "forged"):
        storage.save("w", name, Kept(name.encode()))
    forge(storage, "w/forged", state, digest="0" * 32)
    storage.store.put("w/.data/orphan", [b"left"])
    assert ["w/.data/orphan"] == [left.key for left in storage.gc(-60.0)]
    assert b"sound" == storage.read_task("w", "sound").data


@each_state
def test_prune_counts_no_forged_results(state: str, tmp_path: Path) -> None:
    """Those with the newest times push no sound one out, and are left."""
    storage = keyed("files", tmp_path)
    for number in (1, 2, 3):
        save(storage, "t", number)
    forge(
        *(storage, earlier_key("w", "t", call_of(2)), state),
        created="2999-01-01T00:00:00.000000Z",
    )
    assert [] == storage.prune("w", keep=1)
    assert [1] == calls(storage, "t")
    [removed] = storage.prune("w", keep=0)
    assert earlier_key("w", "t", call_of(1)) == removed.key
    [left] = storage.store.list("w/.earlier/")
    assert earlier_key("w", "t", call_of(2)) == left.key


@each_state
def test_headers_are_shown_only_if_they_are_signed(state: str, tmp_path: Path) -> None:
    """`task_info` and `lineage` raise, `task_infos` gives the error, others leave it out."""
    storage = keyed("files", tmp_path)
    chain(storage, 1).run()
    forge(storage, "w/load", state, function="somebody's", seconds=1e9)
    for show in (storage.task_info, storage.lineage):
        with pytest.raises(UntrustedResultError, match=state):
            show("w", "load")
    [info] = storage.task_infos("w", ["load"])
    assert UntrustedResultError is type(info)
    assert ["total", "load"] == [node.task for node in storage.lineage("w", "total")]
    parent = storage.lineage("w", "total")[1]
    assert (False, "") == (parent.stored, parent.function)
    assert state in parent.note
    assert {"total", "kept", "size"} == {
        node.task for node in storage.lineage("w", "total", down=True)
    }
    assert sorted({*TASKS} - {"load"}) == sorted(storage.to_frame("w").index)
    assert sorted(TASKS) == storage.list_tasks("w")
    pages = {node.name: node.function for node in storage.report("w").page().nodes}
    assert "somebody's" not in pages.values()


@each_state
def test_a_copy_believes_no_forged_result_to_be_there(state: str, tmp_path: Path) -> None:
    """In the target, a result of this name and call that isn't signed is replaced."""
    source, target = keyed("memory", tmp_path), keyed("files", tmp_path)
    for number in (1, 2):
        chain(source, number).run()
    source.copy("w", target, earlier=True)
    [info] = source.earlier("w", "load")
    aside = earlier_key("w", "load", info.call)
    for key in ("w/load", aside):
        forge(target, key, state)
    done = [
        report.task
        for report in source.copy("w", target, earlier=True)
        if report.action == "replaced"
    ]
    assert ["load", "load"] == done
    assert [] == problems(target)


def test_a_long_name_is_that_of_its_key(tmp_path: Path) -> None:
    """A header shows no other name than the one that its key has the digest of."""
    storage = made("files", tmp_path)
    name = "é" * 100
    storage.save("w", name, 1)
    [key] = [blob.key for blob in storage.store.list("w/") if "%-" in blob.key]
    assert [name] == storage.list_tasks("w")
    forge(storage, key, "not signed", task="another")
    assert [key.removeprefix("w/")] == storage.list_tasks("w")


@each_state
def test_the_command_line_names_it(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`list` marks it, and ends with bad news; `show` says why."""
    from functionfuse.cli.main import run

    storage = keyed("files", tmp_path)
    chain(storage, 1).run()
    forge(storage, "w/load", state, type="somebody.Type")
    (tmp_path / "functionfuse.yaml").write_text(
        f"kind: file\noptions:\n  path: store\n  key: {KEY}\n", "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert 1 == run(["list", "w"])
    assert "(UntrustedResultError)" in capsys.readouterr().out
    assert 1 == run(["show", "w", "load"])
    assert state in capsys.readouterr().err
