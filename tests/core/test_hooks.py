"""Event hooks: plugins are told what happens, and can't stop it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.plugins import entrypoints, hooks
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage

Install = Callable[..., None]
GROUP = "functionfuse.hooks"

EVENTS = """
    from functionfuse.hookspecs import hookimpl

    seen = []

    @hookimpl
    def functionfuse_node_started(workflow, node, reason):
        seen.append(("started", workflow, node, reason))

    @hookimpl
    def functionfuse_node_reused(workflow, node):
        seen.append(("reused", workflow, node))

    @hookimpl
    def functionfuse_node_finished(node, seconds):
        assert seconds >= 0
        seen.append(("finished", node))

    @hookimpl
    def functionfuse_node_failed(node, error):
        seen.append(("failed", node, repr(error)))

    @hookimpl
    def functionfuse_result_saved(storage, workflow, task, info):
        assert info == storage.task_info(workflow, task)
        seen.append(("saved", workflow, task))

    @hookimpl
    def functionfuse_result_read(storage, workflow, task):
        storage.read_task(workflow, task)  # calls no hooks
        seen.append(("read", workflow, task))

    @hookimpl
    def functionfuse_result_removed(storage, workflow, task):
        assert not storage.file_exists(workflow, task)
        seen.append(("removed", workflow, task))
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_hooks", None)
    monkeypatch.setattr(hooks, "_generation", -1)


@workflow
def double(number: int) -> int:
    return 2 * number


@workflow
def fail(number: int) -> int:
    raise ValueError(number)


def seen(module: str = "their_events") -> list[Any]:
    found: list[Any] = sys.modules[module].seen
    events, found[:] = list(found), []
    return events


def test_a_plugin_is_told_what_happens_in_runs(install: Install, tmp_path: Path) -> None:
    """Nodes that are started, reused, finished, failed; results saved and read."""
    install("their-plugin", "events", "their_events", EVENTS, group=GROUP)
    first = double(1).set_name("first")
    local = LocalWorkflow(double(first).set_name("second"), workflow_name="w")
    local.set_storage(FileStorage(tmp_path / "store"))
    assert 4 == local.run()
    assert [
        ("started", "w", "first", "nothing stored"),
        ("saved", "w", "first"),
        ("finished", "first"),
        ("started", "w", "second", "nothing stored"),
        ("saved", "w", "second"),
        ("finished", "second"),
    ] == seen()
    assert 4 == local.run()
    assert [("reused", "w", "first"), ("reused", "w", "second"), ("read", "w", "second")] == seen()
    with pytest.raises(ValueError, match="3"):
        LocalWorkflow(fail(3).set_name("no"), workflow_name="v").run()
    assert [("started", "v", "no", ""), ("failed", "no", "ValueError(3)")] == seen()


BAR = """
    from functionfuse.hookspecs import hookimpl

    bars, done = {}, {}

    @hookimpl
    def functionfuse_event(event):
        if event.kind == "run started":
            bars[event.run], done[event.run] = ["open"], 0
        elif event.kind in ("finished", "failed", "reused"):
            done[event.run] += 1
            bars[event.run].append(f"{done[event.run]}/{event.total}")
        elif event.kind == "run finished":
            bars[event.run].append("closed")
"""

TRACKER = """
    from functionfuse.hookspecs import hookimpl

    active, runs = None, []

    @hookimpl
    def functionfuse_event(event):
        global active
        if event.kind == "run started":
            assert active is None
            active = event.run, event.workflow
        if event.kind == "run finished":
            assert active == (event.run, event.workflow)
            active = None
            runs.append("killed" if event.error is not None else "done")
"""


def test_a_plugin_draws_a_progress_bar(install: Install, tmp_path: Path) -> None:
    """It knows the number of nodes, and is closed after a failure, too."""
    install("their-bar", "bar", "their_bar", BAR, group=GROUP)
    nodes = [double(number).set_name(f"n{number}") for number in range(3)]
    for more in ([], [double(3)], [fail(4)]):
        local = LocalWorkflow(*nodes, *more, workflow_name="w")
        local.set_storage(FileStorage(tmp_path / "store"))
        local.query("n0").set_reuse("never")
        try:
            local.run()
        except ValueError:
            assert more[0].function is fail.func  # type: ignore[attr-defined]
    drawn: dict[str, list[str]] = sys.modules["their_bar"].bars
    assert ["open", "1/3", "2/3", "3/3", "closed"] == drawn.pop(min(drawn))
    assert [["open", "1/4", "2/4", "3/4", "4/4", "closed"]] * 2 == list(drawn.values())


