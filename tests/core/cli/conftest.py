"""Command lines run in this process, in a folder of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rain_store  # in `importable`, which is on the path
from command_lines import Said

from functionfuse.cli.main import run
from functionfuse.storage.filestorage import FileStorage


@pytest.fixture(autouse=True)
def _after(after_commands: None) -> None:
    pass


@pytest.fixture
def do(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs a command in this process."""

    def do(*words: str) -> Said:
        capsys.readouterr()
        status = run(words)
        return Said(status, *capsys.readouterr())

    return do


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command in an empty folder: status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUNCTIONFUSE_CONFIG", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def typed(*words: str) -> tuple[int, str, str]:
        status = run(words)
        return status, *capsys.readouterr()

    return typed


@pytest.fixture
def rain(typed: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStorage:
    """The storage of `rain_store`, in the folder "results"; a config in this folder names it."""
    (tmp_path / "functionfuse.json").write_text('{"kind": "file", "options": {"path": "results"}}')
    storage = FileStorage(tmp_path / "results")
    with monkeypatch.context() as patch:
        rain_store.fixed(patch)
        rain_store.fill(storage)
    return storage
