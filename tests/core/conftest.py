"""The modules in `importable/` are imported by their names, also by processes that tests start.

A fake plugin is a `*.dist-info` folder on disk and a module beside it.
"""

from __future__ import annotations

import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest

from functionfuse.plugins import entrypoints, registry
from functionfuse.run import job
from functionfuse.storage import lease
from functionfuse.storage.filestorage import FileStorage

IMPORTABLE = str(Path(__file__).parent / "importable")

if IMPORTABLE not in sys.path:
    sys.path.insert(0, IMPORTABLE)

Install = Callable[..., None]


@pytest.fixture(scope="module")
def executors() -> Iterator[Callable[[str], Executor]]:
    """Return a function that gives an executor of each kind: "toy", "threads" and so on."""
    from executors import executors_by_kind  # its folder is on the path by now

    with executors_by_kind() as get:
        yield get


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT is Ctrl-C, also in the background, where a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a run waits for what another is computing, which is never taken for dead."""
    found = threading.Event()

    def wait(seconds: float) -> None:
        found.set()
        time.sleep(seconds)

    monkeypatch.setattr(job, "sleep", wait)
    monkeypatch.setattr(lease, "LOST_AFTER", 3600)
    return found


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that lays a distribution with one plugin onto the path."""
    monkeypatch.delenv("FUNCTIONFUSE_BLOCK", raising=False)
    monkeypatch.setattr(registry, "_state", registry.State())
    monkeypatch.setattr(entrypoints, "_found", None)
    before = set(sys.modules)
    folders = set()

    def add(
        distribution: str,
        kind: str,
        module: str,
        code: str,
        *,
        group: str = "functionfuse.storages",
        version: str = "1.2",
        site: str = "site",
        metadata: str | None = None,
    ) -> None:
        folder = tmp_path / site
        folder.mkdir(exist_ok=True)
        if folder not in folders:
            folders.add(folder)
            monkeypatch.syspath_prepend(str(folder))
        (folder / f"{module.partition(':')[0]}.py").write_text(textwrap.dedent(code))
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        if metadata is None:
            metadata = f"Name: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n{kind} = {module}\n")
        entrypoints.forget()

    yield add
    entrypoints.forget()  # what is remembered of plugins, by others too
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def source(tmp_path: Path) -> FileStorage:
    """A storage in files with the results of a run, of which one has side data."""
    from going_back import chain, opened  # it is in `importable`

    storage = opened(tmp_path / "source")
    chain(storage, 1).run()
    return storage


@pytest.fixture
def target(tmp_path: Path) -> FileStorage:
    """An empty storage in files, to copy results to."""
    from going_back import opened

    return opened(tmp_path / "target")
