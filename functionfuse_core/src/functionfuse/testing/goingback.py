"""Tests of earlier results: they are set aside, found again, read, checked, measured, removed."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..backends.builtin.localback import LocalWorkflow
from ..errors import ResultNotFoundError
from ..graph.decorator import workflow
from ..storage import Storage
from ..storage.filestore import FileStore
from ..storage.header import TaskInfo
from ..storage.keys import EARLIER, NEWER, earlier_key
from .resultbase import Grid, Grids, Results
from .results import NAMES

__all__ = ["GoingBack"]

TASKS = ["rows", "total", "grid"]


@workflow(version="1")
def rows_of(number: int) -> list[int]:
    """Return a plain value."""
    return [number, number + 1]


@workflow(version="1")
def total_of(rows: list[int]) -> int:
    """Return a value of a parent."""
    return sum(rows)


@workflow(version="1")
def grid_of(total: int) -> Grid:
    """Return a value with side data."""
    return Grid(total)


def flow_of(storage: Storage, number: int) -> LocalWorkflow:
    """Return a workflow of the tasks in `TASKS`, each made from the one before it."""
    total = total_of(rows_of(number).set_name("rows")).set_name("total")
    flow = LocalWorkflow(total, grid_of(total).set_name("grid"), workflow_name="w")
    flow.set_storage(storage)
    return flow


def results_of(number: int) -> list[Any]:
    """Return the results of `TASKS`; a run returns the last two."""
    total = 2 * number + 1
    return [[number, number + 1], total, Grid(total)]


@contextmanager
def executor_of(how: str) -> Iterator[Executor | None]:
    """Yield what runs the nodes: here, in threads, or in processes."""
    if how == "here":
        yield None
    elif how == "threads":
        with ThreadPoolExecutor(2) as threads:
            yield threads
    else:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
            yield processes


def call_of(number: int) -> str:
    """Return the digest of a call."""
    return f"{number:032x}"


def value_of(number: int) -> list[Any]:
    """Return the result of a call."""
    return [number, Grid(number)]


class GoingBack(Results):
    """A result of another call is set aside; it is found again until it is pruned or removed."""

    @pytest.fixture
    def grids(self, storage: Storage) -> Storage:
        """Return the storage, with a serializer that writes two files for a value."""
        storage.register_persistent_serializers(Grids())
        return storage

    def save(self, storage: Storage, numbers: Sequence[int], task: str = "t") -> None:
        """Save the results of calls under one name of workflow "w", one after the other."""
        for number in numbers:
            storage.save("w", task, value_of(number), fingerprint={"call": call_of(number)})

    def restore(self, storage: Storage, number: int) -> None:
        """Make an earlier result of task "t" the latest one."""
        [latest] = storage.task_infos("w", ["t"])
        assert {} == storage.restore("w", {"t": (call_of(number), latest)})

    def earlier(self, storage: Storage, task: str = "t") -> list[int]:
        """Return the numbers of a task's earlier calls, as they are listed."""
        return [int(info.call, 16) for info in self.reopen(storage).earlier("w", task)]

    def set_aside(self, storage: Storage, task: str = "t") -> list[str]:
        """Return the keys of a task's earlier results."""
        beginning = earlier_key("w", task, "")
        return [key for key in self.keys(storage) if key.startswith(beginning)]

    @pytest.mark.parametrize("how", ["here", "threads"])
    def test_runs_are_remembered(self, grids: Storage, how: str) -> None:
        """Each run leaves a record, by which its own values are read, and no other run's."""
        for number in (1, 2, 1):
            with executor_of(how) as executor:
                flow_of(grids, number).run(executor)
        copy = self.reopen(grids)
        copy.register_persistent_serializers(Grids())
        runs = copy.runs("w")
        assert ["computed", "computed", "reused"] == [run["total"].action for run in runs]
        for number, run in zip((1, 2, 1), runs, strict=True):
            assert number == run["rows"].arguments["number"]
            assert results_of(number) == [run.read(task) for task in TASKS]
        assert [runs[0].id] * 3 == [copy.task_info("w", task).run for task in TASKS]
        changes = {(change.node, change.what) for change in runs[0].compare(runs[1])}
        assert {("rows", "argument"), *((task, "result") for task in TASKS)} == changes

    @pytest.mark.parametrize("how", ["here", "threads", "processes"])
    def test_a_run_goes_back(self, grids: Storage, how: str) -> None:
        """Settings 1, 2, 1, 2 compute twice; after a run, `read_task` reads what it returned."""
        if how == "processes":
            self.needs("processes")
            grids.always_read = True  # a grid goes to another process through the storage only
        computed = []
        with executor_of(how) as executor:
            for number in (1, 2, 1, 2):
                flow, results = flow_of(grids, number), results_of(number)
                assert results[1:] == flow.run(executor)
                assert flow.report is not None
                computed.append(len(flow.report.names("computed")))
                reader = self.reopen(grids)
                assert results == [reader.read_task("w", task) for task in TASKS]
        assert [3, 3, 0, 0] == computed
        assert not any(record.problem for record in grids.verify())
        assert sorted(TASKS) == grids.list_tasks("w")

    def test_earlier_results_are_listed(self, grids: Storage) -> None:
        """The newest first, without the latest, each once; none is listed as a task."""
        assert [] == grids.earlier("w", "t")
        self.save(grids, [3, 1, 4, 2])
        self.save(grids, [1], "u")
        assert [[4, 1, 3], []] == [self.earlier(grids), self.earlier(grids, "u")]
        assert ["t", "u"] == grids.list_tasks("w")
        self.save(grids, [1, 4])
        assert [1, 2, 3] == self.earlier(grids)
        self.restore(grids, 2)
        assert [4, 1, 3] == self.earlier(grids)

    def test_a_result_is_read_by_its_call(self, grids: Storage) -> None:
        """The latest, or an earlier one; for another call there is none."""
        self.save(grids, [1, 2, 3])
        reader = self.reopen(grids)
        for number in (1, 2, 3):
            assert value_of(number) == reader.read_task("w", "t", call=call_of(number))
        assert value_of(3) == reader.read_task("w", "t")
        for task, number in (("t", 4), ("u", 1)):
            with pytest.raises(ResultNotFoundError, match=call_of(number)):
                reader.read_task("w", task, call=call_of(number))

    def test_earlier_results_under_any_name(self, grids: Storage) -> None:
        """No two names share an earlier result."""
        for name in NAMES:
            self.save(grids, [1, 2], name)
        for name in NAMES:
            [info] = grids.earlier("w", name)
            assert (name, call_of(1)) == (info.task, info.call)
        grids.remove_task("w", NAMES[0])
        assert 2 * (len(NAMES) - 1) == len(grids.verify())

    def test_results_without_a_call_are_not_set_aside(self, grids: Storage) -> None:
        """They are replaced, with their side data; a result of the same call is, too."""
        self.save(grids, [1])
        grids.save("w", "t", value_of(8))
        self.save(grids, [2])
        self.save(grids, [2])
        assert [1] == self.earlier(grids)
        assert 4 == len(self.side_data(grids))
        for value in "before", "after":
            grids.save("w", "plain", value, fingerprint={"call": call_of(1)})
        assert [[], 3] == [self.earlier(grids, "plain"), len(grids.verify())]

    def test_side_data_of_earlier_results_is_no_leftover(self, grids: Storage) -> None:
        """`gc` keeps it while a result refers to it, and removes it otherwise."""
        self.save(grids, [1, 2])
        grids.store.put("w/.data/orphan", [b"left"])
        assert ["w/.data/orphan"] == [leftover.key for leftover in grids.gc(-60.0)]
        assert value_of(1) == grids.read_task("w", "t", call=call_of(1))
        grids.store.delete(self.set_aside(grids))
        assert 2 == len(grids.gc(-60.0))
        assert value_of(2) == grids.read_task("w", "t")

    def test_prune_keeps_the_newest_of_each_task(self, grids: Storage) -> None:
        """With `keep`; a dry run returns the same, and removes nothing."""
        self.save(grids, [1, 2, 3, 4])
        self.save(grids, [1, 2], "u")
        sizes = sum(info.size + info.side_size for info in grids.earlier("w", "t")[1:])
        before = self.keys(grids)
        dry = grids.prune("w", keep=1, dry_run=True)
        assert before == self.keys(grids)
        found = grids.prune("w", keep=1)
        assert dry == found
        assert [("earlier", True)] * 2 == [(left.kind, left.key in before) for left in found]
        assert sizes == sum(left.size for left in found)
        assert [1, 1] == [len(self.set_aside(grids, task)) for task in ("t", "u")]
        assert 8 == len(self.side_data(grids))
        assert [value_of(4), value_of(2)] == [grids.read_task("w", task) for task in ("t", "u")]
        assert [] == grids.prune("w", keep=1)

    def test_prune_by_size_and_age(self, grids: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        """The latest results stay; those that fit, or are young, stay, too."""
        self.save(grids, [1, 2, 3, 4])
        size = sum(info.size + info.side_size for info in grids.earlier("w", "t"))
        assert [] == grids.prune("w", bytes=size)
        assert 1 == len(grids.prune("w", bytes=size - 1))
        assert 2 == len(self.set_aside(grids))
        assert [] == grids.prune("w", days=1)
        assert [] == grids.prune("w")
        wrongs: tuple[Any, ...] = (-1, float("nan"), True, "soon")
        for wrong in wrongs:
            with pytest.raises(ValueError, match="days"):
                grids.prune("w", days=wrong)
        with monkeypatch.context() as patch:
            after = grids.store.now() + 2 * 86400
            patch.setattr(type(grids.store), "now", lambda _: after)
            removed = grids.prune("w", days=1)
        assert [("earlier", "t")] * 2 == [(blob.kind, blob.task) for blob in removed]
        assert [[], value_of(4)] == [self.earlier(grids), grids.read_task("w", "t")]
        self.save(grids, [5])
        assert 1 == len(grids.prune("w", bytes=0))
        assert 2 == len(self.side_data(grids))

    def test_prune_removes_tasks_that_are_no_longer_nodes(self, grids: Storage) -> None:
        """With `unused_by`: their latest results, too, and all their side data."""
        flow_of(grids, 1).run()
        for task in ("old", "grid"):
            self.save(grids, [1, 2], task)
        flow = flow_of(grids, 1)
        kinds = [left.kind for left in grids.prune("w", unused_by=flow, dry_run=True)]
        assert ["earlier", "unused"] == kinds
        assert sorted(["old", *TASKS]) == grids.list_tasks("w")
        assert kinds == [left.kind for left in grids.prune("w", unused_by=flow)]
        assert sorted(TASKS) == grids.list_tasks("w")
        assert [[], 2] == [self.set_aside(grids, "old"), len(self.set_aside(grids, "grid"))]
        assert 6 == len(self.side_data(grids))
        with pytest.raises(ValueError, match="'w'"):
            grids.prune("v", unused_by=flow)

    def test_what_the_latest_result_refers_to_stays(self, grids: Storage) -> None:
        """Pruning a result that was restored removes no side data of the latest one."""
        for number in (1, 2, 1):
            flow_of(grids, number).run()
        grids.prune("w", bytes=0)
        assert [] == [key for key in self.keys(grids) if EARLIER in key]
        assert results_of(1) == [grids.read_task("w", task) for task in TASKS]
        assert 2 == len(self.side_data(grids))
        assert [] == grids.gc(-60.0)
        assert not any(record.problem for record in grids.verify())

    def test_usage_has_earlier_results_apart(self, grids: Storage) -> None:
        """`du` counts each byte once; side data counts as earlier if only these refer to it."""
        self.save(grids, [1, 2, 3])
        earlier = sum(info.size + info.side_size for info in grids.earlier("w", "t"))
        total = sum(blob.size for blob in grids.store.list(""))
        [usage] = grids.du()
        assert (1, earlier, total) == (usage.tasks, usage.earlier, usage.size + usage.earlier)
        self.restore(grids, 1)
        [one, *others] = sorted(grids.earlier("w", "t"), key=lambda info: info.call)
        assert [2, 3] == [int(info.call, 16) for info in (one, *others)]
        shared = grids.task_info("w", "t")
        earlier = shared.size + sum(info.size + info.side_size for info in (one, *others))
        total = sum(blob.size for blob in grids.store.list(""))
        [usage] = grids.du()
        assert (1, earlier, total) == (usage.tasks, usage.earlier, usage.size + usage.earlier)

    @pytest.mark.parametrize("damage", ["header", "value", "side data"])
    def test_a_damaged_earlier_result(self, grids: Storage, damage: str) -> None:
        """`verify` reports it with its call; a run computes, and doesn't use it."""
        for number in (1, 2):
            flow_of(grids, number).run()
        [info] = grids.earlier("w", "grid")
        key = earlier_key("w", "grid", info.call)
        data = bytearray(grids.store.get(key))
        if damage == "side data":
            [side] = info.side_data
            grids.store.delete([f"w/.data/{name}" for name, *_ in side.files])
        else:
            data[100 if damage == "header" else -1] ^= 1
            grids.store.put(key, [data])
        sound = {record.call: record.problem for record in grids.verify()}
        assert sound.pop(info.call)
        assert {""} == set(sound.values())
        flow, results = flow_of(grids, 1), results_of(1)
        assert results[1:] == flow.run()
        assert flow.report is not None
        assert ["grid"] == flow.report.names("computed")
        assert results == [self.reopen(grids).read_task("w", task) for task in TASKS]

    def test_a_removal_removes_earlier_results(self, grids: Storage) -> None:
        """Of one task, of those that match a pattern, of a workflow: with all side data."""
        for task in ("a", "b", "c"):
            self.save(grids, [1, 2], task)
        grids.remove_task("w", "a")
        assert [] == self.set_aside(grids, "a")
        assert 8 == len(self.side_data(grids))
        grids.remove_task("w", pattern="b*")
        assert [[], 1] == [self.set_aside(grids, "b"), len(self.set_aside(grids, "c"))]
        assert 4 == len(self.side_data(grids))
        grids.remove_workflow("w")
        assert [] == self.keys(grids)
        self.save(grids, [1, 2])
        grids.remove_task("w", "t")
        assert ["w/" + NEWER] == self.keys(grids)
        with pytest.raises(ResultNotFoundError):
            grids.remove_task("w", "t")
        assert [[], ["w"]] == [grids.list_tasks("w"), grids.list_workflows()]

    def test_a_workflow_is_copied(self, grids: Storage, tmp_path: Path) -> None:
        """There and back, with side data, earlier results and records; nothing is unpickled."""
        for number in (1, 2):
            flow_of(grids, number).run()
        grids.save("w", "big", bytes(range(256)) * (8 << 10))
        storages = [grids, Storage(FileStore(str(tmp_path / "copy")))]
        storages.append(self.with_options(grids, key="another key"))
        storages[1].register_persistent_serializers(Grids())
        for source, to in itertools.pairwise(storages):
            to.register_persistent_serializers(Grids())
            reports = source.copy("w", to, earlier=True, runs=True)
            assert 9 == len(reports)
            assert [] == [report.problem for report in reports if report.problem]
            for name in ("big", *TASKS):
                before, after = source.task_info("w", name), to.task_info("w", name)
                assert _unsigned(before) == _unsigned(after)
                before_it, after_it = source.earlier("w", name), to.earlier("w", name)
                assert list(map(_unsigned, before_it)) == list(map(_unsigned, after_it))
            assert not any(record.problem for record in to.verify())
            assert 2 == len(to.runs("w"))
            if source is grids:
                grids.remove_workflow("w")
        for number in (1, 2):
            flow = flow_of(storages[-1], number)
            assert results_of(number)[1:] == flow.run()
            assert flow.report is not None
            assert [] == flow.report.names("computed")

    def test_no_earlier_results(self, storage: Storage) -> None:
        """With `earlier=False` none is set aside, listed or found: each change computes."""
        without = self.with_options(storage, earlier=False)
        without.register_persistent_serializers(Grids())
        for number in (1, 2, 1):
            flow = flow_of(without, number)
            assert results_of(number)[1:] == flow.run()
            assert flow.report is not None
            assert sorted(TASKS) == sorted(flow.report.names("computed"))
            assert 3 == len(without.verify())
            assert 2 == len(self.side_data(without))
        assert [] == without.earlier("w", "grid")
        self.save(without, [1, 2])
        assert [] == self.set_aside(without)


def _unsigned(info: TaskInfo) -> TaskInfo:
    """Return a header without what differs where there is a key: see docs/format.md."""
    pickle, *buffers = (size for size, _ in (info.pickle, *info.buffers))
    sections: list[tuple[int, str]] = [(size, "") for size in buffers]
    bare = info._replace(pickle=(pickle, ""), buffers=sections, side_data=())
    return bare._replace(size=0, signed=False)
