"""`Storage.copy`: results are signed for the target; what other releases wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from copies import NOBODY, Tree, actions, again, infos, keys, storage_of
from result_bytes import header_of, rest_of, sealed
from xxhash import xxh3_128_hexdigest

from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.runrecord import encoded
from going_back import TASKS, chain, computed, opened, problems, results, stored
from run_records import columns, head

HERE = Path(__file__).parent
MIB = 1 << 20


@pytest.mark.parametrize("to", [None, "a", "b"])
@pytest.mark.parametrize("key", [None, "a"])
def test_results_are_signed_for_the_target(key: str | None, to: str | None, tmp_path: Path) -> None:
    """Whatever the two keys are: all is readable there, and header fields are equal."""
    source = opened(tmp_path / "source", **({"key": key} if key else {}))
    for number in (1, 2):
        chain(source, number).run()
    source.save("w", "big", bytes(2 * MIB))
    target = opened(tmp_path / "target", **({"key": to} if to else {}))
    reports = source.copy("w", again(target, trust=NOBODY, **({"key": to} if to else {})))
    assert {"copied"} == set(actions(reports))
    bare = {"pickle": (0, ""), "buffers": [], "size": 0, "signed": False}
    bare["side_data"] = ()
    expected = [info._replace(**bare) for info in infos(source)]
    assert expected == [info._replace(**bare) for info in infos(target)]
    assert {bool(to)} == {target.task_info("w", name).signed for name in TASKS}
    same = [source.store.get(f"w/{name}") == target.store.get(f"w/{name}") for name in TASKS]
    assert {key == to} == set(same)
    assert [] == problems(target)
    reports = source.copy("w", target, earlier=True, runs=True)
    assert ["there already"] * 5 + ["copied"] * 6 == actions(reports)
    assert 2 == len(target.runs("w"))
    flow = chain(target, 1)
    assert results(1)[-1] == flow.run()
    assert [] == computed(flow)


def test_the_key_of_the_target_has_changed(source: FileStorage, target: FileStorage) -> None:
    """Copied again, the same results are signed anew; their side data stays."""
    source.copy("w", target)
    signed = again(target, key="new")
    assert ["replaced"] * 4 == actions(source.copy("w", signed))
    assert results(1) == stored(signed)
    assert 1 == len(list(target.store.list("w/.data/")))
    assert ["there already"] * 4 == actions(source.copy("w", signed))
    assert [] == target.earlier("w", "kept")


def test_a_wrong_signature(source: FileStorage, target: FileStorage) -> None:
    """It is reported, and nothing is copied; also where the target has the same bytes."""
    source.copy("w", target)
    for there in (True, False):
        if not there:
            target.remove_workflow("w")
        for dry_run in (True, False):
            reports = again(source, key="k").copy("w", target, runs=True, dry_run=dry_run)
            assert ["not copied"] * 5 == actions(reports)
            assert {True} == {"not signed" in report.problem for report in reports}
    assert [] == target.list_tasks("w")


def test_what_a_later_release_wrote(source: FileStorage, target: FileStorage) -> None:
    """Fields of the header that are unknown here are kept, and a newer format is a problem."""
    data = bytes(source.store.get("w/total"))
    header = header_of(data) | {"of a later release": [1]}
    source.store.put("w/total", [sealed(header, rest_of(data))])
    source.store.put("w/load", [sealed(header_of(data), rest_of(data), version=3)])
    signed = again(target, key="k")
    reports = {report.task: report for report in source.copy("w", signed)}
    assert "upgrade functionfuse-core" in reports["load"].problem
    copied = header_of(bytes(target.store.get("w/total")))
    assert header == copied | {"pickle": header["pickle"]}
    assert 3 == signed.read_task("w", "total")


@pytest.mark.parametrize("path", ["../../../outside", "./x", "/x", "\0", "a/../b"])
def test_a_key_that_leads_out_of_the_target(
    source: FileStorage, target: FileStorage, tmp_path: Path, path: str
) -> None:
    """Who can write to a bucket can plant such keys; nothing is written for them."""
    files = again(source)
    files.save("w", "tree", Tree({"a": b"x"}))
    memory = storage_of("memory", tmp_path)
    files.copy("w", memory)
    header = header_of(bytes(memory.store.get("w/tree")))
    [entry] = header["side_data"][0][2]
    memory.store.put(f"w/.data/{entry[0]}{path}", [b"planted"])
    planted = {"a": b"x", path: b"planted"}
    digests = {name: xxh3_128_hexdigest(data) for name, data in planted.items()}
    lines = [f"{name} {len(planted[name])} {digests[name]}\n" for name in sorted(planted)]
    text = "".join(lines)
    entry[1:] = 8, xxh3_128_hexdigest(text.encode())
    rest = rest_of(bytes(memory.store.get("w/tree")))
    memory.store.put("w/tree", [sealed(header, rest)])
    assert [] == problems(memory)
    about = head(1) | {"id": path}
    memory.store.put(f"w/.runs/{path}", [encoded(about, columns([]), None)])
    reports = memory.copy("w", again(target), "tree", runs=True)
    assert ["not copied"] * 2 == actions(reports)
    assert {"source", "target"} == {path.name for path in tmp_path.iterdir()}
    assert [] == keys(target)


def test_older_formats_are_copied_as_they_are(target: FileStorage) -> None:
    """All golden files, byte by byte."""
    source = FileStorage(HERE / "golden" / "v1" / "store")
    copied = 0
    for workflow in source.list_workflows():
        reports = source.copy(workflow, target, earlier=True, runs=True)
        assert [] == [report.problem for report in reports if report.problem]
        copied += len(reports)
    assert copied
    for blob in target.store.list(""):
        if blob.key.endswith("/.functionfuse"):
            continue
        assert source.store.get(blob.key) == target.store.get(blob.key)
