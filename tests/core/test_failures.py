"""Runs of random graphs whose nodes fail, against a model that says what becomes of each node."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from failing import Course, calls, courses_of, flow_of, random_plans, value_of

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

# "none" is no executor: nodes are computed here.
POOLS = {"none": 3000 if FULL else 80, "threads": 300 if FULL else 12}
POOLS |= {"processes": 300 if FULL else 6, "loky": 300 if FULL else 6}
CASES = [(kind, seed) for kind, count in POOLS.items() for seed in range(count)]


class Trial:
    """One random graph: it is run, and compared with the model."""

    def __init__(self, rng: Random, folder: Path, kinds: list[str]) -> None:
        self.folder = folder
        self.notes = str(folder / "notes")
        Path(self.notes).mkdir(parents=True)
        self.storage = FileStorage(folder / "store") if rng.random() < 0.7 else None
        kinds = [kind for kind in kinds if kind != "unsaved" or self.storage]
        self.plans = random_plans(rng, self.notes, kinds, stored=self.storage is not None)
        self.delay = rng.choice([0, 0, 0.001])
        self.events: list[Any] = []

    def flow(self) -> LocalWorkflow:
        flow = flow_of(self.plans, self.delay)
        flow.set_storage(self.storage)
        flow.listeners.append(self.events.append)
        return flow

    def stored(self) -> set[str]:
        return set(self.storage.list_tasks("w")) if self.storage else set()

    def check(self, flow: LocalWorkflow) -> dict[str, str]:
        """Check that report, events, storage and calls agree; return the actions."""
        assert flow.report is not None
        logged = {plan.name for plan in self.plans if plan.logged}
        actions = {record.name: record.action for record in flow.report.nodes}
        computed = {name for name, action in actions.items() if action == "computed"}
        if self.storage:
            assert computed - logged == self.stored()
        for record in flow.report.nodes:
            assert record.attempts == calls(self.notes, record.name), record
            kinds = [each.kind for each in self.events if each.node == record.name]
            kinds = [kind for kind in kinds if kind != "queued"]
            if record.action != "computed" and kinds[-1:] == ["started"]:
                kinds.pop()  # a process had taken it in advance
            assert self.events_of(record, kinds) == kinds
        return actions

    def events_of(self, record: Any, kinds: list[str]) -> list[str]:
        """Return the events of a node with this record, but for "queued"."""
        retried = ["started", "retrying"]
        planned = ["planned"]
        if record.action == "computed":
            saved = ["saved"] * (record.name in self.stored())
            return [*planned, *retried * (record.attempts - 1), "started", "finished", *saved]
        if record.action == "failed" and kinds[-1] == "failed":
            return [*planned, *retried * (record.attempts - 1), "started", "failed"]
        return [*planned, *retried * record.attempts]  # the run ended before the next attempt

    def run_again(self) -> None:
        """Run once more, when nothing fails: it computes what is missing, and nothing else."""
        before = {plan.name: calls(self.notes, plan.name) for plan in self.plans}
        stored = self.stored()
        Path(self.notes, "mended").touch()
        flow = self.flow()
        values = flow.run()
        expected = [value_of(plan) for plan in self.plans]
        assert expected == (values if len(self.plans) > 1 else [values])
        assert flow.report is not None
        missing = {plan.name for plan in self.plans} - stored
        assert missing == set(flow.report.names("computed"))
        for name, count in before.items():
            assert count + (name in missing) == calls(self.notes, name)


def raised_in(flow: LocalWorkflow, executor: Executor | None, **options: Any) -> Any:
    """Return the error that a run raises; None if it raises none."""
    try:
        flow.run(executor, **options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # it is looked at
        return error
    return None


def check_error(error: Any, courses: dict[str, Course]) -> None:
    """Check that the error is that of the interrupt, or else of the first node that failed."""
    failed = [name for name, course in courses.items() if course.action == "failed"]
    interrupted = [name for name in failed if courses[name].error is KeyboardInterrupt]
    if not failed:
        assert error is None
        return
    name = (interrupted or failed)[0]
    assert isinstance(error, courses[name].error or ())
    notes = "\n".join(error.__notes__)
    assert f"in node {name!r} of workflow 'w'" in notes
    assert (f"(attempt {courses[name].attempts})" in notes) == (courses[name].attempts > 1)


@pytest.mark.battery
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_a_run_does_what_the_model_says(
    executors: Callable[[str], Executor], tmp_path: Path, kind: str, seed: int
) -> None:
    """Of each node: computed, failed or not run, after how many calls, and which error is raised.

    What is computed is stored, and nothing else; the next run computes what is missing.
    """
    rng = Random(f"{kind} {seed}")
    kinds = ["fails", "flaky", "unsaved"] + ["slow"] * (kind != "threads")
    interrupted = kind == "none" and rng.random() < 0.2
    trial = Trial(rng, tmp_path, kinds + ["interrupted"] * interrupted)
    trial.delay *= not interrupted
    keep_going, flow = rng.random() < 0.6, trial.flow()
    executor = None if kind == "none" else executors(kind)
    error = raised_in(flow, executor, keep_going=keep_going)
    actions = trial.check(flow)
    if keep_going or (kind == "none" and not trial.delay):
        courses = courses_of(trial.plans, KeyboardInterrupt if keep_going else BaseException)
        expected = {name: (course.action, course.attempts) for name, course in courses.items()}
        assert flow.report is not None
        assert expected == {each.name: (each.action, each.attempts) for each in flow.report.nodes}
        check_error(error, courses)
        if keep_going and error is not None and not isinstance(error, KeyboardInterrupt):
            check_counts(error, courses)
    else:
        check_first(error, courses_of(trial.plans, ()), actions)
    trial.run_again()


def check_counts(error: Any, courses: dict[str, Course]) -> None:
    """Check that an error says how many others failed, and how many were not run."""
    counts = Counter(course.action for course in courses.values())
    expected = []
    if counts["failed"] > 1:
        expected.append(f"{counts['failed'] - 1} other node")
    if counts["not run"]:
        expected.append(f"{counts['not run']} node")
    notes = [note for note in error.__notes__ if "failed, too" in note or "that follow" in note]
    assert expected == [note[: len(start)] for start, note in zip(expected, notes, strict=True)]


def check_first(error: Any, courses: dict[str, Course], actions: dict[str, str]) -> None:
    """Check a run that ended at some failure: which came first is chance."""
    failing = {name for name, course in courses.items() if course.action == "failed"}
    failed = {name for name, action in actions.items() if action == "failed"}
    ended = [name for name in failed if f"in node {name!r}" in "\n".join(error.__notes__)]
    assert isinstance(error, courses[ended[0]].error or ()) if failing else error is None
    for name, action in actions.items():
        allowed = {"not run", courses[name].action}
        # One that would have been tried again, if the run hadn't ended, has failed.
        assert action in allowed or (action == "failed" and name not in failing)