@pytest.mark.parametrize("end", ["fine", "fails", "is interrupted", "has a listener that raises"])
def test_a_plugin_opens_and_closes_the_run_of_a_tracker(install: Install, end: str) -> None:
    """However the run ends, so that the next one can be opened."""
    install("their-tracker", "tracker", "their_tracker", TRACKER, group=GROUP)

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt(number)

    def refuse(event: Any) -> None:
        if end.startswith("has"):
            raise RuntimeError(end)

    made = {"fails": fail, "is interrupted": workflow(interrupt)}.get(end, double)
    ends = []
    for _ in range(2):
        local = LocalWorkflow(made(1), workflow_name="w")
        local.listeners.append(refuse)
        try:
            local.run()
        except (ValueError, RuntimeError, KeyboardInterrupt):
            ends.append("killed")
        else:
            ends.append("done")
    tracker = sys.modules["their_tracker"]
    assert (["done" if end == "fine" else "killed"] * 2, None) == (ends, tracker.active)
    assert ends == tracker.runs


def test_a_plugin_is_told_of_each_event_in_order(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the hooks of its node; one that raises doesn't keep it from the others."""
    code = """
        from functionfuse.hookspecs import hookimpl

        seen = []

        @hookimpl
        def functionfuse_event(event):
            seen.append(event)

        @hookimpl
        def functionfuse_node_started(node):
            seen.append(f"{node} started")

        @hookimpl
        def functionfuse_node_finished(node):
            seen.append(f"{node} finished")
    """
    broken = code.replace("seen.append(event)", "raise LookupError(event.kind)")
    install("broken-plugin", "broken", "broken_events", broken, group=GROUP)
    install("their-plugin", "events", "their_events", code, group=GROUP)
    told: list[Any] = []
    local = LocalWorkflow(double(1).set_name("n"), workflow_name="w")
    local.listeners.append(told.append)
    with caplog.at_level(logging.ERROR, "functionfuse"):
        assert 2 == local.run()
    found = seen()
    assert told == [event for event in found if not isinstance(event, str)]
    kinds = [event if isinstance(event, str) else event.kind for event in found]
    assert ["run started", "planned", "queued", "started", "n started"] == kinds[:5]
    assert ["finished", "n finished", "run finished"] == kinds[5:]
    assert ["n started", "n finished"] == seen("broken_events")
    assert 1 == caplog.text.count("failed in its hook 'functionfuse_event', and the run goes on")


@pytest.mark.parametrize("make", [MemoryStore, None])
def test_a_plugin_is_told_what_happens_in_storages(
    install: Install, tmp_path: Path, make: Any
) -> None:
    """Also of removals, one by one, by the names that were given, however long."""
    install("their-plugin", "events", "their_events", EVENTS, group=GROUP)
    storage = Storage(make()) if make else FileStorage(tmp_path / "store")
    names = ["a", "b/ü", "c" * 300, "d"]
    for name in names:
        storage.save("w", name, 1)
    assert [("saved", "w", name) for name in names] == seen()
    storage.read_task("w", "a")
    assert [("read", "w", "a")] == seen()
    with pytest.raises(FileNotFoundError):
        storage.read_task("w", "none")
    storage.remove_task("w", "a")
    storage.remove_task("w", pattern="b*")
    assert [("removed", "w", "a"), ("removed", "w", "b/ü")] == seen()
    storage.remove_workflow("w")
    assert [("removed", "w", "c" * 300), ("removed", "w", "d")] == sorted(seen())


def test_a_hook_that_raises_is_logged_and_the_run_goes_on(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the plugin's name, once in full; other plugins are told all the same."""
    broken = EVENTS.replace("seen.append", "1 / 0; seen.append")
    install("broken-plugin", "broken", "broken_events", broken, group=GROUP)
    install("their-plugin", "events", "their_events", EVENTS, group=GROUP)
    local = LocalWorkflow(double(double(1)), workflow_name="w")
    local.set_storage(FileStorage(tmp_path / "store"))
    with caplog.at_level(logging.ERROR, "functionfuse"):
        assert 4 == local.run()
    assert ["started", "saved", "finished"] * 2 == [event[0] for event in seen()]
    text = "the event hook 'broken' (module 'broken_events' from broken-plugin 1.2) failed in its"
    assert 3 == caplog.text.count(text)
    assert 3 == caplog.text.count("ZeroDivisionError: division by zero\n")
    for hook in ("node_started", "node_finished", "result_saved"):
        assert f"failed in its hook 'functionfuse_{hook}', and the run goes on: Zero" in caplog.text


def test_what_a_hook_is_not_allowed_to_catch_goes_through(install: Install) -> None:
    """Whoever interrupts a run in a hook interrupts the run."""
    code = EVENTS.replace('seen.append(("started"', 'raise KeyboardInterrupt(("started"')
    install("their-plugin", "events", "their_events", code, group=GROUP)
    with pytest.raises(KeyboardInterrupt):
        LocalWorkflow(double(1), workflow_name="w").run()
    found = hooks.event_hooks()
    assert found is not None
    assert not found._here.calling


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("1 / 0", "can't be imported: ZeroDivisionError"),
        (EVENTS.replace("node_started", "node_begun"), "implements 'functionfuse_node_begun', whi"),
        (EVENTS.replace("(node, error)", "(nodes)"), "has a wrong hook implementation: .*'nodes'"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_logged(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, match: str
) -> None:
    """Once; the others are told what happens."""
    install("broken-plugin", "events", "broken_events", code, group=GROUP)
    install("their-plugin", "events", "their_events", EVENTS, group=GROUP)
    for _ in range(2):
        assert 2 == LocalWorkflow(double(1), workflow_name="w").run()
    (record,) = [record for record in caplog.records if record.name == "functionfuse.plugins.hooks"]
    assert re.search(match, record.getMessage())
    assert "(module 'broken_events' from broken-plugin 1.2)" in record.getMessage()
    assert 4 == len(seen())


def test_a_blocked_plugin_is_told_nothing(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not imported."""
    install("their-plugin", "events", "their_events", EVENTS, group=GROUP)
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "events")
    LocalWorkflow(double(1), workflow_name="w").run()
    assert "their_events" not in sys.modules
    assert hooks.event_hooks() is None


def test_without_plugins_the_metadata_is_looked_through_once(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many results are saved and read."""
    scan, calls = entrypoints._scan, []

    def scanned() -> Any:
        calls.append("scan")
        return scan()

    monkeypatch.setattr(entrypoints, "_scan", scanned)
    storage = Storage(MemoryStore())
    for number in range(10):
        storage.save("w", "t", number)
        storage.read_task("w", "t")
    assert ["scan"] == calls
    assert hooks.event_hooks() is None


def test_a_worker_process_is_told_of_what_it_saves(install: Install, tmp_path: Path) -> None:
    """Hooks of results are called where the result was computed."""
    code = """
        import os
        from functionfuse.hookspecs import hookimpl

        @hookimpl
        def functionfuse_result_saved(task):
            with open(os.environ["SEEN"], "a") as file:
                print(os.getpid(), task, file=file)
    """
    install("their-plugin", "events", "their_events", code, group=GROUP)
    run = """
        import os, sys
        from concurrent.futures import ProcessPoolExecutor
        sys.path.insert(0, sys.argv[1])
        from functionfuse import workflow
        from functionfuse.backends.builtin.localback import LocalWorkflow
        from functionfuse.storage.filestorage import FileStorage

        @workflow
        def one(): return 1

        local = LocalWorkflow(one(), workflow_name="w")
        local.set_storage(FileStorage(sys.argv[2]))
        with ProcessPoolExecutor(1) as pool:
            local.run(pool)
        print(os.getpid())
    """
    paths = [str(tmp_path / "site"), str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(run), *paths],
        env={"SEEN": str(tmp_path / "seen")},
        check=True,
        capture_output=True,
        text=True,
    )
    pid, task = (tmp_path / "seen").read_text().split()
    assert ("one_0000", True) == (task, pid != done.stdout.strip())


def test_commands_in_the_group_of_event_hooks(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """As plugins of earlier releases have them: the log says where they belong, once."""
    code = """
        from functionfuse.hookspecs import CliCommand, hookimpl

        @hookimpl
        def functionfuse_cli_commands():
            return [CliCommand("publish", "Publish", print, print, api_version=1)]
    """
    install("their-plugin", "publish", "their_commands", code, group=GROUP)
    hooks.event_hooks()
    hooks.event_hooks()
    [record] = caplog.records
    match = "implements 'functionfuse_cli_commands'. Each command needs an entry point of its own"
    assert match in record.getMessage()
    assert "in the group 'functionfuse.commands' instead of 'functionfuse.hooks'" in caplog.text
